"""The evidence lower bound, in named terms and in four forms.

For a joint p(x, z) and any q(z), with expectations over q,

    log p(x) = L(q) + KL(q || p(z | x)),                                             (1)
    L(q) = E [ log p(x, z) - log q(z) ]                                              (2)
         = E log p(x, z) + H[q]                                                      (3)
         = E log p(x | z) - KL(q || p(z))                                            (4)
         = log p(x) - KL(q || p(z | x)).                                             (5)

Estimators draw z with ``propose``; all four have the same expectation and different
variances: (5) has none, and (2) has none when q is the posterior.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.shapes import require, require_positive, require_same
from vgm.types import PRNGKey, Scalar

Propose = Callable[[PRNGKey], Any]
"""Draws latents z ~ q from a key."""

LogDensity = Callable[[Any], Scalar]
"""Maps latents to nats."""


class ElboTerms(NamedTuple):
    """The named terms of every bound, in nats, one value an example.

    Attributes:
        reconstruction: E log p(x | z), a log likelihood.
        prior_matching: KL(q(z | x) || p(z)) of the top latent.
        denoising_matching: One term a layer or timestep on the last axis, a divergence
            or, in a Markov hierarchy, a log ratio of either sign; of length 0 for a
            model with a single latent.
    """

    reconstruction: Float[Array, "*batch"]
    prior_matching: Float[Array, "*batch"]
    denoising_matching: Float[Array, "*batch layers"]

    @property
    def elbo(self) -> Float[Array, "*batch"]:
        """Reconstruction - prior_matching - sum(denoising_matching), in nats."""
        denoising = jnp.sum(self.denoising_matching, axis=-1)
        return self.reconstruction - self.prior_matching - denoising


def single_latent_terms(
    reconstruction: Float[Array, "*batch"], prior_matching: Float[Array, "*batch"]
) -> ElboTerms:
    """Terms of a model with one latent: no denoising terms.

    >>> import jax.numpy as jnp
    >>> float(single_latent_terms(jnp.asarray(-3.0), jnp.asarray(1.0)).elbo)
    -4.0

    Args:
        reconstruction: E log p(x | z).
        prior_matching: KL(q(z | x) || p(z)).

    Returns:
        The terms, with an empty last axis for layers.

    Raises:
        ValueError: If the two have different shapes.
    """
    require_same(
        "elbo.single_latent_terms",
        reconstruction=reconstruction,
        prior_matching=prior_matching,
    )
    reconstruction = jnp.asarray(reconstruction)
    empty = jnp.zeros((*reconstruction.shape, 0), reconstruction.dtype)
    return ElboTerms(reconstruction, jnp.asarray(prior_matching), empty)


def from_log_ratio(
    key: PRNGKey,
    propose: Propose,
    log_joint: LogDensity,
    log_posterior: LogDensity,
    *,
    num_samples: int,
) -> Scalar:
    """Form (2), Jensen's: the mean of log p(x, z) - log q(z).

    Args:
        key: Random key, used once.
        propose: Draws z ~ q.
        log_joint: log p(x, z) at z.
        log_posterior: log q(z) at z.
        num_samples: Number of draws.

    Returns:
        An unbiased estimate of the bound, in nats.

    Raises:
        ValueError: If there is no draw, or what should be one number is not.
    """
    return _mean(key, propose, lambda z: log_joint(z) - log_posterior(z), num_samples)


def from_entropy(
    key: PRNGKey,
    propose: Propose,
    log_joint: LogDensity,
    entropy: Scalar,
    *,
    num_samples: int,
) -> Scalar:
    """Form (3): the mean of log p(x, z), plus the entropy of q.

    Args:
        key: Random key, used once.
        propose: Draws z ~ q.
        log_joint: log p(x, z) at z.
        entropy: H[q] in closed form.
        num_samples: Number of draws.

    Returns:
        An unbiased estimate of the bound, in nats.

    Raises:
        ValueError: If there is no draw, or what should be one number is not.
    """
    require("the entropy", entropy, ())
    return _mean(key, propose, log_joint, num_samples) + entropy


def from_kl(
    key: PRNGKey,
    propose: Propose,
    log_likelihood: LogDensity,
    kl: Scalar,
    *,
    num_samples: int,
) -> Scalar:
    """Form (4), the VAE's: the mean of log p(x | z), less KL(q || p(z)).

    Args:
        key: Random key, used once.
        propose: Draws z ~ q.
        log_likelihood: log p(x | z) at z.
        kl: KL(q || p(z)) in closed form.
        num_samples: Number of draws.

    Returns:
        An unbiased estimate of the bound, in nats (Kingma & Welling 2014, eq. 7).

    Raises:
        ValueError: If there is no draw, or what should be one number is not.
    """
    require("the divergence, summed over coordinates,", kl, ())
    return _mean(key, propose, log_likelihood, num_samples) - kl


def from_gap(log_evidence: Scalar, kl_to_posterior: Scalar) -> Scalar:
    """Form (5), exact: log p(x) - KL(q || p(z | x)).

    >>> import jax.numpy as jnp
    >>> float(from_gap(jnp.asarray(-2.0), jnp.asarray(0.5)))
    -2.5

    Args:
        log_evidence: log p(x).
        kl_to_posterior: KL(q || p(z | x)).

    Returns:
        The bound, in nats.
    """
    return log_evidence - kl_to_posterior


def _mean(
    key: PRNGKey, propose: Propose, log_density: LogDensity, num_samples: int
) -> Scalar:
    require_positive(num_samples=num_samples)
    keys = jax.random.split(key, num_samples)

    def draw(key: PRNGKey) -> Scalar:
        value = log_density(propose(key))
        require("a log density of one draw, summed over coordinates,", value, ())
        return value

    return jnp.mean(jax.vmap(draw)(keys))
