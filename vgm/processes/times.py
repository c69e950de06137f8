"""Times of a diffusion: drawn evenly, and those of a grid of T steps."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.types import PRNGKey, Scalar


def low_discrepancy_times(key: PRNGKey, num_times: int) -> Float[Array, " times"]:
    """Times spread evenly, each by itself uniform on [0, 1].

    t_i = (u + i / n) mod 1 with one u for all (Kingma et al. 2021, appendix I.1).

    >>> import jax
    >>> low_discrepancy_times(jax.random.key(0), 49).shape
    (49,)

    Args:
        key: Random key, used once.
        num_times: n.

    Returns:
        The times.
    """
    shift = jax.random.uniform(key)
    return jnp.mod(shift + jnp.arange(num_times) / num_times, 1.0)


def grid_time(index: Array, num_steps: int, dtype: jnp.dtype) -> tuple[Scalar, Scalar]:
    """Time and width of a step; the width is exact where a difference is not.

    Args:
        index: Number of the step, from 1.
        num_steps: T.
        dtype: Type of both.

    Returns:
        index / T and 1 / T.
    """
    return index.astype(dtype) / num_steps, jnp.asarray(1.0 / num_steps, dtype)


def step_of(t: Array, num_steps: int) -> Array:
    """The step whose interval holds a time; a time may round to 1.

    Args:
        t: Times.
        num_steps: T.

    Returns:
        Numbers from 1 to T.
    """
    return jnp.minimum(jnp.floor(t * num_steps).astype(jnp.int32), num_steps - 1) + 1
