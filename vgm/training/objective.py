"""What the optimiser sees: the only place with a minus sign and a batch mean.

An objective is a function (key, params, batch) -> ((loss, terms), gradients). The ones
here differentiate the negative bound; another gradient estimator is another function.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.bounds import gradients
from vgm.bounds.elbo import ElboTerms, single_latent_terms
from vgm.errors import UserError
from vgm.models.diffusion import Diffusion
from vgm.models.flow import Flow
from vgm.models.protocol import GenerativeModel, LatentVariableModel, lacking
from vgm.shapes import require_positive, require_same
from vgm.types import Batch, Params, PRNGKey, Scalar

ValueAndGrad = Callable[
    [PRNGKey, Params, Batch], tuple[tuple[Scalar, ElboTerms], Params]
]


def weighted_mean(
    values: Float[Array, " batch"], weight: Float[Array, " batch"]
) -> Scalar:
    """sum(weight * values) / sum(weight); of weight 0 a finite value does not count.

    >>> import jax.numpy as jnp
    >>> float(weighted_mean(jnp.asarray([1.0, 5.0]), jnp.asarray([1.0, 0.0])))
    1.0

    Args:
        values: One value an example.
        weight: Non-negative weights, not all zero.

    Returns:
        The weighted mean.

    Raises:
        ValueError: If the shapes of the arguments do not fit.
    """
    require_same("weighted_mean", values=values, weight=weight)
    return jnp.sum(weight * values) / jnp.sum(weight)


def negative_elbo(
    model: GenerativeModel,
    *,
    num_samples: int = 1,
    kl_weight: Scalar | None = None,
    free_nats: float | Scalar | None = None,
) -> ValueAndGrad:
    """Minus the mean ELBO, its reconstruction averaged over ``num_samples`` draws.

    With warm-up (Sonderby et al. 2016) or free nats (free bits; Kingma et al. 2016) the
    loss is no bound; the terms are the ELBO's. Its gradient goes through the draws: for
    discrete latents take ``negative_bound`` with a score function or VIMCO.

    Args:
        model: Any model.
        num_samples: Draws of the latents for each example.
        kl_weight: Weight of the divergences: below 1 in a warm-up, beta of a beta-VAE;
            None for 1.
        free_nats: What each layer's divergence, its mean over the batch, is taken to be
            at least: below it has no gradient. None for no limit.

    Returns:
        The objective.

    Raises:
        UserError: If free nats are asked of a model whose terms are signed.
        ValueError: If there is no draw.
    """
    require_positive(num_samples=num_samples)
    if free_nats is not None and getattr(model, "has_signed_terms", False):
        raise UserError(
            "free_nats needs divergences, and the means of this model's terms are "
            "none; use kl_weight"
        )

    def loss(params: Params, key: PRNGKey, batch: Batch) -> tuple[Scalar, ElboTerms]:
        def draw(key: PRNGKey) -> ElboTerms:
            return model.elbo_terms(key, params, batch.x, batch.condition, train=True)

        draws = jax.vmap(draw)(jax.random.split(key, num_samples))
        terms = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), draws)
        if kl_weight is None and free_nats is None:
            return -weighted_mean(terms.elbo, batch.weight), terms
        reconstruction = weighted_mean(terms.reconstruction, batch.weight)
        divergence = _divergence(terms, batch.weight, free_nats)
        weight = 1.0 if kl_weight is None else kl_weight
        return weight * divergence - reconstruction, terms

    return _differentiate(loss)


def _divergence(
    terms: ElboTerms, weight: Float[Array, " batch"], free_nats: float | Scalar | None
) -> Scalar:
    """Sum of the layers' mean divergences, each at least ``free_nats`` if given."""
    layers = [terms.prior_matching[:, None], terms.denoising_matching]
    by_layer = jax.vmap(lambda values: weighted_mean(values, weight), in_axes=1)(
        jnp.concatenate(layers, axis=-1)
    )
    return jnp.sum(by_layer if free_nats is None else jnp.maximum(by_layer, free_nats))


def negative_bound(
    model: GenerativeModel,
    *,
    num_samples: int,
    estimator: gradients.Estimator = gradients.iwae_pathwise,
) -> ValueAndGrad:
    """Minus the mean of a bound on drawn weights, by any gradient estimator.

    The encoder is computed once an example; the terms are those of a further draw.

    Args:
        model: A model whose q and p are separate functions.
        num_samples: Draws of the latents for each example (K).
        estimator: A function of ``bounds.gradients``; Burda et al.'s (2016, eq. 8)
            bound unless given. Discrete latents need a score function or VIMCO: others
            leave the encoder without a gradient.

    Returns:
        The objective.

    Raises:
        UserError: If the model is no such.
        ValueError: If there are fewer draws than the estimator needs.
    """
    if not isinstance(model, LatentVariableModel):
        raise UserError(
            "objective.name 'iwae' and any gradient but 'pathwise' need a model with "
            f"latent variables, and this lacks {lacking(model)}; use negative_elbo"
        )

    def loss(params: Params, key: PRNGKey, batch: Batch) -> tuple[Scalar, ElboTerms]:
        key_terms, key_weights = jax.random.split(key)
        x, condition = batch.x, batch.condition
        encode = functools.partial(model.encode, x=x, condition=condition)

        def log_joint(params: Params, z: Any) -> Array:
            x, condition = _repeat((batch.x, batch.condition), z)
            return model.log_joint(params, x, z, condition)

        system = gradients.System(
            lambda key, params: model.propose(key, params, encode(params)),
            log_joint,
            lambda params, z: model.log_posterior(
                params, _repeat(encode(params), z), z
            ),
            functools.partial(_as_one_batch, count=len(batch.weight)),
            lambda key, params: model.propose_and_log_prob(key, params, encode(params)),
        )
        bound = estimator(key_weights, params, system, num_samples=num_samples)
        terms = model.elbo_terms(key_terms, jax.lax.stop_gradient(params), x, condition)
        return -weighted_mean(bound, batch.weight), terms

    return _differentiate(loss)


