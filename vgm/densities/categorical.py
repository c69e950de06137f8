"""Independent coordinates, each an integer level with its own logits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vgm.densities.levels import integers, on_levels
from vgm.shapes import require
from vgm.types import PRNGKey, Scalar


def log_prob(x: Int[Array, "*event"], logits: Float[Array, "*event levels"]) -> Scalar:
    """Log mass of one event of integer levels, in nats.

    sum [ l_x - logsumexp(l) ], by gather: no one-hot array is built.

    >>> import jax.numpy as jnp
    >>> float(log_prob(jnp.zeros(2, jnp.int32), jnp.zeros((2, 4))))
    -2.7726

    Args:
        x: Levels 0 .. levels - 1; other integers have no mass.
        logits: Unnormalised log mass of each level.

    Returns:
        The log mass, summed over coordinates.

    Raises:
        ValueError: If the shapes of the arguments do not fit.
        TypeError: If x are no integers.
    """
    x, logits = jnp.asarray(x), jnp.asarray(logits)
    require("categorical.log_prob: logits", logits, (*x.shape, logits.shape[-1]))
    x = integers(x, logits.shape[-1])
    # Flat, so that XLA's CPU backend vectorises the sum over any event shape.
    x, logits = x.ravel(), logits.reshape(x.size, logits.shape[-1])
    # Relative to the largest: a common offset costs no digits.
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
    chosen = jnp.take_along_axis(logits, x[..., None], axis=-1)[..., 0]
    total = jnp.sum(jnp.exp(logits - largest[..., None]), axis=-1)
    log_mass = (chosen - largest) - jnp.log(total)
    return jnp.sum(on_levels(log_mass, x, logits.shape[-1]))


def sample(key: PRNGKey, logits: Float[Array, "*event levels"]) -> Int[Array, "*event"]:
    """Draw one event of integer levels.

    Args:
        key: Random key, used once.
        logits: Unnormalised log mass of each level.

    Returns:
        Levels, as int32.
    """
    return jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)


def entropy(logits: Float[Array, "*event levels"]) -> Scalar:
    """Entropy of one event, in nats: -sum p log p.

    >>> import jax.numpy as jnp
    >>> float(entropy(jnp.zeros((2, 4))))
    2.7726

    Args:
        logits: Unnormalised log mass of each level.

    Returns:
        The entropy, summed over coordinates.
    """
    log_p = jax.nn.log_softmax(logits, axis=-1)
    # A level without mass adds 0 log 0 = 0.
    return -jnp.sum(jnp.exp(log_p) * jnp.where(jnp.isfinite(log_p), log_p, 0.0))
