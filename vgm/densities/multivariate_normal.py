"""The normal with a full covariance, given by its lower Cholesky factor."""

import jax
import jax.numpy as jnp
import jax.scipy as jsp
from jaxtyping import Array, Float

from vgm.densities.normal import LOG_2PI, standard_log_prob
from vgm.precision import matmul
from vgm.shapes import require, require_same
from vgm.types import PRNGKey, Scalar


def log_prob(
    x: Float[Array, " dim"],
    mean: Float[Array, " dim"],
    cholesky: Float[Array, "dim dim"],
) -> Scalar:
    """Log density of one vector, in nats, by one triangular solve.

    With L the Cholesky factor and y = L^-1 (x - mean),

        -1/2 |y|^2 - sum log diag L - dim/2 log 2 pi.

    >>> import jax.numpy as jnp
    >>> float(log_prob(jnp.zeros(2), jnp.zeros(2), jnp.eye(2)))
    -1.8379

    Args:
        x: The vector.
        mean: Its mean.
        cholesky: Lower Cholesky factor of its covariance.

    Returns:
        The log density.

    Raises:
        ValueError: If the shapes of the arguments do not fit.
    """
    x, mean = require_same("multivariate_normal.log_prob", x=x, mean=mean)
    require("multivariate_normal.log_prob: cholesky", cholesky, 2 * mean.shape)
    whitened = jsp.linalg.solve_triangular(cholesky, x - mean, lower=True)
    log_determinant = jnp.sum(jnp.log(jnp.diagonal(cholesky)))
    return -0.5 * (jnp.sum(whitened**2) + x.size * LOG_2PI) - log_determinant


def reparameterize(
    eps: Float[Array, " dim"],
    mean: Float[Array, " dim"],
    cholesky: Float[Array, "dim dim"],
) -> tuple[Float[Array, " dim"], Scalar]:
    """The vector that noise stands for, mean + L eps, and its log density in nats.

    Of the noise, like `normal.reparameterize`: log N(eps; 0, I) - sum log diag L.

    >>> import jax.numpy as jnp
    >>> x, log_q = reparameterize(jnp.zeros(2), jnp.ones(2), 2.0 * jnp.eye(2))
    >>> float(x[0]), float(log_q)
    (1.0, -3.2242)

    Args:
        eps: A draw of N(0, I).
        mean: Mean.
        cholesky: Lower Cholesky factor L of the covariance.

    Returns:
        The vector, differentiable in mean and cholesky, and its log density.

    Raises:
        ValueError: If the shapes of the arguments do not fit.
    """
    eps, mean = require_same("multivariate_normal.reparameterize", eps=eps, mean=mean)
    require("multivariate_normal.reparameterize: cholesky", cholesky, 2 * mean.shape)
    log_determinant = jnp.sum(jnp.log(jnp.diagonal(cholesky)))
    return _move(eps, mean, cholesky), standard_log_prob(eps) - log_determinant


def _move(eps: Array, mean: Array, cholesky: Array) -> Array:
    return mean + matmul(cholesky, eps)


def sample(
    key: PRNGKey, mean: Float[Array, " dim"], cholesky: Float[Array, "dim dim"]
) -> Float[Array, " dim"]:
    """Draw one vector, reparameterised: mean + L eps.

    Args:
        key: Random key, used once.
        mean: Mean.
        cholesky: Lower Cholesky factor L of the covariance.

    Returns:
        The vector, differentiable in mean and cholesky.

    Raises:
        ValueError: If the shapes of the arguments do not fit.
    """
    require("multivariate_normal.sample: cholesky", cholesky, 2 * mean.shape)
    eps = jax.random.normal(key, mean.shape, jnp.result_type(mean))
    return _move(eps, mean, cholesky)


def entropy(cholesky: Float[Array, "dim dim"]) -> Scalar:
    """Differential entropy of one vector, in nats.

    sum log diag L + dim/2 log 2 pi e.

    >>> import jax.numpy as jnp
    >>> float(entropy(jnp.eye(2)))
    2.8379

    Args:
        cholesky: Lower Cholesky factor L of the covariance.

    Returns:
        The entropy.

    Raises:
        ValueError: If the factor is not one square matrix.
    """
    rows = jnp.shape(cholesky)[:1]
    require("multivariate_normal.entropy: cholesky", cholesky, 2 * rows)
    diagonal = jnp.diagonal(cholesky)
    return jnp.sum(jnp.log(diagonal) + 0.5 * (LOG_2PI + 1.0))
