"""One training step: a pure function of (key, state, batch)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from vgm.training.objective import ValueAndGrad, weighted_mean
from vgm.types import Batch, Params, PRNGKey, Scalar


class TrainState(NamedTuple):
    """Everything that training changes; the key of step n is ``fold_in(key, n)``.

    Attributes:
        step: Steps taken.
        params: Parameters.
        ema_params: Their exponential moving average, or None.
        opt_state: Optimiser state.
        num_skipped: Steps skipped in a row, up to this one.
    """

    step: Int[Array, ""]
    params: Params
    ema_params: Params | None
    opt_state: Any
    num_skipped: Int[Array, ""]


MAX_SKIPPED = 10
"""Steps with large gradients that are skipped in a row: one that comes back every time
is no accident, and skipping for ever would end the training."""


class StepMetrics(NamedTuple):
    """What one step reports, in nats where a bound is meant; means over the batch.

    Attributes:
        loss: The objective.
        elbo: The ELBO, of further draws where the objective is another bound.
        reconstruction: E log p(x | z).
        prior_matching: KL of the top latent.
        denoising_matching: Sum of the other divergences.
        grad_norm: Global norm of the gradients.
        skipped: 1 if the gradients were not finite, or too large, and nothing changed;
            else 0.
    """

    loss: Float[Array, ""]
    elbo: Float[Array, ""]
    reconstruction: Float[Array, ""]
    prior_matching: Float[Array, ""]
    denoising_matching: Float[Array, ""]
    grad_norm: Float[Array, ""]
    skipped: Float[Array, ""]


def init_state(
    params: Params, optimizer: optax.GradientTransformation, *, ema_decay: float = 0.0
) -> TrainState:
    """The state before the first step.

    Args:
        params: Starting parameters; copied, so that they outlive a donated state.
        optimizer: Optimiser.
        ema_decay: Decay of the parameters' average; 0 keeps none.

    Returns:
        The state, sharing no buffer between its parts, so that it can be donated.
    """
    # Weak types would turn strong in the first step: a second compilation.
    params = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.result_type(leaf)), params)
    ema_params = jax.tree.map(jnp.copy, params) if ema_decay else None
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        zero, params, ema_params, optimizer.init(params), jnp.zeros_like(zero)
    )


def train_step(
    key: PRNGKey,
    state: TrainState,
    batch: Batch,
    *,
    value_and_grad: ValueAndGrad,
    optimizer: optax.GradientTransformation,
    ema_decay: float = 0.0,
    skip_norm: float = 0.0,
) -> tuple[TrainState, StepMetrics]:
    """Take one step.

    Args:
        key: Key of this step.
        state: State before.
        batch: Examples.
        value_and_grad: Objective.
        optimizer: Optimiser.
        ema_decay: Decay of the parameters' average; early on the average is shorter,
            min(decay, (1 + n) / (10 + n)) at step n.
        skip_norm: Gradient norm above which a step is not taken (Child 2021), but for
            one after ``MAX_SKIPPED`` that were not; 0 for none.

    Returns:
        State after, and the step's metrics. Where the gradients are not finite, or too
        large, only the counters change.
    """
    (loss, terms), grads = value_and_grad(key, state.params, batch)
    grad_norm = optax.tree.norm(grads)
    taken = jnp.isfinite(grad_norm)
    if skip_norm:
        taken &= (grad_norm <= skip_norm) | (state.num_skipped >= MAX_SKIPPED)
    # Without the barrier XLA's CPU backend computes parts of the gradients once more,
    # inside the update.
    grads, taken = jax.lax.optimization_barrier((grads, taken))
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema_params = state.ema_params
    if ema_params is not None:
        decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema_params = optax.incremental_update(params, ema_params, 1.0 - decay)
    zero = jnp.zeros_like(state.num_skipped)
    new = TrainState(state.step, params, ema_params, opt_state, zero)
    # A select fuses into the update, where a conditional would copy the state.
    new = jax.tree.map(
        lambda after, before: jnp.where(taken, after, before), new, state
    )
    denoising = jnp.sum(terms.denoising_matching, axis=-1)

    def mean(values: Float[Array, " batch"]) -> Scalar:
        return weighted_mean(values, batch.weight)

    metrics = StepMetrics(
        loss,
        mean(terms.elbo),
        mean(terms.reconstruction),
        mean(terms.prior_matching),
        mean(denoising),
        grad_norm,
        1.0 - taken.astype(jnp.float32),
    )
    new = new._replace(
        step=state.step + 1,
        num_skipped=jnp.where(taken, zero, state.num_skipped + 1),
    )
    return new, metrics
