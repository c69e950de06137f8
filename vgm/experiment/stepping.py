"""From a configuration to its optimiser, its objective and a step of training."""

from typing import Any

from jaxtyping import Array

from vgm import configs
from vgm.bounds import gradients
from vgm.models import GenerativeModel
from vgm.models.diffusion import Diffusion
from vgm.models.flow import Flow
from vgm.training import loop, objective, optimizers
from vgm.training.step import StepMetrics, TrainState, train_step
from vgm.types import Batch, PRNGKey

ERRORS = ("weighted", "flow-matching")
"""Objectives that are squared errors, no bounds, and come with none."""


def make_optimizer(config: configs.Config) -> Any:
    """The optimiser of a configuration.

    Args:
        config: Configuration.

    Returns:
        An Optax transformation.
    """
    spec = config.optimizer
    schedule = optimizers.learning_rate_schedule(
        spec.schedule,
        spec.learning_rate,
        num_steps=config.train.num_steps,
        warmup_steps=spec.warmup_steps,
    )
    return optimizers.optimizer(
        schedule,
        b1=spec.b1,
        b2=spec.b2,
        eps=spec.eps,
        weight_decay=spec.weight_decay,
        clip_norm=spec.clip_norm,
    )


def value_and_grad(
    config: configs.Config, model: GenerativeModel, step: Array | None = None
) -> objective.ValueAndGrad:
    """The objective of a configuration.

    Args:
        config: Configuration.
        model: Model.
        step: Steps taken before, for a warm-up; None after it.

    Returns:
        A function (key, params, batch) -> ((loss, terms), gradients).

    Raises:
        UserError: If the model does not offer what the objective needs.
    """
    spec = config.objective
    if isinstance(model, Diffusion):
        if spec.name == "weighted":
            return objective.weighted_error(model, weighting=spec.weighting)
        if spec.gradient == "least-variance":
            return objective.least_variance(model)
    if isinstance(model, Flow) and spec.name == "flow-matching":
        return objective.flow_matching(model)
    if spec.name == "elbo" and spec.gradient in ("pathwise", "straight-through"):
        weight = None
        if spec.kl_warmup_steps and step is not None:
            weight = optimizers.kl_warmup(step, spec.kl_warmup_steps)
        return objective.negative_elbo(
            model,
            num_samples=spec.num_samples,
            kl_weight=weight,
            free_nats=spec.free_nats or None,
        )
    estimators = {
        "elbo": gradients.ELBO_ESTIMATORS,
        "iwae": gradients.IWAE_ESTIMATORS,
    }
    return objective.negative_bound(
        model,
        num_samples=spec.num_samples,
        estimator=estimators[spec.name][spec.gradient],
    )


def make_step(
    config: configs.Config, model: GenerativeModel, optimizer: Any
) -> loop.Step:
    """The training step of a configuration.

    Args:
        config: Configuration.
        model: Model.
        optimizer: Optimiser.

    Returns:
        A function (key, state, batch) -> (state, metrics).
    """

    def step(
        key: PRNGKey, state: TrainState, batch: Batch
    ) -> tuple[TrainState, StepMetrics]:
        return train_step(
            key,
            state,
            batch,
            value_and_grad=value_and_grad(config, model, state.step),
            optimizer=optimizer,
            ema_decay=config.optimizer.ema_decay,
            skip_norm=config.optimizer.skip_norm,
        )

    return step
