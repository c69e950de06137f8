"""What values by example come to: means with their errors, bits, active units."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vgm.shapes import require, require_same


class Estimate(NamedTuple):
    """A mean over examples.

    Attributes:
        mean: The mean, in nats.
        stderr: Its standard error, the spread over examples / sqrt(examples).
    """

    mean: float
    stderr: float


def estimate(values: Any) -> Estimate:
    """The mean over examples and its standard error, in double precision.

    >>> estimate(np.asarray([1.0, 2.0, 3.0])).mean
    2.0

    Args:
        values: One value an example.

    Returns:
        Mean and standard error; the latter NaN for a single example.

    Raises:
        ValueError: If there is not one value an example.
    """
    require("estimate: values", values, (np.size(values),))
    values = np.asarray(values, np.float64)
    with np.errstate(invalid="ignore"):  # -inf has a mean and no spread
        spread = values.std(ddof=1) if len(values) > 1 else np.nan
        return Estimate(float(values.mean()), float(spread / np.sqrt(len(values))))


def paired_difference(after: Any, before: Any) -> Estimate:
    """The mean difference of two models on the same examples, in double precision.

    Examples differ among themselves by far more than two models on one example, so the
    error of the paired difference is much below that of either mean; common random
    keys lower it further.

    >>> paired_difference(np.asarray([-1.0, -5.0]), np.asarray([-2.0, -6.0]))
    Estimate(mean=1.0, stderr=0.0)

    Args:
        after: One value an example, of one model.
        before: The same examples' values of another.

    Returns:
        Mean of after - before, and its standard error.

    Raises:
        ValueError: If there is not one value of each model an example.
    """
    require_same("paired_difference", after=after, before=before)
    with np.errstate(invalid="ignore"):  # where both are -inf
        gain = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    return estimate(gain)


def bits_per_dim(nats: float, num_dims: int) -> float:
    """Bits per dimension of a log likelihood: -nats / (num_dims ln 2).

    >>> bits_per_dim(-np.log(2.0) * 10, 5)
    2.0

    Args:
        nats: Log likelihood of one example; a bound gives an upper bound.
        num_dims: Numbers in one example.

    Returns:
        Bits per dimension.
    """
    return float(-nats / (num_dims * np.log(2.0)))


def active_units(
    means: Float[Array, "examples latent"], *, threshold: float = 0.01
) -> int:
    """Latent units that vary with x: Var_x E[z | x] > threshold (Burda et al. 2016).

    >>> import jax.numpy as jnp
    >>> active_units(jnp.asarray([[0.0, 1.0], [0.0, -1.0]]))
    1

    Args:
        means: Posterior means, one row an example.
        threshold: Least variance of an active unit.

    Returns:
        The number of active units.
    """
    return int(jnp.sum(jnp.var(means, axis=0, ddof=1) > threshold))
