"""What a family for p(x | z) is, and the moments its outputs begin with."""

import functools
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
    # As a product: a column sum takes 14 times as long on a CPU. Not shortened, as
    # accelerators do: a model starts from these, and they are its baseline.
    total = functools.partial(
        jnp.matmul, jnp.ones(len(x), x.dtype), precision="highest"
    )
    flat = x.reshape(len(x), -1)
    if observed is None:
        return (total(flat / len(x))).reshape(x.shape[1:])
    weight = observed.reshape(flat.shape).astype(x.dtype)
    count = jnp.maximum(total(weight), 1.0)
    return (total(weight * flat) / count).reshape(x.shape[1:])


def batch_moments(
    x: Float[Array, " batch *event"], observed: Observed = None
) -> tuple[Event, Event]:
    """Mean and standard deviation of each coordinate over a batch, in any unit.

    Args:
        x: Examples.
        observed: Which numbers were observed, or None for all.

    Returns:
        Means, those of constant coordinates exact, and standard deviations; both 0 for
        a coordinate that nobody observed, the latter for a constant one.
    """
    here = jnp.ones(x.shape, bool) if observed is None else observed
    low = jnp.min(x, axis=0, where=here, initial=jnp.inf)
    high = jnp.max(x, axis=0, where=here, initial=-jnp.inf)
    low = jnp.where(high >= low, low, 0.0)
    # In units of the range: squares of very small or large numbers are 0 or inf.
    unit = jnp.where(high > low, high - low, 1.0)
    along = jnp.where(here, (x - low[None]) / unit[None], 0.0)
    mean = batch_mean(along, observed)
    variance = batch_mean((along - mean[None]) ** 2, observed)
    return low + unit * mean, unit * jnp.sqrt(variance)
