"""What a model is conditioned on, as its networks read it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.errors import UserError
from vgm.types import Condition


def vectors(
    condition: Condition, num_classes: int
) -> Float[Array, "batch features"] | None:
    """One vector an example: integers as one-hot, the rest as they are.

    Args:
        condition: Pytree of arrays with a leading batch axis, or None.
        num_classes: Number of classes of an integer condition; 0 without.

    Returns:
        The vectors, or None without a condition. NaN for a class that there is not:
        a vector of zeros would pass for one.

    Raises:
        UserError: If there is an integer condition and no number of classes, or the
            one without the other; if an array has no row for each example.
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
    rows = {leaf.shape[:1] for leaf in leaves}
    if len(rows) > 1 or () in rows:
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
            inside = (leaf >= 0) & (leaf < num_classes)
            one_hot = jax.nn.one_hot(leaf, num_classes)
            leaf = jnp.where(inside[..., None], one_hot, jnp.nan)
        parts.append(leaf.reshape(len(leaf), -1))
    return jnp.concatenate(parts, axis=-1)
