"""Pareto-smoothed importance sampling (Vehtari et al. 2024).

The largest M of S weights follow a generalised Pareto law, whose tail index k says
which moments exist: the variance of the weights is finite for k < 1/2, and estimates
from them are of use up to about k = 0.7. For a target N(0, 1) and q = N(0, s^2), s < 1,
the index is 1 - s^2.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.types import Scalar

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
        The estimate of k; -inf if the weights are constant.
    """
    exceedances, _ = _exceedances(log_w)
    return fit(exceedances).shape


def smooth(log_w: Float[Array, " samples"]) -> Float[Array, " samples"]:
    """Weights whose tail is replaced by quantiles of the fitted law, in the same order.

    None exceeds the largest weight given (Vehtari et al. 2024, section 2.3).

    Args:
        log_w: Log importance weights of one example, at least 25.

    Returns:
        Smoothed log weights.
    """
    exceedances, threshold = _exceedances(log_w)
    num_tail, maximum = len(exceedances), jnp.max(log_w)
    tail = fit(exceedances)
    levels = (jnp.arange(num_tail, dtype=log_w.dtype) + 0.5) / num_tail
    # Quantile scale (exp(-k log(1 - u)) - 1) / k, by expm1 through k = 0.
    exponent = -jnp.log1p(-levels)
    near_zero = jnp.abs(tail.shape) < 1e-6
    index = jnp.where(near_zero | ~jnp.isfinite(tail.shape), 1.0, tail.shape)
    quantile = jnp.where(near_zero, exponent, jnp.expm1(index * exponent) / index)
    smoothed = maximum + jnp.log(threshold + tail.scale * quantile)
    order = jnp.argsort(log_w)[-num_tail:]
    replaced = log_w.at[order].set(jnp.minimum(smoothed, maximum))
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
    size = len(exceedances)
    # All equal: no tail. A harmless value keeps the arithmetic below finite.
    some = exceedances[-1] > 0.0
    y = jnp.where(some, exceedances, 1.0)
    num_points = 30 + int(math.sqrt(size))
    steps = jnp.arange(num_points, dtype=y.dtype) + 0.5
    quartile = y[max(int(size / 4 + 0.5) - 1, 0)]
    quartile = jnp.maximum(quartile, jnp.finfo(y.dtype).tiny)
    theta = 1.0 / y[-1] + (1.0 - jnp.sqrt(num_points / steps)) / (3.0 * quartile)
    index = jnp.mean(jnp.log1p(-theta[:, None] * y[None]), axis=1)
    profile = size * (jnp.log(-theta / index) - index - 1.0)
    weights = jnp.exp(profile - jnp.max(profile))
    theta = jnp.sum(theta * weights) / jnp.sum(weights)
    index = jnp.mean(jnp.log1p(-theta * y))
    scale = -index / theta
    shrunk = (size * index + 5.0) / (size + 10.0)
    return Tail(jnp.where(some, shrunk, -jnp.inf), jnp.where(some, scale, 0.0))


def _exceedances(log_w: Float[Array, " samples"]) -> tuple[Array, Scalar]:
    """Amounts over the threshold, ascending, and the threshold; the maximum is 1."""
    num_tail = tail_size(len(log_w))
    ordered = jnp.exp(jnp.sort(log_w)[-num_tail - 1 :] - jnp.max(log_w))
    return ordered[1:] - ordered[0], ordered[0]
