"""Noise schedules with their parameters, by name."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from vgm.errors import UserError
from vgm.processes import interiors, schedules
from vgm.processes.schedules import Schedule
from vgm.types import Params

NUM_UNITS = 64
"""Steps of the monotone network."""


class LearnableSchedule(NamedTuple):
    """A schedule and its parameters.

    Attributes:
        init: The starting parameters: "ends" and "interior" if learned, else none.
        build: Parameters to the schedule.
    """

    init: Callable[[], Params]
    build: Callable[[Params], Schedule]


_INTERIORS: dict[str, tuple[Callable[[], Any], Callable[[Any], Schedule]]] = {
    "learned-linear": (tuple, lambda params: schedules.LINE),
    "polynomial": (lambda: jnp.asarray([1.0, 0.0, 0.0]), interiors.polynomial),
    "monotone": (lambda: interiors.monotone_init(NUM_UNITS), interiors.monotone),
}
_FIXED: dict[str, Callable[[float, float], Schedule]] = {
    "linear": schedules.linear,
    "cosine": schedules.cosine,
    "sigmoid": schedules.sigmoid,
    "ddpm": lambda gamma_min, gamma_max: schedules.ddpm_linear(),
}
SCHEDULES = (*_FIXED, *_INTERIORS)


def schedule(name: str, gamma_min: float, gamma_max: float) -> LearnableSchedule:
    """The schedule called ``name``.

    Args:
        name: One of ``SCHEDULES``: fixed ones first; the last three are learned.
        gamma_min: gamma(0), or where it starts; ddpm has ends of its own.
        gamma_max: gamma(1), or where it starts.

    Returns:
        The schedule.

    Raises:
        UserError: If there is none of that name, or the ends are not in order.
    """
    if name not in SCHEDULES:
        raise UserError(f"diffusion.schedule must be one of {SCHEDULES}; got {name!r}")
    if not gamma_min < gamma_max:
        raise UserError(
            "diffusion.gamma-min must be less than diffusion.gamma-max; got "
            f"{gamma_min} and {gamma_max}"
        )
    if name in _FIXED:
        fixed = _FIXED[name](gamma_min, gamma_max)
        return LearnableSchedule(dict, lambda params: fixed)
    start, interior = _INTERIORS[name]

    def build(params: Params) -> Schedule:
        # Parameters read from a file are NumPy's.
        params = jax.tree.map(jnp.asarray, params)
        low, log_span = params["ends"]
        high = low + jnp.exp(log_span)
        return schedules.interpolate(low, high, interior(params["interior"]))

    return LearnableSchedule(
        lambda: {"ends": interiors.ends(gamma_min, gamma_max), "interior": start()},
        build,
    )


def require_signal(schedule: LearnableSchedule) -> None:
    """Check that a prediction of the noise says something of x at every time.

    Args:
        schedule: Schedule, at its start if it learns.

    Raises:
        UserError: If next to no signal is left at its end.
    """
    last = schedule.build(schedule.init()).gamma(jnp.ones(()))
    # Under jit nothing is known yet.
    if not isinstance(last, Tracer) and last >= 20.0:
        raise UserError(
            "a head of eps needs gamma(1) below 20: noise says nothing of x where no "
            f"signal is left; use v or x; got {last:g}"
        )
