"""Arithmetic that keeps its digits."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def log1mexp(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Logarithm of 1 - exp(-x) for x > 0.

    ``expm1`` keeps the digits of a small x and the value goes to 0 for a large one.

    >>> import jax.numpy as jnp
    >>> float(log1mexp(jnp.log(jnp.asarray(2.0))))
    -0.6931

    Args:
        x: Positive numbers.

    Returns:
        log(1 - exp(-x)), elementwise; -inf at 0.
    """
    return jnp.log(-jnp.expm1(-x))


def log_mean_exp(x: Float[Array, " samples"]) -> Float[Array, ""]:
    """Logarithm of the mean of exp(x), without overflow.

    >>> import jax.numpy as jnp
    >>> float(log_mean_exp(jnp.asarray([1000.0, 1000.0])))
    1000.0

    Args:
        x: Logarithms.

    Returns:
        log(1/K sum exp(x_k)).
    """
    maximum = jnp.max(x)
    # An all -inf input has mean exp(x) = 0: subtract a finite shift, never inf - inf.
    shift = jnp.where(jnp.isfinite(maximum), maximum, 0.0)
    return jnp.log(jnp.mean(jnp.exp(x - shift))) + shift
