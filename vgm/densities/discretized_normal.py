"""A normal density integrated over bins of an integer scale (Ho et al. 2020, eq. 13).

Levels x = 0 .. levels - 1 stand for the points y = 2 x / (levels - 1) - 1 of [-1, 1];
bins reach half way to the neighbours and the two outer bins are open. With Phi the
normal distribution function, c the centre and w the width of a bin in units of std, an
inner bin holds

    log [ Phi(c + w/2) - Phi(c - w/2) ]                                              (1)
    = log phi(c) + log w + log E exp(-c w u - (w u)^2 / 2),  u ~ U(-1/2, 1/2).       (2)

(1) is taken on the side of the smaller tail, in logarithms, where the two ends differ
by much; (2) by Gauss-Legendre quadrature where they differ by little and a difference
would lose its digits.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vgm.densities.levels import (
    half_width,
    integers,
    log1mexp,
    nearest_level,
    on_levels,
    scale_levels,
)
from vgm.densities.normal import LOG_2PI
from vgm.numerics import at_least_float32, log_ndtr, log_ndtr_remainder
from vgm.precision import matmul
from vgm.shapes import require_same
from vgm.types import PRNGKey, Scalar

# Exact for polynomials of degree 15; (2) is used where |c w| and w are below 1.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)


def log_prob(
    x: Int[Array, "*event"],
    mean: Float[Array, "*event"],
    log_std: Float[Array, "*event"],
    *,
    levels: int,
) -> Scalar:
    """Log mass of one event of integer levels, in nats, by (1) and (2).

    >>> import jax.numpy as jnp
    >>> x = jnp.asarray([0, 1], jnp.int32)
    >>> float(log_prob(x, jnp.zeros(2), jnp.zeros(2), levels=2))
    -1.3863

    Args:
        x: Levels 0 .. levels - 1; other integers have no mass.
        mean: Location of each coordinate on [-1, 1].
        log_std: Log standard deviation of each coordinate.
        levels: Number of levels, at least 2.

    Returns:
        The log mass, summed over coordinates.

    Raises:
        ValueError: If the shapes of the arguments do not fit, or there are fewer than
            two levels.
        TypeError: If x are no integers.
    """
    x, mean, log_std = require_same(
        "discretized_normal.log_prob", x=x, mean=mean, log_std=log_std
    )
    x, mean, log_std = integers(x, levels).ravel(), mean.ravel(), log_std.ravel()
    mean, log_std = at_least_float32(mean), at_least_float32(log_std)
    half = half_width(levels)
    inverse_std = jnp.exp(-log_std)
    centre = scale_levels(x, levels=levels, dtype=mean.dtype) - mean
    upper = (centre + half) * inverse_std
    lower = (centre - half) * inverse_std
    inside = (x > 0) & (x < levels - 1)
    # The bins at the ends see a harmless place here.
    inner = _log_mass(
        jnp.where(inside, centre * inverse_std, 0.0), 2.0 * half * inverse_std
    )
    # Open outer bins: everything below the first edge, everything above the last.
    log_mass = jnp.where(
        x == 0,
        log_ndtr(upper),
        jnp.where(x == levels - 1, log_ndtr(-lower), inner),
    )
    return jnp.sum(on_levels(log_mass, x, levels))


def _log_mass(
    centre: Float[Array, " dim"], width: Float[Array, " dim"]
) -> Float[Array, " dim"]:
    """Log mass of a standard normal in each bin."""
    # The density is even: reflect the bin to the left, where log Phi keeps its digits.
    centre = -jnp.abs(centre)
    upper, lower = centre + 0.5 * width, centre - 0.5 * width
    log_upper = log_ndtr(upper)
    # In the tail the two parabolas differ by c w: a difference of their values, c^2
    # large, would have no digits left.
    tail = upper < -1.0
    near_upper, near_lower = jnp.where(tail, -1.0, upper), jnp.where(tail, -2.0, lower)
    far_upper, far_lower = jnp.where(tail, upper, -1.0), jnp.where(tail, lower, -2.0)
    remainders = log_ndtr_remainder(far_upper) - log_ndtr_remainder(far_lower)
    log_ratio = jnp.where(
        tail, remainders - centre * width, log_ndtr(near_upper) - log_ndtr(near_lower)
    )
    narrow = (width < 1.0) & (centre * width > -1.0)
    # Both branches are evaluated: each sees only inputs inside its range.
    log_ratio = jnp.where(narrow, 1.0, log_ratio)
    by_difference = log_upper + log1mexp(log_ratio)
    c, w = jnp.where(narrow, centre, 0.0), jnp.where(narrow, width, 1.0)
    by_quadrature = -0.5 * (c**2 + LOG_2PI) + jnp.log(w) + _log_mean(c, w)
    return jnp.where(narrow, by_quadrature, by_difference)


def _log_mean(c: Float[Array, " dim"], w: Float[Array, " dim"]) -> Float[Array, " dim"]:
    """The last term of (2)."""
    nodes = jnp.asarray(0.5 * _NODES, c.dtype)[:, None] * w[None]
    values = jnp.exp(-c[None] * nodes - 0.5 * nodes**2)
    return jnp.log(matmul(jnp.asarray(0.5 * _WEIGHTS, c.dtype), values))


def sample(
    key: PRNGKey,
    mean: Float[Array, "*event"],
    log_std: Float[Array, "*event"],
    *,
    levels: int,
) -> Int[Array, "*event"]:
    """Draw one event: a normal draw, rounded to the nearest level.

    Args:
        key: Random key, used once.
        mean: Location of each coordinate on [-1, 1].
        log_std: Log standard deviation of each coordinate.
        levels: Number of levels, at least 2.

    Returns:
        Levels, as int32.

    Raises:
        ValueError: If the shapes of the arguments do not fit, or there are fewer than
            two levels.
    """
    mean, log_std = require_same(
        "discretized_normal.sample", mean=mean, log_std=log_std
    )
    mean, log_std = at_least_float32(mean), at_least_float32(log_std)
    position = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, mean.dtype)
    return nearest_level(position, levels=levels)
