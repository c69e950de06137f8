"""Configurations as plain values: for JSON, for flags, and to compare two."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vgm.configs.presets import PRESETS
from vgm.configs.schema import Config, DataConfig, ModelConfig
from vgm.errors import UserError


def to_dict(config: Config) -> dict[str, Any]:
    """A configuration as plain JSON values, without where and how it is run.

    Args:
        config: Configuration.

    Returns:
        Nested dictionaries; paths as strings.
    """
    plain = dataclasses.asdict(config)
    del plain["run_dir"], plain["resume"]
    for section, name in _PATHS:
        path = plain[section][name]
        plain[section][name] = None if path is None else str(path)
    return plain


_PATHS = (("data", "path"), ("train", "init_from"))
"""Fields that are paths."""


def from_dict(plain: dict[str, Any]) -> Config:
    """The configuration that ``to_dict`` made plain.

    Args:
        plain: Nested dictionaries.

    Returns:
        The configuration.

    Raises:
        UserError: If a field is unknown.
    """
    sections = [
        field
        for field in dataclasses.fields(Config)
        if field.name in plain and dataclasses.is_dataclass(field.type)
    ]
    try:
        built = {
            field.name: _build(field.type, plain[field.name]) for field in sections
        }
        return Config(**{**plain, **built})
    except (AttributeError, TypeError, KeyError) as error:
        raise UserError(
            f"config.json does not fit this version of vgm ({error}); train again"
        ) from error


def _build(kind: Any, values: dict[str, Any]) -> Any:
    """A section, its lists as tuples and its paths as paths."""
    typed: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
    }
    for _, name in _PATHS:
        if typed.get(name) is not None:
            typed[name] = Path(typed[name])
    return kind(**typed)


def flatten(plain: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flags and values of a plain configuration, ``--model.latent-dim`` as its name.

    Args:
        plain: Nested dictionaries.
        prefix: What comes before the names.

    Yields:
        Pairs of flag name and value.
    """
    for name, value in plain.items():
        flag = prefix + name.replace("_", "-")
        if isinstance(value, dict):
            yield from flatten(value, f"{flag}.")
        else:
            yield flag, value


def changed_fields(before: Config, after: Config) -> list[str]:
    """Fields in which two configurations differ, each in words.

    Args:
        before: One configuration.
        after: The other.

    Returns:
        "train.batch-size (128 before, 64 now)", and so on.
    """
    old, new = dict(flatten(to_dict(before))), dict(flatten(to_dict(after)))
    if before.data.path is not None and after.data.path is not None:
        # A file may have moved and be called otherwise: what it holds is compared once
        # it is read.
        del old["data.name"]
    return [
        f"{name} ({value} before, {new[name]} now)"
        for name, value in old.items()
        if new[name] != value and not _same_place(value, new[name], name)
    ]


def _same_place(before: Any, after: Any, name: str) -> bool:
    if name not in ("data.path", "train.init-from") or before is None or after is None:
        return False
    # Data may have moved: what they hold is compared once they are read.
    return name == "data.path" or Path(before).resolve() == Path(after).resolve()


def resolved(config: Config) -> Config:
    """A configuration with what it leaves to be chosen as it is chosen.

    Args:
        config: Configuration.

    Returns:
        The same, in every word.
    """
    model = dataclasses.replace(config.model, activation=activation(config.model))
    data = dataclasses.replace(config.data, name=_data_name(config))
    diffusion = config.diffusion
    if diffusion.num_times >= diffusion.num_steps:
        diffusion = dataclasses.replace(diffusion, num_times=0)
    return dataclasses.replace(config, model=model, data=data, diffusion=diffusion)


def _data_name(config: Config) -> str:
    """A file of one's own is not what its preset is for: it is called as it is."""
    name = config.data.name
    _, preset = PRESETS.get(config.preset, ("", config))
    return (_stem(config.data) or name) if name == preset.data.name else name


def _stem(data: DataConfig) -> str | None:
    """The name of a file of one's own without its ending."""
    if data.path is None or not data.path.name.endswith((".npz", ".csv", ".csv.gz")):
        return None
    return data.path.name.removesuffix(".gz")[:-4]


def activation(model: ModelConfig) -> str:
    """The non-linearity of a network, chosen by its architecture if left to it.

    Args:
        model: Configuration of the network.

    Returns:
        Its name.
    """
    if model.activation != "auto":
        return model.activation
    # With relu a convolutional posterior is the prior before the decoder reads it.
    return "silu" if model.architecture == "conv" else "relu"
