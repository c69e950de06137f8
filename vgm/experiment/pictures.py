"""The pictures of a run."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vgm import configs
from vgm.evaluation import figures
from vgm.experiment import setup, stepping
from vgm.experiment.setup import Experiment
from vgm.models import Reconstructing
from vgm.models.flow import Flow
from vgm.models.target import TargetFlow
from vgm.types import Masked, Params, PRNGKey

MAX_FIGURE_IMAGES = 100
MIN_DRAWS = 2000
GRID = 200
"""Nodes a side of a picture of a density."""


def draw_figures(
    experiment: Experiment,
    run_dir: Path,
    params: Params,
    rows: list[dict[str, Any]],
    result: dict[str, Any],
) -> list[tuple[str, str, Path]]:
    """Write samples, reconstructions and curves.

    Args:
        experiment: Experiment.
        run_dir: Folder of the run.
        params: Parameters.
        rows: Rows of metrics.
        result: Content of ``result.json``, whose terms are drawn by step or layer.

    Returns:
        Headings, captions and files.
    """
    curves = run_dir / "curves.png"
    figures.save_curves(curves, rows)
    drawn = [("Training", _of_training(experiment.config), curves)]
    drawn += _by_step(experiment.config, run_dir, result)
    shape, model = experiment.form.event_shape, experiment.model
    in_plane = shape == (2,) and not experiment.config.model.conditional
    if isinstance(model, TargetFlow) or (
        in_plane and isinstance(model, Flow) and model.is_exact
    ):
        return [_density(experiment, model, run_dir, params), *drawn]
    if len(shape) != 3 or shape[-1] not in (1, 3):
        return drawn
    key = setup.run_keys(experiment.config).figures
    key_sample, key_reconstruct, key_observe = jax.random.split(key, 3)
    top = figure_top(experiment.config.data.observation, experiment.form.levels)
    samples = run_dir / "samples.png"
    panels = sample_panels(experiment, params, key_sample, MAX_FIGURE_IMAGES, top)
    figures.save_panels(samples, panels)
    caption = "Left: draws x ~ p(x | z), z ~ p(z). Right: the means E[x | z]."
    if len(panels) == 1:
        caption = _of_draws(experiment.config)
    drawn.insert(0, ("Samples", caption, samples))
    if isinstance(experiment.model, Reconstructing):
        path = run_dir / "reconstructions.png"
        test = setup.stored_batch(experiment, experiment.dataset.test)
        some = jax.tree.map(lambda leaf: jnp.asarray(leaf[:50]), test)
        x = jax.jit(experiment.observe)(key_observe, some.x)
        shown = x.values if isinstance(x, Masked) else x
        means = jax.jit(experiment.model.reconstruct)(
            key_reconstruct, params, x, some.condition
        )
        pairs = ("test examples", shown), ("reconstructions", means)
        grid = functools.partial(figures.image_grid, columns=10, top=top)
        figures.save_panels(path, [(name, grid(np.asarray(x))) for name, x in pairs])
        drawn.insert(
            1, ("Reconstructions", "Test examples and E[x | z], z ~ q(z | x).", path)
        )
    return drawn


def _of_training(config: configs.Config) -> str:
    """Caption of the curves."""
    if config.objective.name in stepping.ERRORS:
        bound = "" if config.data.train_on_validation else "The bound of validation. "
        return f"{bound}The error that training makes small."
    caption = "The bound and its terms, in nats per example."
    spec = config.diffusion
    if config.model.family != "diffusion" or spec.train_num_steps == spec.num_steps:
        return caption
    trained = f"{spec.train_num_steps}" if spec.train_num_steps else "infinitely many"
    return (
        f"{caption} In training it is of T = {trained} steps, on validation of "
        f"T = {spec.num_steps}: they differ by more than the data."
    )


def _of_draws(config: configs.Config) -> str:
    """Caption of the samples of a model without a decoder's means."""
    given = " | label" if config.model.conditional else ""
    if config.model.family != "diffusion":
        return f"Draws x ~ p(x{given})."
    steps, eta = config.diffusion.num_steps, config.diffusion.eta
    if eta == 1.0:
        return f"Draws x ~ p(x{given}) of T = {steps} steps."
    return (
        f"Draws by DDIM of T = {steps} steps with eta = {eta:g}: not of the "
        f"p(x{given}) that the bound is of."
    )


