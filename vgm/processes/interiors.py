"""Learned ends of a schedule, and learned interiors: what rises from 0 to 1 between.

``schedules.interpolate`` joins the two.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.numerics import sigmoid_rise
from vgm.processes.schedules import Number, Schedule, integral
from vgm.types import Scalar


class Ends(NamedTuple):
    """Parameters of learned end points, which keep their order.

    Attributes:
        gamma_min: gamma(0).
        log_span: Logarithm of gamma(1) - gamma(0).
    """

    gamma_min: Scalar
    log_span: Scalar


class Monotone(NamedTuple):
    """Parameters of the interior of ``monotone``, one a hidden unit but for the first.

    Attributes:
        log_slope: Logarithm of the slope of the linear part.
        log_height: Logarithm of the height of each step.
        log_steepness: Logarithm of the steepness of each step.
        place: Time in the middle of each step.
    """

    log_slope: Scalar
    log_height: Float[Array, " units"]
    log_steepness: Float[Array, " units"]
    place: Float[Array, " units"]


def ends(gamma_min: float, gamma_max: float) -> Ends:
    """Parameters that start at two end points.

    Args:
        gamma_min: gamma(0).
        gamma_max: gamma(1), greater.

    Returns:
        The parameters of learned end points.
    """
    return Ends(
        jnp.asarray(gamma_min, float),
        jnp.log(jnp.asarray(gamma_max, float) - gamma_min),
    )


def polynomial(coefficients: Float[Array, " order"]) -> Schedule:
    """The interior whose slope is the square of a polynomial, from 0 to 1.

    u(t) = int_0^t p^2 / int_0^1 p^2 with p of degree 2: fifth order in t (Sahoo et al.
    2024, appendix F). Three Gauss-Legendre nodes integrate p^2 without error, and all
    summands are positive.

    >>> import jax.numpy as jnp
    >>> float(polynomial(jnp.asarray([1.0, 0.0, 0.0])).gamma(jnp.asarray(0.25)))
    0.25

    Args:
        coefficients: Of 1, t and t^2; not all 0.

    Returns:
        The interior, for ``interpolate``.
    """

    def slope(t: Scalar) -> Scalar:
        return jnp.polyval(coefficients[::-1], t) ** 2

    def area(t: Scalar, width: Number) -> Scalar:
        return integral(slope, t, width, num_nodes=3)

    whole = area(jnp.ones_like(coefficients[0]), 1.0)
    return Schedule(
        lambda t: area(t, t) / whole, lambda t, width: area(t, width) / whole
    )


def monotone_init(num_units: int) -> Monotone:
    """Parameters of ``monotone`` whose steps are spread evenly, almost linear.

    Args:
        num_units: Steps; 1024 in the paper.

    Returns:
        The parameters.
    """
    place = (jnp.arange(num_units) + 0.5) / num_units
    zeros = jnp.zeros(num_units)
    return Monotone(jnp.zeros(()), zeros - 2.0, zeros + 2.0, place)


def monotone(params: Monotone) -> Schedule:
    """The interior given by a monotone network, from 0 to 1.

    A line plus the mean of sigmoid steps, all weights positive, less its value at 0 and
    over its rise (Kingma et al. 2021, eq. 59 and 60).

    Args:
        params: Parameters.

    Returns:
        The interior, for ``interpolate``.
    """
    slope, height = jnp.exp(params.log_slope), jnp.exp(params.log_height)
    steepness = jnp.exp(params.log_steepness)

    def rise(t: Scalar, width: Number) -> Scalar:
        top = steepness * (t - params.place)
        steps = height * sigmoid_rise(top, steepness * width)
        return slope * width + jnp.mean(steps)

    whole = rise(jnp.ones_like(slope), 1.0)
    return Schedule(
        lambda t: rise(t, t) / whole, lambda t, width: rise(t, width) / whole
    )
