"""What the optimiser sees: the only place with a minus sign and a batch mean.

An objective is a function (key, params, batch) -> ((loss, terms), gradients). The ones
here differentiate the negative bound; another gradient estimator is another function.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.bounds import importance
from vgm.bounds.elbo import ElboTerms
from vgm.models.protocol import (
    GenerativeModel,
    LatentVariableModel,
    log_weight_given,
)
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


def negative_iwae(model: LatentVariableModel, *, num_samples: int) -> ValueAndGrad:
    """Minus the mean K-sample bound (Burda et al. 2016, eq. 8), encoder computed once.

    The terms it returns are the ELBO's, from one further draw without gradients.

    Args:
        model: A model whose q and p are separate functions.
        num_samples: K, the number of importance samples.

    Returns:
        The objective.
    """

    def loss(params: Params, key: PRNGKey, batch: Batch) -> tuple[Scalar, ElboTerms]:
        key_terms, key_weights = jax.random.split(key)
        encoding = model.encode(params, batch.x, batch.condition)

        def log_weight(key: PRNGKey) -> Float[Array, " batch"]:
            return log_weight_given(
                key, model, params, batch.x, encoding, batch.condition
            )

        log_w = jax.vmap(log_weight)(jax.random.split(key_weights, num_samples))
        bound = jax.vmap(importance.iwae, in_axes=1)(log_w)
        terms = model.elbo_terms(
            key_terms, jax.lax.stop_gradient(params), batch.x, batch.condition
        )
        return -weighted_mean(bound, batch.weight), terms

    return _differentiate(loss)


def _differentiate(loss: Callable[..., Any]) -> ValueAndGrad:
    differentiated = jax.value_and_grad(loss, has_aux=True)

    def value_and_grad(
        key: PRNGKey, params: Params, batch: Batch
    ) -> tuple[tuple[Scalar, ElboTerms], Params]:
        return differentiated(params, key, batch)

    return value_and_grad
