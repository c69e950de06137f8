"""Unnormalised densities in the plane whose integral is known."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.types import Scalar

Point = Float[Array, "2"]


class Target(NamedTuple):
    """A density up to its normaliser Z.

    Attributes:
        log_density: x to log target(x), in nats.
        log_normalizer: log Z, exact.
    """

    log_density: Callable[[Point], Scalar]
    log_normalizer: float


def banana() -> Target:
    """A bent normal: x_1 ~ N(0, 4), x_2 ~ N((x_1^2 - 4) / 4, 1), times 4 pi.

    Returns:
        The target (after Haario et al. 1999).
    """

    def log_density(x: Point) -> Scalar:
        return -0.125 * x[0] ** 2 - 0.5 * (x[1] - 0.25 * (x[0] ** 2 - 4.0)) ** 2

    return Target(log_density, math.log(4.0 * math.pi))


def ring(*, radius: float = 3.0, width: float = 0.4) -> Target:
    """A ring: exp(-(|x| - radius)^2 / (2 width^2)).

    In polar coordinates Z = 2 pi int_0^inf r exp(...) dr, a normal integral.

    Args:
        radius: Of the ring.
        width: Standard deviation across it.

    Returns:
        The target.
    """

    def log_density(x: Point) -> Scalar:
        # Never the root of 0, which has no derivative.
        distance = jnp.sqrt(jnp.sum(x**2) + jnp.finfo(x.dtype).tiny)
        return -0.5 * ((distance - radius) / width) ** 2

    edge = radius / width
    inner = width**2 * math.exp(-0.5 * edge**2)
    inside = 0.5 * (1.0 + math.erf(edge / math.sqrt(2.0)))
    outer = radius * width * math.sqrt(2.0 * math.pi) * inside
    return Target(log_density, math.log(2.0 * math.pi * (inner + outer)))


TARGETS: dict[str, Callable[[], Target]] = {"banana": banana, "ring": ring}
