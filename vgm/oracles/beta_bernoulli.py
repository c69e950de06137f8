"""Coin tosses with a beta prior: p(r) = Beta(a, b), x_n | r ~ Bernoulli(r).

With h ones among n tosses the posterior is Beta(a + h, b + n - h) and

    p(x) = B(a + h, b + n - h) / B(a, b).                                            (1)
"""

from typing import NamedTuple

import jax.numpy as jnp
import jax.scipy as jsp
from jaxtyping import Array, Float

from vgm.densities import bernoulli
from vgm.numerics import at_least_float32, log_sigmoid
from vgm.types import Scalar


class Beta(NamedTuple):
    """A beta density.

    Attributes:
        a: Prior ones.
        b: Prior zeros.
    """

    a: Scalar
    b: Scalar


def log_beta(prior: Beta) -> Scalar:
    """Logarithm of the beta function B(a, b), a beta density's normaliser.

    By three log gammas: JAX's ``betaln`` keeps 8 digits only.

    >>> import jax.numpy as jnp
    >>> float(log_beta(Beta(jnp.ones(()), jnp.ones(()))))
    0.0

    Args:
        prior: a and b.

    Returns:
        log B(a, b).
    """
    a, b = prior
    return jsp.special.gammaln(a) + jsp.special.gammaln(b) - jsp.special.gammaln(a + b)


def log_prior(prior: Beta, logit: Scalar) -> Scalar:
    """Log density of the logit of r under the prior, its Jacobian included, in nats.

    Args:
        prior: Beta density of r.
        logit: log r - log(1 - r), any real number.

    Returns:
        The log density over the logit.
    """
    log_r, log_not_r = log_sigmoid(logit), log_sigmoid(-logit)
    return prior.a * log_r + prior.b * log_not_r - log_beta(prior)


def log_joint(prior: Beta, x: Float[Array, " tosses"], logit: Scalar) -> Scalar:
    """log p(x, logit r), in nats.

    Args:
        prior: Beta density of r.
        x: Zeros and ones.
        logit: log r - log(1 - r).

    Returns:
        The log joint density.
    """
    log_likelihood = bernoulli.log_prob(x, jnp.broadcast_to(logit, x.shape))
    return log_prior(prior, logit) + log_likelihood


def posterior(prior: Beta, x: Float[Array, " tosses"]) -> Beta:
    """p(r | x), exactly.

    Args:
        prior: Beta density of r.
        x: Zeros and ones.

    Returns:
        The posterior beta density.
    """
    ones = jnp.sum(x)
    return Beta(prior.a + ones, prior.b + x.size - ones)


def log_evidence(prior: Beta, x: Float[Array, " tosses"]) -> Scalar:
    """log p(x), (1), in nats: the chance of each toss after those before it.

    p(x_n | x_<n) = (a + h_<n) / (a + b + n - 1) for a one, Polya's urn. The log betas
    of many tosses would cancel in float32.

    >>> import jax.numpy as jnp
    >>> uniform = Beta(jnp.ones(()), jnp.ones(()))
    >>> float(log_evidence(uniform, jnp.asarray([1.0])))
    -0.6931

    Args:
        prior: Beta density of r.
        x: Zeros and ones.

    Returns:
        The exact log evidence.
    """
    x = at_least_float32(x)
    before = jnp.arange(x.size, dtype=x.dtype)
    ones = jnp.cumsum(x) - x
    alike = jnp.where(x == 1, prior.a + ones, prior.b + before - ones)
    return jnp.sum(jnp.log(alike / (prior.a + prior.b + before)))
