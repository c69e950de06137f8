"""The folder of a run: what it holds, and how to read it back.

config.json        the configuration and the data's form; rebuilds the model
metrics.csv        one row an evaluation
events.out.*       the same for TensorBoard
checkpoints/       Orbax, newest two
params.npz         parameters of the finished run, for people without Orbax
likelihoods.npz    log likelihoods of the test examples, one by one
samples.png, reconstructions.png, curves.png, steps.png, layers.png,
density.png, report.html
result.json        final numbers with units
"""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vgm import configs, data
from vgm.errors import UserError
from vgm.experiment import storage, versions
from vgm.experiment.building import DataForm, build_model
from vgm.experiment.setup import Experiment, abstract_params
from vgm.models import GenerativeModel
from vgm.training import checkpoints
from vgm.types import Params


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
        saved, _ = read_config(run_dir)
        changed = configs.changed_fields(saved, config)
        if changed:
            longer = [name for name in changed if name.startswith("train.num-steps")]
            remedy = ", with --train.init-from to go on from here" if longer else ""
            raise UserError(
                f"--resume: {run_dir} was made with another {', '.join(changed)}; give "
                f"the same flags, or another --run-dir{remedy}"
            )
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--run-dir {run_dir} cannot be made ({error.strerror}); give another"
        ) from error
    return run_dir


def load(
    run: str | Path, *, warn: Callable[[str], None] = warnings.warn
) -> tuple[GenerativeModel, Params]:
    """A run's model and parameters, in one line; on any machine.

    Args:
        run: Folder of the run, finished or not.
        warn: Told in one line where they are not those of the run's end.

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
    finished = run_dir / "params.npz"
    if finished.exists():
        return model, storage.load_params(finished, abstract)
    warn(f"{run_dir} is not trained to its end: parameters of its newest checkpoint")
    folder = run_dir / "checkpoints"
    try:
        return model, checkpoints.restore_params(folder, abstract, warn=warn)
    except FileNotFoundError as error:
        raise UserError(
            f"{run_dir} has no readable checkpoint; train it further with --resume"
        ) from error


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
        "versions": versions.installed(),
    }
    storage.write_json(run_dir / "config.json", content)


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
        if not isinstance(content["config"], dict):
            raise TypeError("no configuration")
        config = configs.from_dict(content["config"])
        form = DataForm(**content["data_form"])
        return config, form._replace(event_shape=tuple(form.event_shape))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{run_dir} holds no run (no config.json); give a folder made by "
            "scripts/train.py"
        ) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); train again") from error


def read_result(run_dir: Path) -> dict[str, Any]:
    """Read ``result.json``.

    Args:
        run_dir: Folder of the run.

    Returns:
        Its content.

    Raises:
        UserError: If the run is not finished or the file damaged.
    """
    path = run_dir / "result.json"
    try:
        result = storage.read_json(path)
        if "bits_per_dim" not in result:
            raise TypeError("no result")
        return dict(result)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{run_dir} has no result.json; finish the run: scripts/train.py ... "
            f"--run-dir {run_dir} --resume"
        ) from error
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged; remove it and evaluate again: scripts/train.py ... "
            f"--run-dir {run_dir} --resume"
        ) from error


def read_likelihoods(run_dir: Path) -> dict[str, np.ndarray] | None:
    """Log likelihoods of a finished run's test examples, one by one.

    Args:
        run_dir: Folder of the run.

    Returns:
        Arrays by name, or None where the run left none.
    """
    path = run_dir / "likelihoods.npz"
    if not path.is_file():
        return None
    return storage.read_arrays(path)


def require_same_data(run_dir: Path, now: DataForm) -> None:
    """Check that the data at hand are those of a run.

    Args:
        run_dir: Folder of the run.
        now: Form of the data at hand.

    Raises:
        UserError: If they differ.
    """
    _, then = read_config(run_dir)
    for name, before, after in zip(DataForm._fields, then, now, strict=True):
        # Runs of earlier versions have no digest of what they train on.
        if before not in (after, ""):
            raise UserError(
                f"data.path: {run_dir} was made with other data ({name} {before} "
                f"before, {after} now); give the same data"
            )


def has_begun(run_dir: Path) -> bool:
    """Whether a run has something to go on from.

    Args:
        run_dir: Folder of the run.

    Returns:
        Whether there is a checkpoint or a result.
    """
    checkpoint = next((run_dir / "checkpoints").glob("[0-9]*"), None)
    return checkpoint is not None or (run_dir / "result.json").exists()


def require_source(experiment: Experiment) -> None:
    """Check that training can start from another run's parameters, if it is to.

    Args:
        experiment: Experiment.

    Raises:
        UserError: If there is no such run, it is of another model or form of data, or
            it was trained on what is validation here.
    """
    source, own = experiment.config.train.init_from, experiment.config
    if source is None:
        return
    config, form = read_config(source)
    same = (config.model, config.latent, config.diffusion, config.flow) == (
        own.model,
        own.latent,
        own.diffusion,
        own.flow,
    )
    if not same or form[:3] != experiment.form[:3]:
        raise UserError(
            f"train.init-from {source}: it is of another model or form of data; give a "
            "run whose model, latent, diffusion and flow flags are the same"
        )
    before, now = config.data, own.data
    count = sum(len(split.x) for split in experiment.dataset[:2] if split is not None)
    fewer = data.num_held_out(before.num_validation, count) < data.num_held_out(
        now.num_validation, count
    )
    trained_on = before.train_on_validation or fewer
    if (
        form.test_digest == experiment.form.test_digest
        and not now.train_on_validation
        and trained_on
    ):
        raise UserError(
            f"train.init-from {source}: it was trained on examples that are validation "
            "here; give it its --data.num-validation, or --data.train-on-validation"
        )
