"""What a model is conditioned on, as its networks read it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from vgm.errors import UserError
from vgm.shapes import rows
from vgm.types import Condition


def vectors(
    condition: Condition, num_classes: int
) -> Float[Array, "batch features"] | None:
    """One vector an example: integers as one-hot, the rest as they are.

    Args:
        condition: Pytree of arrays with a leading batch axis, or None.
        num_classes: Number of classes of an integer condition; 0 without.

    Returns:
        The vectors, or None without a condition. In a traced program NaN for a class
        that there is not: a vector of zeros would pass for one.

    Raises:
        UserError: If there is an integer condition and no number of classes, or the
            one without the other; if an array has no row for each example, or, outside
            of traced programs, a class that there is not.
    """
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(condition)]
    if not leaves and num_classes:
        raise UserError(
            f"the model is conditional, on one of {num_classes} classes; got no "
            "condition: give an integer an example"
        )
    if not leaves:
        return None
    kinds = [jnp.issubdtype(leaf.dtype, jnp.integer) for leaf in leaves]
    if num_classes and not any(kinds):
        raise UserError(
            f"the model is conditional, on one of {num_classes} classes: give "
            f"integers; got {', '.join(str(leaf.dtype) for leaf in leaves)}"
        )
    counts = {leaf.shape[:1] for leaf in leaves}
    if len(counts) > 1 or () in counts:
        raise UserError(
            "a condition needs arrays with one row an example; got shapes "
            f"{', '.join(str(leaf.shape) for leaf in leaves)}"
        )
    parts = []
    for leaf, is_integer in zip(leaves, kinds, strict=True):
        if is_integer:
            if not num_classes:
                raise UserError(
                    "an integer condition needs num_classes; got num_classes=0"
                )
            leaf = _one_hot(leaf, num_classes)
        parts.append(rows(leaf))
    return jnp.concatenate(parts, axis=-1)


def require_context(
    network: nn.Module, context: Float[Array, "batch features"] | None, count: int
) -> None:
    """Check that a network reads a condition if it was initialised with one.

    For networks that add a dense layer of it, the first of theirs, to what they make of
    x: without it they gave another density, and of one row that row's for all.

    Args:
        network: Network.
        context: Its condition, or None.
        count: Number of examples.

    Raises:
        UserError: If there is none, or not one row an example.
    """
    if context is not None and len(context) != count:
        raise UserError(
            f"a condition needs one row an example; got {len(context)} rows for {count}"
        )
    reads = network.has_variable("params", "Dense_0") and not network.is_initializing()
    if context is None and reads:
        raise UserError("the model is conditional; got no condition")


def _one_hot(classes: Array, num_classes: int) -> Float[Array, "*batch classes"]:
    inside = (classes >= 0) & (classes < num_classes)
    # Discrete draws of NaN are 0: what can be seen is refused.
    if not isinstance(inside, Tracer) and not inside.all():
        raise UserError(
            f"classes are 0 .. {num_classes - 1}; got {classes[~inside][0]}"
        )
    one_hot = jax.nn.one_hot(classes, num_classes)
    return jnp.where(inside[..., None], one_hot, jnp.nan)
