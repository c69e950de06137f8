"""The numbers of a trained model, and the page that shows them."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vgm import configs, evaluation
from vgm.bounds import pareto
from vgm.data.arrays import take
from vgm.errors import UserError
from vgm.evaluation import estimates, likelihood, surgery
from vgm.experiment import (
    directory,
    fitting,
    pictures,
    setup,
    splits,
    storage,
    tables,
    versions,
)
from vgm.experiment.fitting import Fit
from vgm.experiment.numbers import is_exact, split_numbers
from vgm.experiment.reporter import Progress, Reporter
from vgm.experiment.setup import Experiment
from vgm.models import LatentVariableModel
from vgm.models.target import TargetFlow
from vgm.precision import in_full_precision
from vgm.types import Batch, Params, PRNGKey

Change = Callable[[configs.Config], configs.Config]

NUM_WEIGHTS = 10_000
"""Draws whose largest weights tell their tail."""


@in_full_precision
def evaluate(
    experiment: Experiment,
    params: Params,
    *,
    split: str = "test",
    reporter: Reporter | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Likelihoods of a split.

    Args:
        experiment: Experiment.
        params: Parameters.
        split: "test" or "validation".
        reporter: Where to talk to.

    Returns:
        Numbers for ``result.json``, and values by example.

    Raises:
        UserError: If there is no such split.
    """
    reporter = reporter or Reporter()
    config, model = experiment.config, experiment.model
    examples = splits.examples(experiment, split)
    stored = jax.device_put(setup.stored_batch(experiment, examples))
    key = setup.run_keys(config).test
    spec, count = config.evaluation, len(examples.x)
    terms = splits.terms(experiment, params, stored)
    by_example: dict[str, Any] = {
        "elbo": np.asarray(terms.elbo),
        "baseline": np.asarray(splits.baseline(experiment, stored)),
        "example": setup.example_digests(examples.x),
    }
    # Where log p(x) is exact, K equal weights say nothing more.
    if spec.evidence and not is_exact(model):
        evidence = likelihood.example_evidence(
            key,
            params,
            stored,
            model=model,
            observe=experiment.observe,
            batch_size=spec.batch_size,
            num_samples=spec.num_importance_samples,
            chunk_size=spec.chunk_size,
            progress=lambda done: reporter.progress(Progress("evaluate", done, count)),
        )
        by_example |= evidence._asdict()
    numbers = split_numbers(experiment, split, terms, by_example)
    if isinstance(model, TargetFlow):
        numbers |= _fit_to_target(model, params, key)
    if isinstance(model, LatentVariableModel):
        numbers["active_units"] = _active_units(experiment, model, params, stored)
    return numbers, by_example


def observations(
    run: str | Path, split: str = "test", *, data_path: Path | None = None
) -> Batch:
    """A split of a run's data as its model takes them, drawn as its evaluation did.

    Args:
        run: Folder of the run.
        split: "train", "validation" or "test".
        data_path: Where the data are now, if they moved.

    Returns:
        Observations, conditions and weights of one.

    Raises:
        UserError: If there is no such run or split, or the data are others.
    """
    experiment = of_run(Path(run), data_path)
    stored = setup.stored_batch(experiment, splits.examples(experiment, split))
    return jax.jit(functools.partial(splits.observed, experiment))(stored)


def of_run(
    run_dir: Path, data_path: Path | None = None, *, change: Change = lambda same: same
) -> Experiment:
    """The experiment of a run, with the data that it was made with.

    Args:
        run_dir: Folder of the run.
        data_path: Where the data are now, if they moved.
        change: Configuration of the run to the one wanted.

    Returns:
        The experiment.

    Raises:
        UserError: If there is no run, or the data are others.
    """
    config, _ = directory.read_config(run_dir)
    if data_path is not None:
        moved = dataclasses.replace(config.data, path=data_path)
        config = dataclasses.replace(config, data=moved)
    experiment = setup.prepare(change(config))
    directory.require_same_data(run_dir, experiment.form)
    return experiment


def _fit_to_target(model: TargetFlow, params: Params, key: PRNGKey) -> dict[str, Any]:
    """How well importance sampling by the flow would do, and what it would find."""

    @jax.jit
    def index(key: PRNGKey, params: Params) -> Any:
        nothing = jnp.zeros((NUM_WEIGHTS, 0))
        return pareto.tail_index(model.log_weight(key, params, nothing))

    return {
        "baseline_nats": None,
        "log_normalizer_nats": model.target.log_normalizer,
        "pareto_k": float(index(key, params)),
    }


