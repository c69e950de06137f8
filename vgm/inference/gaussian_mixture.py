"""EM for a mixture of full-covariance normals (Bishop 2006, section 9.2.2).

Second moments are taken around the current means, so that float32 keeps its digits for
data far from the origin. A mean that moves by far more than its component's width in
one step costs them: start from examples, as ``init`` does.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.densities import mixture, multivariate_normal
from vgm.inference import em
from vgm.precision import matmul
from vgm.types import PRNGKey, Scalar


class GaussianMixture(NamedTuple):
    """Parameters.

    Attributes:
        logits: Unnormalised log weights of the components.
        mean: Their means.
        cholesky: Lower Cholesky factors of their covariances.
    """

    logits: Float[Array, " components"]
    mean: Float[Array, "components dim"]
    cholesky: Float[Array, "components dim dim"]


class Statistics(NamedTuple):
    """Sums over examples, r the responsibilities and y = x - current mean.

    Attributes:
        total: sum r.
        first: sum r y.
        second: sum r y y'.
        log_evidence: sum log p(x).
        params: The parameters around whose means the sums were taken.
    """

    total: Float[Array, " components"]
    first: Float[Array, "components dim"]
    second: Float[Array, "components dim dim"]
    log_evidence: Scalar
    params: GaussianMixture


def component_log_prob(
    params: GaussianMixture, x: Float[Array, " dim"]
) -> Float[Array, " components"]:
    """Log density of one example under each component, in nats.

    Args:
        params: Parameters.
        x: The example.

    Returns:
        One log density a component.
    """
    return jax.vmap(
        lambda mean, cholesky: multivariate_normal.log_prob(x, mean, cholesky)
    )(params.mean, params.cholesky)


def log_prob(params: GaussianMixture, x: Float[Array, " dim"]) -> Scalar:
    """Log density of one example: its evidence, in nats.

    Args:
        params: Parameters.
        x: The example.

    Returns:
        log sum_m pi_m N(x; mean_m, covariance_m).
    """
    return mixture.log_prob(component_log_prob(params, x), params.logits)


def init(
    key: PRNGKey,
    x: Float[Array, "examples dim"],
    *,
    num_components: int,
    ridge: float = 0.0,
) -> GaussianMixture:
    """Means at random examples, each covariance that of the data.

    A millionth of the mean variance is added to every variance, so that a coordinate
    that never varies can be factored.

    Args:
        key: Random key, used once.
        x: Examples.
        num_components: Number of components.
        ridge: Added to every variance too, as in ``m_step``.

    Returns:
        Where EM may start.

    Raises:
        ValueError: If there are fewer examples than components.
    """
    if not 1 <= num_components <= len(x):
        raise ValueError(
            f"num_components must be from 1 to {len(x)}, the number of examples; got "
            f"{num_components}"
        )
    chosen = jax.random.choice(key, len(x), (num_components,), replace=False)
    centred = x - jnp.mean(x, axis=0)[None]
    covariance = matmul(centred.T, centred) / len(x)
    floor = ridge + 1e-6 * jnp.mean(jnp.diagonal(covariance))
    identity = jnp.eye(x.shape[1], dtype=x.dtype)
    cholesky = jnp.linalg.cholesky(covariance + floor * identity)
    return GaussianMixture(
        jnp.zeros(num_components, x.dtype),
        x[chosen],
        jnp.broadcast_to(cholesky, (num_components, *cholesky.shape)),
    )


def e_step(
    params: GaussianMixture, x: Float[Array, "examples dim"], *, chunk_size: int = 4096
) -> tuple[Statistics, Scalar]:
    """Responsibilities, summed into statistics (Bishop 2006, eq. 9.23).

    Args:
        params: Parameters.
        x: Examples.
        chunk_size: Examples at once.

    Returns:
        Statistics, and the evidence, in nats an example.
    """

    def one_example(x: Float[Array, " dim"]) -> tuple[Array, ...]:
        by_component = component_log_prob(params, x)
        r = mixture.responsibilities(by_component, params.logits)
        y = x[None] - params.mean
        second = r[:, None, None] * y[:, :, None] * y[:, None, :]
        return r, r[:, None] * y, second, mixture.log_prob(by_component, params.logits)

    sums = em.summed(one_example, x, chunk_size=chunk_size)
    total, first, second, log_evidence = sums
    statistics = Statistics(total, first, second, log_evidence, params)
    return statistics, log_evidence / len(x)


def m_step(statistics: Statistics, *, ridge: float = 0.0) -> GaussianMixture:
    """The parameters that maximise the bound (Bishop 2006, eqs. 9.24-9.26).

    Args:
        statistics: Of the E-step.
        ridge: Added to every variance, against a component that shrinks on one
            example; with more than 0 the evidence may fall.

    Returns:
        Parameters. A component without examples keeps its mean and covariance.
    """
    before = statistics.params
    some = statistics.total > 0.0
    count = jnp.where(some, statistics.total, 1.0)
    shift = statistics.first / count[:, None]
    scatter = statistics.second / count[:, None, None]
    covariance = scatter - shift[:, :, None] * shift[:, None, :]
    identity = jnp.eye(shift.shape[1], dtype=shift.dtype)
    cholesky = jnp.linalg.cholesky(covariance + ridge * identity[None])
    return GaussianMixture(
        jnp.log(statistics.total),
        before.mean + shift,
        jnp.where(some[:, None, None], cholesky, before.cholesky),
    )
