"""A logistic density integrated over the bins of an integer scale.

Levels x = 0 .. levels - 1 stand for the points y = 2 x / (levels - 1) - 1 of [-1, 1];
bins reach half way to the neighbours, h = 1 / (levels - 1), and the two outer bins are
open. With a = (y + h - mean) / scale and b = (y - h - mean) / scale,

    log [ sigmoid(a) - sigmoid(b) ]
        = log sigmoid(a) + log sigmoid(-b) + log(1 - exp(-(a - b)))                  (1)

is exact in both tails and for every bin width (Salimans et al. 2017 take a clipped
difference instead, which loses the tails).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vgm.densities.levels import (
    half_width,
    integers,
    log1mexp,
    nearest_level,
    on_levels,
    scale_levels,
)
from vgm.numerics import at_least_float32, log_sigmoid
from vgm.shapes import require_same
from vgm.types import PRNGKey, Scalar


def log_prob(
    x: Int[Array, "*event"],
    mean: Float[Array, "*event"],
    log_scale: Float[Array, "*event"],
    *,
    levels: int,
) -> Scalar:
    """Log mass of one event of integer levels, in nats, by (1).

    >>> import jax.numpy as jnp
    >>> x = jnp.asarray([0, 1], jnp.int32)
    >>> float(log_prob(x, jnp.zeros(2), jnp.zeros(2), levels=2))
    -1.3863

    Args:
        x: Levels 0 .. levels - 1; other integers have no mass.
        mean: Location of each coordinate on [-1, 1].
        log_scale: Log scale of each coordinate.
        levels: Number of levels, at least 2.

    Returns:
        The log mass, summed over coordinates.

    Raises:
        ValueError: If the shapes of the arguments do not fit, or there are fewer than
            two levels.
        TypeError: If x are no integers.
    """
    x, mean, log_scale = require_same(
        "discretized_logistic.log_prob", x=x, mean=mean, log_scale=log_scale
    )
    x = integers(x, levels)
    # Flat, so that XLA's CPU backend vectorises the sum over any event shape.
    x, mean, log_scale = x.ravel(), mean.ravel(), log_scale.ravel()
    mean, log_scale = at_least_float32(mean), at_least_float32(log_scale)
    half = half_width(levels)
    centre = scale_levels(x, levels=levels, dtype=mean.dtype) - mean
    inverse_scale = jnp.exp(-log_scale)
    upper = (centre + half) * inverse_scale
    lower = (centre - half) * inverse_scale
    log_mass = (
        jnp.where(x < levels - 1, log_sigmoid(upper), 0.0)
        + jnp.where(x > 0, log_sigmoid(-lower), 0.0)
        + jnp.where(
            (x > 0) & (x < levels - 1),
            log1mexp(2.0 * half * inverse_scale),
            0.0,
        )
    )
    return jnp.sum(on_levels(log_mass, x, levels))


def sample(
    key: PRNGKey,
    mean: Float[Array, "*event"],
    log_scale: Float[Array, "*event"],
    *,
    levels: int,
) -> Int[Array, "*event"]:
    """Draw one event: a logistic draw, rounded to the nearest level.

    Args:
        key: Random key, used once.
        mean: Location of each coordinate on [-1, 1].
        log_scale: Log scale of each coordinate.
        levels: Number of levels, at least 2.

    Returns:
        Levels, as int32.

    Raises:
        ValueError: If the shapes of the arguments do not fit, or there are fewer than
            two levels.
    """
    mean, log_scale = require_same(
        "discretized_logistic.sample", mean=mean, log_scale=log_scale
    )
    mean, log_scale = at_least_float32(mean), at_least_float32(log_scale)
    noise = jax.random.logistic(key, mean.shape, mean.dtype)
    position = mean + jnp.exp(log_scale) * noise
    return nearest_level(position, levels=levels)
