"""The probability flow of a trained diffusion, of batches.

Another model than the chain that it was trained as (``bounds.probability_flow``). Its
samples are those of DDIM at eta = 0 with many steps.
"""

from typing import Any

import jax
from jaxtyping import Array, Float

from vgm.bounds import probability_flow
from vgm.models.diffusion import Diffusion
from vgm.shapes import require
from vgm.types import Condition, Params, PRNGKey, Scalar


def log_weight(
    key: PRNGKey,
    model: Diffusion,
    params: Params,
    x: Any,
    condition: Condition = None,
    *,
    tolerance: float = 1e-6,
) -> Float[Array, " batch"]:
    """One draw of log w with E[exp(log w)] = p(x) of the flow, in nats.

    Takes as many derivatives of the network as an example has numbers, at every step of
    the solver, for the whole batch at once.

    Args:
        key: Random key, used once.
        model: Diffusion.
        params: Its parameters.
        x: Observations.
        condition: What they are conditioned on.
        tolerance: As ``bounds.probability_flow.log_prob``, with its error.

    Returns:
        Log weights, for ``importance.iwae`` and the like.

    Raises:
        ValueError: If x has another shape than the model's events.
    """

    def one(key: PRNGKey, x: Any, condition: Condition) -> Scalar:
        features = model.decoder.features(x, params)
        chain = model.chain(params, x, condition)
        return probability_flow.log_weight(key, features, chain, tolerance=tolerance)

    require("x", x, (len(x), *model.event_shape))
    keys = jax.random.split(key, len(x))
    return jax.vmap(one)(keys, x, condition)
