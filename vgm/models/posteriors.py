"""Families for q(z | x): where an encoder's outputs meet a density of the latents.

An encoder emits ``num_outputs`` numbers an example. Everything here has a leading batch
axis: a family may hold a network.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm import divergences
from vgm.bijections import Bijection
from vgm.densities import multivariate_normal, normal
from vgm.models.layers import Context, Layer
from vgm.types import Params, PRNGKey, Values

Outputs = Float[Array, "batch outputs"]


class Posterior(NamedTuple):
    """One family q(z | x), as functions of what the encoder says of x.

    Attributes:
        latent_shape: Shape of one example's z.
        num_outputs: Numbers the encoder emits for an example.
        encoding: The encoder's outputs to the family's parameters, named.
        init: (key, one row of outputs) to the family's own parameters; an empty
            dictionary for those without.
        sample_and_log_prob: (key, own parameters, encoding) to z and log q(z | x).
        log_prob: (own parameters, encoding, z) to log q(z | x).
        kl_standard: Encoding to KL(q(z | x) || p(z)), p the standard prior of the
            family; None without a closed form.
    """

    latent_shape: tuple[int, ...]
    num_outputs: int
    encoding: Callable[[Outputs], Any]
    init: Callable[[PRNGKey, Outputs], Params]
    sample_and_log_prob: Callable[[PRNGKey, Params, Any], tuple[Any, Values]]
    log_prob: Callable[[Params, Any, Any], Values]
    kl_standard: Callable[[Any], Values] | None


class DiagonalEncoding(NamedTuple):
    """A normal with independent coordinates, one row an example.

    Attributes:
        mean: Mean.
        log_std: Log standard deviation.
    """

    mean: Float[Array, "batch latent"]
    log_std: Float[Array, "batch latent"]


class FullEncoding(NamedTuple):
    """A normal with any covariance.

    Attributes:
        mean: Mean.
        cholesky: Lower Cholesky factor of the covariance.
    """

    mean: Float[Array, "batch latent"]
    cholesky: Float[Array, "batch latent latent"]


class FlowEncoding(NamedTuple):
    """A normal that a flow maps on; neither its mean nor its scale is z's.

    Attributes:
        base_mean: Mean before the flow.
        base_log_std: Log standard deviation before the flow.
        context: What the flow's networks read of x.
    """

    base_mean: Float[Array, "batch latent"]
    base_log_std: Float[Array, "batch latent"]
    context: Float[Array, "batch features"]


class CategoricalEncoding(NamedTuple):
    """Independent categorical latents.

    Attributes:
        logits: Unnormalised log mass of each category of each latent.
    """

    logits: Float[Array, "batch latent categories"]


def sample_normal(
    key: PRNGKey, mean: Float[Array, "batch latent"], log_std: Array
) -> tuple[Float[Array, "batch latent"], Values]:
    """Draw rows of a normal with independent coordinates, with their log densities.

    Args:
        key: Random key, used once.
        mean: Means.
        log_std: Log standard deviations.

    Returns:
        Rows, reparameterised, and log densities in nats.
    """
    eps = jax.random.normal(key, mean.shape, mean.dtype)
    return jax.vmap(normal.reparameterize)(eps, mean, log_std)


def diagonal(latent_dim: int) -> Posterior:
    """A normal with independent coordinates (Kingma & Welling 2014).

    Args:
        latent_dim: Size of z.

    Returns:
        The family.
    """
    return Posterior(
        (latent_dim,),
        2 * latent_dim,
        lambda outputs: DiagonalEncoding(*jnp.split(outputs, 2, axis=-1)),
        lambda key, outputs: {},
        lambda key, params, encoding: sample_normal(key, *encoding),
        lambda params, encoding, z: jax.vmap(normal.log_prob)(z, *encoding),
        lambda encoding: jax.vmap(divergences.kl_standard_normal)(*encoding),
    )


def full(latent_dim: int) -> Posterior:
    """A normal with any covariance; the encoder emits its Cholesky factor.

    Args:
        latent_dim: Size of z.

    Returns:
        The family; outputs of 0 are N(0, I).
    """
    rows, columns = jnp.tril_indices(latent_dim, -1)

    def encoding(outputs: Outputs) -> FullEncoding:
        mean, log_diagonal, lower = jnp.split(
            outputs, (latent_dim, 2 * latent_dim), axis=-1
        )
        diagonal = jax.vmap(jnp.diag)(jnp.exp(log_diagonal))
        return FullEncoding(mean, diagonal.at[:, rows, columns].set(lower))

    def draw(
        key: PRNGKey, params: Params, encoding: FullEncoding
    ) -> tuple[Array, Values]:
        eps = jax.random.normal(key, encoding.mean.shape, encoding.mean.dtype)
        return jax.vmap(multivariate_normal.reparameterize)(eps, *encoding)

    def log_prob(params: Params, encoding: FullEncoding, z: Array) -> Values:
        return jax.vmap(multivariate_normal.log_prob)(z, *encoding)

    def kl_standard(encoding: FullEncoding) -> Values:
        origin, eye = jnp.zeros(latent_dim), jnp.eye(latent_dim)
        return jax.vmap(
            lambda mean, cholesky: divergences.kl_multivariate_normal(
                mean, cholesky, origin.astype(mean.dtype), eye.astype(mean.dtype)
            )
        )(*encoding)

    num_outputs = 2 * latent_dim + latent_dim * (latent_dim - 1) // 2
    return Posterior(
        (latent_dim,),
        num_outputs,
        encoding,
        lambda key, outputs: {},
        draw,
        log_prob,
        kl_standard,
    )


def flow(latent_dim: int, layer: Layer, num_features: int) -> Posterior:
    """A normal that an invertible map reshapes (Rezende & Mohamed 2015).

    An inverse autoregressive flow (Kingma et al. 2016) maps noise to z at once, and
    back number by number: drawing is fast, the density of a given z is not.

    Args:
        latent_dim: Size of z.
        layer: Noise to z, reading a context of x.
        num_features: Size of the context, which the encoder emits too.

    Returns:
        The family.
    """

    def encoding(outputs: Outputs) -> FlowEncoding:
        mean, log_std, context = jnp.split(
            outputs, (latent_dim, 2 * latent_dim), axis=-1
        )
        return FlowEncoding(mean, log_std, context)

    def init(key: PRNGKey, outputs: Outputs) -> Params:
        own = encoding(outputs)
        return layer.init(key, own.base_mean, own.context)

    def maps(params: Params, context: Context) -> Bijection:
        # Parameters read from a file are NumPy's.
        return layer.build(jax.tree.map(jnp.asarray, params), context, None)

    def draw(
        key: PRNGKey, params: Params, encoding: FlowEncoding
    ) -> tuple[Array, Values]:
        base, log_q = sample_normal(key, encoding.base_mean, encoding.base_log_std)
        z, log_det = jax.vmap(lambda e, h: maps(params, h).forward(e))(
            base, encoding.context
        )
        return z, log_q - log_det

    def log_prob(params: Params, encoding: FlowEncoding, z: Array) -> Values:
        base, log_det = jax.vmap(lambda z, h: maps(params, h).inverse(z))(
            z, encoding.context
        )
        log_base = jax.vmap(normal.log_prob)(
            base, encoding.base_mean, encoding.base_log_std
        )
        return log_base + log_det

    return Posterior(
        (latent_dim,),
        2 * latent_dim + num_features,
        encoding,
        init,
        draw,
        log_prob,
        None,
    )


def categorical(
    latent_dim: int, num_categories: int, *, temperature: float
) -> Posterior:
    """Categorical latents as one-hot rows, drawn straight through.

    The draw is exact; its derivative is that of a softmax with the same Gumbel noise
    (Jang et al. 2017, section 2.2), which is biased. Score-function estimators do not
    use it. The standard prior is uniform.

    Args:
        latent_dim: Number of latents.
        num_categories: Categories of each.
        temperature: Of the softmax.

    Returns:
        The family.
    """
    shape = (latent_dim, num_categories)

    def draw(
        key: PRNGKey, params: Params, encoding: CategoricalEncoding
    ) -> tuple[Array, Values]:
        logits = encoding.logits
        noisy = logits + jax.random.gumbel(key, logits.shape, logits.dtype)
        soft = jax.nn.softmax(noisy / temperature, axis=-1)
        hard = jax.nn.one_hot(jnp.argmax(noisy, -1), num_categories, dtype=soft.dtype)
        z = soft - jax.lax.stop_gradient(soft) + hard
        return z, log_prob(params, encoding, z)

    def log_prob(params: Params, encoding: CategoricalEncoding, z: Array) -> Values:
        return jnp.sum(z * jax.nn.log_softmax(encoding.logits), axis=(-2, -1))

    def kl_standard(encoding: CategoricalEncoding) -> Values:
        return jax.vmap(
            lambda logits: divergences.kl_categorical(logits, jnp.zeros_like(logits))
        )(encoding.logits)

    return Posterior(
        shape,
        math.prod(shape),
        lambda outputs: CategoricalEncoding(outputs.reshape(-1, *shape)),
        lambda key, outputs: {},
        draw,
        log_prob,
        kl_standard,
    )
