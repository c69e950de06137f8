"""Shapes that must agree: where they do not, broadcasting sums the wrong numbers.

And counts of which there must be one at least: the mean of nothing is no number.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike


def require_same(where: str, **arrays: ArrayLike) -> list[Array]:
    """Check that arguments, arrays or plain numbers, have one shape.

    Args:
        where: Function that was called, for the message.
        **arrays: Its arguments.

    Returns:
        The arguments as arrays.

    Raises:
        ValueError: If they have not.
    """
    shapes = {name: jnp.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"{where}: the arguments must have one shape, that of an event (batch them "
            f"by jax.vmap); got {found}"
        )
    return [jnp.asarray(array) for array in arrays.values()]


def require(what: str, array: ArrayLike, shape: tuple[int, ...]) -> None:
    """Check the shape of one array, such as what a function of the caller's returned.

    Args:
        what: What it is, for the message.
        array: The array.
        shape: What it must be.

    Raises:
        ValueError: If it is not.
    """
    if jnp.shape(array) != shape:
        found = f"{what} must have shape {shape}; got {jnp.shape(array)}"
        raise ValueError(found if shape else f"{found} (batch by jax.vmap)")


def require_draws(where: str, **log_w: ArrayLike) -> None:
    """Check that log weights are those of one example, at least one.

    Args:
        where: Function that was called, for the message.
        **log_w: The log weights, by the name of the argument.

    Raises:
        ValueError: If they have not one axis, or there is none.
    """
    for name, draws in log_w.items():
        if jnp.ndim(draws) != 1 or jnp.size(draws) == 0:
            raise ValueError(
                f"{where}: {name} must have one axis, the draws of one example; got "
                f"shape {jnp.shape(draws)}: over examples use jax.vmap, for [draws, "
                "batch] with in_axes=1"
            )


def require_positive(**counts: int) -> None:
    """Check that there is something to take: a draw, a step.

    Args:
        **counts: Numbers by the names of their arguments.

    Raises:
        ValueError: If one of them is less than 1.
    """
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1; got {count}")


def rows(x: Array) -> Array:
    """The numbers of each example in a row, also where there is no example.

    Args:
        x: Examples on the first axis.

    Returns:
        As many rows.
    """
    return x.reshape(len(x), math.prod(x.shape[1:]))
