"""Presets with other values, for tests."""

import dataclasses
from typing import Any

from vgm import configs


def changed(preset: str, values: dict[str, Any]) -> configs.Config:
    """A preset with some fields replaced, named section.field."""
    config = configs.PRESETS[preset][1]
    for name, value in values.items():
        section, field = name.split(".")
        part = dataclasses.replace(getattr(config, section), **{field: value})
        config = dataclasses.replace(config, **{section: part})
    return config
