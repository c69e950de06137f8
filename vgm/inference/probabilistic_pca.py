"""EM for the linear-Gaussian model, with an exact or a restricted posterior.

All that EM needs of the data is its mean and scatter S = 1/N sum (x - m)(x - m)', taken
once. With posterior mean B (x - m), B = P^-1 W' / s^2, and covariance V (P^-1, or a
diagonal one when q is restricted to independent coordinates),

    E[x z'] = S B',   E[z z'] = V + B S B',                                          (1)
    W = E[x z'] E[z z']^-1,   s^2 = 1/D tr [ S - W E[x z']' ]                        (2)

(Tipping & Bishop 1999, appendix B). The maximum has a closed form too, eqs. 7-8 there.
"""

from typing import NamedTuple

import jax.numpy as jnp
import jax.scipy as jsp
from jaxtyping import Array, Float

from vgm.densities.normal import LOG_2PI
from vgm.inference import em
from vgm.oracles import linear_gaussian
from vgm.oracles.linear_gaussian import LinearGaussian
from vgm.precision import matmul
from vgm.types import Scalar


class Moments(NamedTuple):
    """The data.

    Attributes:
        mean: m.
        scatter: S.
    """

    mean: Float[Array, " data"]
    scatter: Float[Array, "data data"]


class Statistics(NamedTuple):
    """The moments of (1), an example's average.

    Attributes:
        x_z: E[(x - m) z'].
        z_z: E[z z'].
        moments: The data.
    """

    x_z: Float[Array, "data latent"]
    z_z: Float[Array, "latent latent"]
    moments: Moments


def moments(x: Float[Array, "examples data"], *, chunk_size: int = 4096) -> Moments:
    """Mean and scatter of examples, in two passes.

    Args:
        x: Examples.
        chunk_size: Examples at once.

    Returns:
        The moments.
    """
    mean = em.summed(lambda x: x, x, chunk_size=chunk_size) / len(x)

    def outer(x: Float[Array, " data"]) -> Float[Array, "data data"]:
        return (x - mean)[:, None] * (x - mean)[None]

    return Moments(mean, em.summed(outer, x, chunk_size=chunk_size) / len(x))


def mean_log_evidence(model: LinearGaussian, data: Moments) -> Scalar:
    """Mean log p(x) over the data, in nats.

    With B and P as in (1) and R = I - W B,

        -1/2 [ D log 2 pi s^2 + log det P + tr(R S R') / s^2 + tr(B S B') ],

    which is -1/2 [D log 2 pi + log det C + tr C^-1 S] with C = W W' + s^2 I, by factors
    of the latent's size only.

    Args:
        model: Parameters; its bias is the data's mean.
        data: Moments.

    Returns:
        Nats an example.
    """
    dim = len(data.mean)
    factor = jnp.linalg.cholesky(linear_gaussian.posterior_precision(model))
    to_mean = _to_posterior_mean(model)
    rest = jnp.eye(dim, dtype=data.scatter.dtype) - matmul(model.weights, to_mean)
    residual = jnp.sum(matmul(rest, data.scatter) * rest)
    residual *= jnp.exp(-2.0 * model.log_std)
    latent = jnp.sum(matmul(to_mean, data.scatter) * to_mean)
    log_det = jnp.sum(jnp.log(jnp.diagonal(factor)))
    constant = dim * (0.5 * LOG_2PI + model.log_std)
    return -constant - log_det - 0.5 * (residual + latent)


def e_step(model: LinearGaussian, data: Moments) -> tuple[Statistics, Scalar]:
    """Statistics under the exact posterior.

    Args:
        model: Parameters.
        data: Moments.

    Returns:
        Statistics, and the evidence, in nats an example.
    """
    precision = linear_gaussian.posterior_precision(model)
    identity = jnp.eye(len(precision), dtype=precision.dtype)
    covariance = jsp.linalg.solve(precision, identity, assume_a="pos")
    return _statistics(model, data, covariance), mean_log_evidence(model, data)


def mean_field_e_step(
    model: LinearGaussian, data: Moments
) -> tuple[Statistics, Scalar]:
    """Statistics under the best q with independent coordinates.

    Args:
        model: Parameters.
        data: Moments.

    Returns:
        Statistics, and the bound: the evidence less 1/2 (sum log P_ii - log det P).
    """
    precision = linear_gaussian.posterior_precision(model)
    diagonal = jnp.diagonal(precision)
    factor = jnp.linalg.cholesky(precision)
    gap = 0.5 * jnp.sum(jnp.log(diagonal)) - jnp.sum(jnp.log(jnp.diagonal(factor)))
    statistics = _statistics(model, data, jnp.diag(1.0 / diagonal))
    return statistics, mean_log_evidence(model, data) - gap


def m_step(statistics: Statistics) -> LinearGaussian:
    """The parameters that maximise the bound, by (2).

    Args:
        statistics: Of either E-step.

    Returns:
        Parameters.
    """
    x_z, z_z, data = statistics
    weights = jsp.linalg.solve(z_z, x_z.T, assume_a="pos").T
    rest = jnp.trace(data.scatter) - jnp.sum(weights * x_z)
    variance = _above_rounding(rest / len(data.mean), data)
    return LinearGaussian(weights, data.mean, 0.5 * jnp.log(variance))


def maximum_likelihood(data: Moments, *, latent_dim: int) -> LinearGaussian:
    """The parameters of greatest likelihood (Tipping & Bishop 1999, eqs. 7-8).

    The noise is the mean of the smallest D - d eigenvalues l of the scatter, and there
    the mean log evidence is -1/2 (D log 2 pi + sum log l_i + (D - d) log s^2 + D).

    Args:
        data: Moments.
        latent_dim: d, below the data's dimension.

    Returns:
        Parameters; the weights up to a rotation. Data that never vary have no greatest
        likelihood: their log std is -inf.

    Raises:
        ValueError: If d is not from 1 to D - 1.
    """
    if not 1 <= latent_dim < len(data.mean):
        raise ValueError(
            f"latent_dim must be from 1 to {len(data.mean) - 1}, one less than the "
            f"data's dimension; got {latent_dim}"
        )
    values, vectors = jnp.linalg.eigh(data.scatter)
    variance = _above_rounding(jnp.mean(values[:-latent_dim]), data)
    excess = jnp.maximum(values[-latent_dim:] - variance, 0.0)
    weights = vectors[:, -latent_dim:] * jnp.sqrt(excess)[None]
    return LinearGaussian(weights, data.mean, 0.5 * jnp.log(variance))


def _above_rounding(variance: Scalar, data: Moments) -> Scalar:
    """Noise that is lost in the rounding of the scatter counts as that rounding."""
    epsilon = jnp.finfo(data.scatter.dtype).eps
    return jnp.maximum(variance, epsilon * jnp.trace(data.scatter) / len(data.mean))


def _to_posterior_mean(model: LinearGaussian) -> Float[Array, "latent data"]:
    """B of (1)."""
    precision = linear_gaussian.posterior_precision(model)
    scaled = model.weights.T * jnp.exp(-2.0 * model.log_std)
    return jsp.linalg.solve(precision, scaled, assume_a="pos")


def _statistics(model: LinearGaussian, data: Moments, covariance: Array) -> Statistics:
    to_mean = _to_posterior_mean(model)
    x_z = matmul(data.scatter, to_mean.T)
    return Statistics(x_z, covariance + matmul(to_mean, x_z), data)
