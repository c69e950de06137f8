"""Coupling: one part of an event is mapped as the other part says."""

from collections.abc import Callable

import jax.numpy as jnp

from vgm.bijections.bijection import Bijection, Event
from vgm.bijections.transforms import Numbers, Transform
from vgm.types import Scalar


def coupling(
    conditioner: Callable[[Event], Numbers], transform: Transform, *, split: int
) -> Bijection:
    """Map what is beyond ``split`` on the last axis (Dinh et al. 2017, eq. 4 and 5).

    Args:
        conditioner: The first part to parameters for each number of the second.
        transform: Family of increasing maps.
        split: Length of the first part, which stays as it is.

    Returns:
        The bijection; its Jacobian is triangular.
    """

    def forward(x: Event) -> tuple[Event, Scalar]:
        kept = x[..., :split]
        z, log_det = transform.forward(x[..., split:], conditioner(kept))
        return jnp.concatenate([kept, z], axis=-1), log_det

    def inverse(z: Event) -> tuple[Event, Scalar]:
        kept = z[..., :split]
        x, log_det = transform.inverse(z[..., split:], conditioner(kept))
        return jnp.concatenate([kept, x], axis=-1), log_det

    return Bijection(forward, inverse)
