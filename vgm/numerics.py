"""Arithmetic that keeps its digits."""

import math

import jax
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


@jax.custom_jvp
def softplus(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(1 + exp(x)), without overflow; its derivative is sigmoid(x).

    Faster on a CPU than ``jax.nn.softplus``, a general ``logaddexp`` that looks after
    infinities one by one.

    >>> import jax.numpy as jnp
    >>> float(softplus(jnp.zeros(())))
    0.6931

    Args:
        x: Any numbers.

    Returns:
        max(x, 0) + log1p(exp(-|x|)), elementwise.
    """
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _softplus_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    return softplus(x), jax.nn.sigmoid(x) * tangent


def log_sigmoid(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Logarithm of sigmoid(x) = 1 / (1 + exp(-x)).

    >>> import jax.numpy as jnp
    >>> float(log_sigmoid(jnp.zeros(())))
    -0.6931

    Args:
        x: Any numbers.

    Returns:
        -softplus(-x), elementwise.
    """
    return -softplus(-x)


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
    mean = jnp.mean(jnp.exp(x - shift))
    # Where all weights are 0 the value is -inf and the derivative 0, never NaN.
    some = mean > 0.0
    return jnp.where(some, jnp.log(jnp.where(some, mean, 1.0)) + shift, -jnp.inf)


def log_ndtr(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Logarithm of the standard normal distribution function.

    Left of -20 by ``log_ndtr_remainder``, whose derivative keeps its digits: JAX's own
    is exp(-x^2/2 - log Phi), all rounding there.

    >>> import jax.numpy as jnp
    >>> float(log_ndtr(jnp.zeros(())))
    -0.6931

    Args:
        x: Any numbers.

    Returns:
        log Phi(x), elementwise.
    """
    far = x < -20.0
    # Both branches are evaluated: each sees only inputs inside its range.
    tail = jnp.where(far, x, -20.0)
    log_tail = -0.5 * tail**2 + _log_mills_series(tail)
    return jnp.where(far, log_tail, jax.scipy.special.log_ndtr(jnp.where(far, 0.0, x)))


def log_ndtr_remainder(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Log Phi(x) + x^2 / 2: what log Phi is in the left tail beside its parabola.

    Slow where log Phi is steep, so that differences of log Phi can be taken as
    differences of squares, in closed form, and of this.

    >>> import jax.numpy as jnp
    >>> float(log_ndtr_remainder(jnp.zeros(())))
    -0.6931

    Args:
        x: Numbers, negative or small.

    Returns:
        The remainder, elementwise.
    """
    far = x < -20.0
    near = jnp.where(far, 0.0, x)
    by_value = jax.scipy.special.log_ndtr(near) + 0.5 * near**2
    return jnp.where(far, _log_mills_series(jnp.where(far, x, -20.0)), by_value)


def _log_mills_series(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The remainder for x <= -20 (Abramowitz & Stegun 1964, 26.2.12)."""
    inverse_square = 1.0 / x**2
    series = jnp.ones_like(x)
    for odd in (11, 9, 7, 5, 3, 1):
        series = 1.0 - odd * inverse_square * series
    return -jnp.log(-x * (2.0 * jnp.pi) ** 0.5 / series)


def expm1_minus(
    x: Float[Array, "*shape"], plus: float | Float[Array, "*shape"] = 0.0
) -> Float[Array, "*shape"]:
    """exp(x) - 1 - x, which is never negative, plus a number.

    Below |x| = 1 the difference cancels, and its Taylor series takes over.

    ``plus`` is added in both branches. XLA's CPU backend then computes all that a sum
    is of in one loop; what is added to the selected branch it computes, more slowly,
    while it sums.

    >>> import jax.numpy as jnp
    >>> float(expm1_minus(jnp.asarray(1e-4))) > 0
    True

    Args:
        x: Any finite numbers.
        plus: What is added.

    Returns:
        exp(x) - 1 - x + plus, elementwise.
    """
    # Both branches are evaluated: the series sees only inputs inside its range.
    small = jnp.abs(x) < 1.0
    y = jnp.where(small, x, 0.0)
    series = y * y * expm1_minus_over_square(y)
    return jnp.where(small, series + plus, jnp.exp(x) - 1.0 - x + plus)


def expm1_minus_over_square(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """(exp(x) - 1 - x) / x^2 = sum x^n / (n + 2)!, to the last digit for |x| < 1.

    >>> import jax.numpy as jnp
    >>> float(expm1_minus_over_square(jnp.zeros(())))
    0.5

    Args:
        x: Numbers between -1 and 1.

    Returns:
        The series, elementwise.
    """
    # The first term left out, relative to 1/2, is below half the last digit.
    last = 11 if x.dtype.itemsize <= 4 else 19
    series = jnp.full_like(x, 1.0 / math.factorial(last))
    for n in range(last - 1, 1, -1):
        series = series * x + 1.0 / math.factorial(n)
    return series


def sigmoid_rise(
    top: Float[Array, "*shape"], width: float | Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """sigmoid(top) - sigmoid(top - width), without cancellation.

    Args:
        top: Where it ends.
        width: How far before that it starts.

    Returns:
        The rise.
    """
    return jax.nn.sigmoid(top) * jax.nn.sigmoid(width - top) * -jnp.expm1(-width)
