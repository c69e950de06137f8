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
        The vectors, or None without a condition.

    Raises:
        UserError: If there is an integer condition and no number of classes.
    """
    leaves = jax.tree.leaves(condition)
    if not leaves:
        return None
    parts = []
    for leaf in leaves:
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            if not num_classes:
                raise UserError(
                    "an integer condition needs num_classes; got num_classes=0"
                )
            leaf = jax.nn.one_hot(leaf, num_classes)
        parts.append(leaf.reshape(len(leaf), -1))
    return jnp.concatenate(parts, axis=-1)
