"""Mixtures of discretised logistics with coupled channels (Salimans et al. 2017).

Each pixel has a mixture of its own, eq. 2. Within a component the channels are drawn in
turn, each mean shifted by the channels before it, eq. 3: for colours,

    mean_g(r) = mean_g + a r,    mean_b(r, g) = mean_b + b r + c g,                  (1)

r and g the observed values on [-1, 1]. The mixture is over whole pixels: all channels
of a pixel share the component.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vgm.densities import discretized_logistic, mixture
from vgm.densities.levels import scale_levels
from vgm.numerics import at_least_float32
from vgm.precision import matmul
from vgm.shapes import require
from vgm.types import PRNGKey, Scalar


class Parameters(NamedTuple):
    """Parameters of the mixture at each pixel.

    Attributes:
        logits: Unnormalised log weights of the components.
        mean: Location of each channel on [-1, 1], before the shift of (1).
        log_scale: Log scale of each channel.
        coupling: a, b, c of (1): the strictly lower triangle of a channels x channels
            matrix, row by row; length 0 for one channel.
    """

    logits: Float[Array, "*pixels components"]
    mean: Float[Array, "*pixels components channels"]
    log_scale: Float[Array, "*pixels components channels"]
    coupling: Float[Array, "*pixels components pairs"]


def log_prob(
    x: Int[Array, "*pixels channels"], parameters: Parameters, *, levels: int
) -> Scalar:
    """Log mass of one image of integer levels, in nats.

    >>> import jax.numpy as jnp
    >>> grey = Parameters(*(jnp.zeros(shape) for shape in [2, (2, 1), (2, 1), (2, 0)]))
    >>> float(log_prob(jnp.asarray([1], jnp.int32), grey, levels=2))
    -0.6931

    Args:
        x: Levels 0 .. levels - 1, channels last.
        parameters: Parameters of each pixel.
        levels: Number of levels, at least 2.

    Returns:
        The log mass, summed over pixels.

    Raises:
        ValueError: If the shapes of the parameters do not fit, or there are fewer
            than two levels.
    """
    pixels = x.reshape(-1, x.shape[-1])
    parameters = jax.tree.map(at_least_float32, _by_pixel(parameters, x.shape))

    def pixel(x: Int[Array, " channels"], parameters: Parameters) -> Scalar:
        y = scale_levels(x, levels=levels, dtype=parameters.mean.dtype)

        def component(mean: Array, log_scale: Array, coupling: Array) -> Scalar:
            shifted = mean + matmul(_triangle(coupling, y.size), y)
            return discretized_logistic.log_prob(x, shifted, log_scale, levels=levels)

        by_component = jax.vmap(component)(*parameters[1:])
        return mixture.log_prob(by_component, parameters.logits)

    return jnp.sum(jax.vmap(pixel)(pixels, parameters))


def sample(
    key: PRNGKey, parameters: Parameters, *, levels: int
) -> Int[Array, "*pixels channels"]:
    """Draw one image: a component for each pixel, then its channels in turn.

    Args:
        key: Random key, used once.
        parameters: Parameters of each pixel.
        levels: Number of levels, at least 2.

    Returns:
        Levels, as int32, channels last.

    Raises:
        ValueError: If the shapes of the parameters do not fit, or there are fewer
            than two levels.
    """
    shape = (*parameters.logits.shape[:-1], parameters.mean.shape[-1])
    parameters = _by_pixel(parameters, shape)

    def pixel(key: PRNGKey, parameters: Parameters) -> Int[Array, " channels"]:
        key_component, *keys = jax.random.split(key, 1 + shape[-1])
        mean, log_scale, coupling = mixture.sample(
            key_component, parameters.logits, parameters[1:]
        )
        triangle = _triangle(coupling, shape[-1])
        x = jnp.zeros(shape[-1], jnp.int32)
        for channel, key_channel in enumerate(keys):
            # Channels not drawn yet meet zeros of the triangle.
            y = scale_levels(x, levels=levels, dtype=mean.dtype)
            shifted = mean + matmul(triangle, y)
            level = discretized_logistic.sample(
                key_channel, shifted[channel], log_scale[channel], levels=levels
            )
            x = x.at[channel].set(level)
        return x

    keys = jax.random.split(key, len(parameters.logits))
    return jax.vmap(pixel)(keys, parameters).reshape(shape)


def _by_pixel(parameters: Parameters, shape: tuple[int, ...]) -> Parameters:
    """Parameters of an image of this shape, its pixels on one axis."""
    *pixels, channels = shape
    num_components = parameters.logits.shape[-1]
    num_pixels = math.prod(pixels)
    ends = ((), (channels,), (channels,), (channels * (channels - 1) // 2,))
    for name, leaf, end in zip(Parameters._fields, parameters, ends, strict=True):
        require(
            f"discretized_logistic_mixture: parameters.{name}",
            leaf,
            (*pixels, num_components, *end),
        )

    def flat(leaf: Array) -> Array:
        return leaf.reshape(num_pixels, num_components, leaf.shape[-1])

    logits = parameters.logits.reshape(num_pixels, num_components)
    return Parameters(logits, *(flat(leaf) for leaf in parameters[1:]))


def _triangle(
    coupling: Float[Array, " pairs"], channels: int
) -> Float[Array, "channels channels"]:
    """The strictly lower triangular matrix with these entries."""
    rows, columns = jnp.tril_indices(channels, -1)
    zeros = jnp.zeros((channels, channels), coupling.dtype)
    return zeros.at[rows, columns].set(coupling)
