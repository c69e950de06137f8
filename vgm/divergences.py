"""Kullback-Leibler divergences of one event, in nats: closed forms and by sampling.

Arguments come in the order of KL(q || p): q first.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy as jsp
from jaxtyping import Array, Float

from vgm.numerics import expm1_minus_over_square, softplus, sum_half_expm1_minus
from vgm.shapes import require, require_positive, require_same
from vgm.types import PRNGKey, Scalar


def kl_normal(
    q_mean: Float[Array, "*event"],
    q_log_std: Float[Array, "*event"],
    p_mean: Float[Array, "*event"],
    p_log_std: Float[Array, "*event"],
) -> Scalar:
    """KL(q || p) between two normals with independent coordinates.

    With d = q_log_std - p_log_std,

        1/2 sum [ exp(2 d) - 1 - 2 d + ((q_mean - p_mean) / p_std)^2 ].

    ``sum_half_expm1_minus`` keeps the first group non-negative and exact when q is
    close to p.

    >>> import jax.numpy as jnp
    >>> float(kl_normal(jnp.ones(2), jnp.zeros(2), jnp.zeros(2), jnp.zeros(2)))
    1.0

    Args:
        q_mean: Mean of q.
        q_log_std: Log standard deviation of q.
        p_mean: Mean of p.
        p_log_std: Log standard deviation of p.

    Returns:
        The divergence, summed over coordinates.

    Raises:
        ValueError: If the shapes of the arguments do not fit.
    """
    q_mean, q_log_std, p_mean, p_log_std = require_same(
        "kl_normal",
        q_mean=q_mean,
        q_log_std=q_log_std,
        p_mean=p_mean,
        p_log_std=p_log_std,
    )
    delta = q_log_std - p_log_std
    # In two halves, like a normal's density: 0 * inf where p is narrow.
    root = jnp.exp(-0.5 * p_log_std)
    scaled_difference = (q_mean - p_mean) * root * root
    return sum_half_expm1_minus(2.0 * delta, plus=0.5 * scaled_difference**2)


def kl_standard_normal(
    q_mean: Float[Array, "*event"], q_log_std: Float[Array, "*event"]
) -> Scalar:
    """KL(q || N(0, I)) (Kingma & Welling 2014, appendix B).

    1/2 sum [ mean^2 + exp(2 log_std) - 1 - 2 log_std ].

    >>> import jax.numpy as jnp
    >>> float(kl_standard_normal(jnp.ones(3), jnp.zeros(3)))
    1.5

    Args:
        q_mean: Mean of q.
        q_log_std: Log standard deviation of q.

    Returns:
        The divergence, summed over coordinates.

    Raises:
        ValueError: If the shapes of the arguments do not fit.
    """
    q_mean, q_log_std = require_same(
        "kl_standard_normal", q_mean=q_mean, q_log_std=q_log_std
    )
    return sum_half_expm1_minus(2.0 * q_log_std, plus=0.5 * q_mean**2)


def kl_multivariate_normal(
    q_mean: Float[Array, " dim"],
    q_cholesky: Float[Array, "dim dim"],
    p_mean: Float[Array, " dim"],
    p_cholesky: Float[Array, "dim dim"],
) -> Scalar:
    """KL(q || p) between two full-covariance normals, by triangular solves.

    With A = L_p^-1 L_q and y = L_p^-1 (q_mean - p_mean),

        1/2 [ |A|_F^2 - dim + |y|^2 ] - sum log diag A,

    where A - 1 = L_p^-1 (L_q - L_p) keeps its digits when q is close to p.

    >>> import jax.numpy as jnp
    >>> eye = jnp.eye(2)
    >>> float(kl_multivariate_normal(jnp.ones(2), eye, jnp.zeros(2), eye))
    1.0

    Args:
        q_mean: Mean of q.
        q_cholesky: Lower Cholesky factor of the covariance of q.
        p_mean: Mean of p.
        p_cholesky: Lower Cholesky factor of the covariance of p.

    Returns:
        The divergence.

    Raises:
        ValueError: If the shapes of the arguments do not fit.
    """
    q_mean, p_mean = require_same(
        "kl_multivariate_normal", q_mean=q_mean, p_mean=p_mean
    )
    for name, factor in (("q_cholesky", q_cholesky), ("p_cholesky", p_cholesky)):
        require(f"kl_multivariate_normal: {name}", factor, 2 * jnp.shape(q_mean))
    excess = jsp.linalg.solve_triangular(
        p_cholesky, q_cholesky - p_cholesky, lower=True
    )
    shift = jsp.linalg.solve_triangular(p_cholesky, q_mean - p_mean, lower=True)
    q_diagonal, p_diagonal = jnp.diagonal(q_cholesky), jnp.diagonal(p_cholesky)
    rise = (q_diagonal - p_diagonal) / p_diagonal
    # Both branches are evaluated: each sees only inputs inside its range.
    near = jnp.abs(rise) < 0.5
    log_diagonal = jnp.where(
        near,
        jnp.log1p(jnp.where(near, rise, 0.0)),
        jnp.log(jnp.where(near, 1.0, q_diagonal / p_diagonal)),
    )
    off_diagonal = jnp.sum(jnp.tril(excess, -1) ** 2)
    return sum_half_expm1_minus(2.0 * log_diagonal, plus=0.5 * shift**2) + (
        0.5 * off_diagonal
    )


def kl_categorical(
    q_logits: Float[Array, "*event levels"], p_logits: Float[Array, "*event levels"]
) -> Scalar:
    """KL(q || p) between two events of independent integer levels.

    With d = p_logits - q_logits less its mean under q, at each coordinate,

        log E_q exp(d) = log1p E_q [ exp(d) - 1 - d ],

    whose every summand is non-negative and exact when q is close to p.

    >>> import jax.numpy as jnp
    >>> q = jnp.log(jnp.asarray([[0.5, 0.5]]))
    >>> float(kl_categorical(q, jnp.log(jnp.asarray([[0.25, 0.75]]))))
    0.1438

    Args:
        q_logits: Unnormalised log mass of each level under q.
        p_logits: Unnormalised log mass of each level under p.

    Returns:
        The divergence, summed over coordinates.

    Raises:
        ValueError: If the shapes of the arguments do not fit.
    """
    q_logits, p_logits = require_same(
        "kl_categorical", q_logits=q_logits, p_logits=p_logits
    )
    log_total = jax.nn.logsumexp(q_logits, axis=-1, keepdims=True)
    q = jnp.exp(q_logits - log_total)
    # A level with mass under q alone makes the result inf.
    excluded = jnp.any((q > 0.0) & jnp.isneginf(p_logits), axis=-1)
    finite = jnp.isfinite(q_logits) & jnp.isfinite(p_logits)
    difference = jnp.where(finite, p_logits - q_logits, 0.0)
    mean_difference = jnp.sum(q * difference, axis=-1, keepdims=True)
    d = difference - mean_difference
    # The mean of exp(d) is taken relative to exp(shift), for it can overflow; where it
    # cannot the shift is 0. The result does not depend on it.
    log_terms = p_logits - log_total - mean_difference
    largest = jnp.max(log_terms, axis=-1, keepdims=True)
    shift = jax.lax.stop_gradient(jnp.maximum(largest, 0.0))
    scale = jnp.exp(-shift)
    near = (jnp.abs(d) < 1.0) & finite
    d_near = jnp.where(near, d, 0.0)
    summand = jnp.where(
        near,
        q * scale * d_near**2 * expm1_minus_over_square(d_near),
        jnp.exp(log_terms - shift) - q * scale * (1.0 + d),
    )
    mean = jnp.sum(summand, axis=-1) + jnp.expm1(-shift[..., 0])
    divergence = shift[..., 0] + jnp.log1p(mean)
    return jnp.sum(jnp.where(excluded, jnp.inf, divergence))


def kl_bernoulli(
    q_logits: Float[Array, "*event"], p_logits: Float[Array, "*event"]
) -> Scalar:
    """KL(q || p) between two events of independent binary coordinates.

    With d = p_logits - q_logits and q the probability of a one,

        softplus(p_logits) - softplus(q_logits) - q d,

    and near q = p as in ``kl_categorical``.

    >>> import jax.numpy as jnp
    >>> float(kl_bernoulli(jnp.zeros(2), jnp.zeros(2)))
    0.0

    Args:
        q_logits: Log odds of a one under q, finite.
        p_logits: Log odds of a one under p, finite.

    Returns:
        The divergence, summed over coordinates.

    Raises:
        ValueError: If the shapes of the arguments do not fit.
    """
    q_logits, p_logits = require_same(
        "kl_bernoulli", q_logits=q_logits, p_logits=p_logits
    )
    q_logits, p_logits = q_logits.ravel(), p_logits.ravel()
    # Ones and zeros may change places: q <= 1/2, where softplus(q_logits) is small.
    sign = jnp.where(q_logits > 0.0, -1.0, 1.0).astype(q_logits.dtype)
    q_logits, p_logits = sign * q_logits, sign * p_logits
    q, d = jax.nn.sigmoid(q_logits), p_logits - q_logits
    near = jnp.abs(d) < 1.0
    close = jnp.where(near, d, 0.0)
    # q (1-q)^2 and (1-q) q^2 of the two levels, d^2 apart.
    ones = expm1_minus_over_square((1.0 - q) * close)
    zeros = expm1_minus_over_square(-q * close)
    mean = q * (1.0 - q) * close**2 * ((1.0 - q) * ones + q * zeros)
    far = softplus(p_logits) - softplus(q_logits) - q * d
    return jnp.sum(jnp.where(near, jnp.log1p(mean), far))


def kl_monte_carlo(
    key: PRNGKey,
    sample: Callable[[PRNGKey], Any],
    q_log_prob: Callable[[Any], Scalar],
    p_log_prob: Callable[[Any], Scalar],
    *,
    num_samples: int,
) -> Scalar:
    """Unbiased estimate of KL(q || p) = E_q [ log q(z) - log p(z) ]; may be negative.

    Args:
        key: Random key, used once.
        sample: Draws one event of q from a key.
        q_log_prob: Log density of q at an event.
        p_log_prob: Log density of p at an event.
        num_samples: Number of draws.

    Returns:
        The mean log ratio over the draws.

    Raises:
        ValueError: If there is no draw, or a log density is not one number.
    """
    require_positive(num_samples=num_samples)

    def log_ratio(key: PRNGKey) -> Scalar:
        z = sample(key)
        log_q, log_p = q_log_prob(z), p_log_prob(z)
        require("kl_monte_carlo: log q(z), summed over coordinates,", log_q, ())
        require("kl_monte_carlo: log p(z), summed over coordinates,", log_p, ())
        return log_q - log_p

    return jnp.mean(jax.vmap(log_ratio)(jax.random.split(key, num_samples)))
