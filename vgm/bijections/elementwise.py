"""Maps of each number by itself: affine, log, logit; what is outside has mass 0."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from vgm.bijections.bijection import Bijection, Event
from vgm.numerics import log_sigmoid
from vgm.types import Scalar


def affine(mean: Event, log_std: Event) -> Bijection:
    """z = (x - mean) / std: standardisation, and ActNorm (Kingma & Dhariwal 2018, 3.1).

    Args:
        mean: Mean of what comes in, of each number or along the last axes.
        log_std: Logarithm of its standard deviation, likewise.

    Returns:
        The bijection.
    """

    def spread(value: Array, x: Event) -> Event:
        # Ranks are never promoted here.
        return jnp.broadcast_to(
            jnp.expand_dims(value, range(x.ndim - value.ndim)), x.shape
        )

    def forward(x: Event) -> tuple[Event, Scalar]:
        scale = spread(log_std, x)
        return (x - spread(mean, x)) * jnp.exp(-scale), -jnp.sum(scale)

    def inverse(z: Event) -> tuple[Event, Scalar]:
        scale = spread(log_std, z)
        return z * jnp.exp(scale) + spread(mean, z), jnp.sum(scale)

    return Bijection(forward, inverse)


def log() -> Bijection:
    """z = log x of positive numbers.

    >>> import jax.numpy as jnp
    >>> float(log().forward(jnp.asarray(-1.0))[1])
    -inf

    Returns:
        The bijection; elsewhere the log determinant is -inf, so that the density is 0.
    """

    def forward(x: Event) -> tuple[Event, Scalar]:
        inside = x > 0.0
        # What is outside never meets the logarithm: no NaN, in gradients neither.
        z = jnp.log(jnp.where(inside, x, 1.0))
        return z, _supported(inside, -jnp.sum(z))

    return Bijection(forward, lambda z: (jnp.exp(z), jnp.sum(z)))


def logit() -> Bijection:
    """z = log x - log(1 - x) of numbers between 0 and 1.

    >>> import jax.numpy as jnp
    >>> float(logit().forward(jnp.asarray(0.5))[0])
    0.0

    Returns:
        The bijection; elsewhere the log determinant is -inf, so that the density is 0.
    """

    def forward(x: Event) -> tuple[Event, Scalar]:
        inside = (x > 0.0) & (x < 1.0)
        safe = jnp.where(inside, x, 0.5)
        log_x, log_rest = jnp.log(safe), jnp.log1p(-safe)
        return log_x - log_rest, _supported(inside, -jnp.sum(log_x + log_rest))

    def inverse(z: Event) -> tuple[Event, Scalar]:
        return jax.nn.sigmoid(z), jnp.sum(log_sigmoid(z) + log_sigmoid(-z))

    return Bijection(forward, inverse)


def _supported(inside: Bool[Array, "*event"], log_det: Scalar) -> Scalar:
    return jnp.where(jnp.all(inside), log_det, -jnp.inf)
