"""Linear maps along the last axis: of a vector, or of the channels of every pixel.

On images they are Glow's invertible 1x1 convolutions (Kingma & Dhariwal 2018, 3.2).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.bijections.bijection import Bijection, Event
from vgm.precision import matmul
from vgm.shapes import require
from vgm.types import Scalar


class LU(NamedTuple):
    """A matrix L U with an invertible product.

    Attributes:
        lower: What is below the diagonal counts; L has ones on it.
        upper: What is above the diagonal counts.
        log_diagonal: Logarithm of U's diagonal.
    """

    lower: Float[Array, "dim dim"]
    upper: Float[Array, "dim dim"]
    log_diagonal: Float[Array, " dim"]


def lu_init(dim: int, dtype: Any = float) -> LU:
    """Parameters of the identity.

    Args:
        dim: Length of the last axis.
        dtype: Of the numbers.

    Returns:
        The parameters.
    """
    zeros = jnp.zeros((dim, dim), dtype)
    return LU(zeros, zeros, jnp.zeros(dim, dtype))


def lu(params: LU) -> Bijection:
    """z = L U x along the last axis; log |det| = pixels * sum(log diag U).

    Kingma & Dhariwal (2018, eq. 10), without a permutation.

    Args:
        params: Parameters.

    Returns:
        The bijection.
    """
    dim = params.log_diagonal.size
    lower = jnp.tril(params.lower, -1) + jnp.eye(dim, dtype=params.lower.dtype)
    upper = jnp.triu(params.upper, 1) + jnp.diag(jnp.exp(params.log_diagonal))

    def rows_of(x: Event) -> Float[Array, "rows dim"]:
        require("linear.lu: x", x, (*x.shape[:-1], dim))
        return x.reshape(-1, dim)

    def log_det(x: Event) -> Scalar:
        return (x.size // dim) * jnp.sum(params.log_diagonal)

    def forward(x: Event) -> tuple[Event, Scalar]:
        return matmul(rows_of(x), matmul(lower, upper).T).reshape(x.shape), log_det(x)

    def inverse(z: Event) -> tuple[Event, Scalar]:
        columns = rows_of(z).T
        solve = jax.scipy.linalg.solve_triangular
        columns = solve(lower, columns, lower=True, unit_diagonal=True)
        return solve(upper, columns).T.reshape(z.shape), -log_det(z)

    return Bijection(forward, inverse)


def orthogonal(vectors: Float[Array, "reflections dim"]) -> Bijection:
    """A product of Householder reflections along the last axis; log |det| = 0.

    x goes to x - 2 v (v . x) / |v|^2, for each v in turn (Tomczak & Welling 2016).

    Args:
        vectors: One v a reflection, none of them 0.

    Returns:
        The bijection.
    """

    def reflect(
        rows: Float[Array, "rows dim"], vector: Float[Array, " dim"]
    ) -> tuple[Float[Array, "rows dim"], None]:
        share = matmul(rows, vector) * (2.0 / jnp.sum(vector**2))
        return (rows - jnp.outer(share, vector)).astype(rows.dtype), None

    def turn(x: Event, *, reverse: bool) -> tuple[Event, Scalar]:
        rows = x.reshape(-1, x.shape[-1])
        rows, _ = jax.lax.scan(reflect, rows, vectors, reverse=reverse)
        return rows.reshape(x.shape), jnp.zeros((), x.dtype)

    return Bijection(lambda x: turn(x, reverse=False), lambda z: turn(z, reverse=True))


def reverse() -> Bijection:
    """The last axis back to front; log |det| = 0.

    Returns:
        The bijection, its own inverse.
    """

    def flip(x: Event) -> tuple[Event, Scalar]:
        return x[..., ::-1], jnp.zeros((), x.dtype)

    return Bijection(flip, flip)
