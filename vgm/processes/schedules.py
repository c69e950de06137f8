"""Noise schedules gamma(t) = -log SNR(t), increasing on 0 <= t <= 1.

z_0 is almost data and z_1 almost noise (Kingma et al. 2021, section 3.1). What a bound
weights its terms by are differences of gammas, which float32 cannot take between
neighbours: 15% are lost at T = 10^6. So a schedule gives its increments itself.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vgm.numerics import sigmoid_rise
from vgm.types import Scalar

Number = float | Scalar


class Schedule(NamedTuple):
    """A schedule of one time, as functions.

    Attributes:
        gamma: t to gamma(t).
        increment: (t, width) to gamma(t) - gamma(t - width), with the digits of the
            width however small; t is taken as it is, rounded.
    """

    gamma: Callable[[Scalar], Scalar]
    increment: Callable[[Scalar, Scalar], Scalar]

    def derivative(self, t: Scalar) -> Scalar:
        """The slope d gamma / dt, by differentiating the closed form.

        Args:
            t: Time.

        Returns:
            The derivative, positive.
        """
        return jax.grad(self.gamma)(t)


LINE = Schedule(lambda t: t, lambda t, width: width)
"""The interior of a line, for ``interpolate``."""


def linear(gamma_min: Number, gamma_max: Number) -> Schedule:
    """A gamma linear in t (Kingma et al. 2021, appendix H); learned if its ends are.

    >>> import jax.numpy as jnp
    >>> float(linear(-10.0, 6.0).gamma(jnp.asarray(0.5)))
    -2.0

    Args:
        gamma_min: gamma(0).
        gamma_max: gamma(1).

    Returns:
        The schedule.

    Raises:
        ValueError: If both ends are plain numbers and do not rise.
    """
    return interpolate(gamma_min, gamma_max, LINE)


def _require_rise(gamma_min: Number, gamma_max: Number) -> None:
    """Of ends that are plain numbers; learned ones are traced."""
    plain = isinstance(gamma_min, int | float) and isinstance(gamma_max, int | float)
    if plain and not gamma_min < gamma_max:
        raise ValueError(
            f"gamma_min must be below gamma_max; got {gamma_min} and {gamma_max}"
        )


def interpolate(gamma_min: Number, gamma_max: Number, unit: Schedule) -> Schedule:
    """gamma(t) = gamma_min + (gamma_max - gamma_min) unit(t).

    Args:
        gamma_min: gamma(0).
        gamma_max: gamma(1).
        unit: What rises from 0 at t = 0 to 1 at t = 1: the interior.

    Returns:
        The schedule.

    Raises:
        ValueError: If both ends are plain numbers and do not rise.
    """
    _require_rise(gamma_min, gamma_max)
    span = gamma_max - gamma_min
    return Schedule(
        lambda t: gamma_min + span * unit.gamma(t),
        lambda t, width: span * unit.increment(t, width),
    )


def integral(
    slope: Callable[[Scalar], Scalar], t: Scalar, width: Number, *, num_nodes: int
) -> Scalar:
    """The integral of a slope from t - width to t, by Gauss-Legendre quadrature.

    Args:
        slope: Time to a slope, one number to one number.
        t: Upper end.
        width: Length.
        num_nodes: Nodes n; exact for polynomials of degree 2 n - 1.

    Returns:
        The integral.
    """
    t = jnp.asarray(t, jnp.result_type(t, width, float))
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
    values = jax.vmap(slope)(t - 0.5 * width * jnp.asarray(1.0 - nodes, t.dtype))
    return 0.5 * width * jnp.sum(jnp.asarray(weights, t.dtype) * values)


def from_gamma(gamma: Callable[[Scalar], Scalar]) -> Schedule:
    """The schedule of a smooth, increasing function of time, its increments found.

    Increments are int gamma' dt by five Gauss-Legendre nodes, as good as gamma' is
    computed, unless the difference of gammas is another number by more than its own
    rounding: then the nodes did not see what gamma does within the step.

    Args:
        gamma: t to gamma(t), one number to one number.

    Returns:
        The schedule.
    """

    def increment(t: Scalar, width: Scalar) -> Scalar:
        small = integral(jax.grad(gamma), t, width, num_nodes=5)
        after, before = gamma(t), gamma(t - width)
        size = jnp.abs(after) + jnp.abs(before) + jnp.abs(small) / width
        rounding = 16.0 * jnp.finfo(small.dtype).eps * size
        exact = jnp.abs(after - before - small) <= rounding
        return jnp.where(exact, small, after - before)

    return Schedule(gamma, increment)


def cosine(gamma_min: Number, gamma_max: Number) -> Schedule:
    """alpha the cosine of an angle linear in t (Nichol & Dhariwal 2021, eq. 17).

    gamma = 2 log tan(angle), between the angles of the two end points (Hoogeboom et
    al. 2023, section 3.1). Angle and complement are both kept, so that neither end
    loses digits.

    >>> import jax.numpy as jnp
    >>> float(cosine(-10.0, 10.0).gamma(jnp.asarray(0.5)))
    0.0

    Args:
        gamma_min: gamma(0).
        gamma_max: gamma(1).

    Returns:
        The schedule.

    Raises:
        ValueError: If both ends are plain numbers and do not rise.
    """
    _require_rise(gamma_min, gamma_max)
    first = jnp.arctan(jnp.exp(0.5 * jnp.asarray(gamma_min, float)))
    last = jnp.arctan(jnp.exp(-0.5 * jnp.asarray(gamma_max, float)))
    span = 0.5 * jnp.pi - first - last

    def angle(t: Scalar) -> Scalar:
        return first + span * t

    def complement(t: Scalar) -> Scalar:
        return last + span * (1.0 - t)

    def log_growth(start: Scalar, turn: Scalar) -> Scalar:
        """log [ sin(start + turn) / sin(start) ]."""
        cotangent = jnp.cos(start) / jnp.sin(start)
        return jnp.log1p(-2.0 * jnp.sin(0.5 * turn) ** 2 + cotangent * jnp.sin(turn))

    def gamma(t: Scalar) -> Scalar:
        return 2.0 * (jnp.log(jnp.sin(angle(t))) - jnp.log(jnp.sin(complement(t))))

    def increment(t: Scalar, width: Scalar) -> Scalar:
        turn = span * width
        return 2.0 * (
            log_growth(angle(t - width), turn) + log_growth(complement(t), turn)
        )

    return Schedule(gamma, increment)


def sigmoid(
    gamma_min: Number, gamma_max: Number, *, steepness: float = 3.0
) -> Schedule:
    """Signal power falling as a sigmoid of t between its ends (Jabri et al. 2022, B.1).

    With m(t) = [s(k (2t - 1)) - s(-k)] / [s(k) - s(-k)], s the sigmoid and k the
    steepness, sigma^2 rises from sigma_0^2 to sigma_1^2 as m(t) does from 0 to 1.

    >>> import jax.numpy as jnp
    >>> float(sigmoid(-10.0, 10.0).gamma(jnp.asarray(0.5)))
    0.0

    Args:
        gamma_min: gamma(0).
        gamma_max: gamma(1).
        steepness: k; the paper's start and end are -3 and 3.

    Returns:
        The schedule.

    Raises:
        ValueError: If both ends are plain numbers and do not rise.
    """
    _require_rise(gamma_min, gamma_max)
    low, high = jnp.asarray(gamma_min, float), jnp.asarray(gamma_max, float)
    scale = sigmoid_rise(high, high - low)
    whole = sigmoid_rise(jnp.asarray(steepness, float), 2.0 * steepness)

    def rise(t: Scalar, width: Scalar) -> Scalar:
        """sigma^2(t) - sigma^2(t - width)."""
        top = steepness * (2.0 * t - 1.0)
        return scale * sigmoid_rise(top, 2.0 * steepness * width) / whole

    def variance(t: Scalar) -> Scalar:
        return jax.nn.sigmoid(low) + rise(t, t)

    def signal(t: Scalar) -> Scalar:
        return jax.nn.sigmoid(-high) + rise(jnp.ones_like(t), 1.0 - t)

    def gamma(t: Scalar) -> Scalar:
        return jnp.log(variance(t)) - jnp.log(signal(t))

    def increment(t: Scalar, width: Scalar) -> Scalar:
        added = rise(t, width)
        return jnp.log1p(added / variance(t - width)) + jnp.log1p(added / signal(t))

    return Schedule(gamma, increment)


def ddpm_linear(
    num_latents: int = 1000, *, beta_min: float = 1e-4, beta_max: float = 0.02
) -> Schedule:
    """DDPM's linear betas (Ho et al. 2020, section 4), between them interpolated.

    alpha^2 of x_i is prod_{j <= i} (1 - beta_j), and x_1 .. x_N stand at t = 0 .. 1.
    With B = -log alpha^2, piecewise linear in t, gamma = log(exp(B) - 1).

    >>> import jax.numpy as jnp
    >>> schedule = ddpm_linear()
    >>> float(jax.nn.sigmoid(schedule.gamma(jnp.asarray(0.0))))
    0.0001

    Args:
        num_latents: N.
        beta_min: First beta.
        beta_max: Last beta.

    Returns:
        The schedule.

    Raises:
        ValueError: If there are fewer than two latents.
    """
    if num_latents < 2:
        raise ValueError(f"num_latents must be at least 2; got {num_latents}")
    cells = num_latents - 1
    betas = [beta_min + (beta_max - beta_min) * i / cells for i in range(num_latents)]
    rates = [-math.log1p(-beta) for beta in betas]
    total = [math.fsum(rates[: i + 1]) for i in range(num_latents)]
    table, step = jnp.asarray(total, float), jnp.asarray(rates[1:], float)

    def place(t: Scalar) -> tuple[Array, Scalar]:
        cell = jnp.clip(jnp.floor(t * cells).astype(jnp.int32), 0, cells - 1)
        return cell, t * cells - cell

    def exponent(t: Scalar) -> Scalar:
        cell, part = place(t)
        return table[cell] + part * step[cell]

    def gamma(t: Scalar) -> Scalar:
        return jnp.log(jnp.expm1(exponent(t)))

    def increment(t: Scalar, width: Scalar) -> Scalar:
        # What of the width lies in the last cell, what in the first, what between: it
        # is the width that keeps its digits, not the two places.
        (cell_t, part_t), (cell_s, _) = place(t), place(t - width)
        crossed = jnp.maximum(cell_t - cell_s, 0)
        last = jnp.where(crossed > 0, part_t, width * cells)
        first = width * cells - last - jnp.maximum(crossed - 1, 0)
        whole = jnp.where(crossed > 1, table[cell_t] - table[cell_s + 1], 0.0)
        added = last * step[cell_t] + first * step[cell_s] + whole
        return jnp.log1p(jnp.expm1(added) / -jnp.expm1(-exponent(t - width)))

    return Schedule(gamma, increment)
