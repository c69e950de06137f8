"""What a bijection is, and how several make one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vgm.types import Event, Scalar

Map = Callable[[Any], tuple[Any, Scalar]]


class Bijection(NamedTuple):
    """An invertible map from data x to noise z, on one example.

    Attributes:
        forward: x to z and log |det dz/dx|.
        inverse: z to x and log |det dx/dz|.
    """

    forward: Map
    inverse: Map


def identity(x: Event) -> tuple[Event, Scalar]:
    """x itself.

    Args:
        x: Numbers.

    Returns:
        x and a log determinant of 0.
    """
    return x, jnp.zeros((), x.dtype)


IDENTITY = Bijection(identity, identity)


def invert(bijection: Bijection) -> Bijection:
    """The map the other way round.

    Args:
        bijection: Bijection.

    Returns:
        Its inverse as a bijection.
    """
    return Bijection(bijection.inverse, bijection.forward)


def compose(*parts: Bijection) -> Bijection:
    """One bijection after another; log determinants add up.

    >>> import jax.numpy as jnp
    >>> from vgm.bijections import elementwise
    >>> double = elementwise.affine(jnp.zeros(2), jnp.log(jnp.full(2, 0.5)))
    >>> z, log_det = compose(double, double).forward(jnp.ones(2))
    >>> float(z[0]), float(log_det)
    (4.0, 2.7726)

    Args:
        *parts: Bijections, the first one next to the data.

    Returns:
        Their composition.
    """
    return Bijection(
        _in_turn([part.forward for part in parts]),
        _in_turn([part.inverse for part in parts[::-1]]),
    )


def _in_turn(maps: list[Map]) -> Map:
    def apply(x: Any) -> tuple[Any, Scalar]:
        total = _nothing(x)
        for each in maps:
            x, log_det = each(x)
            total = total + log_det
        return x, total

    return apply


def _nothing(x: Event) -> Scalar:
    """0, on the devices that hold x (``jax.shard_map``)."""
    return jnp.sum(jnp.zeros_like(x))


def scan(build: Callable[[Any], Bijection], params: Any) -> Bijection:
    """Bijections of one form in turn, as a loop: compiled once however many.

    Args:
        build: The parameters of one to a bijection that keeps the event's shape.
        params: Pytree of parameters with a leading axis of layers.

    Returns:
        Their composition, the first one next to the data.
    """

    def run(direction: str, x: Event) -> tuple[Event, Scalar]:
        def step(carry: tuple[Event, Scalar], params: Any) -> tuple[Any, None]:
            value, total = carry
            value, log_det = getattr(build(params), direction)(value)
            return (value, total + log_det), None

        kinds = [x.dtype, *(leaf.dtype for leaf in jax.tree.leaves(params))]
        floats = [kind for kind in kinds if jnp.issubdtype(kind, jnp.floating)]
        x = x.astype(jnp.result_type(*floats or kinds[:1]))
        start = (x, _nothing(x))
        result, _ = jax.lax.scan(step, start, params, reverse=direction == "inverse")
        return result

    return Bijection(lambda x: run("forward", x), lambda z: run("inverse", z))
