"""Many steps in one dispatch, over data that lives on the device.

Step n belongs to epoch n // steps_per_epoch, whose order is the permutation drawn
from ``fold_in(key_order, epoch)``; every example is used once an epoch, the last batch
filled up with examples of weight 0. So a run is a function of (config, seed) alone:
where it was interrupted, and how many steps were dispatched at once, leaves no trace.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from vgm.training.sharding import split_batch
from vgm.training.step import StepMetrics, TrainState
from vgm.types import Batch, Observe, PRNGKey

Step = Callable[[PRNGKey, TrainState, Batch], tuple[TrainState, StepMetrics]]


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Batches in an epoch, the last one possibly short.

    >>> steps_per_epoch(60000, 128)
    469

    Args:
        num_examples: Examples in the data set.
        batch_size: Examples a batch.

    Returns:
        The quotient, rounded up.
    """
    return -(-num_examples // batch_size)


def epoch_order(
    key: PRNGKey, epoch: Int[Array, ""], num_examples: int, batch_size: int
) -> tuple[Int[Array, " padded"], Float[Array, " padded"]]:
    """Indices and weights of an epoch, padded to whole batches.

    Args:
        key: Key of the run's order.
        epoch: Number of the epoch.
        num_examples: Examples in the data set.
        batch_size: Examples a batch.

    Returns:
        Indices, each example once, and weights, 0 for the padding.
    """
    order = jax.random.permutation(jax.random.fold_in(key, epoch), num_examples)
    padding = steps_per_epoch(num_examples, batch_size) * batch_size - num_examples
    return jnp.pad(order, (0, padding)), jnp.pad(jnp.ones(num_examples), (0, padding))


def take_batch(
    data: Batch,
    order: Int[Array, " padded"],
    weights: Float[Array, " padded"],
    position: Int[Array, ""],
    *,
    batch_size: int,
) -> Batch:
    """Batch number ``position`` of an epoch.

    Args:
        data: The whole data set.
        order: Indices of the epoch.
        weights: Their weights.
        position: Which batch.
        batch_size: Examples a batch.

    Returns:
        The batch, its weights multiplied by the data's own.
    """
    start = position * batch_size
    indices = jax.lax.dynamic_slice_in_dim(order, start, batch_size)
    batch = jax.tree.map(lambda leaf: leaf[indices], data)
    weight = jax.lax.dynamic_slice_in_dim(weights, start, batch_size)
    return batch._replace(weight=batch.weight * weight)


def run_steps(
    key: PRNGKey,
    state: TrainState,
    data: Batch,
    stop: Int[Array, ""],
    *,
    step: Step,
    observe: Observe,
    batch_size: int,
    mesh: Mesh,
) -> tuple[TrainState, StepMetrics]:
    """Steps ``state.step`` to ``stop`` as one program; jit it with ``state`` donated.

    Args:
        key: Key of the run.
        state: State before.
        data: The whole data set, on the device.
        stop: Number of the step to stop before; later than ``state.step``.
        step: One training step.
        observe: Maps stored values to observations.
        batch_size: Examples a batch.
        mesh: Devices that share each batch.

    Returns:
        State after, and metrics averaged over the steps taken, NaN if there were none;
        ``skipped`` counts the others.
    """
    key_order, key_steps = jax.random.split(key)
    num_examples = len(data.weight)
    per_epoch = steps_per_epoch(num_examples, batch_size)
    start = state.step

    def one_step(
        n: Array, carry: tuple[TrainState, StepMetrics], order: Any, weights: Any
    ) -> tuple[TrainState, StepMetrics]:
        state, sums = carry
        key_observe, key_step = jax.random.split(jax.random.fold_in(key_steps, n))
        batch = take_batch(data, order, weights, n % per_epoch, batch_size=batch_size)
        batch = split_batch(batch, mesh)
        # Without the barrier XLA fuses the gather into the first matrix product, which
        # then reads single bytes from all over the data set.
        x = jax.lax.optimization_barrier(observe(key_observe, batch.x))
        batch = batch._replace(x=x)
        state, metrics = step(key_step, state, batch)
        taken = metrics.skipped == 0.0
        added = jax.tree.map(
            lambda total, value: total + jnp.where(taken, value, 0.0),
            sums,
            metrics,
        )
        return state, added._replace(skipped=sums.skipped + metrics.skipped)

    def one_epoch(
        epoch: Array, carry: tuple[TrainState, StepMetrics]
    ) -> tuple[TrainState, StepMetrics]:
        order, weights = epoch_order(key_order, epoch, num_examples, batch_size)
        return jax.lax.fori_loop(
            jnp.maximum(start, epoch * per_epoch),
            jnp.minimum(stop, (epoch + 1) * per_epoch),
            functools.partial(one_step, order=order, weights=weights),
            carry,
        )

    zeros = StepMetrics(*(jnp.zeros(()) for _ in StepMetrics._fields))
    state, sums = jax.lax.fori_loop(
        start // per_epoch, (stop - 1) // per_epoch + 1, one_epoch, (state, zeros)
    )
    counted = stop - start - sums.skipped
    # Without a step there is no mean: 0 would pass for one.
    means = jax.tree.map(
        lambda total: jnp.where(counted > 0.0, total / counted, jnp.nan), sums
    )
    return state, means._replace(skipped=sums.skipped)


def compile_ahead(
    steps: Any, key: PRNGKey, state: TrainState, data: Batch
) -> tuple[Any, float]:
    """``compile_steps`` for given arguments, compiled before the first call.

    Args:
        steps: What ``compile_steps`` returned.
        key: Key of the run.
        state: State before.
        data: The whole data set, on the device.

    Returns:
        The function, a program of JAX, and the seconds that compiling it took.
    """
    start = time.perf_counter()
    compiled = steps.lower(key, state, data, jnp.int32(0)).compile()
    return compiled, time.perf_counter() - start


def compile_steps(**settings: Any) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """``run_steps`` with its settings fixed, compiled, the state donated.

    Args:
        **settings: Keyword arguments of ``run_steps``.

    Returns:
        A function of (key, state, data, stop).
    """
    return jax.jit(functools.partial(run_steps, **settings), donate_argnums=1)
