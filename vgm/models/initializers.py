"""What kernels start from, by name."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from vgm.types import PRNGKey


def next_to_zero(
    key: PRNGKey, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> Array:
    """Numbers about 1e-30: they leave every bit of what they are usually added to.

    Not zeros, for a program that holds a kernel of equal numbers as a constant may be
    miscompiled on CPUs (README, "Known problems").

    Args:
        key: Random key, used once.
        shape: Shape of the kernel.
        dtype: Its type.

    Returns:
        The kernel.
    """
    return 1e-30 * jax.random.normal(key, shape, dtype)


INITIALIZERS = {
    "lecun_normal": nn.initializers.lecun_normal(),
    "glorot_uniform": nn.initializers.glorot_uniform(),
    "small": nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal"),
    "next_to_zero": next_to_zero,
}
