"""Arithmetic that keeps its digits."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


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
    # Where all weights are 0 the value is -inf and the derivative 0, never NaN; where
    # one of them is NaN, it is NaN.
    none = mean == 0.0
    return jnp.where(none, -jnp.inf, jnp.log(jnp.where(none, 1.0, mean)) + shift)


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


# log 2 in two parts: any multiple of the first that is used is exact in float32.
_LOG2_HIGH = 355.0 / 512.0
_LOG2_LOW = -2.121944400546905827678785e-4


@jax.custom_jvp
def sum_half_expm1_minus(
    x: Float[Array, "*shape"], plus: Float[Array, "*shape"]
) -> Float[Array, ""]:
    """Sum of (exp(x) - 1 - x) / 2, which is never negative, and of other numbers.

    With x = k log 2 + r, |r| <= log(2) / 2, and g(r) = exp(r) - 1 - r, a series, the
    first are halves of

        2^k g(r) + (2^k - 1) r + (2^k - 1 - k log 2),

    in which little cancels: exact at k = 0, a few last digits elsewhere.

    >>> import jax.numpy as jnp
    >>> float(sum_half_expm1_minus(jnp.full(2, 1e-4), jnp.zeros(2))) > 0
    True

    Args:
        x: Any finite numbers.
        plus: What is added to each.

    Returns:
        Sum of (exp(x) - 1 - x) / 2 + plus.
    """
    x, plus = jnp.broadcast_arrays(x, plus)
    dtype = jnp.result_type(x, plus, float)
    # Half precision has neither the digits nor the exponents.
    x, plus = (part.astype(jnp.promote_types(dtype, jnp.float32)) for part in (x, plus))
    # XLA's CPU backend computes the summands in one loop and their sum in another: what
    # is added up in the first, a part to each other, need not be written between.
    parts = _num_parts(x.size)
    total = jnp.zeros((), x.dtype)
    for some, more in zip(x.reshape(parts, -1), plus.reshape(parts, -1), strict=True):
        total = _half_expm1_minus(some, total + more)
    return jnp.sum(total).astype(dtype)


@sum_half_expm1_minus.defjvp
def _sum_half_expm1_minus_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    (x, plus), (dx, dplus) = primals, tangents
    slope = 0.5 * jnp.expm1(x)
    return sum_half_expm1_minus(x, plus), jnp.sum(slope * dx + dplus)


def _num_parts(size: int) -> int:
    """Few numbers one by one; else four parts, or fewer: below 32 each it is slow."""
    if size <= 8:
        return max(size, 1)
    return max(
        parts
        for parts in (1, 2, 4)
        if size % parts == 0 and (size // parts >= 32 or parts == 1)
    )


def _half_expm1_minus(x: Array, plus: Array) -> Array:
    """(exp(x) - 1 - x) / 2 + plus, added in both branches: outside it is slower."""
    # From 2^maxexp on exp(x) overflows; the halves of 2^k do not before.
    k = jnp.round(x * (1.0 / math.log(2.0)))
    k = jnp.minimum(k, float(jnp.finfo(x.dtype).maxexp))
    r = (x - k * _LOG2_HIGH) - k * _LOG2_LOW
    half_power = _power_of_two(k - 1.0)
    rise = half_power - 0.5
    constant = (rise - k * (0.5 * _LOG2_HIGH)) - k * (0.5 * _LOG2_LOW)
    series = _exponential_series(r, 8 if x.dtype.itemsize == 4 else 14)
    value = (half_power * (r * r)) * series + (rise * r + (constant + plus))
    # Far below 0 exp(x) is nothing beside 1 + x, and 2^k has no exponent.
    return jnp.where(x > -50.0, value, (plus - 0.5) - 0.5 * x)


def _power_of_two(k: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """2^k for whole k: its exponent's bits; infinite from the largest exponent on."""
    info = jnp.finfo(k.dtype)
    integer = jnp.int32 if k.dtype.itemsize == 4 else jnp.int64
    bits = (k.astype(integer) + (info.maxexp - 1)) << info.nmant
    return jax.lax.bitcast_convert_type(bits, k.dtype)


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
    return _exponential_series(x, 11 if x.dtype.itemsize <= 4 else 19)


def _exponential_series(x: Float[Array, "*shape"], last: int) -> Array:
    """Sum of x^(n - 2) / n! over 2 <= n <= last.

    The first term left out is to be below half the last digit of 1/2.
    """
    series = jnp.full_like(x, 1.0 / math.factorial(last))
    for n in range(last - 1, 1, -1):
        series = series * x + 1.0 / math.factorial(n)
    return series


def at_least_float32(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The numbers in float32, or in double precision as they are.

    Args:
        x: Numbers of any precision.

    Returns:
        The same numbers.
    """
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


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


@jax.custom_jvp
def with_gradient_of(
    value: Float[Array, "*shape"], surrogate: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """A value with the derivatives of another.

    Args:
        value: What is returned.
        surrogate: What is differentiated.

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
