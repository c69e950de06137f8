"""Training a configuration to the end, from wherever it stopped."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vgm import configs
from vgm.errors import UserError
from vgm.evaluation import estimates, likelihood
from vgm.experiment import directory, events, setup, stepping, storage
from vgm.experiment.reporter import Progress, Reporter
from vgm.experiment.setup import Experiment
from vgm.training import checkpoints, loop, sharding
from vgm.training.step import MAX_SKIPPED, StepMetrics, TrainState, init_state
from vgm.types import Batch, Params, PRNGKey

REMEDY = "lower --optimizer.learning-rate or set --optimizer.clip-norm, in a new run"


class Best(NamedTuple):
    """The parameters that a finished run would use.

    Attributes:
        params: Parameters.
        bound: Their bound on validation, in nats; None without validation, or before
            one was finite.
        step: Step they come from.
        stale: Evaluations since then.
    """

    params: Params
    bound: float | None
    step: int
    stale: int


class Fit(NamedTuple):
    """How far training has come.

    Attributes:
        state: Training state.
        best: Parameters to use so far.
        rows: Rows of metrics.
        seconds: Seconds spent training, without validation.
    """

    state: TrainState
    best: Best
    rows: list[dict[str, Any]]
    seconds: float


def train(experiment: Experiment, run_dir: Path, reporter: Reporter) -> Fit:
    """Train to the end, from the newest checkpoint where there is one.

    Args:
        experiment: Experiment.
        run_dir: Folder of the run.
        reporter: Where to talk to.

    Returns:
        State, parameters to use, metrics and seconds.

    Raises:
        UserError: If training diverges, or the batch does not divide over the devices.
    """
    config = experiment.config
    keys = setup.run_keys(config)
    key = keys.train
    mesh = sharding.data_mesh()
    sharding.require_divisible(config.train.batch_size, mesh)
    stored = setup.stored_batch(experiment, experiment.dataset.train)
    train_data = sharding.replicate(stored, mesh)
    optimizer = stepping.make_optimizer(config)
    run_steps = loop.compile_steps(
        step=stepping.make_step(config, experiment.model, optimizer),
        observe=experiment.observe_training,
        batch_size=config.train.batch_size,
        mesh=mesh,
    )
    validate = _validation(experiment, mesh, keys.validation)
    with (
        checkpoints.open_manager(run_dir / "checkpoints") as manager,
        events.writer(run_dir) as writer,
    ):
        fit = _start(experiment, run_dir, manager, optimizer, train_data, reporter)
        compiled, seconds = loop.compile_ahead(run_steps, key, fit.state, train_data)
        fit = fit._replace(seconds=fit.seconds + seconds)
        step, num_steps = int(fit.state.step), config.train.num_steps
        while step < num_steps and not _exhausted(config, fit.best):
            start = time.perf_counter()
            stop = min(step + config.train.eval_every, num_steps)
            state, metrics = compiled(key, fit.state, train_data, jnp.int32(stop))
            if not _progresses(config, metrics, state, stop - step):
                raise _diverged(stop - step, stop)
            jax.block_until_ready(state)
            elapsed = time.perf_counter() - start
            # Donation hands the state's buffers to the next dispatch: keep a copy.
            candidate = jax.tree.map(jnp.copy, state.ema_params or state.params)
            bound = validate(candidate)
            row = _row(config, metrics, bound, stop, (stop - step) / elapsed)
            fit = Fit(
                state,
                _better(fit.best, candidate, bound, stop),
                [*fit.rows, row],
                fit.seconds + elapsed,
            )
            step = stop
            _record(run_dir, manager, writer, fit)
            reporter.progress(Progress("train", step, num_steps, row))
    if step < num_steps:
        reporter.say(
            f"stopped at step {step}: no better bound on validation in "
            f"{config.train.patience} evaluations (--train.patience)"
        )
    if fit.best.bound is not None:
        reporter.say(
            f"kept the parameters of step {fit.best.step}, best on validation "
            f"({fit.best.bound:.2f} nats)"
        )
    elif experiment.dataset.validation is not None:
        reporter.say(
            f"no bound on validation was finite: kept the newest parameters, of step "
            f"{fit.best.step}"
        )
    return fit


def _start(
    experiment: Experiment,
    run_dir: Path,
    manager: Any,
    optimizer: Any,
    train_data: Batch,
    reporter: Reporter,
) -> Fit:
    """The newest readable checkpoint, or fresh parameters."""
    key_init = setup.run_keys(experiment.config).init
    mesh = sharding.data_mesh()
    init = jax.jit(functools.partial(_init, experiment, optimizer))
    abstract = jax.eval_shape(init, key_init, train_data)
    selected = abstract.ema_params or abstract.params
    restored = checkpoints.restore_latest(
        manager, abstract, selected, warn=reporter.say
    )
    if restored is None:
        state = init(key_init, train_data)
        if (source := experiment.config.train.init_from) is not None:
            _, params = directory.load(source, warn=reporter.say)
            decay = experiment.config.optimizer.ema_decay
            state = init_state(params, optimizer, ema_decay=decay)
        state = sharding.replicate(state, mesh)
        return Fit(state, Best(None, None, 0, 0), [], 0.0)
    reporter.say(f"resuming {run_dir} at step {restored.step}")
    rows = storage.read_rows(run_dir / "metrics.csv", last_step=restored.step)
    if not rows:
        reporter.say(f"{run_dir}/metrics.csv is gone: curves begin at this step")
    meta = restored.meta
    params = sharding.replicate(restored.params, mesh)
    return Fit(
        sharding.replicate(TrainState(*restored.state), mesh),
        Best(params, meta["best_bound"], meta["best_step"], meta["stale"]),
        rows,
        meta["seconds"],
    )


def _record(run_dir: Path, manager: Any, writer: Any, fit: Fit) -> None:
    """Write metrics first, then the checkpoint that stands for them."""
    storage.write_rows(run_dir / "metrics.csv", fit.rows)
    events.write_row(writer, fit.rows[-1])
    checkpoints.save(
        manager,
        fit.rows[-1]["step"],
        state=fit.state,
        params=fit.best.params,
        meta={
            "best_bound": fit.best.bound,
            "best_step": fit.best.step,
            "stale": fit.best.stale,
            "seconds": fit.seconds,
        },
    )


def _init(
    experiment: Experiment, optimizer: Any, key: PRNGKey, data: Batch
) -> TrainState:
    params = setup.init_params(key, experiment.model, data, experiment.observe)
    return init_state(
        params, optimizer, ema_decay=experiment.config.optimizer.ema_decay
    )


def _validation(
    experiment: Experiment, mesh: Any, key: PRNGKey
) -> Callable[[Params], float | None]:
    """The mean bound on validation, with the same draws every time."""
    config, split = experiment.config, experiment.dataset.validation
    if split is None:
        return lambda params: None
    stored = setup.stored_batch(experiment, split)
    stored = sharding.replicate(stored, mesh)
    settings: dict[str, Any] = {
        "model": experiment.model,
        "observe": experiment.observe,
        "batch_size": config.evaluation.batch_size,
    }
    # A model is chosen by the bound that it is trained with.
    if config.objective.name == "iwae":
        bounds = jax.jit(
            functools.partial(
                likelihood.example_bounds,
                num_samples=config.objective.num_samples,
                chunk_size=config.evaluation.chunk_size,
                **settings,
            )
        )
        return lambda params: estimates.estimate(bounds(key, params, stored)).mean
    terms = jax.jit(
        functools.partial(
            likelihood.example_terms,
            num_samples=config.evaluation.num_elbo_samples,
            **settings,
        )
    )
    return lambda params: estimates.estimate(terms(key, params, stored).elbo).mean


def _better(best: Best, params: Params, bound: float | None, step: int) -> Best:
    if bound is None:
        return Best(params, None, step, 0)
    if not np.isfinite(bound):
        newest = Best(params, None, step, best.stale)
        kept = newest if best.bound is None else best
        return kept._replace(stale=best.stale + 1)
    if best.bound is None or bound > best.bound:
        return Best(params, bound, step, 0)
    return best._replace(stale=best.stale + 1)


def _exhausted(config: configs.Config, best: Best) -> bool:
    return 0 < config.train.patience <= best.stale


def _progresses(
    config: configs.Config, metrics: StepMetrics, state: TrainState, num_steps: int
) -> bool:
    """Whether some step was taken, or those that were not were merely too large."""
    # What is skipped for longer, or without ``skip_norm``, is not finite.
    too_large = config.optimizer.skip_norm > 0 and int(state.num_skipped) <= MAX_SKIPPED
    return int(metrics.skipped) < num_steps or too_large


def _diverged(num_steps: int, step: int) -> UserError:
    return UserError(
        f"training diverged: no gradient was finite in the {num_steps} steps "
        f"before step {step}; {REMEDY}"
    )


def _row(
    config: configs.Config,
    metrics: StepMetrics,
    bound: float | None,
    step: int,
    rate: float,
) -> dict[str, Any]:
    values = jax.device_get(metrics)._asdict()
    # Where the loss is no bound, a tempered one say, the ELBO it comes with is.
    spec = config.objective
    tempered = spec.name == "elbo" and (spec.kl_warmup_steps or spec.free_nats)
    train_bound = float(values["elbo"] if tempered else -values["loss"])
    row: dict[str, Any] = {
        "step": step,
        "train_bound": None if spec.name in stepping.ERRORS else train_bound,
    }
    for name, value in values.items():
        row[f"train_{name}"] = float(value)
    return {**row, "validation_bound": bound, "steps_per_second": rate}
