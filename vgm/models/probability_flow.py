"""The probability flow of a trained diffusion, of batches.

Another model than the chain that it was trained as (``bounds.probability_flow``). Its
samples are those of DDIM at eta = 0 with many steps.
"""

from typing import Any

import jax
from jaxtyping import Array, Float

from vgm.bounds import probability_flow
from vgm.models.diffusion import Diffusion
from vgm.types import Condition, Params, PRNGKey, Scalar


def log_weight(
    key: PRNGKey,
    model: Diffusion,
    params: Params,
    x: Any,
    condition: Condition = None,
    *,
    tolerance: float = 1e-5,
) -> Float[Array, " batch"]:
    """One draw of log w with E[exp(log w)] = p(x) of the flow, in nats.

    Args:
        key: Random key, used once.
        model: Diffusion.
        params: Its parameters.
        x: Observations.
        condition: What they are conditioned on.
        tolerance: Relative and absolute error of a step of the solver.

    Returns:
        Log weights, for ``importance.iwae`` and the like.
    """

    def one(key: PRNGKey, x: Any, condition: Condition) -> Scalar:
        return probability_flow.log_weight(
            key,
            model.decoder.features(x, params),
            model.chain(params, x, condition),
            tolerance=tolerance,
        )

    keys = jax.random.split(key, len(jax.tree.leaves(x)[0]))
    return jax.vmap(one)(keys, x, condition)
