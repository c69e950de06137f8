"""What a family for p(x | z) is, and the moments its outputs begin with."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vgm.shapes import require
from vgm.types import PRNGKey, Scalar

Event = Float[Array, "*event"]
Levels = Int[Array, "*event"]
Outputs = Float[Array, "*event outputs"]


class Likelihood(NamedTuple):
    """One family p(x | z), as functions of the decoder's outputs.

    Attributes:
        num_outputs: Numbers the decoder emits for each coordinate.
        features: x on the scale the encoder reads, about [-1, 1] or [0, 1].
        log_prob: (x, outputs) to nats.
        sample: (key, outputs) to x.
        mean: outputs to E[x], on the scale of x.
        initial_bias: A batch of x, and a mask of what is observed of it or None, to the
            outputs that fit each coordinate alone.
    """

    num_outputs: int
    features: Callable[[Any], Event]
    log_prob: Callable[[Any, Outputs], Scalar]
    sample: Callable[[PRNGKey, Outputs], Any]
    mean: Callable[[Outputs], Event]
    initial_bias: Callable[..., Outputs]


def log_prob(
    family: Likelihood, x: Any, outputs: Float[Array, " batch *event outputs"]
) -> Float[Array, " batch"]:
    """Log p(x | z) of a batch.

    Args:
        family: Family.
        x: Observations.
        outputs: The decoder's outputs.

    Returns:
        Nats, one number an example.

    Raises:
        ValueError: If the family gives several an example.
    """
    found = jax.vmap(family.log_prob)(x, outputs)
    require("likelihood.log_prob over a batch", found, (len(outputs),))
    return found


Observed = Bool[Array, " batch *event"] | None


def batch_mean(x: Float[Array, " batch *event"], observed: Observed = None) -> Event:
    """Mean of each coordinate over a batch.

    Args:
        x: Examples.
        observed: Which numbers were observed, or None for all.

    Returns:
        Means; 0 for a coordinate that nobody observed.
    """
    # As a product: a column sum takes 14 times as long on a CPU.
    flat = x.reshape(len(x), -1)
    ones = jnp.ones(len(x), x.dtype)
    if observed is None:
        return ((ones / len(x)) @ flat).reshape(x.shape[1:])
    weight = observed.reshape(flat.shape).astype(x.dtype)
    count = jnp.maximum(ones @ weight, 1.0)
    return (ones @ (weight * flat) / count).reshape(x.shape[1:])


def batch_std(x: Float[Array, " batch *event"], observed: Observed = None) -> Event:
    """Standard deviation of each coordinate over a batch.

    Args:
        x: Examples.
        observed: Which numbers were observed, or None for all.

    Returns:
        Standard deviations; 0 for a coordinate that nobody observed.
    """
    return jnp.sqrt(batch_mean((x - batch_mean(x, observed)[None]) ** 2, observed))