def _as_one_batch(
    function: Callable[[Any], Any], *, count: int
) -> Callable[[Any], Any]:
    """Over draws of a batch as over one batch of all of them.

    The gradient of a matrix product with two batch axes takes XLA's CPU backend longer
    than with one.
    """

    def over_draws(z: Any) -> Any:
        merged = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), z)
        return function(merged).reshape(-1, count)

    return over_draws


def _repeat(tree: Any, z: Any) -> Any:
    """A batch as often as its draws z hold it, one after the other."""
    count = len(jax.tree.leaves(z)[0])
    return jax.tree.map(
        lambda leaf: jnp.tile(leaf, (count // len(leaf), *[1] * (leaf.ndim - 1))), tree
    )


def weighted_error(model: Diffusion, *, weighting: str) -> ValueAndGrad:
    """The mean of a weighted squared error of the noise: no bound (Ho et al. 2020).

    Args:
        model: A diffusion with a fixed schedule.
        weighting: A name of ``bounds.weightings.WEIGHTINGS``.

    Returns:
        The objective; its terms are the bound's, but for the reconstruction: that would
        take the network once more, at z_0, and is NaN.
    """

    def loss(params: Params, key: PRNGKey, batch: Batch) -> tuple[Scalar, ElboTerms]:
        terms = model.training_terms(key, params, batch.x, batch.condition)
        errors = model.weighted_error(key, params, terms, weighting)
        unknown = jnp.full_like(errors, jnp.nan)
        return weighted_mean(errors, batch.weight), terms._replace(
            reconstruction=unknown
        )

    return _differentiate(loss)


def flow_matching(model: Flow) -> ValueAndGrad:
    """The mean flow matching error: no bound (Lipman et al. 2023).

    Args:
        model: A continuous flow.

    Returns:
        The objective; its terms, which would take an equation to solve, are NaN.
    """

    def loss(params: Params, key: PRNGKey, batch: Batch) -> tuple[Scalar, ElboTerms]:
        errors = model.matching_error(key, params, batch.x, batch.condition)
        unknown = jnp.full_like(errors, jnp.nan)
        terms = single_latent_terms(unknown, unknown)
        return weighted_mean(errors, batch.weight), terms

    return _differentiate(loss)


def least_variance(model: Diffusion) -> ValueAndGrad:
    """Minus the mean ELBO, the interior of its schedule against its variance instead.

    The bound of infinitely many steps does not depend on the interior, the variance of
    its estimate does: of each example's term l the gradient is that of l^2, 2 l dl
    (Kingma et al. 2021, appendix I.2). The end points follow the bound.

    Args:
        model: A diffusion trained in continuous time whose schedule has an interior.

    Returns:
        The objective.
    """

    def loss(
        params: Params, interiors: Params, key: PRNGKey, batch: Batch
    ) -> tuple[Scalar, ElboTerms]:
        schedule = {**params["schedule"], "interior": interiors}
        axes = dict.fromkeys(params) | {"schedule": {"ends": None, "interior": 0}}
        terms = model.training_terms(
            key,
            {**params, "schedule": schedule},
            batch.x,
            batch.condition,
            params_axes=axes,
        )
        return -weighted_mean(terms.elbo, batch.weight), terms

    def value_and_grad(
        key: PRNGKey, params: Params, batch: Batch
    ) -> tuple[tuple[Scalar, ElboTerms], Params]:
        # One copy of the interior an example: their gradients come one by one.
        interiors = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (len(batch.weight), *leaf.shape)),
            params["schedule"]["interior"],
        )
        value, (grads, by_example) = jax.value_and_grad(loss, (0, 1), has_aux=True)(
            params, interiors, key, batch
        )
        factors = 2.0 * jnp.sum(value[1].denoising_matching, axis=-1)
        interior = jax.tree.map(
            lambda leaf: jnp.tensordot(factors, leaf, axes=1), by_example
        )
        schedule = {**grads["schedule"], "interior": interior}
        return value, {**grads, "schedule": schedule}

    return value_and_grad


def _differentiate(loss: Callable[..., Any]) -> ValueAndGrad:
    differentiated = jax.value_and_grad(loss, has_aux=True)

    def value_and_grad(
        key: PRNGKey, params: Params, batch: Batch
    ) -> tuple[tuple[Scalar, ElboTerms], Params]:
        return differentiated(params, key, batch)

    return value_and_grad
