"""Integer levels: which integers are any, and where they lie on [-1, 1]."""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def on_levels(
    log_mass: Float[Array, "*shape"], x: Int[Array, "*shape"], levels: int
) -> Float[Array, "*shape"]:
    """Log masses of integers, -inf where they are none of 0 .. levels - 1.

    >>> import jax.numpy as jnp
    >>> on_levels(jnp.zeros(4), jnp.asarray([-1, 0, 2, 3]), 3).tolist()
    [-inf, 0.0, 0.0, -inf]

    Args:
        log_mass: What a formula says, good for levels alone.
        x: Integers.
        levels: Number of levels.

    Returns:
        The log masses.

    Raises:
        TypeError: If x are no integers.
    """
    x = integers(x, levels)
    return jnp.where((x >= 0) & (x < levels), log_mass, -jnp.inf)


def integers(x: Array, levels: int) -> Array:
    """Observations as integers that hold every level: 256 is none of a byte's.

    Args:
        x: Observations.
        levels: Number of levels.

    Returns:
        Integers of 32 bits or more.

    Raises:
        TypeError: If they are no integers.
    """
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(
            f"levels are integers 0 .. {levels - 1}; got {x.dtype}: images scaled to "
            "[0, 1] are to be rounded to levels, or are a density's"
        )
    return x.astype(jnp.int32) if x.dtype.itemsize < 4 else x


def log1mexp(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(1 - exp(-x)) of positive numbers, with derivatives of any order.

    ``jax.nn.log1mexp`` has the first alone: its second is inf / inf where x is large.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> float(jax.grad(jax.grad(log1mexp))(jnp.asarray(100.0)))
    0.0

    Args:
        x: Numbers, not negative; -inf at 0.

    Returns:
        The logarithms.
    """
    is_near = x < math.log(2.0)
    near, far = jnp.where(is_near, x, 0.5), jnp.where(is_near, 1.0, x)
    return jnp.where(is_near, jnp.log(-jnp.expm1(-near)), jnp.log1p(-jnp.exp(-far)))


def half_width(levels: int) -> float:
    """Half the distance of two levels on [-1, 1].

    >>> half_width(5)
    0.25

    Args:
        levels: Number of levels, at least 2.

    Returns:
        1 / (levels - 1).

    Raises:
        ValueError: If there are fewer than two levels.
    """
    if levels < 2:
        raise ValueError(f"levels must be at least 2; got {levels}")
    return 1.0 / (levels - 1)


def scale_levels(
    x: Int[Array, "*event"], *, levels: int, dtype: Any = float
) -> Float[Array, "*event"]:
    """Integer levels on [-1, 1].

    >>> import jax.numpy as jnp
    >>> float(scale_levels(jnp.asarray(3, jnp.int32), levels=5))
    0.5

    Args:
        x: Levels 0 .. levels - 1.
        levels: Number of levels, at least 2.
        dtype: Type of the result.

    Returns:
        -1 for the first level, 1 for the last.

    Raises:
        ValueError: If there are fewer than two levels.
    """
    return x.astype(dtype) * (2.0 * half_width(levels)) - 1.0


def nearest_level(y: Float[Array, "*event"], *, levels: int) -> Int[Array, "*event"]:
    """The inverse of ``scale_levels``, of any number.

    >>> import jax.numpy as jnp
    >>> int(nearest_level(jnp.asarray(0.6), levels=5))
    3

    Args:
        y: Numbers.
        levels: Number of levels, at least 2.

    Returns:
        The level next to each, as int32.

    Raises:
        ValueError: If there are fewer than two levels.
    """
    level = jnp.round((y + 1.0) * (0.5 / half_width(levels)))
    return jnp.clip(level, 0, levels - 1).astype(jnp.int32)
