"""The folder of a run: what it holds, and how to read it back.

    config.json        the configuration and the data's form; rebuilds the model
    metrics.csv        one row an evaluation
    events.out.*       the same for TensorBoard
    checkpoints/       Orbax, newest two
    params.npz         parameters of the finished run, for people without Orbax
    likelihoods.npz    log likelihoods of the test examples, one by one
    samples.png, reconstructions.png, curves.png, report.html
    result.json        final numbers with units
"""

import csv
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vgm import configs, models
from vgm.data import Dataset, observations
from vgm.errors import UserError
from vgm.models import GenerativeModel
from vgm.training import checkpoints
from vgm.types import Batch, Params

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class DataForm(NamedTuple):
    """What a model must know of its data.

    Attributes:
        event_shape: Shape of one example.
        levels: Number of integer levels; 0 for reals.
        num_classes: Number of labels; 0 without.
    """

    event_shape: tuple[int, ...]
    levels: int
    num_classes: int


def data_form(dataset: Dataset) -> DataForm:
    """The form of a data set.

    Args:
        dataset: Data set.

    Returns:
        Its event shape, levels and number of classes.
    """
    labels = dataset.train.labels
    num_classes = 0 if labels is None else int(labels.max()) + 1
    return DataForm(tuple(dataset.train.x.shape[1:]), dataset.levels, num_classes)


def build_model(config: configs.Config, form: DataForm) -> GenerativeModel:
    """The model of a configuration.

    Args:
        config: Configuration.
        form: Form of its data.

    Returns:
        The model.

    Raises:
        UserError: If it cannot be built for these data.
    """
    spec = config.model
    if spec.conditional and not form.num_classes:
        raise UserError(
            f"model.conditional needs labels, and data.name {config.data.name!r} has "
            "none; drop the flag or use labelled data"
        )
    shared: dict[str, Any] = {
        "event_shape": form.event_shape,
        "latent_dim": spec.latent_dim,
        "hidden": spec.hidden,
        "likelihood": spec.likelihood,
        "levels": form.levels,
        "num_classes": form.num_classes if spec.conditional else 0,
        "activation": spec.activation,
        "dropout": spec.dropout,
    }
    if spec.architecture == "conv":
        return models.vae.conv(channels=spec.channels, **shared)
    return models.vae.mlp(kernel_init=spec.kernel_init, **shared)


def stored_batch(split: Any, *, conditional: bool) -> Batch:
    """A split as a batch of weight one.

    Args:
        split: Examples and labels.
        conditional: Whether labels are the condition.

    Returns:
        Stored values, condition and weights.
    """
    condition = split.labels if conditional else None
    return Batch(split.x, condition, np.ones(len(split.x), np.float32))


def observer(config: configs.Config, form: DataForm) -> Any:
    """The map from stored values to observations of a configuration.

    Args:
        config: Configuration.
        form: Form of its data.

    Returns:
        A function of (key, stored values).
    """
    return observations.observer(
        config.data.observation,
        levels=form.levels,
        binarization=config.data.binarization,
    )


def init_params(
    key: Any, model: GenerativeModel, data: Batch, observe: Any
) -> Params:
    """Parameters fitted to the form, and where the model asks, to the values of data.

    Args:
        key: Random key.
        model: Model.
        data: Training examples.
        observe: Maps stored values to observations.

    Returns:
        The starting parameters.
    """
    key_observe, key_init = jax.random.split(key)
    x = observe(key_observe, data.x)
    return model.init(key_init, x, data.condition)


