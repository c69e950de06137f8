"""Products of float32 matrices that keep its digits on every accelerator.

Left to itself JAX multiplies them in TensorFloat32 (10 bits) on recent GPUs and in
bfloat16 (8 bits) on TPUs. Networks train well with that. A log-density has to keep its
digits and a flow its inverse, and what is reported must not depend on the machine.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

P = ParamSpec("P")
R = TypeVar("R")


def matmul(*factors: Float[Array, "..."]) -> Float[Array, "..."]:
    """The product of matrices and vectors, from the left, in the precision they have.

    >>> import jax.numpy as jnp
    >>> matmul(jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.ones(4)).shape
    (2,)

    Args:
        *factors: Factors, as of ``jnp.matmul``.

    Returns:
        The product.
    """
    return functools.reduce(functools.partial(jnp.matmul, precision="highest"), factors)


def in_full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose float32 products, those of networks too, are in float32.

    Args:
        function: What computes a number that is reported.

    Returns:
        The function.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return wrapped
