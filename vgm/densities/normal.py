"""The normal with independent coordinates, N(mean, diag exp(2 log_std))."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vgm.shapes import require_same
from vgm.types import PRNGKey, Scalar

LOG_2PI = float(np.log(2.0 * np.pi))


def log_prob(
    x: Float[Array, "*event"],
    mean: Float[Array, "*event"],
    log_std: Float[Array, "*event"],
) -> Scalar:
    """Log density of one event, in nats.

    -1/2 sum [ ((x - mean) / std)^2 + 2 log_std + log 2 pi ].

    >>> import jax.numpy as jnp
    >>> float(log_prob(jnp.zeros(2), jnp.zeros(2), jnp.zeros(2)))
    -1.8379

    Args:
        x: The event.
        mean: Mean of each coordinate.
        log_std: Log standard deviation of each coordinate.

    Returns:
        The log density, summed over coordinates.

    Raises:
        ValueError: If the shapes of the arguments do not fit.
    """
    x, mean, log_std = require_same("normal.log_prob", x=x, mean=mean, log_std=log_std)
    # Flat, so that XLA's CPU backend vectorises the sum over any event shape.
    x, mean, log_std = x.ravel(), mean.ravel(), log_std.ravel()
    # In two halves: at the mean, 1 / std beyond the numbers would give 0 * inf, in
    # float32 from a log std of -89 on; so it does from -178.
    root = jnp.exp(-0.5 * log_std)
    standardized = (x - mean) * root * root
    # The factor inside: XLA's CPU backend then makes one loop of it.
    return jnp.sum(-0.5 * standardized**2 - log_std - 0.5 * LOG_2PI)


def standard_log_prob(x: Float[Array, "*event"]) -> Scalar:
    """Log N(x; 0, I), in nats.

    >>> import jax.numpy as jnp
    >>> float(standard_log_prob(jnp.zeros(2)))
    -1.8379

    Args:
        x: The event.

    Returns:
        The log density.
    """
    origin = jnp.zeros_like(x)
    return log_prob(x, origin, origin)


def reparameterize(
    eps: Float[Array, "*event"],
    mean: Float[Array, "*event"],
    log_std: Float[Array, "*event"],
) -> tuple[Float[Array, "*event"], Scalar]:
    """The event that noise stands for, and its log density in nats.

    x = mean + std * eps (Kingma & Welling 2014, eq. 9); log N(x; mean, std) is that of
    eps less sum log_std. Read from x it would lose the noise where std is less than the
    spacing of numbers around the mean.

    >>> import jax.numpy as jnp
    >>> x, log_q = reparameterize(jnp.ones(1), jnp.full(1, 3.0), jnp.full(1, -20.0))
    >>> float(x[0]), float(log_q)
    (3.0, 18.5811)

    Args:
        eps: A draw of N(0, I).
        mean: Mean of each coordinate.
        log_std: Log standard deviation of each coordinate.

    Returns:
        The event, differentiable in mean and log_std, and its log density.

    Raises:
        ValueError: If the shapes of the arguments do not fit.
    """
    eps, mean, log_std = require_same(
        "normal.reparameterize", eps=eps, mean=mean, log_std=log_std
    )
    return _move(eps, mean, log_std), standard_log_prob(eps) - jnp.sum(log_std)


def _move(eps: Array, mean: Array, log_std: Array) -> Array:
    return mean + jnp.exp(log_std) * eps


def sample(
    key: PRNGKey, mean: Float[Array, "*event"], log_std: Float[Array, "*event"]
) -> Float[Array, "*event"]:
    """Draw one event, reparameterised: mean + std * eps (Kingma & Welling 2014, eq. 9).

    Args:
        key: Random key, used once.
        mean: Mean of each coordinate.
        log_std: Log standard deviation of each coordinate.

    Returns:
        The event, differentiable in mean and log_std.

    Raises:
        ValueError: If the shapes of the arguments do not fit.
    """
    mean, log_std = require_same("normal.sample", mean=mean, log_std=log_std)
    eps = jax.random.normal(key, mean.shape, jnp.result_type(float, mean))
    return _move(eps, mean, log_std)


def entropy(log_std: Float[Array, "*event"]) -> Scalar:
    """Differential entropy of one event, in nats: sum [ log_std + 1/2 log 2 pi e ].

    >>> import jax.numpy as jnp
    >>> float(entropy(jnp.zeros(1)))
    1.4189

    Args:
        log_std: Log standard deviation of each coordinate.

    Returns:
        The entropy, summed over coordinates.
    """
    return jnp.sum(log_std + 0.5 * (LOG_2PI + 1.0))
