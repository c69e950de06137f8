"""Models with finitely many latent states: every sum is taken."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.shapes import require, require_positive
from vgm.types import Scalar

LogJoint = Float[Array, " states"]
"""log p(x, z) at every state z."""


def log_evidence(log_joint: LogJoint) -> Scalar:
    """log p(x) = log sum_z p(x, z), in nats.

    >>> import jax.numpy as jnp
    >>> float(log_evidence(jnp.log(jnp.asarray([0.2, 0.3]))))
    -0.6931

    Args:
        log_joint: log p(x, z) at every state.

    Returns:
        The exact log evidence.

    Raises:
        ValueError: If the states have more axes than one.
    """
    require("enumeration: log_joint", log_joint, (jnp.size(log_joint),))
    return jax.nn.logsumexp(log_joint)


def posterior(log_joint: LogJoint) -> Float[Array, " states"]:
    """p(z | x) at every state.

    >>> import jax.numpy as jnp
    >>> posterior(jnp.log(jnp.asarray([0.1, 0.1]))).tolist()
    [0.5, 0.5]

    Args:
        log_joint: log p(x, z) at every state.

    Returns:
        Probabilities that sum to 1.
    """
    return jax.nn.softmax(log_joint)


def elbo(log_joint: LogJoint, q_logits: Float[Array, " states"]) -> Scalar:
    """The evidence lower bound of any q over the states, in nats.

    Args:
        log_joint: log p(x, z) at every state.
        q_logits: Unnormalised log mass of q at every state.

    Returns:
        sum_z q(z) [ log p(x, z) - log q(z) ].

    Raises:
        ValueError: If p and q are not of the same states, on one axis.
    """
    log_q = _log_q(log_joint, q_logits)
    # A state that q leaves out adds 0 log 0 = 0.
    log_w = jnp.where(jnp.isfinite(log_q), log_joint - log_q, 0.0)
    return jnp.sum(jnp.exp(log_q) * log_w)


def iwae(
    log_joint: LogJoint, q_logits: Float[Array, " states"], *, num_samples: int
) -> Scalar:
    """The K-sample bound of any q, exactly: the sum over all states^K draws, in nats.

    Args:
        log_joint: log p(x, z) at every state.
        q_logits: Unnormalised log mass of q at every state.
        num_samples: K.

    Returns:
        E_q log 1/K sum_k p(x, z_k) / q(z_k).

    Raises:
        ValueError: If there is no draw, or p and q are not of the same states.
    """
    require_positive(num_samples=num_samples)
    log_q = _log_q(log_joint, q_logits)
    draws = jnp.meshgrid(*[jnp.arange(log_q.size)] * num_samples, indexing="ij")
    states = jnp.stack([draw.ravel() for draw in draws])
    log_w = jnp.where(jnp.isfinite(log_q), log_joint - log_q, 0.0)
    bound = jax.nn.logsumexp(log_w[states], axis=0) - jnp.log(num_samples)
    return jnp.sum(jnp.exp(jnp.sum(log_q[states], axis=0)) * bound)


def _log_q(log_joint: LogJoint, q_logits: Float[Array, " states"]) -> LogJoint:
    require("enumeration: log_joint", log_joint, (jnp.size(q_logits),))
    require("enumeration: q_logits", q_logits, (jnp.size(q_logits),))
    return jax.nn.log_softmax(q_logits)
