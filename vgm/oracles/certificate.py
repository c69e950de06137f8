"""Is an estimator what it says? Its weights against exact evidence, in a table."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.bounds import importance, pareto
from vgm.types import PRNGKey, Scalar


class Certificate(NamedTuple):
    """What weights say of the exact log p(x), one column for each K.

    Attributes:
        bias: E[w] / p(x) - 1, estimated.
        bias_in_stderrs: The same in its standard errors: beyond 3 something is wrong,
            unless the tail is too heavy.
        tail_index: Of the weights' tail (``bounds.pareto``). Above 0.7 the mean weight
            and its error are both too low, more often than not, and decide nothing. NaN
            below 25 draws.
        num_samples: Each K.
        gap: log p(x) - L_K, in nats: never negative but by chance, falling with K.
        gap_stderr: Its standard error.
        rises: Each L_K is above the last, within 3 standard errors.
    """

    bias: Scalar
    bias_in_stderrs: Scalar
    tail_index: Scalar
    num_samples: tuple[int, ...]
    gap: Float[Array, " ks"]
    gap_stderr: Float[Array, " ks"]
    rises: Array

    def __str__(self) -> str:
        """The table."""
        sign = "passes" if bool(abs(self.bias_in_stderrs) <= 3.0) else "FAILS"
        # A heavy tail explains a mean too low, not one too high.
        heavy = self.tail_index > pareto.GOOD_TAIL_INDEX
        if bool(heavy & (self.bias_in_stderrs <= 3.0)):
            sign = f"undecided, for their tail is heavy (k = {self.tail_index:.1f})"
        lines = [
            f"E[w]/p(x) - 1 = {float(self.bias):+.4f}, "
            f"{float(self.bias_in_stderrs):+.1f} standard errors: {sign}",
            "     K   log p(x) - L_K, nats",
        ]
        rows = zip(self.num_samples, self.gap, self.gap_stderr, strict=True)
        lines += [f"{k:6d}   {gap:.4f} ± {stderr:.4f}" for k, gap, stderr in rows]
        word = "rises" if bool(jnp.all(self.rises)) else "DOES NOT RISE"
        return "\n".join([*lines, f"L_K {word} with K"])


def certify(
    key: PRNGKey,
    log_weight: Callable[[PRNGKey], Scalar],
    log_evidence: Scalar,
    *,
    num_samples: tuple[int, ...] = (1, 4, 16, 64),
    num_repetitions: int = 1024,
) -> Certificate:
    """Hold an estimator's weights against an oracle's evidence.

    >>> import jax, jax.numpy as jnp
    >>> exact = jnp.asarray(-1.5)
    >>> constant = certify(jax.random.key(0), lambda key: exact, exact)
    >>> float(constant.bias), constant.gap.tolist()
    (0.0, [0.0, 0.0, 0.0, 0.0])

    Args:
        key: Random key.
        log_weight: One draw of log w from a key, for one x.
        log_evidence: Exact log p(x), in nats.
        num_samples: Each K at which L_K is estimated, rising.
        num_repetitions: Independent draws of the largest bound.

    Returns:
        The certificate; print it.

    Raises:
        ValueError: If the numbers of samples do not rise.
    """
    if list(num_samples) != sorted(set(num_samples)):
        raise ValueError(f"num_samples must rise; got {num_samples}")
    keys = jax.random.split(key, num_repetitions * num_samples[-1])
    log_w = jax.jit(jax.vmap(log_weight))(keys)
    fields = _fields(log_w, jnp.asarray(log_evidence), tuple(num_samples))
    return Certificate(num_samples=tuple(num_samples), **fields)


@functools.partial(jax.jit, static_argnames="num_samples")
def _fields(
    raw: Float[Array, " draws"], log_evidence: Scalar, num_samples: tuple[int, ...]
) -> dict[str, Array]:
    # Weights are known to rounding of their own size, and no error is smaller.
    size = jnp.maximum(1.0, jnp.maximum(jnp.abs(log_evidence), jnp.max(jnp.abs(raw))))
    rounding = 10.0 * jnp.finfo(raw.dtype).eps * size
    log_w = raw - log_evidence
    bias, bias_stderr = _mean(jnp.expm1(log_w))
    gaps, errors = [], []
    for count in num_samples:
        usable = log_w[: log_w.size // count * count].reshape(-1, count)
        gap, error = _mean(-jax.vmap(importance.iwae)(usable))
        gaps.append(gap)
        errors.append(error)
    gap, stderr = jnp.stack(gaps), jnp.stack(errors)
    slack = 3.0 * jnp.hypot(stderr[1:], stderr[:-1]) + rounding
    return {
        "bias": bias,
        "bias_in_stderrs": bias / jnp.maximum(bias_stderr, rounding),
        "tail_index": _tail_index(log_w),
        "gap": gap,
        "gap_stderr": stderr,
        "rises": gap[1:] <= gap[:-1] + slack,
    }


def _tail_index(log_w: Float[Array, " draws"]) -> Scalar:
    if log_w.size < pareto.MIN_SAMPLES:
        return jnp.asarray(jnp.nan, log_w.dtype)
    return pareto.tail_index(log_w)


def _mean(values: Float[Array, " draws"]) -> tuple[Scalar, Scalar]:
    return jnp.mean(values), jnp.std(values, ddof=1) / values.size**0.5
