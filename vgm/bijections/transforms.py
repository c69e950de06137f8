"""Families of increasing maps of one number, for couplings and autoregressive flows.

A family maps each number of an event by parameters of its own, on the last axis; all
parameters 0 is the identity, so that a network that starts at 0 starts a flow there.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.bijections.bijection import Event
from vgm.numerics import softplus
from vgm.shapes import require
from vgm.types import Scalar

Numbers = Float[Array, "*event params"]


class Transform(NamedTuple):
    """A family of increasing maps.

    Attributes:
        num_params: Parameters of each number.
        forward: (x, params) to z and the sum of log dz/dx.
        inverse: (z, params) to x and the sum of log dx/dz.
    """

    num_params: int
    forward: Callable[[Event, Numbers], tuple[Event, Scalar]]
    inverse: Callable[[Event, Numbers], tuple[Event, Scalar]]


def affine(*, bound: float = 3.0) -> Transform:
    """z = x exp(s) + t with |s| < bound (Dinh et al. 2017, eq. 7, bounded).

    >>> import jax.numpy as jnp
    >>> float(affine().forward(jnp.ones(1), jnp.zeros((1, 2)))[0][0])
    1.0

    Args:
        bound: Of the log scale: s = bound tanh(raw / bound).

    Returns:
        The family; its parameters are t and raw.
    """

    def log_scale(x: Event, params: Numbers) -> Event:
        _require_params(params, x, 2)
        return bound * jnp.tanh(params[..., 1] / bound)

    def forward(x: Event, params: Numbers) -> tuple[Event, Scalar]:
        scale = log_scale(x, params)
        return x * jnp.exp(scale) + params[..., 0], jnp.sum(scale)

    def inverse(z: Event, params: Numbers) -> tuple[Event, Scalar]:
        scale = log_scale(z, params)
        return (z - params[..., 0]) * jnp.exp(-scale), -jnp.sum(scale)

    return Transform(2, forward, inverse)


class Bin(NamedTuple):
    """The bin of a spline that holds each number.

    Attributes:
        left: Where it begins in x.
        bottom: Where it begins in z.
        width: How wide it is.
        slope: Its height over its width.
        first: Derivative where it begins.
        last: Derivative where it ends.
    """

    left: Event
    bottom: Event
    width: Event
    slope: Event
    first: Event
    last: Event


def rational_quadratic(
    *, num_bins: int = 8, tail_bound: float = 5.0, min_share: float = 1e-3
) -> Transform:
    """Monotone rational-quadratic splines (Durkan et al. 2019, section 3.1).

    In a bin, with xi in [0, 1] the place of x in it, s its slope and d, d' the
    derivatives at its ends,

        z = bottom + height (s xi^2 + d xi (1 - xi)) / (s + (d + d' - 2 s) xi (1 - xi)).

    Outside [-tail_bound, tail_bound] the identity. A number is clipped to the bins
    before the arithmetic: what is not used must not spoil gradients either.

    >>> import jax.numpy as jnp
    >>> spline = rational_quadratic(num_bins=4)
    >>> float(spline.forward(jnp.asarray([9.0]), jnp.ones((1, 11)))[0][0])
    9.0

    Args:
        num_bins: Bins.
        tail_bound: Where the bins end.
        min_share: Least width and height of a bin, as a share of all, and least
            derivative.

    Returns:
        The family; its parameters are widths, heights and inner derivatives.

    Raises:
        ValueError: If the least bins alone fill the whole.
    """
    if num_bins * min_share >= 1.0:
        raise ValueError(
            f"num_bins * min_share must be below 1; got {num_bins} * {min_share}"
        )
    spline = (num_bins, tail_bound, min_share)

    def forward(x: Event, params: Numbers) -> tuple[Event, Scalar]:
        _require_params(params, x, 3 * num_bins - 1)
        clipped = jnp.clip(x, -tail_bound, tail_bound)
        found = _find(clipped, params, *spline, by_height=False)
        xi = (clipped - found.left) / found.width
        rest = found.slope + (found.first + found.last - 2.0 * found.slope) * (
            xi * (1.0 - xi)
        )
        risen = found.slope * xi**2 + found.first * xi * (1.0 - xi)
        z = found.bottom + found.slope * found.width * risen / rest
        log_slope = _log_derivative(xi, found)
        inside = jnp.abs(x) < tail_bound
        return (
            jnp.where(inside, z, x),
            jnp.sum(jnp.where(inside, log_slope, 0.0)),
        )

    def inverse(z: Event, params: Numbers) -> tuple[Event, Scalar]:
        _require_params(params, z, 3 * num_bins - 1)
        clipped = jnp.clip(z, -tail_bound, tail_bound)
        found = _find(clipped, params, *spline, by_height=True)
        # Of a xi^2 + b xi + c = 0 (eq. 29).
        height = found.slope * found.width
        up = (clipped - found.bottom) / height
        bend = found.first + found.last - 2.0 * found.slope
        a = found.slope - found.first + up * bend
        b = found.first - up * bend
        c = -found.slope * up
        xi = root(a, b, c)
        x = found.left + found.width * xi
        inside = jnp.abs(z) < tail_bound
        return (
            jnp.where(inside, x, z),
            -jnp.sum(jnp.where(inside, _log_derivative(xi, found), 0.0)),
        )

    return Transform(3 * num_bins - 1, forward, inverse)


def root(a: Event, b: Event, c: Event) -> Event:
    """The root of a xi^2 + b xi + c between 0 and 1, by the form that does not cancel.

    >>> import jax.numpy as jnp
    >>> float(root(jnp.asarray(1.0), jnp.asarray(0.0), jnp.asarray(-0.25)))
    0.5

    Args:
        a: Quadratic coefficient.
        b: Linear coefficient.
        c: Constant, not positive.

    Returns:
        2 c / (-b - r) where b >= 0, (r - b) / (2 a) elsewhere, r^2 = b^2 - 4 a c.
    """
    # Positive but for rounding; a root of 0 would have no derivative.
    r = jnp.sqrt(jnp.maximum(b**2 - 4.0 * a * c, jnp.finfo(b.dtype).tiny))
    falling = b < 0.0
    ahead = 2.0 * c / jnp.where(falling, -1.0, -b - r)
    behind = (r - b) / (2.0 * jnp.where(falling, a, 1.0))
    return jnp.clip(jnp.where(falling, behind, ahead), 0.0, 1.0)


def _require_params(params: Numbers, x: Event, num_params: int) -> None:
    require("what a conditioner returns", params, (*x.shape, num_params))


def _log_derivative(xi: Event, found: Bin) -> Event:
    """log dz/dx (Durkan et al. 2019, eq. 22)."""
    slope, first, last, left = found.slope, found.first, found.last, 1.0 - xi
    top = last * xi**2 + 2.0 * slope * xi * left + first * left**2
    bottom = slope + (first + last - 2.0 * slope) * xi * left
    return 2.0 * jnp.log(slope) + jnp.log(top) - 2.0 * jnp.log(bottom)


def _find(
    value: Event,
    params: Numbers,
    num_bins: int,
    tail_bound: float,
    min_share: float,
    *,
    by_height: bool,
) -> Bin:
    """The bin of each value, found by comparison with every edge: no gather."""
    widths, heights = params[..., :num_bins], params[..., num_bins : 2 * num_bins]
    left, width = _edges(widths, tail_bound, min_share)
    bottom, height = _edges(heights, tail_bound, min_share)
    edges = bottom if by_height else left
    above = value[..., None] >= edges[..., 1:]
    below = jnp.concatenate([jnp.ones_like(above[..., :1]), above], axis=-1)
    chosen = below & ~jnp.concatenate([above, jnp.zeros_like(above[..., :1])], axis=-1)

    def pick(values: Float[Array, "*event bins"]) -> Event:
        return jnp.sum(jnp.where(chosen, values, 0.0), axis=-1)

    # softplus(0 + shift) + min_share = 1: parameters of 0 are the identity, and at
    # both ends the derivative is that of the tails.
    shift = math.log(math.expm1(1.0 - min_share))
    inner = params[..., 2 * num_bins :]
    end = jnp.zeros_like(inner[..., :1])

    def derivative(raw: Float[Array, "*event bins"]) -> Event:
        return min_share + softplus(pick(raw) + shift)

    chosen_width = pick(width)
    return Bin(
        pick(left),
        pick(bottom),
        chosen_width,
        pick(height) / chosen_width,
        derivative(jnp.concatenate([end, inner], axis=-1)),
        derivative(jnp.concatenate([inner, end], axis=-1)),
    )


def _edges(
    raw: Float[Array, "*event bins"], tail_bound: float, min_share: float
) -> tuple[Float[Array, "*event bins"], Float[Array, "*event bins"]]:
    """Where bins begin, and their sizes, which fill [-tail_bound, tail_bound]."""
    num_bins = raw.shape[-1]
    share = min_share + (1.0 - min_share * num_bins) * jax.nn.softmax(raw, axis=-1)
    size = 2.0 * tail_bound * share
    return jnp.cumsum(size, axis=-1) - size - tail_bound, size
