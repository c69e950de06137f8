"""Pareto-smoothed importance sampling (Vehtari et al. 2024).

The largest M of S weights follow a generalised Pareto law, whose tail index k says
which moments exist: the variance of the weights is finite for k < 1/2, and estimates
from them are of use up to about k = 0.7. For a target N(0, 1) and q = N(0, s^2), s < 1,
the index is 1 - s^2.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.shapes import require_draws
from vgm.types import Scalar

MIN_SAMPLES = 25
"""Weights whose tail can be fitted at all: it then has 5."""

GOOD_TAIL_INDEX = 0.7
"""Above it, estimates from the weights cannot be trusted (Vehtari et al. 2024)."""


class Tail(NamedTuple):
    """A generalised Pareto law above a threshold.

    Attributes:
        shape: k; -inf if all weights of the tail are equal.
        scale: Its scale.
    """

    shape: Scalar
    scale: Scalar


def tail_size(num_samples: int) -> int:
    """How many of the largest weights make the tail: ceil(min(S / 5, 3 sqrt(S))).

    >>> tail_size(100), tail_size(10_000)
    (20, 300)

    Args:
        num_samples: S, the number of weights.

    Returns:
        M.
    """
    return math.ceil(min(0.2 * num_samples, 3.0 * math.sqrt(num_samples)))


def tail_index(log_w: Float[Array, " samples"]) -> Scalar:
    """Tail index k of importance weights: the smaller the better.

    Args:
        log_w: Log importance weights of one example, at least 25.

    Returns:
        The estimate of k; -inf if the weights of the tail are equal but for rounding,
        NaN if some are NaN, or infinite, or all are 0.

    Raises:
        ValueError: If there are too few weights.
    """
    return _tail(_weights(log_w))[0].shape


def smooth(log_w: Float[Array, " samples"]) -> Float[Array, " samples"]:
    """Weights whose tail is replaced by quantiles of the fitted law, in the same order.

    None exceeds the largest weight given (Vehtari et al. 2024, section 2.3). Weights
    that equal the threshold are no part of the tail, and stay.

    Args:
        log_w: Log importance weights of one example, at least 25.

    Returns:
        Smoothed log weights.

    Raises:
        ValueError: If there are too few weights.
    """
    log_w = _weights(log_w)
    tail, threshold = _tail(log_w)
    num_tail, maximum = tail_size(len(log_w)), jnp.max(log_w)
    order = jnp.argsort(log_w)[-num_tail:]
    largest = log_w[order]
    above = jnp.exp(largest - maximum) > threshold
    size = jnp.maximum(jnp.sum(above), 1)
    rank = jnp.arange(num_tail) - (num_tail - size)
    levels = (jnp.maximum(rank, 0).astype(log_w.dtype) + 0.5) / size
    # Quantile scale (exp(-k log(1 - u)) - 1) / k, by expm1 through k = 0.
    exponent = -jnp.log1p(-levels)
    near_zero = jnp.abs(tail.shape) < 1e-6
    index = jnp.where(near_zero | ~jnp.isfinite(tail.shape), 1.0, tail.shape)
    quantile = jnp.where(near_zero, exponent, jnp.expm1(index * exponent) / index)
    smoothed = maximum + jnp.log(threshold + tail.scale * quantile)
    tamed = jnp.where(above, jnp.minimum(smoothed, maximum), largest)
    replaced = log_w.at[order].set(tamed)
    return jnp.where(jnp.isfinite(tail.shape), replaced, log_w)


def fit(exceedances: Float[Array, " tail"]) -> Tail:
    """The generalised Pareto law of sorted exceedances (Zhang & Stephens 2009).

    A posterior mean over a grid of ratios k / scale, then 10 observations' worth of
    shrinkage of k towards 1/2 (Vehtari et al. 2024, appendix G).

    Args:
        exceedances: Amounts over the threshold, ascending.

    Returns:
        Index and scale.
    """
    # Ties with the threshold exceed nothing and are no part of the tail.
    positive = exceedances > 0.0
    size = jnp.sum(positive)
    some = size > 0
    y = jnp.where(positive, exceedances, 0.0)
    largest = jnp.where(some, y[-1], 1.0)
    num_ties = len(exceedances) - size
    quartile = y[num_ties + jnp.maximum((size / 4 + 0.5).astype(int) - 1, 0)]
    quartile = jnp.where(some, quartile, 1.0)

    def mean(values: Array) -> Array:
        return jnp.sum(values) / jnp.maximum(size, 1)

    def index_at(theta: Array) -> Array:
        return mean(jnp.log1p(-theta * y))

    def ratio(theta: Array, index: Array) -> Array:
        """-theta / index, whose limit at 0 is one over the mean."""
        zero = theta == 0.0
        limit = 1.0 / jnp.where(some, mean(y), 1.0)
        return jnp.where(zero, limit, -theta / jnp.where(zero, 1.0, index))

    num_points = 30 + int(math.sqrt(len(exceedances)))
    steps = jnp.arange(num_points, dtype=y.dtype) + 0.5
    theta = 1.0 / largest + (1.0 - jnp.sqrt(num_points / steps)) / (3.0 * quartile)
    index = jax.vmap(index_at)(theta)
    profile = size * (jnp.log(ratio(theta, index)) - index - 1.0)
    weights = jnp.exp(profile - jnp.max(profile))
    theta = jnp.sum(theta * weights) / jnp.sum(weights)
    index = index_at(theta)
    scale = 1.0 / ratio(theta, index)
    shrunk = (size * index + 5.0) / (size + 10.0)
    return Tail(jnp.where(some, shrunk, -jnp.inf), jnp.where(some, scale, 0.0))


def _weights(log_w: Float[Array, " samples"]) -> Float[Array, " samples"]:
    """In the precision that they are computed in: the tolerance for ties is of it."""
    require_draws("the tail of weights", log_w=log_w)
    return jnp.asarray(log_w, jnp.result_type(log_w, float))


def _tail(log_w: Float[Array, " samples"]) -> tuple[Tail, Scalar]:
    """The law of the largest weights, and the threshold, relative to the maximum."""
    if len(log_w) < MIN_SAMPLES:
        raise ValueError(
            f"the tail of weights needs at least {MIN_SAMPLES} of them; got "
            f"{len(log_w)}"
        )
    num_tail, maximum = tail_size(len(log_w)), jnp.max(log_w)
    ordered = jnp.sort(log_w)[-num_tail - 1 :]
    rounding = 10.0 * jnp.finfo(log_w.dtype).eps * jnp.maximum(1.0, jnp.abs(maximum))
    equal = maximum - ordered[0] <= rounding
    weights = jnp.exp(ordered - maximum)
    exceedances = jnp.where(equal, 0.0, weights[1:] - weights[0])
    tail = fit(exceedances)
    usable = jnp.isfinite(maximum) & ~jnp.any(jnp.isnan(log_w))
    return tail._replace(shape=jnp.where(usable, tail.shape, jnp.nan)), weights[0]
