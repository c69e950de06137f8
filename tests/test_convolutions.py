"""Convolutions whose derivatives are written out, against jax's own."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation import whole
from draws import disturbed, normals

from vgm.models import convolutions

CASES = [
    (3, (5, 7), (1, 1)),
    (4, (6, 8), (2, 2)),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in [
            (1, (5, 7), (1, 1)),
            (3, (1, 2), (1, 1)),
            (3, (8, 5), (2, 2)),
            (2, (5, 4), (1, 2)),
        ]
    ),
]


def usual(x, kernel, strides):
    return jax.lax.conv_general_dilated(
        x, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def inputs(key, size, image):
    key_x, key_kernel = jax.random.split(key)
    x = normals(key_x, (2, *image, 3))
    return x, normals(key_kernel, (size, size, 3, 4))


@pytest.mark.parametrize(("size", "image", "strides"), CASES)
def test_convolutions_have_the_derivatives_of_jax_own(x64, key, size, image, strides):
    x, kernel = inputs(key, size, image)
    weight = normals(key, usual(x, kernel, strides).shape)

    def derivatives(convolve):
        def value(x, kernel):
            return jnp.sum(weight * jnp.sin(convolve(x, kernel, strides)))

        @jax.jit
        def all_of_them(x, kernel):
            tangents = jnp.cos(x), jnp.sin(kernel)
            forward = jax.jvp(value, (x, kernel), tangents)[1]
            # Of one of the two alone, and of both; of each example of a batch.
            apart = jax.grad(value)(x, kernel), jax.grad(value, 1)(x, kernel)
            per_example = jax.vmap(
                jax.grad(lambda e, k: value(e[None], k), 1), (0, None)
            )
            return forward, apart, per_example(x, kernel)

        return all_of_them(x, kernel)

    chex.assert_trees_all_close(
        derivatives(convolutions.convolve), derivatives(usual), rtol=1e-11, atol=1e-12
    )
    # What stands for the convolution on a CPU and elsewhere is the same function.
    for one in (convolutions._by_products, convolutions._as_transposed):
        chex.assert_trees_all_close(
            jax.jit(one, static_argnums=2)(x, kernel, strides),
            jax.jit(usual, static_argnums=2)(x, kernel, strides),
            rtol=1e-11,
            atol=1e-12,
        )


def test_second_derivatives(x64, key):
    x, kernel = inputs(key, 3, (4, 4))

    def second(convolve):
        def squared_slope(x, kernel):
            slope = jax.grad(lambda x: jnp.sum(jnp.sin(convolve(x, kernel, (1, 1)))))
            return jnp.sum(slope(x) ** 2)

        return jax.jit(jax.grad(squared_slope, (0, 1)))(x, kernel)

    chex.assert_trees_all_close(
        second(convolutions.convolve), second(usual), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_modules_are_those_of_flax(key, dtype, strides):
    """The same parameters, by name and shape, give the same images."""
    x, _ = inputs(key, 3, (8, 8))
    own = convolutions.Conv(5, (3, 3), strides, dtype)
    theirs = nn.Conv(5, (3, 3), strides, dtype=dtype)
    params = disturbed(jax.jit(theirs.init)(key, x))
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.jit(own.init)(key, x), params)
    found, expected = (jax.jit(one.apply)(params, x) for one in (own, theirs))
    assert found.dtype == dtype
    np.testing.assert_allclose(
        np.asarray(found, float),
        np.asarray(expected, float),
        rtol=1e-5 if dtype == jnp.float32 else 2e-2,
        atol=1e-5 if dtype == jnp.float32 else 2e-2,
    )


@pytest.mark.parametrize("size", [2, 3, 4])
def test_transposed_modules_are_those_of_flax(x64, key, size):
    x = normals(key, (2, 4, 5, 3))
    own = convolutions.ConvTranspose(5, (size, size), (2, 2))
    theirs = nn.ConvTranspose(5, (size, size), (2, 2), param_dtype=jnp.float64)
    params = disturbed(jax.jit(theirs.init)(key, x))

    def value_and_grads(module):
        def value(params, x):
            return jnp.sum(jnp.sin(module.apply(params, x)))

        return jax.jit(jax.value_and_grad(value, (0, 1)))(params, x)

    found, expected = value_and_grads(own), value_and_grads(theirs)
    chex.assert_trees_all_close(found, expected, rtol=1e-10, atol=1e-12)
    # On a CPU and elsewhere.
    kernel = jnp.swapaxes(params["params"]["kernel"], 2, 3)
    on_cpu, elsewhere = (
        whole(convolutions._transposed)(one, x, kernel, (2, 2))
        for one in (convolutions._by_products, convolutions._native)
    )
    chex.assert_trees_all_close(on_cpu, elsewhere, rtol=1e-10, atol=1e-12)
