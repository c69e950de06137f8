"""Values whose derivatives are another's: what gradient estimators are made of."""

import jax
from jaxtyping import Array


@jax.custom_jvp
def with_gradient_of(value: Array, surrogate: Array) -> Array:
    """``value`` with the derivatives of ``surrogate``.

    Args:
        value: What is returned.
        surrogate: What is differentiated, of the same shape.

    Returns:
        The value.
    """
    del surrogate
    return value


@with_gradient_of.defjvp
def _derivative_of_surrogate(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    return primals[0], tangents[1]


def scale_cotangent(leaf: Array, weights: Array) -> Array:
    """``leaf`` itself, its cotangent multiplied by ``weights`` of the leading axes.

    Args:
        leaf: What is returned.
        weights: One number for each index of the leading axes.

    Returns:
        The leaf.
    """

    @jax.custom_vjp
    def identity(leaf: Array, weights: Array) -> Array:
        del weights
        return leaf

    def forward(leaf: Array, weights: Array) -> tuple[Array, Array]:
        return leaf, weights

    def backward(weights: Array, cotangent: Array) -> tuple[Array, None]:
        rest = cotangent.ndim - weights.ndim
        return cotangent * weights.reshape(*weights.shape, *([1] * rest)), None

    identity.defvjp(forward, backward)
    return identity(leaf, weights)
