"""Weighted squared errors of the noise: what diffusions are trained by, and no bounds.

sum over times of w(gamma_t) |eps - eps_hat|^2.
"""

from collections.abc import Callable

import jax.numpy as jnp

from vgm.processes.schedules import Schedule
from vgm.processes.times import grid_time, step_of
from vgm.types import Scalar

WEIGHTINGS: dict[str, Callable[[Scalar], Scalar]] = {
    "simple": jnp.ones_like,
    "x": jnp.exp,
    "min-snr": lambda gamma: jnp.minimum(1.0, 5.0 * jnp.exp(gamma)),
}
"""Weights of |eps - eps_hat|^2 by gamma, for training: "simple" (Ho et al. 2020, eq.
14), "x" for |x - x_hat|^2, "min-snr" (Hang et al. 2023). None makes a bound."""


def relative_weight(
    t: Scalar, schedule: Schedule, *, num_steps: int, weighting: str
) -> Scalar:
    """What turns a bound's term at one time into a weighted squared error.

    Args:
        t: Time of the term.
        schedule: Schedule.
        num_steps: T; 0 for a term of ``continuous_terms``.
        weighting: A name of ``WEIGHTINGS``.

    Returns:
        w(gamma) |eps - eps_hat|^2 over the term.
    """
    if num_steps == 0:
        rate = schedule.derivative(t)
        return 2.0 * WEIGHTINGS[weighting](schedule.gamma(t)) / rate
    t, width = grid_time(step_of(t, num_steps), num_steps, t.dtype)
    rate = num_steps * jnp.expm1(schedule.increment(t, width))
    return 2.0 * WEIGHTINGS[weighting](schedule.gamma(t)) / rate
