"""Independent binary coordinates, from logits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.numerics import softplus
from vgm.shapes import require_same
from vgm.types import PRNGKey, Scalar


def log_prob(x: Float[Array, "*event"], logits: Float[Array, "*event"]) -> Scalar:
    """Log mass of one binary event, in nats: sum [ x l - softplus(l) ].

    For x strictly between 0 and 1 it is E log p(b) with b ~ Bernoulli(x): the negative
    cross entropy, a bound and not a likelihood of x. Finite for every finite logit.

    >>> import jax.numpy as jnp
    >>> float(log_prob(jnp.ones(3), jnp.zeros(3)))
    -2.0794

    Args:
        x: Zeros and ones (or probabilities).
        logits: Log odds of a one.

    Returns:
        The log mass, summed over coordinates.

    Raises:
        ValueError: If the shapes of the arguments do not fit.
    """
    x, logits = require_same("bernoulli.log_prob", x=x, logits=logits)
    # Flat, so that XLA's CPU backend vectorises the sum over any event shape.
    x, logits = x.ravel(), logits.ravel()
    return jnp.sum(x * logits - softplus(logits))


def sample(key: PRNGKey, logits: Float[Array, "*event"]) -> Float[Array, "*event"]:
    """Draw one binary event.

    Args:
        key: Random key, used once.
        logits: Log odds of a one.

    Returns:
        Zeros and ones, in the dtype of the logits.
    """
    draws = jax.random.bernoulli(key, jax.nn.sigmoid(logits))
    return draws.astype(jnp.result_type(logits))


def entropy(logits: Float[Array, "*event"]) -> Scalar:
    """Entropy of one event, in nats: sum [ softplus(l) - l sigmoid(l) ].

    >>> import jax.numpy as jnp
    >>> float(entropy(jnp.zeros(2)))
    1.3863

    Args:
        logits: Log odds of a one.

    Returns:
        The entropy, summed over coordinates.
    """
    # Even in l: at |l| neither term grows.
    size = jnp.abs(jnp.ravel(logits))
    return jnp.sum(softplus(-size) + size * jax.nn.sigmoid(-size))