def abstract_params(
    config: configs.Config, form: DataForm, model: GenerativeModel
) -> Params:
    """Shapes and dtypes of a model's parameters, without data.

    Args:
        config: Configuration.
        form: Form of its data.
        model: Model.

    Returns:
        A pytree of shapes and dtypes.
    """
    stored = np.float32 if form.levels == 0 else np.int32
    x = jax.ShapeDtypeStruct((2, *form.event_shape), stored)
    label = jax.ShapeDtypeStruct((2,), np.int32) if config.model.conditional else None
    weight = jax.ShapeDtypeStruct((2,), np.float32)
    observe = observer(config, form)

    def init(key: Any, data: Batch) -> Params:
        return init_params(key, model, data, observe)

    return jax.eval_shape(init, jax.random.key(0), Batch(x, label, weight))


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all.

    Args:
        path: File.
        content: Plain values; NaN and infinities become null.
    """
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")
    os.replace(draft, path)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def write_config(run_dir: Path, config: configs.Config, form: DataForm) -> None:
    """Write ``config.json``.

    Args:
        run_dir: Folder of the run.
        config: Configuration.
        form: Form of its data.
    """
    content = {
        "config": configs.to_dict(config),
        "data_form": form._asdict(),
        "versions": versions(),
    }
    write_json(run_dir / "config.json", content)


def read_config(run_dir: Path) -> tuple[configs.Config, DataForm]:
    """Read ``config.json``.

    Args:
        run_dir: Folder of the run.

    Returns:
        The configuration and the form of its data.

    Raises:
        UserError: If the folder holds no readable run.
    """
    path = run_dir / "config.json"
    try:
        content = json.loads(path.read_text())
        form = content["data_form"]
        config = configs.from_dict(content["config"])
    except FileNotFoundError as error:
        raise UserError(
            f"{run_dir} holds no run (no config.json); give a folder made by "
            "scripts/train.py"
        ) from error
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); train again") from error
    return config, DataForm(
        tuple(form["event_shape"]), form["levels"], form["num_classes"]
    )


def read_result(run_dir: Path) -> dict[str, Any]:
    """Read ``result.json``.

    Args:
        run_dir: Folder of the run.

    Returns:
        Its content.

    Raises:
        UserError: If the run is not finished or the file damaged.
    """
    try:
        return json.loads((run_dir / "result.json").read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"{run_dir} has no result.json; finish the run: scripts/train.py ... "
            f"--run-dir {run_dir} --resume"
        ) from error
    except json.JSONDecodeError as error:
        raise UserError(f"{run_dir}/result.json is damaged; train again") from error


def load(run: str | Path) -> tuple[GenerativeModel, Params]:
    """A run's model and parameters, in one line; on any machine.

    Args:
        run: Folder of the run, finished or not.

    Returns:
        The model, and its parameters as host arrays: the best on validation where the
        run has a validation split, else the newest (averaged, where it averages).

    Raises:
        UserError: If there is no run or no checkpoint.
    """
    run_dir = Path(run)
    config, form = read_config(run_dir)
    model = build_model(config, form)
    abstract = abstract_params(config, form, model)
    try:
        return model, checkpoints.restore_params(run_dir / "checkpoints", abstract)
    except FileNotFoundError as error:
        raise UserError(
            f"{run_dir} has no checkpoint yet; train it further with --resume"
        ) from error


def save_params(path: Path, params: Params) -> None:
    """Write parameters as one ``.npz``, named by their place in the pytree.

    Args:
        path: File.
        params: Parameters.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    named = {jax.tree_util.keystr(place, simple=True, separator="/"): np.asarray(leaf)
             for place, leaf in leaves}
    draft = path.with_name(path.name + ".tmp")
    with draft.open("wb") as file:
        np.savez(file, **named)
    os.replace(draft, path)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of metrics as CSV, whole or not at all.

    Args:
        path: File.
        rows: Rows with the same names; None is left empty.
    """
    draft = path.with_name(path.name + ".tmp")
    with draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(draft, path)


def read_rows(path: Path, *, last_step: int) -> list[dict[str, Any]]:
    """Read rows of metrics up to a step.

    Args:
        path: File.
        last_step: Later rows are left out.

    Returns:
        The rows, numbers as numbers and empty as None; none if there is no file.
    """
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = [
            {name: float(value) if value else None for name, value in row.items()}
            for row in csv.DictReader(file)
        ]
    for row in rows:
        row["step"] = int(row["step"] or 0)
    return [row for row in rows if row["step"] <= last_step]


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of those that make the numbers.

    Returns:
        Versions by name, with the device that JAX computes on.
    """
    found = {"python": platform.python_version(), "vgm": "unknown"}
    for name in ("vgm", *PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    devices = jax.devices()
    found["device"] = f"{len(devices)} x {devices[0].device_kind}"
    return found
