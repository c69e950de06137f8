"""Filling in what is missing of x (Mattei & Frellsen 2019)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.models.protocol import LatentVariableModel, Reconstructing
from vgm.precision import in_full_precision
from vgm.shapes import require_positive
from vgm.types import Condition, Masked, Params, PRNGKey


@in_full_precision
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
        Complete observations; imputed where they were missing: NaN where every draw of
        an example has weight 0, its observed numbers too far from all that was learned.

    Raises:
        TypeError: If the model has no latents, or no means.
        ValueError: If there is no draw.
    """
    require_positive(num_samples=num_samples)
    if not (
        isinstance(model, LatentVariableModel) and isinstance(model, Reconstructing)
    ):
        raise TypeError(
            "impute needs a model with latents and means of p(x | z); got "
            f"{type(model).__name__}"
        )
    encoding = model.encode(params, x, condition)

    def draw(key: PRNGKey) -> tuple[Array, Array]:
        z, log_q = model.propose_and_log_prob(key, params, encoding)
        log_w = model.log_joint(params, x, z, condition) - log_q
        return log_w, model.mean(params, z, condition)

    def add(n: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        largest, total, weighted = sums
        log_w, mean = draw(jax.random.fold_in(key, n))
        new = jnp.maximum(largest, log_w)
        kept, added = jnp.exp(largest - new), jnp.exp(log_w - new)
        aligned = (-1, *[1] * (mean.ndim - 1))
        weighted = weighted * kept.reshape(aligned) + mean * added.reshape(aligned)
        return new, total * kept + added, weighted

    log_w, mean = jax.eval_shape(draw, key)
    start = (
        jnp.full(log_w.shape, jnp.finfo(log_w.dtype).min),
        jnp.zeros(log_w.shape, log_w.dtype),
        jnp.zeros(mean.shape, mean.dtype),
    )
    # One draw at a time: memory does not grow with their number.
    _, total, weighted = jax.lax.fori_loop(0, num_samples, add, start)
    expected = weighted / total.reshape(-1, *[1] * (weighted.ndim - 1))
    return jnp.where(x.observed, x.values, expected)
