"""A mixture of any densities: sum_m pi_m p_m(x), the pi given by logits."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.shapes import require, require_same
from vgm.types import PRNGKey, Scalar


def log_prob(
    component_log_prob: Float[Array, " components"],
    logits: Float[Array, " components"],
) -> Scalar:
    """Log density of one event under a mixture, in nats: log sum_m pi_m p_m(x).

    >>> import jax.numpy as jnp
    >>> float(log_prob(jnp.log(jnp.asarray([0.2, 0.4])), jnp.zeros(2)))
    -1.204

    Args:
        component_log_prob: Log density of the event under each component.
        logits: Unnormalised log weights pi of the components.

    Returns:
        The log density.

    Raises:
        ValueError: If the shapes of the arguments do not fit.
    """
    require_same(
        "mixture.log_prob", component_log_prob=component_log_prob, logits=logits
    )
    require("mixture.log_prob: logits", logits, (jnp.size(logits),))
    return jax.nn.logsumexp(component_log_prob + jax.nn.log_softmax(logits))


def responsibilities(
    component_log_prob: Float[Array, " components"],
    logits: Float[Array, " components"],
) -> Float[Array, " components"]:
    """Posterior p(m | x) of the component: the E-step of a mixture.

    >>> import jax.numpy as jnp
    >>> responsibilities(jnp.zeros(2), jnp.zeros(2)).tolist()
    [0.5, 0.5]

    Args:
        component_log_prob: Log density of the event under each component.
        logits: Unnormalised log weights pi of the components.

    Returns:
        Probabilities that sum to 1.

    Raises:
        ValueError: If the shapes of the arguments do not fit.
    """
    require_same(
        "mixture.responsibilities",
        component_log_prob=component_log_prob,
        logits=logits,
    )
    return jax.nn.softmax(component_log_prob + logits)


def sample(key: PRNGKey, logits: Float[Array, " components"], draws: Any) -> Any:
    """Choose one of the components' draws.

    Args:
        key: Random key, used once; not one of those that made the draws.
        logits: Unnormalised log weights pi of the components.
        draws: One draw of each component; components on the first axis of each leaf.

    Returns:
        The draw of the chosen component; reparameterised in it, not in the choice.

    Raises:
        ValueError: If there is not one draw of each component.
    """
    require("mixture.sample: logits", logits, (jnp.size(logits),))
    for leaf in jax.tree.leaves(draws):
        shape = (jnp.size(logits), *jnp.shape(leaf)[1:])
        require("mixture.sample: draws", leaf, shape)
    component = jax.random.categorical(key, logits)
    return jax.tree.map(lambda leaf: leaf[component], draws)
