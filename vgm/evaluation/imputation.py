"""Filling in what is missing of x (Mattei & Frellsen 2019)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.models.protocol import LatentVariableModel, Reconstructing
from vgm.types import Condition, Masked, Params, PRNGKey


def impute(
    key: PRNGKey,
    params: Params,
    x: Masked,
    condition: Condition = None,
    *,
    model: Any,
    num_samples: int,
) -> Float[Array, " batch *event"]:
    """E[x | what is observed of it], by self-normalised importance sampling.

    sum_k u_k E[x | z_k] with z_k ~ q(z | observed) and u_k proportional to
    p(x observed, z_k) / q(z_k) (Mattei & Frellsen 2019, eq. 12). The observed numbers
    are returned as they are.

    Args:
        key: Random key, used once.
        params: Parameters.
        x: Observations with their mask.
        condition: What they are conditioned on.
        model: A latent variable model of ``Masked`` observations that can show means.
        num_samples: Draws of z an example.

    Returns:
        Complete observations; imputed where they were missing.

    Raises:
        TypeError: If the model has no latents, or no means.
    """
    if not (
        isinstance(model, LatentVariableModel) and isinstance(model, Reconstructing)
    ):
        raise TypeError(
            "impute needs a model with latents and means of p(x | z); got "
            f"{type(model).__name__}"
        )
    encoding = model.encode(params, x, condition)

    def draw(key: PRNGKey) -> tuple[Array, Array]:
        z = model.propose(key, params, encoding)
        log_q = model.log_posterior(params, encoding, z)
        log_w = model.log_joint(params, x, z, condition) - log_q
        return log_w, model.mean(params, z, condition)

    log_w, means = jax.vmap(draw)(jax.random.split(key, num_samples))
    weights = jax.nn.softmax(log_w, axis=0)
    expected = jnp.einsum("kb,kb...->b...", weights, means)
    return jnp.where(x.observed, x.values, expected)
