"""One configuration in, one run directory out."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vgm import configs, data, evaluation, runs, training
from vgm.errors import UserError
from vgm.evaluation import figures, likelihood
from vgm.models import GenerativeModel, LatentVariableModel, Reconstructing
from vgm.training import checkpoints, loop, objective, optimizers, sharding
from vgm.training.step import StepMetrics, TrainState
from vgm.types import Batch, Params, PRNGKey

MAX_FIGURE_IMAGES = 100


class Progress(NamedTuple):
    """What a person waiting wants to know.

    Attributes:
        stage: "train" or "evaluate".
        done: Steps or examples done.
        total: Steps or examples in all.
        row: The newest row of metrics, while training.
    """

    stage: str
    done: int
    total: int
    row: dict[str, Any] | None = None


class Reporter(NamedTuple):
    """Where a run talks to; silent by default.

    Attributes:
        say: Takes one line.
        progress: Takes progress.
    """

    say: Callable[[str], None] = lambda line: None
    progress: Callable[[Progress], None] = lambda progress: None


class Best(NamedTuple):
    """The parameters that a finished run would use.

    Attributes:
        params: Parameters.
        bound: Their bound on validation, in nats; None without validation.
        step: Step they come from.
        stale: Evaluations since then.
    """

    params: Params
    bound: float | None
    step: int
    stale: int


class Experiment(NamedTuple):
    """A configuration with its data and model at hand.

    Attributes:
        config: Configuration.
        form: Form of the data.
        dataset: Data set.
        model: Model.
        observe: Maps stored values to observations.
    """

    config: configs.Config
    form: runs.DataForm
    dataset: data.Dataset
    model: GenerativeModel
    observe: Any


def prepare(config: configs.Config) -> Experiment:
    """Check a configuration, load its data, build its model.

    Args:
        config: Configuration.

    Returns:
        The experiment.

    Raises:
        UserError: If something in it cannot be.
    """
    configs.validate(config)
    dataset = data.load(
        config.data.name, config.data.path, num_validation=config.data.num_validation
    )
    data.observations.require_observable(dataset, config.data.observation)
    if config.data.observation == "binary" and config.data.binarization == "static":
        dataset = data.observations.binarize_once(dataset)
    form = runs.data_form(dataset)
    model = runs.build_model(config, form)
    return Experiment(config, form, dataset, model, runs.observer(config, form))


def run_directory(config: configs.Config) -> Path:
    """The folder of a run.

    Args:
        config: Configuration.

    Returns:
        ``config.run_dir``, or runs/PRESET.
    """
    return config.run_dir or Path("runs") / config.preset


def claim(config: configs.Config) -> Path:
    """Make the folder of a run, or with ``resume`` find it, without touching a file.

    Args:
        config: Configuration.

    Returns:
        The folder.

    Raises:
        UserError: If it holds a run already and ``resume`` is not set; if it holds
            something else; or if it was made with another configuration.
    """
    run_dir = run_directory(config)
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"--run-dir {run_dir} is a file; give a folder")
    empty = not run_dir.exists() or not any(run_dir.iterdir())
    if not empty and not config.resume:
        raise UserError(
            f"--run-dir {run_dir} already holds files; go on with --resume, or give "
            "another --run-dir"
        )
    if not empty:
        saved, _ = runs.read_config(run_dir)
        changed = configs.changed_fields(saved, config)
        if changed:
            raise UserError(
                f"--resume: {run_dir} was made with another {', '.join(changed)}; give "
                "the same flags, or another --run-dir"
            )
    run_dir.mkdir(parents=True, exist_ok=True)
    return run_dir


def run(config: configs.Config, reporter: Reporter | None = None) -> dict[str, Any]:
    """Train, evaluate and report.

    Args:
        config: Configuration.
        reporter: Where to talk to.

    Returns:
        The content of ``result.json``.

    Raises:
        UserError: If the input cannot be used, or training diverges.
    """
    reporter = reporter or Reporter()
    experiment = prepare(config)
    run_dir = claim(config)
    if not (run_dir / "config.json").exists():
        runs.write_config(run_dir, config, experiment.form)
    finished = run_dir / "result.json"
    if finished.exists():
        reporter.say(f"{run_dir} is finished already; its result is unchanged")
        return runs.read_result(run_dir)
    best, rows, seconds = train(experiment, run_dir, reporter)
    runs.save_params(run_dir / "params.npz", best.params)
    return report(experiment, run_dir, best, rows, seconds, reporter)


def run_keys(config: configs.Config) -> tuple[PRNGKey, PRNGKey, PRNGKey, PRNGKey]:
    """The keys of a run: initialisation, training, validation, test and figures.

    Args:
        config: Configuration.

    Returns:
        Four keys.
    """
    key_init, key_train, key_validation, key_test = jax.random.split(
        jax.random.key(config.seed), 4
    )
    return key_init, key_train, key_validation, key_test


def train(
    experiment: Experiment, run_dir: Path, reporter: Reporter
) -> tuple[Best, list[dict[str, Any]], float]:
    """Train to the end, from the newest checkpoint where there is one.

    Args:
        experiment: Experiment.
        run_dir: Folder of the run.
        reporter: Where to talk to.

    Returns:
        The parameters to use, the rows of metrics, and the seconds spent training.
    """
    config = experiment.config
    key_init, key_train, key_validation, _ = run_keys(config)
    mesh = sharding.data_mesh()
    sharding.require_divisible(config.train.batch_size, mesh)
    stored = functools.partial(
        runs.stored_batch, conditional=config.model.conditional
    )
    train_data = sharding.replicate(stored(experiment.dataset.train), mesh)
    optimizer = _optimizer(config)
    init = jax.jit(functools.partial(_init, experiment, optimizer))
    abstract = jax.eval_shape(init, key_init, train_data)
    selected = abstract.ema_params or abstract.params

    with checkpoints.open_manager(run_dir / "checkpoints") as manager:
        restored = checkpoints.restore_latest(
            manager, abstract, selected, warn=reporter.say
        )
        if restored is None:
            state = sharding.replicate(init(key_init, train_data), mesh)
            best, rows, spent = Best(None, None, 0, 0), [], 0.0
        else:
            state = sharding.replicate(TrainState(*restored.state), mesh)
            meta = restored.meta
            params = sharding.replicate(restored.params, mesh)
            best = Best(params, meta["best_bound"], meta["best_step"], meta["stale"])
            rows = runs.read_rows(run_dir / "metrics.csv", last_step=restored.step)
            spent = meta["seconds"]
            reporter.say(f"resuming {run_dir} at step {restored.step}")
        run_steps = _compiled_steps(experiment, optimizer, mesh)
        validate = _validation(experiment, mesh, key_validation)
        events = _event_writer(run_dir)
        step, num_steps = int(state.step), config.train.num_steps
        while step < num_steps and not _exhausted(config, best):
            start = time.perf_counter()
            stop = min(step + config.train.eval_every, num_steps)
            state, metrics = run_steps(key_train, state, train_data, jnp.int32(stop))
            _require_progress(metrics, stop - step, stop)
            # Donation hands the state's buffers to the next dispatch: keep a copy.
            candidate = jax.tree.map(jnp.copy, state.ema_params or state.params)
            bound = validate(candidate)
            best = _better(best, candidate, bound, stop)
            elapsed = time.perf_counter() - start
            spent += elapsed
            rows.append(_row(metrics, bound, stop, (stop - step) / elapsed))
            step = stop
            runs.write_rows(run_dir / "metrics.csv", rows)
            _write_events(events, rows[-1])
            meta = {
                "best_bound": best.bound,
                "best_step": best.step,
                "stale": best.stale,
                "seconds": spent,
            }
            checkpoints.save(
                manager, step, state=state, params=best.params, meta=meta
            )
            reporter.progress(Progress("train", step, num_steps, rows[-1]))
    if best.bound is not None:
        reporter.say(
            f"kept the parameters of step {best.step}, best on validation "
            f"({best.bound:.2f} nats)"
        )
    return best, rows, spent


def _init(
    experiment: Experiment, optimizer: Any, key: PRNGKey, data: Batch
) -> TrainState:
    params = runs.init_params(key, experiment.model, data, experiment.observe)
    return training.step.init_state(
        params, optimizer, ema_decay=experiment.config.optimizer.ema_decay
    )


def _optimizer(config: configs.Config) -> Any:
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
    config: configs.Config, model: GenerativeModel
) -> objective.ValueAndGrad:
    """The objective of a configuration.

    Args:
        config: Configuration.
        model: Model.

    Returns:
        A function (key, params, batch) -> ((loss, terms), gradients).

    Raises:
        UserError: If the model does not offer what the objective needs.
    """
    spec = config.objective
    if spec.name == "elbo":
        return objective.negative_elbo(model, num_samples=spec.num_samples)
    if not isinstance(model, LatentVariableModel):
        raise UserError(
            "objective.name 'iwae' needs a model with latent variables; use 'elbo'"
        )
    return objective.negative_iwae(model, num_samples=spec.num_samples)


def _compiled_steps(
    experiment: Experiment, optimizer: Any, mesh: Any
) -> Callable[..., tuple[TrainState, StepMetrics]]:
    config = experiment.config
    step = functools.partial(
        training.step.train_step,
        value_and_grad=value_and_grad(config, experiment.model),
        optimizer=optimizer,
        ema_decay=config.optimizer.ema_decay,
    )
    return loop.compile_steps(
        step=step,
        observe=experiment.observe,
        batch_size=config.train.batch_size,
        mesh=mesh,
    )


def _validation(
    experiment: Experiment, mesh: Any, key: PRNGKey
) -> Callable[[Params], float | None]:
    """The mean bound on validation, with the same draws every time."""
    config, split = experiment.config, experiment.dataset.validation
    if split is None:
        return lambda params: None
    stored = runs.stored_batch(split, conditional=config.model.conditional)
    stored = sharding.replicate(stored, mesh)
    terms = jax.jit(
        functools.partial(
            likelihood.example_terms,
            model=experiment.model,
            observe=experiment.observe,
            batch_size=min(config.evaluation.batch_size, len(split.x)),
            num_samples=config.evaluation.num_elbo_samples,
        )
    )
    return lambda params: likelihood.estimate(terms(key, params, stored).elbo).mean


def _better(best: Best, params: Params, bound: float | None, step: int) -> Best:
    if bound is None:
        return Best(params, None, step, 0)
    if best.bound is None or bound > best.bound:
        return Best(params, bound, step, 0)
    return best._replace(stale=best.stale + 1)


def _exhausted(config: configs.Config, best: Best) -> bool:
    return 0 < config.train.patience <= best.stale


def _require_progress(metrics: StepMetrics, num_steps: int, step: int) -> None:
    if int(metrics.skipped) == num_steps:
        raise UserError(
            f"training diverged: no gradient was finite in the {num_steps} steps before "
            f"step {step}; lower --optimizer.learning-rate or set --optimizer.clip-norm "
            "1, in a new --run-dir"
        )


def _row(
    metrics: StepMetrics, bound: float | None, step: int, rate: float
) -> dict[str, Any]:
    values = jax.device_get(metrics)._asdict()
    row: dict[str, Any] = {"step": step}
    for name, value in values.items():
        row[f"train_{name}"] = float(value)
    return {**row, "validation_elbo": bound, "steps_per_second": rate}


def _event_writer(run_dir: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run_dir))


def _write_events(writer: Any, row: dict[str, Any]) -> None:
    if writer is None:
        return
    for name, value in row.items():
        if name != "step" and value is not None:
            writer.add_scalar(name, value, row["step"])
    writer.flush()


def evaluate(
    experiment: Experiment,
    params: Params,
    *,
    split: str = "test",
    reporter: Reporter | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
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
    examples = getattr(experiment.dataset, split)
    if examples is None:
        raise UserError(
            f"--split {split}: this run has none; use test, or train with "
            "--data.num-validation"
        )
    stored = jax.device_put(
        runs.stored_batch(examples, conditional=config.model.conditional)
    )
    key = run_keys(config)[3]
    spec, count = config.evaluation, len(examples.x)
    terms = jax.jit(
        functools.partial(
            likelihood.example_terms,
            model=model,
            observe=experiment.observe,
            batch_size=min(spec.batch_size, count),
            num_samples=spec.num_elbo_samples,
        )
    )(key, params, stored)
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
    baseline = _baseline(experiment, key, stored)
    by_example = {
        "elbo": np.asarray(terms.elbo),
        "log_evidence": evidence.log_evidence,
        "effective_samples": evidence.effective_samples,
        "baseline": np.asarray(baseline),
    }
    numbers = _numbers(experiment, split, terms, by_example)
    if isinstance(model, LatentVariableModel):
        numbers["active_units"] = _active_units(experiment, params, key, stored)
    return numbers, by_example


def _baseline(experiment: Experiment, key: PRNGKey, stored: Batch) -> Any:
    # The same observations of the split as in its likelihoods: the first key of two.
    observe, config = experiment.observe, experiment.config
    key_observe, key_train = jax.random.split(key)
    train = observe(key_train, jnp.asarray(experiment.dataset.train.x))
    return likelihood.independent_baseline(
        train,
        observe(key_observe, stored.x),
        observation=config.data.observation,
        levels=experiment.form.levels,
    )


def _active_units(
    experiment: Experiment, params: Params, key: PRNGKey, stored: Batch
) -> int | None:
    model = experiment.model
    if not isinstance(model, LatentVariableModel):
        return None
    x = experiment.observe(jax.random.split(key)[0], stored.x)
    means = getattr(model.encode(params, x, stored.condition), "mean", None)
    return None if means is None else likelihood.active_units(means)


def _numbers(
    experiment: Experiment,
    split: str,
    terms: Any,
    by_example: dict[str, np.ndarray],
) -> dict[str, Any]:
    config = experiment.config
    elbo = likelihood.estimate(by_example["elbo"])
    evidence = likelihood.estimate(by_example["log_evidence"])
    baseline = likelihood.estimate(by_example["baseline"])
    num_dims = int(np.prod(experiment.form.event_shape))
    is_mass = config.data.observation in ("levels", "binary")
    bits = functools.partial(likelihood.bits_per_dim, num_dims=num_dims)
    return {
        "split": split,
        "num_examples": len(by_example["elbo"]),
        "elbo_nats": elbo.mean,
        "elbo_stderr": elbo.stderr,
        "num_elbo_samples": config.evaluation.num_elbo_samples,
        "reconstruction_nats": likelihood.estimate(terms.reconstruction).mean,
        "prior_matching_nats": likelihood.estimate(terms.prior_matching).mean,
        "denoising_matching_nats": likelihood.estimate(
            np.sum(terms.denoising_matching, axis=-1)
        ).mean,
        "log_evidence_nats": evidence.mean,
        "log_evidence_stderr": evidence.stderr,
        "num_importance_samples": config.evaluation.num_importance_samples,
        "median_effective_samples": float(np.median(by_example["effective_samples"])),
        "baseline_nats": baseline.mean,
        # Bits per dimension are of a mass: empty for reals and for grey targets.
        "bits_per_dim": bits(evidence.mean) if is_mass else None,
        "bits_per_dim_stderr": -bits(evidence.stderr) if is_mass else None,
        "baseline_bits_per_dim": bits(baseline.mean) if is_mass else None,
    }


def report(
    experiment: Experiment,
    run_dir: Path,
    best: Best,
    rows: list[dict[str, Any]],
    seconds: float,
    reporter: Reporter,
) -> dict[str, Any]:
    """Evaluate the test split once; write figures, report and result.

    Args:
        experiment: Experiment.
        run_dir: Folder of the run.
        best: Parameters to use.
        rows: Rows of metrics.
        seconds: Seconds spent training.
        reporter: Where to talk to.

    Returns:
        The content of ``result.json``.
    """
    config = experiment.config
    numbers, by_example = evaluate(experiment, best.params, reporter=reporter)
    with (run_dir / "likelihoods.npz").open("wb") as file:
        np.savez(file, **by_example)
    rates = [row["steps_per_second"] for row in rows]
    result = {
        "preset": config.preset,
        "model": f"vae ({config.model.architecture})",
        "data": config.data.name,
        "observation": config.data.observation,
        "binarization": _binarization(experiment),
        **numbers,
        "objective": f"{config.objective.name}-{config.objective.num_samples}",
        "num_params": sum(leaf.size for leaf in jax.tree.leaves(best.params)),
        "train_steps": rows[-1]["step"],
        "selected_step": best.step,
        "validation_elbo_nats": best.bound,
        "train_seconds": seconds,
        # The first dispatch compiles: the median of the rest is the rate.
        "steps_per_second": float(np.median(rates[1:] or rates)),
        "seed": config.seed,
        "versions": runs.versions(),
    }
    pictures = draw_figures(experiment, run_dir, best.params, rows)
    page = evaluation.report.render(
        f"{config.preset}: {config.data.name}",
        summary=_summary(result),
        results=result_table(result),
        figures=pictures,
        config=configs.to_dict(config),
        versions=result["versions"],
    )
    (run_dir / "report.html").write_text(page, encoding="utf-8")
    # Written last: a run is finished when its result is there.
    runs.write_json(run_dir / "result.json", result)
    return result


def _binarization(experiment: Experiment) -> str | None:
    if experiment.config.data.observation != "binary":
        return None
    return experiment.config.data.binarization


def draw_figures(
    experiment: Experiment, run_dir: Path, params: Params, rows: list[dict[str, Any]]
) -> list[tuple[str, str, Path]]:
    """Write samples, reconstructions and curves.

    Args:
        experiment: Experiment.
        run_dir: Folder of the run.
        params: Parameters.
        rows: Rows of metrics.

    Returns:
        Headings, captions and files.
    """
    curves = run_dir / "curves.png"
    figures.save_curves(curves, rows)
    drawn = [("Training", "The bound and its terms, in nats per example.", curves)]
    shape = experiment.form.event_shape
    if len(shape) != 3 or shape[-1] not in (1, 3):
        return drawn
    _, _, _, key = run_keys(experiment.config)
    key_sample, key_reconstruct, key_observe = jax.random.split(key, 3)
    top = figure_top(experiment.config.data.observation, experiment.form.levels)
    samples = run_dir / "samples.png"
    panels = sample_panels(experiment, params, key_sample, MAX_FIGURE_IMAGES, top)
    figures.save_panels(samples, panels)
    caption = "Left: draws x ~ p(x | z), z ~ p(z). Right: the means E[x | z]."
    if len(panels) == 1:
        caption = "Draws x ~ p(x)."
    drawn.insert(0, ("Samples", caption, samples))
    if isinstance(experiment.model, Reconstructing):
        path = run_dir / "reconstructions.png"
        test = runs.stored_batch(
            experiment.dataset.test, conditional=experiment.config.model.conditional
        )
        some = jax.tree.map(lambda leaf: jnp.asarray(leaf[:50]), test)
        x = experiment.observe(key_observe, some.x)
        means = experiment.model.reconstruct(
            key_reconstruct, params, x, some.condition
        )
        figures.save_panels(path, [
            ("test examples", figures.image_grid(np.asarray(x), columns=10, top=top)),
            ("reconstructions", figures.image_grid(np.asarray(means), columns=10, top=top)),
        ])
        drawn.insert(1, ("Reconstructions", "Test examples and E[x | z], z ~ q(z | x).", path))
    return drawn


def figure_top(observation: str, levels: int) -> float:
    """The value of an observation that is shown white.

    Args:
        observation: What is observed.
        levels: Number of integer levels.

    Returns:
        The top level, or 1 for observations between 0 and 1.
    """
    return levels - 1.0 if observation == "levels" else 1.0


def sample_panels(
    experiment: Experiment, params: Params, key: PRNGKey, count: int, top: float
) -> list[tuple[str, np.ndarray]]:
    """Grids of samples, and of their means where the model has them.

    Args:
        experiment: Experiment; its model draws with labels in turn if conditional.
        params: Parameters.
        key: Random key.
        count: Number of samples.
        top: Value shown white.

    Returns:
        Titles and images.
    """
    model, columns = experiment.model, min(10, count)
    condition = None
    if experiment.config.model.conditional:
        condition = jnp.arange(count, dtype=jnp.int32) % experiment.form.num_classes
    grid = functools.partial(figures.image_grid, columns=columns, top=top)
    draws = model.sample(key, params, count, condition)
    panels = [("samples", grid(np.asarray(draws)))]
    if isinstance(model, Reconstructing):
        means = model.sample_mean(key, params, count, condition)
        panels.append(("their means", grid(np.asarray(means))))
    return panels


def result_table(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The numbers of a result as rows for people: quantity, value with unit, origin.

    Args:
        result: Content of ``result.json``.

    Returns:
        The rows.
    """
    examples = f"{result['num_examples']} {result['split']} examples"
    draws = f"{result['num_elbo_samples']} draws each"
    k = result["num_importance_samples"]
    table = [
        (
            "ELBO",
            f"{result['elbo_nats']:.2f} ± {result['elbo_stderr']:.2f} nats",
            f"{examples}, {draws}",
        ),
        ("  reconstruction", f"{result['reconstruction_nats']:.2f} nats", ""),
        ("  prior matching", f"{result['prior_matching_nats']:.2f} nats", ""),
        (
            f"evidence, {k} samples",
            f"{result['log_evidence_nats']:.2f} ± {result['log_evidence_stderr']:.2f} "
            "nats",
            f"lower bound on log p(x); median effective sample size "
            f"{result['median_effective_samples']:.1f}",
        ),
    ]
    if result["bits_per_dim"] is not None:
        table.append(
            (
                "bits/dim",
                f"{result['bits_per_dim']:.3f} ± {result['bits_per_dim_stderr']:.3f}",
                "from the evidence",
            )
        )
        table.append(
            (
                "bits/dim of the baseline",
                f"{result['baseline_bits_per_dim']:.3f}",
                "independent pixels fitted to the training split",
            )
        )
    else:
        table.append(
            (
                "baseline",
                f"{result['baseline_nats']:.2f} nats",
                "independent pixels fitted to the training split",
            )
        )
    if result.get("active_units") is not None:
        table.append(
            ("active units", str(result["active_units"]), "Var E[z | x] > 0.01")
        )
    table.append(
        (
            "training",
            f"{result['train_seconds']:.1f} s",
            f"{result['train_steps']} steps, {result['steps_per_second']:.0f} a second; "
            f"parameters of step {result['selected_step']}",
        )
    )
    return table


def _summary(result: dict[str, Any]) -> str:
    meaning = {
        "levels": "log p is the mass of the integer levels",
        "binary": "log p is the mass of zeros and ones",
        "grey-bernoulli": "grey values as Bernoulli targets: a bound on E log p(b), "
        "b ~ Bernoulli(x), and no likelihood of x",
        "density": "log p is a density",
    }[result["observation"]]
    return (
        f"{result['model']} with {result['num_params']:,} parameters on "
        f"{result['data']}, observation {result['observation']}: {meaning}."
    )
