"""Expectation maximisation: coordinate ascent of L(q, params) (Neal & Hinton 1998).

The E-step chooses q, the M-step params. With q the exact posterior the bound after each
E-step *is* the evidence, which therefore never falls (Dempster et al. 1977); with q the
best of a restricted family the bound never falls, and the evidence may.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vgm.shapes import require_positive
from vgm.types import Params, Scalar

Statistics = Any
"""What the M-step needs of q and the data: sums, whose size is not the data's."""


class Fit(NamedTuple):
    """A finished run.

    Attributes:
        params: Parameters.
        bounds: Bound after each E-step, NaN where none was taken, in nats an example.
        num_steps: E-steps taken.
        converged: The bound changed by less than the tolerance.
    """

    params: Params
    bounds: Float[Array, " steps"]
    num_steps: Int[Array, ""]
    converged: Bool[Array, ""]


def fit(
    e_step: Callable[[Params], tuple[Statistics, Scalar]],
    m_step: Callable[[Statistics], Params],
    params: Params,
    *,
    tolerance: float,
    max_steps: int,
) -> Fit:
    """Alternate until the bound rises by less than the tolerance.

    A bound that is not finite, or a parameter that is NaN or inf, ends the run, with
    the last parameters of a finite bound; -inf is the logarithm of an empty component.
    A bound that falls has not converged: the steps are no EM.

    Args:
        e_step: Parameters to statistics under q, and the bound at that q, in nats an
            example.
        m_step: Statistics to the parameters that maximise the bound at that q.
        params: Where to start.
        tolerance: Least rise worth another step, in nats an example.
        max_steps: Most steps.

    Returns:
        Parameters and the history of the bound.

    Raises:
        ValueError: If there is no step to take.
    """
    require_positive(max_steps=max_steps)

    class State(NamedTuple):
        params: Params
        previous: Params
        bounds: Array
        step: Array
        converged: Array
        failed: Array

    def proceed(state: State) -> Array:
        return ~state.converged & ~state.failed & (state.step < max_steps)

    def advance(state: State) -> State:
        statistics, bound = e_step(state.params)
        before = state.bounds[jnp.maximum(state.step - 1, 0)]
        new = m_step(statistics)
        lost = ~jnp.isfinite(bound)
        failed = lost | ~_all_numbers(new)

        def keep(new: Array, now: Array, previous: Array) -> Array:
            return jnp.where(lost, previous, jnp.where(failed, now, new))

        after = jax.tree.map(keep, new, state.params, state.previous)
        return State(
            after,
            state.params,
            state.bounds.at[state.step].set(bound),
            state.step + 1,
            ~failed & (state.step > 0) & (jnp.abs(bound - before) < tolerance),
            failed,
        )

    dtype = jax.eval_shape(e_step, params)[1].dtype
    no = jnp.zeros((), bool)
    start = State(
        params,
        params,
        jnp.full(max_steps, jnp.nan, dtype),
        jnp.zeros((), jnp.int32),
        no,
        no,
    )
    end = jax.lax.while_loop(proceed, advance, start)
    return Fit(end.params, end.bounds, end.step, end.converged)


def _all_numbers(tree: Params) -> Bool[Array, ""]:
    numbers = [jnp.all(leaf < jnp.inf) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(numbers))


def summed(
    statistics: Callable[[Any], Statistics], data: Any, *, chunk_size: int
) -> Statistics:
    """Sum of one example's statistics over all examples, ``chunk_size`` at a time.

    >>> import jax.numpy as jnp
    >>> float(summed(lambda x: x**2, jnp.arange(5.0), chunk_size=2))
    30.0

    Args:
        statistics: One example to a pytree of arrays.
        data: Examples; a pytree with a leading axis.
        chunk_size: Examples at once: memory is that of a chunk.

    Returns:
        The sums.

    Raises:
        ValueError: If there is no example, or none at once.
    """
    num_examples = len(jax.tree.leaves(data)[0])
    require_positive(num_examples=num_examples, chunk_size=chunk_size)
    size = min(chunk_size, num_examples)
    num_chunks, rest = divmod(num_examples, size)

    def total(start: Any, size: int) -> Statistics:
        chunk = jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), data
        )
        values = jax.vmap(statistics)(chunk)
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), values)

    shapes = jax.eval_shape(lambda: total(0, size))
    zeros = jax.tree.map(jnp.zeros_like, shapes)
    sums = jax.lax.fori_loop(
        0,
        num_chunks,
        lambda n, sums: jax.tree.map(jnp.add, sums, total(n * size, size)),
        zeros,
    )
    if not rest:
        return sums
    # A loop of one turn: its statistics are summed as they come, even outside jit.
    return jax.lax.fori_loop(
        0,
        1,
        lambda _, sums: jax.tree.map(jnp.add, sums, total(num_chunks * size, rest)),
        sums,
    )
