"""log p(x) from both sides, where x is simulated (Grosse et al. 2015).

Weights with E[w] = p(x) bound log p(x) from below, and weights drawn from the exact
posterior, with E[1 / w] = 1 / p(x), from above: the two means meet as K grows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vgm.numerics import log_mean_exp
from vgm.shapes import require_draws
from vgm.types import Scalar


class Interval(NamedTuple):
    """An interval for log p(x), in nats.

    Attributes:
        lower: Lower end.
        upper: Upper end.
        lower_bound: log 1/K sum w of the forward weights.
        upper_bound: -log 1/K sum 1/w of the backward weights.
        consistent: The bounds have not crossed by more than 4 standard errors, nor the
            ends by more than the tolerance; if they have, the weights are not what they
            should be.
        enough: Consistent, and no wider than the tolerance: K was enough.
    """

    lower: Scalar
    upper: Scalar
    lower_bound: Scalar
    upper_bound: Scalar
    consistent: Bool[Array, ""]
    enough: Bool[Array, ""]


def interval(
    log_w: Float[Array, " samples"],
    log_w_backward: Float[Array, " samples"],
    *,
    confidence: float = 0.95,
    tolerance: float = 0.1,
) -> Interval:
    """A two-sided interval for log p(x).

    Each side has half of 1 - confidence, by the normal approximation of its mean
    weight. Where the approximation fails the means err outwards, by Jensen.

    Args:
        log_w: Log weights with E[exp(log_w)] = p(x), at least 2.
        log_w_backward: Log weights with E[exp(-log_w)] = 1 / p(x), at least 2, as
            good as independent (``annealed.backward`` refreshes a shared z for that).
        confidence: Probability that the interval holds log p(x).
        tolerance: Greatest width, in nats, at which K was enough.

    Returns:
        The interval.

    Raises:
        ValueError: If the weights have another axis than that of the draws.
    """
    require_draws("sandwich.interval", log_w=log_w, log_w_backward=log_w_backward)
    log_w, log_w_backward = jnp.asarray(log_w), jnp.asarray(log_w_backward)
    quantile = jax.scipy.stats.norm.ppf(0.5 + 0.5 * confidence)
    quantile = jnp.asarray(quantile, log_w.dtype)
    lower_bound = log_mean_exp(log_w)
    upper_bound = -log_mean_exp(-log_w_backward)
    below, above = log_mean_stderr(log_w), log_mean_stderr(-log_w_backward)
    lower = lower_bound - quantile * below
    upper = upper_bound + quantile * above
    # Bounds that cross by more than chance and rounding: a contract is broken.
    rounding = 10.0 * jnp.finfo(log_w.dtype).eps * (1.0 + jnp.abs(lower_bound))
    consistent = lower_bound - upper_bound <= 4.0 * jnp.hypot(below, above) + rounding
    consistent &= upper - lower >= -tolerance
    enough = consistent & (upper - lower <= tolerance)
    return Interval(lower, upper, lower_bound, upper_bound, consistent, enough)


def log_mean_stderr(log_w: Float[Array, " samples"]) -> Scalar:
    """Standard error of log 1/K sum w to first order: that of the mean over the mean.

    >>> import jax.numpy as jnp
    >>> float(log_mean_stderr(jnp.zeros(4)))
    0.0

    Args:
        log_w: Log weights, at least 2.

    Returns:
        The standard error, in nats; inf if all weights are 0.

    Raises:
        ValueError: If the weights have another axis than that of the draws.
    """
    require_draws("sandwich.log_mean_stderr", log_w=log_w)
    largest = jnp.max(log_w)
    weights = jnp.exp(log_w - jnp.where(jnp.isneginf(largest), 0.0, largest))
    spread = jnp.std(weights, ddof=1) / (jnp.mean(weights) * len(log_w) ** 0.5)
    return jnp.where(jnp.isneginf(largest), jnp.inf, spread)
