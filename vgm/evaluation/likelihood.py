"""Test likelihoods: one value an example, in nats."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vgm.bounds import importance
from vgm.bounds.elbo import ElboTerms
from vgm.models.protocol import GenerativeModel, LatentVariableModel
from vgm.precision import in_full_precision
from vgm.shapes import require_positive
from vgm.types import Batch, Condition, Observe, Params, PRNGKey


class Evidence(NamedTuple):
    """Estimates of log p(x), one an example.

    Attributes:
        log_evidence: The K-sample bound, in nats.
        effective_samples: Effective sample size out of K.
    """

    log_evidence: np.ndarray
    effective_samples: np.ndarray


@in_full_precision
def example_terms(
    key: PRNGKey,
    params: Params,
    data: Batch,
    *,
    model: GenerativeModel,
    observe: Observe,
    batch_size: int,
    num_samples: int,
) -> ElboTerms:
    """The bound's terms of every example, averaged over draws; compile with ``jit``.

    Args:
        key: Random key; with the same key, the same draws.
        params: Parameters.
        data: Stored examples.
        model: Model.
        observe: Maps stored values to observations.
        batch_size: Examples at once.
        num_samples: Draws an example.

    Returns:
        Terms, one value an example, in nats.

    Raises:
        ValueError: If there is no draw.
    """
    require_positive(num_samples=num_samples)

    def one_batch(key: PRNGKey, x: Any, condition: Condition) -> ElboTerms:
        def draw(key: PRNGKey) -> ElboTerms:
            return model.elbo_terms(key, params, x, condition)

        draws = jax.vmap(draw)(jax.random.split(key, num_samples))
        return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), draws)

    return _map_batches(one_batch, key, data, observe, batch_size)


@in_full_precision
def example_bounds(
    key: PRNGKey,
    params: Params,
    data: Batch,
    *,
    model: GenerativeModel,
    observe: Observe,
    batch_size: int,
    num_samples: int,
    chunk_size: int,
) -> Float[Array, " batch"]:
    """One draw of every example's K-sample bound; compile with ``jit``.

    Args:
        key: Random key; with the same key, the same draws.
        params: Parameters.
        data: Stored examples.
        model: Model.
        observe: Maps stored values to observations.
        batch_size: Examples at once.
        num_samples: K.
        chunk_size: Draws at once.

    Returns:
        Bounds, one an example, in nats.
    """

    def one_batch(key: PRNGKey, x: Any, condition: Condition) -> Any:
        sums = batch_evidence(
            key,
            params,
            x,
            condition,
            model=model,
            num_samples=num_samples,
            chunk_size=chunk_size,
        )
        return importance.log_evidence(sums)

    return _map_batches(one_batch, key, data, observe, batch_size)


def _map_batches(
    one_batch: Callable[[PRNGKey, Any, Condition], Any],
    key: PRNGKey,
    data: Batch,
    observe: Observe,
    batch_size: int,
) -> Any:
    """Results of ``one_batch`` for every example, in order."""
    key_observe, key_draws = jax.random.split(key)
    x = observe(key_observe, data.x)
    num_examples = len(data.weight)
    batch_size = balanced(num_examples, batch_size)
    num_batches = -(-num_examples // batch_size)
    # The last batch is filled up with first examples, whose results are cut off again.
    index = jnp.arange(num_batches * batch_size) % num_examples
    index = index.reshape(num_batches, batch_size)
    batched = jax.tree.map(lambda leaf: leaf[index], (x, data.condition))
    keys = jax.random.split(key_draws, num_batches)
    results = jax.lax.map(lambda inputs: one_batch(*inputs), (keys, *batched))
    return jax.tree.map(
        lambda leaf: leaf.reshape(index.size, *leaf.shape[2:])[:num_examples], results
    )


def balanced(num_examples: int, batch_size: int) -> int:
    """The size of batches when no more of them are as full as one another.

    >>> balanced(297, 250), balanced(10_000, 250), balanced(9, 250)
    (149, 250, 9)

    Args:
        num_examples: Number of examples.
        batch_size: Most examples in a batch.

    Returns:
        The size; the last batch may lack a few.
    """
    return -(-num_examples // -(-num_examples // batch_size))


def batch_evidence(
    key: PRNGKey,
    params: Params,
    x: Any,
    condition: Condition,
    *,
    model: GenerativeModel,
    num_samples: int,
    chunk_size: int,
) -> importance.Accumulator:
    """K log weights of every example of a batch, in constant memory.

    The encoder of a ``LatentVariableModel`` is evaluated once.

    Args:
        key: Random key.
        params: Parameters.
        x: Observations.
        condition: What they are conditioned on.
        model: Model.
        num_samples: K.
        chunk_size: Draws at once.

    Returns:
        Sums over the weights.
    """
    if isinstance(model, LatentVariableModel):
        encoding = model.encode(params, x, condition)

        def log_weight(key: PRNGKey) -> Float[Array, " batch"]:
            return model.log_weight_given(key, params, x, encoding, condition)

    else:

        def log_weight(key: PRNGKey) -> Float[Array, " batch"]:
            return model.log_weight(key, params, x, condition)

    return importance.stream(
        key, log_weight, num_samples=num_samples, chunk_size=chunk_size
    )


@in_full_precision
def example_evidence(
    key: PRNGKey,
    params: Params,
    data: Batch,
    *,
    model: GenerativeModel,
    observe: Observe,
    batch_size: int,
    num_samples: int,
    chunk_size: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Evidence:
    """The K-sample bound of every example, batch by batch.

    Args:
        key: Random key; observations are drawn as in ``example_terms`` of this key.
        params: Parameters.
        data: Stored examples.
        model: Model.
        observe: Maps stored values to observations.
        batch_size: Examples at once.
        num_samples: K.
        chunk_size: Draws at once.
        progress: Told after each batch how many examples are done.

    Returns:
        Estimates, one an example.
    """
    key_observe, key_draws = jax.random.split(key)
    x = jax.jit(observe)(key_observe, data.x)
    num_examples = len(data.weight)
    batch_size = balanced(num_examples, batch_size)

    # The data are arguments: closed over, they would be copied into the program.
    @jax.jit
    def one_batch(key: PRNGKey, params: Params, given: Any, index: Array) -> Any:
        rows, condition = jax.tree.map(lambda leaf: leaf[index], given)
        sums = batch_evidence(
            key,
            params,
            rows,
            condition,
            model=model,
            num_samples=num_samples,
            chunk_size=chunk_size,
        )
        return importance.log_evidence(sums), importance.effective_samples(sums)

    rows, given = [], (x, data.condition)
    for number, start in enumerate(range(0, num_examples, batch_size)):
        index = jnp.arange(start, start + batch_size) % num_examples
        key_batch = jax.random.fold_in(key_draws, number)
        rows.append(jax.device_get(one_batch(key_batch, params, given, index)))
        progress(min(start + batch_size, num_examples))
    log_evidence, effective = (
        np.concatenate(column)[:num_examples] for column in zip(*rows, strict=True)
    )
    return Evidence(log_evidence, effective)
