"""What a family for p(x | z) is, and the moments its outputs begin with."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vgm.numerics import at_least_float32
from vgm.precision import matmul
from vgm.shapes import require
from vgm.types import Event, Params, PRNGKey, Scalar

Levels = Int[Array, "*event"]
Outputs = Float[Array, "*event outputs"]


class Likelihood(NamedTuple):
    """One family p(x | z), as functions of the decoder's outputs.

    Attributes:
        num_outputs: Numbers the decoder emits for each coordinate.
        features: x on the scale the encoder reads, about [-1, 1] or [0, 1].
        log_prob: (x, outputs) to nats.
        sample: (key, outputs) to x.
        mean: outputs to E[x], on the scale of x; for mixtures of logistics of their
            locations alone, which is near it where scales are small.
        initial_bias: A batch of x, and a mask of what is observed of it or None, to the
            outputs that fit each coordinate alone.
        moments: The same to mean and standard deviation of each coordinate, in whose
            units its networks compute; None for families whose scale is known.
    """

    num_outputs: int
    features: Callable[[Any], Event]
    log_prob: Callable[[Any, Outputs], Scalar]
    sample: Callable[[PRNGKey, Outputs], Any]
    mean: Callable[[Outputs], Event]
    initial_bias: Callable[..., Outputs]
    moments: Callable[..., tuple[Event, Event]] | None = None


MIN_STD = 1e-3
"""Standard deviation, where the unit is known, of a number that never changes."""


def initial(family: Likelihood, x: Any) -> Params:
    """What a model of x starts from: its outputs' bias, and the unit of reals.

    Args:
        family: Family.
        x: A batch of observations.

    Returns:
        Parameters for ``features`` and ``outputs``; the unit is not learned.
    """
    if family.moments is None:
        return {"output_bias": family.initial_bias(x)}
    mean, std = family.moments(x)
    start = jnp.where(std > 0.0, 0.0, math.log(MIN_STD))
    return {
        "output_bias": jnp.stack([jnp.zeros_like(mean), start], axis=-1),
        "unit": unit(mean, std),
    }


def unit(mean: Event, std: Event) -> Params:
    """In what reals are read: less their mean, over their standard deviation.

    Args:
        mean: Of each coordinate.
        std: Likewise; a number that never changes is read less its constant.

    Returns:
        Parameters that are not learned.
    """
    return {"mean": mean, "log_std": jnp.log(jnp.where(std > 0.0, std, 1.0))}


def features(
    family: Likelihood, params: Params, x: Any
) -> Float[Array, " batch *event"]:
    """x as a network reads it; reals in their unit, 0 for what is missing.

    Args:
        family: Family.
        params: Of ``initial``.
        x: A batch of observations.

    Returns:
        Numbers of about 1.
    """
    found = family.features(x)
    if "unit" not in params:
        return found
    unit = jax.lax.stop_gradient(params["unit"])
    found = (found - unit["mean"][None]) * jnp.exp(-unit["log_std"])[None]
    return jnp.where(getattr(x, "observed", True), found, 0.0)


def outputs(
    params: Params, raw: Float[Array, " batch *event outputs"]
) -> Float[Array, " batch *event outputs"]:
    """A network's outputs with their bias, as the family takes them.

    Args:
        params: Of ``initial``.
        raw: What the network gave; of reals mean and log scale in their unit.

    Returns:
        The family's outputs, on the scale of x.

    Raises:
        ValueError: If the network gave another shape.
    """
    bias = params["output_bias"]
    require("the network's outputs", raw, (len(raw), *bias.shape))
    found = raw + bias[None]
    if "unit" not in params:
        return found
    unit = jax.lax.stop_gradient(params["unit"])
    mean, log_std = unit["mean"][None], unit["log_std"][None]
    return jnp.stack(
        [mean + jnp.exp(log_std) * found[..., 0], log_std + found[..., 1]], axis=-1
    )


def log_prob(
    family: Likelihood, x: Any, outputs: Float[Array, " batch *event outputs"]
) -> Float[Array, " batch"]:
    """log p(x | z) of a batch.

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
    x = at_least_float32(x)
    # As a product: a column sum takes 14 times as long on a CPU.
    total = functools.partial(matmul, jnp.ones(len(x), x.dtype))
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
    x = at_least_float32(x)
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
