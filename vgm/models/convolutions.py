"""Convolutions whose gradients stay fast inside a loop on a CPU.

XLA's CPU backend has a fast convolution for channels-last arrays; the gradients of one
are convolutions in another layout, which inside a ``scan`` or ``fori_loop`` take many
times as long (jax issue 12868). Here they are written as what is fast: for the input
a channels-last convolution, for the kernel one matrix product a place of it.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Images = Float[Array, "batch height width _"]
Kernel = Float[Array, "_ _ _ _"]


@jax.custom_vjp
def convolve(x: Images, kernel: Kernel) -> Images:
    """A convolution of stride 1 that keeps the size, its kernel's sides equal and odd.

    It has derivatives in reverse, once and again; forward ones (``jvp``) it has not.

    Args:
        x: Images, channels last.
        kernel: Height, width, channels of the input and of the output.

    Returns:
        Images.

    Raises:
        ValueError: If the sides of the kernel are even, or not equal.
    """
    height, width = kernel.shape[:2]
    if height != width or height % 2 == 0:
        raise ValueError(
            f"the sides of the kernel must be equal and odd; got {height} x {width}"
        )
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel), (x, kernel)


def _backward(inputs: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = inputs
    flipped = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
    of_kernel = jax.lax.platform_dependent(
        x, kernel, cotangent, cpu=_by_products, default=_by_convolution
    )
    return convolve(cotangent, flipped), of_kernel


convolve.defvjp(_forward, _backward)


def _by_products(x: Array, kernel: Array, cotangent: Array) -> Array:
    """The kernel's gradient: at each of its places, x shifted times the cotangent."""
    size = kernel.shape[0]
    around = size // 2
    padded = jnp.pad(x, ((0, 0), (around, around), (around, around), (0, 0)))
    rows = cotangent.reshape(-1, cotangent.shape[-1])

    def place(i: int, j: int) -> Array:
        shifted = padded[:, i : i + x.shape[1], j : j + x.shape[2]]
        return shifted.reshape(-1, x.shape[-1]).T @ rows

    places = [place(i, j) for i in range(size) for j in range(size)]
    return jnp.stack(places).reshape(kernel.shape)


def _by_convolution(x: Array, kernel: Array, cotangent: Array) -> Array:
    """The same as accelerators have it."""
    _, pull = jax.vjp(
        lambda kernel: jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        kernel,
    )
    return pull(cotangent)[0]


class Conv(nn.Module):
    """A convolution with a bias, of stride 1, that keeps the size.

    Attributes:
        features: Channels of the output.
        kernel_size: Its sides, equal and odd.
    """

    features: int
    kernel_size: tuple[int, int]

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """Images of the same size."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = jnp.asarray(
            self.param("kernel", nn.initializers.lecun_normal(), shape)
        )
        bias = jnp.asarray(self.param("bias", nn.initializers.zeros, (self.features,)))
        dtype = jnp.result_type(x, kernel)
        x, kernel = x.astype(dtype), kernel.astype(dtype)
        return convolve(x, kernel) + bias[None, None, None]
