"""The linear-Gaussian latent variable model (probabilistic PCA).

    z ~ N(0, I_d),   x | z ~ N(W z + m, s^2 I_D)                                     (1)

has evidence N(m, W W' + s^2 I) and posterior N(M^-1 W'(x - m), s^2 M^-1) with
M = W'W + s^2 I (Tipping & Bishop 1999, eqs. 5-8), so every bound and gap has a closed
form.
"""

from typing import NamedTuple

import jax.numpy as jnp
import jax.scipy as jsp
from jaxtyping import Array, Float

from vgm.densities import normal
from vgm.densities.normal import LOG_2PI
from vgm.divergences import kl_multivariate_normal
from vgm.precision import matmul
from vgm.shapes import require
from vgm.types import Scalar


class LinearGaussian(NamedTuple):
    """Parameters of (1).

    Attributes:
        weights: W.
        bias: m.
        log_std: log s.
    """

    weights: Float[Array, "data latent"]
    bias: Float[Array, " data"]
    log_std: Scalar


class Normal(NamedTuple):
    """A full-covariance normal over the latent.

    Attributes:
        mean: Mean.
        cholesky: Lower Cholesky factor of the covariance.
    """

    mean: Float[Array, " latent"]
    cholesky: Float[Array, "latent latent"]


def log_likelihood(
    model: LinearGaussian, x: Float[Array, " data"], z: Float[Array, " latent"]
) -> Scalar:
    """log p(x | z), in nats.

    Args:
        model: Parameters.
        x: Observation.
        z: Latent.

    Returns:
        The log density of x given z.
    """
    mean = matmul(model.weights, z) + model.bias
    return normal.log_prob(x, mean, jnp.broadcast_to(model.log_std, x.shape))


def log_joint(
    model: LinearGaussian, x: Float[Array, " data"], z: Float[Array, " latent"]
) -> Scalar:
    """log p(x, z) = log p(x | z) + log N(z; 0, I), in nats.

    Args:
        model: Parameters.
        x: Observation.
        z: Latent.

    Returns:
        The log joint density.
    """
    return log_likelihood(model, x, z) + normal.standard_log_prob(z)


def log_evidence(model: LinearGaussian, x: Float[Array, " data"]) -> Scalar:
    """log p(x) = log N(x; m, W W' + s^2 I), in nats.

    By log p(x) = log p(x, z) - log p(z | x) at the posterior mean: factors of the
    latent's size only, so that little noise leaves no singular matrix.

    Args:
        model: Parameters.
        x: Observation.

    Returns:
        The exact log evidence.
    """
    factor = jnp.linalg.cholesky(posterior_precision(model))
    scaled = matmul(model.weights.T, x - model.bias) * jnp.exp(-2.0 * model.log_std)
    mean = jsp.linalg.cho_solve((factor, True), scaled)
    log_determinant = jnp.sum(jnp.log(jnp.diagonal(factor)))
    return log_joint(model, x, mean) + 0.5 * mean.size * LOG_2PI - log_determinant


def posterior(model: LinearGaussian, x: Float[Array, " data"]) -> Normal:
    """p(z | x), exactly.

    Args:
        model: Parameters.
        x: Observation.

    Returns:
        The posterior normal.
    """
    precision = posterior_precision(model)
    factor = jsp.linalg.cho_factor(precision, lower=True)
    scaled = matmul(model.weights.T, x - model.bias) * jnp.exp(-2.0 * model.log_std)
    covariance = jsp.linalg.cho_solve(factor, jnp.eye(len(precision), dtype=x.dtype))
    return Normal(jsp.linalg.cho_solve(factor, scaled), jnp.linalg.cholesky(covariance))


def posterior_precision(model: LinearGaussian) -> Float[Array, "latent latent"]:
    """Precision of p(z | x), the same for every x: W'W / s^2 + I.

    Args:
        model: Parameters.

    Returns:
        The precision matrix P.
    """
    gram = matmul(model.weights.T, model.weights)
    return gram * jnp.exp(-2.0 * model.log_std) + jnp.eye(len(gram), dtype=gram.dtype)


def mean_field_posterior(model: LinearGaussian, x: Float[Array, " data"]) -> Normal:
    """The diagonal normal closest to the posterior in KL(q || p(z | x)).

    It has the posterior's mean and the variances 1 / P_ii, and leaves the gap
    1/2 (sum log P_ii - log det P).

    Args:
        model: Parameters.
        x: Observation.

    Returns:
        The best q with independent coordinates.
    """
    precision = jnp.diagonal(posterior_precision(model))
    return Normal(posterior(model, x).mean, jnp.diag(precision**-0.5))


def elbo(model: LinearGaussian, x: Float[Array, " data"], q: Normal) -> Scalar:
    """The evidence lower bound of any normal q, in closed form, in nats.

    E_q log p(x | z) = log p(x | q_mean) - |W L_q|_F^2 / (2 s^2), less KL(q || N(0, I)).

    Args:
        model: Parameters.
        x: Observation.
        q: Approximate posterior.

    Returns:
        E_q log p(x | z) - KL(q || p(z)).
    """
    spread = jnp.sum(matmul(model.weights, q.cholesky) ** 2)
    spread *= jnp.exp(-2.0 * model.log_std)
    reconstruction = log_likelihood(model, x, q.mean) - 0.5 * spread
    origin = jnp.zeros_like(q.mean)
    identity = jnp.eye(origin.size, dtype=origin.dtype)
    return reconstruction - kl_multivariate_normal(q.mean, q.cholesky, origin, identity)


def renyi(
    model: LinearGaussian, x: Float[Array, " data"], q: Normal, alpha: Scalar
) -> Scalar:
    """The Renyi bound of any normal q, in closed form (Gil et al. 2013).

    log p(x) - D_alpha(q || p(z | x)). With L the factor of q's covariance, l_i and v_i
    the eigenvalues and eigenvectors of L' P L, and u = L^-1 (q_mean - mean),

        -D = 1/2 sum_i [ log l_i - log(1 + b (l_i - 1)) / b
                         - alpha (v_i u)^2 l_i / (1 + b (l_i - 1)) ],  b = 1 - alpha.

    Args:
        model: Parameters.
        x: Observation.
        q: Approximate posterior.
        alpha: Order, finite.

    Returns:
        The bound, in nats; at alpha = 1 the ELBO. Where 1 + b (l_i - 1) is not positive
        the integral is infinite, and the bound inf for alpha < 1, -inf above.

    Raises:
        ValueError: If alpha is not one number.
    """
    require("renyi: alpha", alpha, ())
    b = 1.0 - alpha
    precision = posterior_precision(model)
    scales, vectors = jnp.linalg.eigh(matmul(q.cholesky.T, precision, q.cholesky))
    shift = q.mean - posterior(model, x).mean
    whitened = jsp.linalg.solve_triangular(q.cholesky, shift, lower=True)
    u = matmul(vectors.T, whitened)
    rest = scales - 1.0
    improper = jnp.any(b * rest <= -1.0)
    growth = jnp.where(improper, 0.0, b * rest)
    # At alpha = 1 the limit, with its derivative; next to it log1p keeps the digits.
    at_one = b == 0.0
    quotient = jnp.log1p(growth) / jnp.where(at_one, 1.0, b)
    logs = jnp.where(at_one, rest - 0.5 * b * rest**2, quotient)
    terms = jnp.log(scales) - logs - alpha * u**2 * scales / (1.0 + growth)
    bound = jnp.where(improper, jnp.sign(b) * jnp.inf, 0.5 * jnp.sum(terms))
    return log_evidence(model, x) + bound
