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
            one without the other.
    """
    leaves = jax.tree.leaves(condition)
    if not leaves and num_classes:
        raise UserError(
            f"the model is conditional, on one of {num_classes} classes; got no "
            "condition: give an integer an example"
        )
    if not leaves:
        return None
    parts = []
    for leaf in leaves:
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            if not num_classes:
                raise UserError(
                    "an integer condition needs num_classes; got num_classes=0"
                )
            inside = (leaf >= 0) & (leaf < num_classes)
            one_hot = jax.nn.one_hot(leaf, num_classes)
            leaf = jnp.where(inside[..., None], one_hot, jnp.nan)
        parts.append(leaf.reshape(len(leaf), -1))
    return jnp.concatenate(parts, axis=-1)
