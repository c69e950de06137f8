"""Families for p(z): functions of a batch of latents.

Those without a closed-form divergence enter the bound as log q(z | x) - log p(z) at the
draw, which may be negative.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.densities import mixture as mixtures
from vgm.densities import normal
from vgm.models.posteriors import DiagonalEncoding, Posterior
from vgm.types import Params, PRNGKey, Values

NUM_INIT = 1024
"""Draws of N(0, I) that a prior with networks starts from."""


class Prior(NamedTuple):
    """One family p(z).

    Attributes:
        init: (key, features of a batch of x) to parameters; an empty dictionary for
            those without.
        log_prob: (parameters, z) to log p(z).
        sample: (key, parameters, number) to draws.
        latent_shape: Shape of one example's z; None for any.
        is_standard: Whether it is the standard prior of its posterior's family.
        reads_encoder: Whether its parameters are data for the encoder, and its
            functions' are what the encoder makes of them.
    """

    init: Callable[[PRNGKey, Any], Params]
    log_prob: Callable[[Params, Any], Values]
    sample: Callable[[PRNGKey, Params, int], Any]
    latent_shape: tuple[int, ...] | None = None
    is_standard: bool = False
    reads_encoder: bool = False


def standard_normal(latent_dim: int) -> Prior:
    """N(0, I).

    Args:
        latent_dim: Size of z.

    Returns:
        The family.
    """

    def log_prob(params: Params, z: Float[Array, "batch latent"]) -> Values:
        return jax.vmap(normal.standard_log_prob)(z)

    return Prior(
        lambda key, features: {},
        log_prob,
        lambda key, params, count: jax.random.normal(key, (count, latent_dim)),
        (latent_dim,),
        is_standard=True,
    )


def uniform_categorical(latent_dim: int, num_categories: int) -> Prior:
    """Independent uniform categories, as one-hot rows.

    Args:
        latent_dim: Number of latents.
        num_categories: Categories of each.

    Returns:
        The family.
    """

    def log_prob(params: Params, z: Float[Array, "batch latent categories"]) -> Values:
        return -math.log(num_categories) * jnp.sum(z, axis=(-2, -1))

    def sample(key: PRNGKey, params: Params, count: int) -> Array:
        drawn = jax.random.randint(key, (count, latent_dim), 0, num_categories)
        return jax.nn.one_hot(drawn, num_categories)

    shape = latent_dim, num_categories
    return Prior(lambda key, features: {}, log_prob, sample, shape, is_standard=True)


class Components(NamedTuple):
    """A mixture of normals with independent coordinates.

    Attributes:
        mean: Means.
        log_std: Log standard deviations.
        logits: Unnormalised log weights.
    """

    mean: Float[Array, "components latent"]
    log_std: Float[Array, "components latent"]
    logits: Float[Array, " components"]


def log_prob_components(components: Components, z: Float[Array, "batch _"]) -> Values:
    """Log density of rows under a mixture of normals.

    Args:
        components: Mixture.
        z: Rows.

    Returns:
        Log densities, in nats.
    """
    mean, log_std, logits = jax.tree.map(jnp.asarray, components)
    # Once a component: in ``normal.log_prob`` XLA's CPU backend takes the exponential
    # for every pair of a row and a component.
    root = jnp.exp(-0.5 * log_std)
    highest = -jnp.sum(log_std + 0.5 * normal.LOG_2PI, axis=-1)

    def one(z: Float[Array, " latent"]) -> Float[Array, ""]:
        standardized = (z[None] - mean) * root * root
        by_component = highest - 0.5 * jnp.sum(standardized**2, axis=-1)
        return mixtures.log_prob(by_component, logits)

    return jax.vmap(one)(z)


def sample_components(
    key: PRNGKey, components: Components, count: int
) -> Float[Array, "samples latent"]:
    """Draw rows of a mixture of normals.

    Args:
        key: Random key, used once.
        components: Mixture.
        count: How many.

    Returns:
        Rows.
    """
    key_component, key_normal = jax.random.split(key)
    mean, log_std, logits = jax.tree.map(jnp.asarray, components)
    which = jax.random.categorical(key_component, logits, shape=(count,))
    return normal.sample(key_normal, mean[which], log_std[which])


def mixture(latent_dim: int, num_components: int) -> Prior:
    """A learned mixture of normals with independent coordinates.

    Args:
        latent_dim: Size of z.
        num_components: Components; their means start at draws of N(0, I).

    Returns:
        The family.
    """

    def init(key: PRNGKey, features: Any) -> Components:
        mean = jax.random.normal(key, (num_components, latent_dim))
        return Components(mean, jnp.zeros_like(mean), jnp.zeros(num_components))

    return Prior(init, log_prob_components, sample_components, (latent_dim,))


def vamp(num_components: int) -> Prior:
    """VampPrior: the mixture of q(z | u), u learned (Tomczak & Welling 2018).

    Args:
        num_components: Inputs u; they start at examples of the data.

    Returns:
        The family, of normal posteriors with independent coordinates.
    """

    def init(key: PRNGKey, features: Float[Array, " batch *event"]) -> Array:
        # Twice only if there are not enough: equal inputs would stay equal for ever.
        order = jax.random.permutation(key, len(features))
        return features[order[jnp.arange(num_components) % len(features)]]

    def components(encoding: DiagonalEncoding) -> Components:
        return Components(encoding.mean, encoding.log_std, jnp.zeros(num_components))

    return Prior(
        init,
        lambda encoding, z: log_prob_components(components(encoding), z),
        lambda key, encoding, count: sample_components(
            key, components(encoding), count
        ),
        reads_encoder=True,
    )


def exact(model: Any, latent_dim: int) -> Prior:
    """A model of reals with an exact density: a flow, or an autoregressive one.

    Args:
        model: Model with ``log_prob``.
        latent_dim: Size of z.

    Returns:
        The family.
    """

    def init(key: PRNGKey, features: Any) -> Params:
        key_draws, key_model = jax.random.split(key)
        return model.init(
            key_model, jax.random.normal(key_draws, (NUM_INIT, latent_dim))
        )

    return Prior(init, model.log_prob, model.sample, (latent_dim,))


def prior_of(posterior: Posterior, prior: Prior | None) -> Prior:
    """A prior for the latents of a posterior.

    Args:
        posterior: Family of q(z | x).
        prior: Family of p(z), or None for the standard one of the same family.

    Returns:
        The prior.

    Raises:
        ValueError: If their latents differ in shape.
    """
    shape = posterior.latent_shape
    if prior is None:
        return (
            uniform_categorical(*shape) if len(shape) > 1 else standard_normal(*shape)
        )
    if prior.latent_shape not in (None, shape):
        raise ValueError(
            f"the prior is of latents {prior.latent_shape}, the posterior of {shape}"
        )
    return prior
