"""Importance-weighted bounds on log p(x).

With log weights log w_k = log p(x, z_k) - log q(z_k | x), z_k ~ q,

    L_K = E log 1/K sum_k w_k,   L_1 = ELBO,   L_K <= L_{K+1} <= log p(x)            (1)

(Burda et al. 2016, theorem 1). ``Accumulator`` sums weights as they come, so memory
does not grow with K.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.numerics import expm1_minus_over_square, log_mean_exp
from vgm.shapes import require, require_draws, require_positive
from vgm.types import PRNGKey, Scalar


def iwae(log_w: Float[Array, " samples"]) -> Scalar:
    """The K-sample bound of one example, log 1/K sum exp(log_w), in nats.

    >>> import jax.numpy as jnp
    >>> float(iwae(jnp.asarray([-2.0, -2.0, -2.0])))
    -2.0

    Args:
        log_w: Log importance weights of one example.

    Returns:
        One draw of L_K (Burda et al. 2016, eq. 8).

    Raises:
        ValueError: If log_w has another axis than that of the draws.
    """
    require_draws("importance.iwae", log_w=log_w)
    return log_mean_exp(log_w)


def effective_sample_size(log_w: Float[Array, " samples"]) -> Scalar:
    """(sum w)^2 / sum w^2, between 1 and K (Kong 1992).

    >>> import jax.numpy as jnp
    >>> float(effective_sample_size(jnp.zeros(5)))
    5.0

    Args:
        log_w: Log importance weights of one example.

    Returns:
        The number of equally weighted draws worth as much.

    Raises:
        ValueError: If log_w has another axis than that of the draws.
    """
    require_draws("importance.effective_sample_size", log_w=log_w)
    return effective_samples(accumulate(empty_accumulator(jnp.zeros(())), log_w))


def naive(log_likelihood: Float[Array, " samples"]) -> Scalar:
    """Naive Monte Carlo evidence: ``iwae`` with the prior as q, w_k = p(x | z_k).

    >>> import jax.numpy as jnp
    >>> float(naive(jnp.log(jnp.asarray([0.2, 0.4]))))
    -1.204

    Args:
        log_likelihood: log p(x | z_k) at draws z_k ~ p(z).

    Returns:
        log 1/K sum p(x | z_k), in nats.

    Raises:
        ValueError: If log_likelihood has another axis than that of the draws.
    """
    require_draws("importance.naive", log_likelihood=log_likelihood)
    return log_mean_exp(log_likelihood)


def renyi(log_w: Float[Array, " samples"], alpha: Scalar) -> Scalar:
    """The variational Renyi bound of order alpha (Li & Turner 2016, eq. 11), in nats.

    With d = 1 - alpha, mean m of the log weights and y_k = d (log w_k - m),

        log( 1/K sum w^d ) / d = m + log1p( 1/K sum [exp(y) - 1 - y] ) / d,

    stable through alpha = 1, where it is the mean log weight. alpha = 0 is ``iwae``,
    alpha < 0 tends to an upper bound on log p(x); it never rises with alpha, from the
    largest log weight at -inf to the smallest at inf.

    >>> import jax.numpy as jnp
    >>> float(renyi(jnp.asarray([-2.0, -4.0]), jnp.asarray(1.0)))
    -3.0

    Args:
        log_w: Log importance weights of one example.
        alpha: Order, any real number or an infinite one.

    Returns:
        The bound.

    Raises:
        ValueError: If log_w has another axis than that of the draws, or alpha has one.
    """
    require_draws("importance.renyi", log_w=log_w)
    require("importance.renyi: alpha (over orders use jax.vmap)", alpha, ())
    log_w = jnp.asarray(log_w, jnp.result_type(log_w, float))
    alpha = jnp.asarray(alpha, log_w.dtype)
    d = 1.0 - jnp.where(jnp.isinf(alpha), 0.0, alpha)
    mean = jnp.mean(log_w)
    # A weight of 0 has no mean logarithm to centre on: the plain form serves.
    centre = jnp.where(jnp.isfinite(mean), mean, 0.0)
    none = jnp.isneginf(log_w)
    y = d * jnp.where(none, 0.0, log_w - centre)
    y = jnp.where(none, jnp.where(d > 0.0, -jnp.inf, jnp.inf), y)
    small = jnp.all(jnp.abs(y) < 1.0) & jnp.isfinite(mean)
    near = jnp.where(small, log_w - centre, 0.0)
    # mean [exp(y) - 1 - y] = d a: divided by d in closed form, derivatives too.
    a = d * jnp.mean(near**2 * expm1_minus_over_square(d * near))
    ratio = jnp.where(d * a == 0.0, 1.0, jnp.log1p(d * a) / _nonzero(d * a))
    large = log_mean_exp(jnp.where(small, 0.0, y)) / _nonzero(d)
    bound = centre + jnp.where(small, a * ratio, large)
    bound = jnp.where((d == 0.0) & ~small, mean, bound)
    bound = jnp.where(jnp.isneginf(alpha), jnp.max(log_w), bound)
    return jnp.where(jnp.isposinf(alpha), jnp.min(log_w), bound)


def _nonzero(x: Scalar) -> Scalar:
    return jnp.where(x == 0.0, 1.0, x)


class Accumulator(NamedTuple):
    """Sums over importance weights, relative to the largest; constant memory in K.

    Sums of exp(log_w - maximum) keep their digits where a running logarithm, at
    -10,000 nats say, would drop every further weight below half its last digit.

    Attributes:
        maximum: Largest log weight so far.
        sum_weights: sum exp(log_w - maximum).
        sum_squares: sum exp(2 (log_w - maximum)).
        num_samples: Number of weights.
    """

    maximum: Float[Array, "*batch"]
    sum_weights: Float[Array, "*batch"]
    sum_squares: Float[Array, "*batch"]
    num_samples: Float[Array, ""]


def empty_accumulator(zeros: Float[Array, "*batch"]) -> Accumulator:
    """An accumulator of no weights.

    Args:
        zeros: Zeros of the batch shape and type of the weights to come.

    Returns:
        Sums over nothing.
    """
    return Accumulator(zeros - jnp.inf, zeros, zeros, jnp.zeros((), zeros.dtype))


def accumulate(
    accumulator: Accumulator, log_w: Float[Array, " samples *batch"]
) -> Accumulator:
    """Add weights; samples on the first axis.

    Args:
        accumulator: Sums so far.
        log_w: New log importance weights.

    Returns:
        Sums including the new weights.
    """
    maximum = jnp.maximum(accumulator.maximum, jnp.max(log_w, axis=0))
    # Weights of 0 so far: subtract a finite shift, never -inf from -inf.
    shift = jnp.where(jnp.isfinite(maximum), maximum, 0.0)
    rescale = jnp.exp(accumulator.maximum - shift)
    weights = jnp.exp(log_w - shift[None])
    return Accumulator(
        maximum,
        accumulator.sum_weights * rescale + jnp.sum(weights, axis=0),
        accumulator.sum_squares * rescale**2 + jnp.sum(weights**2, axis=0),
        accumulator.num_samples + log_w.shape[0],
    )


def log_evidence(accumulator: Accumulator) -> Float[Array, "*batch"]:
    """The K-sample bound of all accumulated weights, in nats: L_K of (1).

    Args:
        accumulator: Sums over K weights.

    Returns:
        log 1/K sum w.
    """
    mean = accumulator.sum_weights / accumulator.num_samples
    return accumulator.maximum + jnp.where(mean > 0.0, jnp.log(mean), 0.0)


def effective_samples(accumulator: Accumulator) -> Float[Array, "*batch"]:
    """Effective sample size of all accumulated weights; 0 if every weight is 0.

    Args:
        accumulator: Sums over K weights.

    Returns:
        (sum w)^2 / sum w^2.
    """
    none = accumulator.sum_squares == 0.0
    squares = jnp.where(none, 1.0, accumulator.sum_squares)
    return jnp.where(none, 0.0, accumulator.sum_weights**2 / squares)


def stream(
    key: PRNGKey,
    log_weight: Callable[[PRNGKey], Float[Array, "*batch"]],
    *,
    num_samples: int,
    chunk_size: int,
) -> Accumulator:
    """Draw and accumulate log weights, ``chunk_size`` at a time.

    Whatever does not depend on the draw (the encoder) belongs outside ``log_weight``:
    close over it, so that it is computed once.

    Args:
        key: Random key; draw k uses ``fold_in(key, k)``, so that K draws are the first
            of K + 1 and the chunk size does not change the result's draws.
        log_weight: Log importance weights of a batch, from a key.
        num_samples: K, the number of draws.
        chunk_size: Draws computed at once.

    Returns:
        The sums over K weights, with the batch shape of ``log_weight``.

    Raises:
        ValueError: If ``num_samples`` or ``chunk_size`` is less than 1.
    """
    require_positive(num_samples=num_samples, chunk_size=chunk_size)
    chunk_size = min(chunk_size, num_samples)
    # On the devices of the weights (``jax.shard_map``); halves cannot count to K.
    like = jax.eval_shape(log_weight, key)
    zeros = jnp.zeros_like(like, jnp.promote_types(like.dtype, jnp.float32))
    draw = jax.vmap(lambda index: log_weight(jax.random.fold_in(key, index)))
    num_chunks, rest = divmod(num_samples, chunk_size)

    def add(chunk: Array, accumulator: Accumulator) -> Accumulator:
        indices = chunk * chunk_size + jnp.arange(chunk_size)
        return accumulate(accumulator, draw(indices))

    result = jax.lax.fori_loop(0, num_chunks, add, empty_accumulator(zeros))
    if rest:
        result = accumulate(result, draw(num_chunks * chunk_size + jnp.arange(rest)))
    return result