def _active_units(
    experiment: Experiment, model: LatentVariableModel, params: Params, stored: Batch
) -> int | None:
    @jax.jit
    def encode(params: Params, stored: Batch) -> Any:
        x = splits.observed(experiment, stored).x
        return model.encode(params, x, stored.condition)

    means = getattr(encode(params, stored), "mean", None)
    if means is None or len(means) < 2:  # of one example nothing varies
        return None
    return estimates.active_units(means)


@in_full_precision
def dissect(
    experiment: Experiment, params: Params, *, split: str = "test", limit: int = 2000
) -> surgery.Surgery:
    """Where a split's average divergence goes (``evaluation.surgery``).

    Args:
        experiment: Experiment.
        params: Parameters.
        split: "test" or "validation".
        limit: Most examples used: their pairs are taken.

    Returns:
        The parts, in nats.

    Raises:
        UserError: If the model has no latents or a prior given the condition, or there
            is no such split.
    """
    model, config = experiment.model, experiment.config
    if not isinstance(model, LatentVariableModel):
        raise UserError("--surgery needs a model with latent variables")
    if config.model.conditional and config.model.architecture == "ladder":
        raise UserError(
            "--surgery needs one prior p(z), and a conditional ladder has one for each "
            "condition; drop the flag"
        )
    examples = take(splits.examples(experiment, split), slice(0, limit))
    stored = jax.device_put(setup.stored_batch(experiment, examples))
    _, _, key_z = jax.random.split(setup.run_keys(config).test, 3)
    terms = splits.terms(experiment, params, stored)
    # Of all layers together, as the information is.
    average = jnp.mean(
        terms.prior_matching + jnp.sum(terms.denoising_matching, axis=-1)
    )

    @jax.jit
    def parts(params: Params, stored: Batch, average: Any) -> surgery.Surgery:
        x = splits.observed(experiment, stored).x
        encoding = model.encode(params, x, stored.condition)
        return surgery.elbo_surgery(key_z, params, encoding, average, model=model)

    return jax.device_get(parts(params, stored, average))


def report(
    experiment: Experiment, run_dir: Path, fit: Fit, reporter: Reporter
) -> dict[str, Any]:
    """Evaluate the test split once; write figures, report and result.

    Args:
        experiment: Experiment.
        run_dir: Folder of the run.
        fit: What training gave.
        reporter: Where to talk to.

    Returns:
        The content of ``result.json``.

    Raises:
        UserError: If training diverged.
    """
    best, rows = fit.best, fit.rows
    config = experiment.config
    numbers, by_example = evaluate(experiment, best.params, reporter=reporter)
    _require_numbers(by_example["elbo"])
    storage.write_arrays(run_dir / "likelihoods.npz", by_example)
    rates = [row["steps_per_second"] for row in rows]
    result = {
        "preset": config.preset,
        "data": config.data.name,
        "test_digest": experiment.form.test_digest,
        "labels_digest": experiment.form.labels_digest,
        "levels": experiment.form.levels,
        **numbers,
        "objective": f"{config.objective.name}-{config.objective.num_samples}",
        "gradient": config.objective.gradient,
        "num_params": sum(leaf.size for leaf in jax.tree.leaves(best.params)),
        "train_steps": int(fit.state.step),
        "selected_step": best.step,
        "validation_bound_nats": best.bound,
        "train_seconds": fit.seconds,
        "steps_per_second": float(np.median(rates or [np.nan])),
        "seed": config.seed,
        "versions": versions.installed(),
    }
    drawn = pictures.draw_figures(experiment, run_dir, best.params, rows, result)
    page = evaluation.report.render(
        f"{config.preset}: {config.data.name}",
        summary=tables.summary(result),
        results=tables.result_table(result),
        figures=drawn,
        config=configs.to_dict(config),
        versions=result["versions"],
    )
    (run_dir / "report.html").write_text(page, encoding="utf-8")
    # Written last: a run is finished when its result is there.
    storage.write_json(run_dir / "result.json", result)
    return result


def _require_numbers(elbo: np.ndarray) -> None:
    """A bound that is NaN for every example is no result; for some it is their own."""
    if np.isnan(elbo).all():
        raise UserError(
            f"training diverged: the ELBO of the test split is NaN; {fitting.REMEDY}"
        )
