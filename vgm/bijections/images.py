"""Maps of images that only move numbers: squeeze, and the split of a pyramid."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.bijections.bijection import Bijection, Event
from vgm.types import Scalar

Vector = Float[Array, " _"]
Image = Float[Array, "_ _ _"]
"""Height, width, channels."""


def squeeze() -> Bijection:
    """Blocks of 2 x 2 pixels become channels (Dinh et al. 2017, section 3.6).

    Returns:
        The bijection from (2 h, 2 w, c) to (h, w, 4 c); log |det| = 0.
    """

    def forward(x: Image) -> tuple[Image, Scalar]:
        height, width, channels = x.shape
        blocks = x.reshape(height // 2, 2, width // 2, 2, channels)
        blocks = blocks.transpose(0, 2, 1, 3, 4)
        return blocks.reshape(height // 2, width // 2, 4 * channels), _zero(x)

    def inverse(z: Image) -> tuple[Image, Scalar]:
        height, width, channels = z.shape
        blocks = z.reshape(height, width, 2, 2, channels // 4)
        blocks = blocks.transpose(0, 2, 1, 3, 4)
        return blocks.reshape(2 * height, 2 * width, channels // 4), _zero(z)

    return Bijection(forward, inverse)


def flatten(shape: tuple[int, ...]) -> Bijection:
    """An event as a vector; log |det| = 0.

    Args:
        shape: Shape of the event.

    Returns:
        The bijection.
    """
    return Bijection(
        lambda x: (x.reshape(-1), _zero(x)), lambda z: (z.reshape(shape), _zero(z))
    )


def split_off(rest: Bijection, shape: tuple[int, int, int]) -> Bijection:
    """Half of the channels goes on through ``rest``, half is done (section 3.6).

    Args:
        rest: What becomes of the first half of the channels: a bijection to vectors.
        shape: Shape of the image that is split, with an even number of channels.

    Returns:
        The bijection from an image to a vector, the done half at its end.
    """
    height, width, channels = shape
    kept = channels // 2
    count = height * width * kept

    def forward(x: Image) -> tuple[Vector, Scalar]:
        z, log_det = rest.forward(x[..., :kept])
        return jnp.concatenate([z, x[..., kept:].reshape(-1)]), log_det

    def inverse(z: Vector) -> tuple[Image, Scalar]:
        x, log_det = rest.inverse(z[:count])
        done = z[count:].reshape(height, width, channels - kept)
        return jnp.concatenate([x, done], axis=-1), log_det

    return Bijection(forward, inverse)


def _zero(x: Event) -> Scalar:
    return jnp.zeros((), x.dtype)
