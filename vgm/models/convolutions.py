"""Convolutions whose gradients stay fast inside a loop on a CPU.

XLA's CPU backend has a fast convolution for channels-last arrays; the gradients of one
are convolutions in another layout, which inside a ``scan`` or ``fori_loop`` take many
times as long (jax issue 12868), and training is a loop. Here its derivatives are
written as what is fast: matrix products, one a place of the kernel.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

Images = Float[Array, "batch height width _"]
Smaller = Float[Array, "batch _ _ _"]
Kernel = Float[Array, "_ _ _ _"]
Strides = tuple[int, int]
Convolution = Callable[[Array, Array, Strides], Array]


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def convolve(x: Images, kernel: Kernel, strides: Strides) -> Smaller:
    """A convolution of channels-last images, padded so that stride 1 keeps the size.

    Its value is XLA's own; its derivatives are of the same function.

    Args:
        x: Images.
        kernel: Height, width, channels of the input and of the output.
        strides: Vertical and horizontal.

    Returns:
        Images.
    """
    return _native(x, kernel, strides)


@functools.partial(convolve.defjvp, symbolic_zeros=True)
def _tangent(
    strides: Strides, primals: tuple[Array, Array], tangents: tuple[Any, Any]
) -> tuple[Array, Array]:
    x, kernel = primals
    of_x, of_kernel = tangents
    out = convolve(x, kernel, strides)
    tangent = jnp.zeros_like(out)
    if not isinstance(of_x, SymbolicZero):
        tangent += _on_cpu(_as_transposed, of_x, kernel, strides)
    if not isinstance(of_kernel, SymbolicZero):
        tangent += _on_cpu(_by_products, x, of_kernel, strides)
    return out, tangent


def _on_cpu(function: Convolution, x: Array, kernel: Array, strides: Strides) -> Array:
    """A convolution by this function on a CPU, elsewhere as it comes."""
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: function(x, kernel, strides),
        default=lambda x, kernel: _native(x, kernel, strides),
    )


def _native(x: Array, kernel: Array, strides: Strides) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _as_transposed(x: Array, kernel: Array, strides: Strides) -> Array:
    """One whose transpose in x is a fast convolution: that of the flipped kernel."""
    height, width, _, channels = kernel.shape
    if strides != (1, 1) or height % 2 == 0 or width % 2 == 0:
        return _by_products(x, kernel, strides)
    flipped = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
    out = jax.ShapeDtypeStruct((*x.shape[:3], channels), x.dtype)
    backward = functools.partial(_native, kernel=flipped, strides=strides)
    return jax.linear_transpose(backward, out)(x)[0]


def _by_products(x: Array, kernel: Array, strides: Strides) -> Array:
    """At each place of the kernel, x shifted times what the kernel holds there."""
    places = kernel.shape[:2]
    padding = jax.lax.padtype_to_pads(x.shape[1:3], places, strides, "SAME")
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    sizes = [-(-size // by) for size, by in zip(x.shape[1:3], strides, strict=True)]
    down, right = strides
    height, width = (
        by * (size - 1) + 1 for by, size in zip(strides, sizes, strict=True)
    )
    shape = (*x.shape[:1], *sizes, kernel.shape[3])
    out = jnp.zeros(shape, jnp.result_type(x, kernel))
    for i in range(places[0]):
        for j in range(places[1]):
            shifted = padded[:, i : i + height : down, j : j + width : right]
            out += shifted @ kernel[i, j]
    return out


def spread(x: Smaller, kernel: Kernel, strides: Strides) -> Images:
    """The transpose of ``convolve`` in x with these strides: images grow by them.

    Args:
        x: Images.
        kernel: Height, width, channels of the output and of the input.
        strides: Vertical and horizontal.

    Returns:
        Images.
    """
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: _transposed(_by_products, x, kernel, strides),
        default=lambda x, kernel: _transposed(_native, x, kernel, strides),
    )


def _transposed(
    function: Convolution, x: Array, kernel: Array, strides: Strides
) -> Array:
    size = (by * length for by, length in zip(strides, x.shape[1:3], strict=True))
    out = jax.ShapeDtypeStruct((*x.shape[:1], *size, kernel.shape[2]), x.dtype)
    backward = jax.linear_transpose(lambda grown: function(grown, kernel, strides), out)
    return backward(x)[0]


class Conv(nn.Module):
    """A convolution with a bias, padded so that stride 1 keeps the size.

    Attributes:
        features: Channels of the output.
        kernel_size: Its sides.
        strides: Vertical and horizontal.
        dtype: What it is computed in; that of its input unless given.
        kernel_init: Initialiser.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: Strides = (1, 1)
    dtype: Any = None
    kernel_init: Any = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Images) -> Smaller:
        """Images, smaller by the strides."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return convolve(x, kernel, self.strides) + bias[None, None, None]


class ConvTranspose(nn.Module):
    """The transpose of a convolution with these strides, with a bias.

    Its kernel is that of ``flax.linen.ConvTranspose``: the convolution's, flipped.

    Attributes:
        features: Channels of the output.
        kernel_size: Its sides.
        strides: Vertical and horizontal; images grow by them.
        kernel_init: Initialiser.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: Strides
    kernel_init: Any = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Smaller) -> Images:
        """Images, larger by the strides."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = jnp.asarray(self.param("kernel", self.kernel_init, shape))
        bias = jnp.asarray(self.param("bias", nn.initializers.zeros, (self.features,)))
        flipped = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
        return spread(x, flipped, self.strides) + bias[None, None, None]
