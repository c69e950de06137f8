"""Continuous flows: z is where a velocity field carries x from t = 0 to 1.

    dx/dt = v(t, x),   d log |det| / dt = tr dv/dx      (Chen et al. 2018, theorem 1).

The equation is solved by diffrax, which is imported when it is needed.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vgm.bijections.bijection import Bijection, Event
from vgm.errors import UserError
from vgm.types import Scalar

Velocity = Callable[[Scalar, Event], Event]
Field = Callable[[Scalar, Event], tuple[Event, Scalar]]
"""(t, x) to the velocity and its divergence."""


def exact_divergence(velocity: Velocity) -> Field:
    """A velocity with tr dv/dx, by one derivative a dimension.

    Args:
        velocity: (t, x) to dx/dt.

    Returns:
        The field.
    """

    def field(t: Scalar, x: Event) -> tuple[Event, Scalar]:
        def flat(vector: Event) -> tuple[Event, Event]:
            value = velocity(t, vector.reshape(x.shape)).reshape(-1)
            return value, value

        jacobian, value = jax.jacfwd(flat, has_aux=True)(x.reshape(-1))
        return value.reshape(x.shape), jnp.trace(jacobian)

    return field


def hutchinson_divergence(velocity: Velocity, probe: Event) -> Field:
    """A velocity with an unbiased estimate of tr dv/dx, probe . (dv/dx probe).

    For gradients of log p(x) alone (Grathwohl et al. 2019, eq. 8): an estimate inside
    a logarithm is no log weight.

    Args:
        velocity: (t, x) to dx/dt.
        probe: Numbers of mean 0 and covariance I, the same at all times.

    Returns:
        The field.
    """

    def field(t: Scalar, x: Event) -> tuple[Event, Scalar]:
        value, turned = jax.jvp(lambda x: velocity(t, x), (x,), (probe,))
        return value, jnp.sum(probe * turned)

    return field


def continuous(field: Field, *, tolerance: float = 1e-5) -> Bijection:
    """The bijection from x at t = 0 to z at t = 1.

    Args:
        field: Velocity and divergence.
        tolerance: Relative and absolute error of a step of the solver.

    Returns:
        The bijection; its inverse goes back in time, exact to the tolerance. Of
        derivatives it has those of ``jax.grad`` and ``jax.jacrev``, none of ``jacfwd``.
    """

    def carry(x: Event, start: float, end: float) -> tuple[Event, Scalar]:
        both = (x, jnp.zeros((), x.dtype))
        return integrate(
            lambda t, state: field(t, state[0]), both, start, end, tolerance=tolerance
        )

    return Bijection(lambda x: carry(x, 0.0, 1.0), lambda z: carry(z, 1.0, 0.0))


def integrate(
    derivative: Callable[[Scalar, Any], Any],
    start: Any,
    t_start: float | Scalar,
    t_end: float | Scalar,
    *,
    tolerance: float = 1e-5,
) -> Any:
    """Solve dy/dt = derivative(t, y) by Tsitouras' method of order 5.

    With a velocity alone it draws without the divergence, which costs as many
    derivatives as there are numbers.

    Args:
        derivative: (t, y) to dy/dt, of the structure of y.
        start: y at the start.
        t_start: Time of the start.
        t_end: Time of the end, earlier or later.
        tolerance: Relative and absolute error of a step of the solver.

    Returns:
        y at the end; NaN where the solver gave up, as it does on NaN.
    """
    diffrax = solver()
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: derivative(t, y)),
        diffrax.Tsit5(),
        t0=t_start,
        t1=t_end,
        dt0=None,
        y0=start,
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        # One example that cannot be solved is not to end a batch.
        throw=False,
    )
    solved = solution.result == diffrax.RESULTS.successful
    return jax.tree.map(lambda leaf: jnp.where(solved, leaf[0], jnp.nan), solution.ys)


def solver() -> Any:
    """Diffrax.

    Returns:
        The module.

    Raises:
        UserError: If it is not installed.
    """
    try:
        import diffrax
    except ImportError as error:
        raise UserError(
            "continuous flows and probability flows are solved by diffrax, which is "
            "not installed; run: pip install diffrax"
        ) from error
    return diffrax