def _by_step(
    config: configs.Config, run_dir: Path, result: dict[str, Any]
) -> list[tuple[str, str, Path]]:
    """Terms of each step of a diffusion, or of each layer of a hierarchy."""
    terms = result["denoising_matching_by_step"]
    if config.model.family == "hvae" and terms:
        path = run_dir / "layers.png"
        figures.save_layers(path, [*terms, result["prior_matching_nats"]])
        caption = (
            "Mean term of each layer on the test split, z_1 next to x first; a layer "
            "at 0 has collapsed: its posterior is its prior."
        )
        return [("Layers", caption, path)]
    if len(terms) < 2:
        return []
    path = run_dir / "steps.png"
    figures.save_steps(path, terms)
    caption = "Mean divergence of each step on the test split."
    return [("Denoising steps", caption, path)]


def _density(
    experiment: Experiment, model: Flow | TargetFlow, run_dir: Path, params: Params
) -> tuple[str, str, Path]:
    """Test points or the target, the density that was learned, and draws from it."""
    flow = model.flow if isinstance(model, TargetFlow) else model
    test = experiment.dataset.test.x
    count = max(len(test), MIN_DRAWS)
    key = setup.run_keys(experiment.config).figures
    draws = np.asarray(jax.jit(flow.sample, static_argnums=2)(key, params, count))
    shown = test if flow is model else draws
    low, high = shown.min(0), shown.max(0)
    margin = 0.15 * (high - low)
    axes = np.linspace(low - margin, high + margin, GRID).astype(np.float32).T
    nodes = jnp.stack(jnp.meshgrid(*axes), -1).reshape(-1, 2)

    def on_grid(log_density: Any) -> np.ndarray:
        return np.exp(np.asarray(log_density)).reshape(GRID, GRID)

    if isinstance(model, TargetFlow):
        log_target = jax.vmap(model.target.log_density)(nodes)
        first = ("target / Z", on_grid(log_target - model.target.log_normalizer))
    else:
        first = ("test points", test)
    learned = ("p(x)", on_grid(jax.jit(flow.log_prob)(params, nodes)))
    path = run_dir / "density.png"
    figures.save_densities(path, [first, learned, ("draws", draws)], axes)
    return ("Density", f"{first[0].capitalize()}, p(x), and draws x ~ p(x).", path)


def figure_top(observation: str, levels: int) -> float:
    """The value of an observation that is shown white.

    Args:
        observation: What is observed.
        levels: Number of integer levels.

    Returns:
        The top level, or 1 for observations between 0 and 1.
    """
    return levels - 1.0 if observation == "levels" else 1.0


def num_columns(count: int, num_classes: int) -> int:
    """How many draws stand in a row: each class, of some, has its columns.

    >>> num_columns(100, 0), num_columns(100, 4), num_columns(100, 43)
    (10, 8, 10)

    Args:
        count: Number of draws.
        num_classes: Number of classes in turn; 0 for none.

    Returns:
        The number.
    """
    columns = 10 // num_classes * num_classes if 0 < num_classes <= 10 else 10
    return min(columns, count)


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
    model, num_classes = experiment.model, 0
    condition = None
    if experiment.config.model.conditional:
        num_classes = experiment.form.num_classes
        condition = jnp.arange(count, dtype=jnp.int32) % num_classes
    columns = num_columns(count, num_classes)
    grid = functools.partial(figures.image_grid, columns=columns, top=top)
    draws = jax.jit(model.sample, static_argnums=2)(key, params, count, condition)
    panels = [("samples", grid(np.asarray(draws)))]
    if isinstance(model, Reconstructing):
        sample_mean = jax.jit(model.sample_mean, static_argnums=2)
        means = sample_mean(key, params, count, condition)
        panels.append(("their means", grid(np.asarray(means))))
    return panels
