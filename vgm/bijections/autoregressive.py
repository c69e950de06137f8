"""Autoregressive maps: each number is mapped as the ones before it say."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vgm.bijections.bijection import Bijection
from vgm.bijections.transforms import Transform
from vgm.types import Scalar

Vector = Float[Array, " dim"]


def masked_autoregressive(
    conditioner: Callable[[Vector], Float[Array, "dim params"]], transform: Transform
) -> Bijection:
    """z_i = g(x_i; params_i(x_1 .. x_{i-1})) (Papamakarios et al. 2017, eq. 3).

    Forward in one pass; the inverse is a loop over the numbers. ``invert`` of it is the
    inverse autoregressive flow of Kingma et al. (2016): fast to draw from.

    Args:
        conditioner: A vector to parameters of every number; those of x_i must depend on
            x_1 .. x_{i-1} alone.
        transform: Family of increasing maps.

    Returns:
        The bijection; its Jacobian is triangular.
    """

    def forward(x: Vector) -> tuple[Vector, Scalar]:
        return transform.forward(x, conditioner(x))

    def inverse(z: Vector) -> tuple[Vector, Scalar]:
        def step(x: Vector, i: Int[Array, ""]) -> tuple[Vector, None]:
            found, _ = transform.inverse(z, conditioner(x))
            # Only the i-th: those after it were mapped by parameters that are not
            # theirs.
            here = jnp.arange(z.size) == i
            return jnp.where(here, found, x).astype(z.dtype), None

        x, _ = jax.lax.scan(step, jnp.zeros_like(z), jnp.arange(z.size))
        return x, -transform.forward(x, conditioner(x))[1]

    return Bijection(forward, inverse)
