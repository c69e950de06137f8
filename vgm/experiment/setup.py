"""From a configuration to data, model and keys."""

from typing import Any, NamedTuple

import jax
import numpy as np

from vgm import configs, data, models
from vgm.data import observations
from vgm.errors import UserError
from vgm.models import GenerativeModel
from vgm.types import Batch, Params, PRNGKey


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
    form: DataForm
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
    observations.require_observable(dataset, config.data.observation)
    if config.data.observation == "binary" and config.data.binarization == "static":
        dataset = observations.binarize_once(dataset)
    form = data_form(dataset)
    model = build_model(config, form)
    return Experiment(config, form, dataset, model, observer(config, form))


def data_form(dataset: data.Dataset) -> DataForm:
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
