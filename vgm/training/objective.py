"""What the optimiser sees: the only place with a minus sign and a batch mean.

An objective is a function (key, params, batch) -> ((loss, terms), gradients). The ones
here differentiate the negative bound; another gradient estimator is another function.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.bounds import gradients
from vgm.bounds.elbo import ElboTerms
from vgm.models.protocol import GenerativeModel, LatentVariableModel
from vgm.types import Batch, Params, PRNGKey, Scalar

ValueAndGrad = Callable[
    [PRNGKey, Params, Batch], tuple[tuple[Scalar, ElboTerms], Params]
]


def weighted_mean(
    values: Float[Array, " batch"], weight: Float[Array, " batch"]
) -> Scalar:
    """sum(weight * values) / sum(weight); an example of weight 0 does not count.

    >>> import jax.numpy as jnp
    >>> float(weighted_mean(jnp.asarray([1.0, 5.0]), jnp.asarray([1.0, 0.0])))
    1.0

    Args:
        values: One value an example.
        weight: Non-negative weights, not all zero.

    Returns:
        The weighted mean.
    """
    return jnp.sum(weight * values) / jnp.sum(weight)


def negative_elbo(model: GenerativeModel, *, num_samples: int = 1) -> ValueAndGrad:
    """Minus the mean ELBO, its reconstruction averaged over ``num_samples`` draws.

    Args:
        model: Any model.
        num_samples: Draws of the latents for each example.

    Returns:
        The objective.
    """

    def loss(params: Params, key: PRNGKey, batch: Batch) -> tuple[Scalar, ElboTerms]:
        def draw(key: PRNGKey) -> ElboTerms:
            return model.elbo_terms(key, params, batch.x, batch.condition, train=True)

        draws = jax.vmap(draw)(jax.random.split(key, num_samples))
        terms = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), draws)
        return -weighted_mean(terms.elbo, batch.weight), terms

    return _differentiate(loss)


def negative_bound(
    model: LatentVariableModel,
    *,
    num_samples: int,
    estimator: gradients.Estimator = gradients.iwae_pathwise,
) -> ValueAndGrad:
    """Minus the mean of a bound on drawn weights, by any gradient estimator.

    The encoder is computed once an example. The terms it returns are the ELBO's, from
    one further draw without gradients.

    Args:
        model: A model whose q and p are separate functions.
        num_samples: Draws of the latents for each example (K).
        estimator: A function of ``bounds.gradients``; the K-sample bound of Burda et
            al. (2016, eq. 8) unless given.

    Returns:
        The objective.
    """

    def loss(params: Params, key: PRNGKey, batch: Batch) -> tuple[Scalar, ElboTerms]:
        key_terms, key_weights = jax.random.split(key)
        x, condition = batch.x, batch.condition
        system = gradients.System(
            lambda key, params: model.propose(
                key, params, model.encode(params, x, condition)
            ),
            lambda params, z: model.log_joint(params, x, z, condition),
            lambda params, z: model.log_posterior(
                params, model.encode(params, x, condition), z
            ),
        )
        bound = estimator(key_weights, params, system, num_samples=num_samples)
        terms = model.elbo_terms(key_terms, jax.lax.stop_gradient(params), x, condition)
        return -weighted_mean(bound, batch.weight), terms

    return _differentiate(loss)


def _differentiate(loss: Callable[..., Any]) -> ValueAndGrad:
    differentiated = jax.value_and_grad(loss, has_aux=True)

    def value_and_grad(
        key: PRNGKey, params: Params, batch: Batch
    ) -> tuple[tuple[Scalar, ElboTerms], Params]:
        return differentiated(params, key, batch)

    return value_and_grad
