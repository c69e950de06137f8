"""From a configuration to data, model and keys."""

import hashlib
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vgm import configs, data
from vgm.data import observations
from vgm.errors import UserError
from vgm.experiment.building import DataForm, build_model
from vgm.models import GenerativeModel
from vgm.types import Batch, Masked, Params, PRNGKey


class Experiment(NamedTuple):
    """A configuration with its data and model at hand.

    Attributes:
        config: Configuration.
        form: Form of the data.
        dataset: Data set.
        model: Model.
        observe: Maps stored values to observations.
        observe_training: The same for steps of training, which may mirror images.
    """

    config: configs.Config
    form: DataForm
    dataset: data.Dataset
    model: GenerativeModel
    observe: Any
    observe_training: Any


def prepare(config: configs.Config) -> Experiment:
    """Check a configuration, resolve it, load its data, build its model.

    Args:
        config: Configuration.

    Returns:
        The experiment.

    Raises:
        UserError: If something in it cannot be.
    """
    configs.validate(config)
    config = configs.resolved(config)
    dataset = data.load(
        config.data.name,
        config.data.path,
        num_validation=config.data.num_validation,
        train_on_validation=config.data.train_on_validation,
        missing=config.data.missing,
    )
    observations.require_observable(dataset, config.data.observation)
    if config.data.observation == "binary" and config.data.binarization == "static":
        dataset = observations.binarize_once(dataset)
    if config.model.family == "flow":
        for name in ("train", "validation"):
            _require_support(name, getattr(dataset, name), config.flow.transform)
    form = data_form(dataset)
    model = build_model(config, form)
    if config.model.conditional:
        _require_labels(dataset, form.num_classes)
        form = form._replace(labels_digest=_labelled_digest(dataset.test))
    if config.train.patience and dataset.validation is None:
        trained_on = config.data.train_on_validation
        flag = "no-train-on-validation" if trained_on else "num-validation"
        raise UserError(
            "train.patience needs a validation split to judge by; give "
            f"--data.{flag}, or --train.patience 0"
        )
    observe = training = observer(config, form)
    if config.data.mirror:
        if len(form.event_shape) != 3:
            raise UserError(
                f"data.mirror needs images; these examples are {form.event_shape}"
            )
        training = observations.mirrored(observe)
    return Experiment(config, form, dataset, model, observe, training)


def _require_support(name: str, split: data.Split | None, transform: str) -> None:
    """What a flow learns from must lie where its first transform is defined."""
    if split is None:
        return
    low, high = {"log": (0.0, np.inf), "logit": (0.0, 1.0)}.get(
        transform, (-np.inf, np.inf)
    )
    outside = split.x[(split.x <= low) | (split.x >= high)]
    if outside.size:
        raise UserError(
            f"flow.transform {transform!r} needs numbers above {low:g} and below "
            f"{high:g}; the {name} split has {outside[0]:g}; use 'standardize'"
        )


def data_form(dataset: data.Dataset) -> DataForm:
    """The form of a data set.

    Args:
        dataset: Data set.

    Returns:
        Its event shape, levels and number of classes.
    """
    labels = dataset.train.labels
    num_classes = 0 if labels is None else int(labels.max()) + 1
    shape = tuple(dataset.train.x.shape[1:])
    splits = dataset.train, dataset.validation
    return DataForm(
        shape,
        dataset.levels,
        num_classes,
        _digest(dataset.test.x),
        *("" if split is None else _ordered_digest(split) for split in splits),
    )


def example_digests(x: np.ndarray) -> np.ndarray:
    """A hash of each example, to match the examples of two runs.

    Args:
        x: Stored examples.

    Returns:
        One 64-bit integer an example.
    """
    rows = np.ascontiguousarray(x).reshape(len(x), math.prod(x.shape[1:]))
    hashes = [hashlib.sha256(row.tobytes()).digest()[:8] for row in rows]
    return np.frombuffer(b"".join(hashes), np.uint64)


def _digest(x: np.ndarray) -> str:
    rows = np.ascontiguousarray(x).reshape(len(x), math.prod(x.shape[1:]))
    if not rows.size:
        return hashlib.sha256(str(x.shape).encode()).hexdigest()[:16]
    whole = rows.view(f"V{rows.shape[1] * rows.itemsize}").ravel()
    return hashlib.sha256(np.sort(whole).tobytes()).hexdigest()[:16]


def _labelled_digest(split: data.Split) -> str:
    """Of examples with their labels, in any order."""
    parts = split.x, np.asarray(split.labels, np.int64)[:, None]
    size = len(split.x)
    both = [np.frombuffer(x.tobytes(), np.uint8).reshape(size, -1) for x in parts]
    return _digest(np.hstack(both))


def _ordered_digest(split: data.Split) -> str:
    found = hashlib.sha256(str(split.x.shape).encode())
    for array in split:
        if array is not None:
            found.update(array.tobytes())
    return found.hexdigest()[:16]


def _require_labels(dataset: data.Dataset, num_classes: int) -> None:
    for name in ("train", "validation", "test"):
        split = getattr(dataset, name)
        if split is None:
            continue
        labels = split.labels
        if labels is None or labels.min() < 0 or labels.max() >= num_classes:
            raise UserError(
                f"model.conditional needs labels 0 .. {num_classes - 1} on every "
                f"example; the {name} split has others or none"
            )


def stored_batch(experiment: Experiment, split: data.Split) -> Batch:
    """A split as a batch of weight one.

    Args:
        experiment: Experiment; its labels are the condition of a conditional model.
        split: Examples and labels.

    Returns:
        Stored values, condition and weights.
    """
    condition = split.labels if experiment.config.model.conditional else None
    return Batch(split.x, condition, np.ones(len(split.x), np.float32))


def observer(config: configs.Config, form: DataForm) -> Any:
    """The map from stored values to observations of a configuration.

    Args:
        config: Configuration.
        form: Form of its data.

    Returns:
        A function of (key, stored values).
    """
    if config.data.missing == "nan":
        return lambda key, x: mask_nan(x)
    return observations.observer(
        config.data.observation,
        levels=form.levels,
        binarization=config.data.binarization,
    )


def mask_nan(x: Any) -> Masked:
    """Observations with NaN for what is missing, as values and a mask.

    Args:
        x: Floats.

    Returns:
        Float32 values, 0 where missing, and the mask.
    """
    observed = ~jnp.isnan(x)
    return Masked(jnp.where(observed, x, 0.0).astype(jnp.float32), observed)


def init_params(key: Any, model: GenerativeModel, data: Batch, observe: Any) -> Params:
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


class RunKeys(NamedTuple):
    """The keys of a run, one for each purpose.

    Attributes:
        init: Initialisation.
        train: Order of the examples and noise of the steps.
        validation: Draws on validation.
        test: Draws on test: the same whatever the seed, so that two runs have the same
            bits of grey pixels, and their difference is of the models.
        baseline: Observation of the baseline's training examples; the same too.
        figures: Samples and reconstructions shown.
    """

    init: PRNGKey
    train: PRNGKey
    validation: PRNGKey
    test: PRNGKey
    baseline: PRNGKey
    figures: PRNGKey


def run_keys(config: configs.Config) -> RunKeys:
    """The keys of a run.

    Args:
        config: Configuration.

    Returns:
        A key for each purpose.
    """
    own, common = (
        RunKeys(*jax.random.split(jax.random.key(seed), 6)) for seed in (config.seed, 0)
    )
    return own._replace(test=common.test, baseline=common.baseline)
