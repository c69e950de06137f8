"""Typed configuration, and the presets by name."""

from vgm.configs.presets import PRESETS as PRESETS
from vgm.configs.schema import Config as Config
from vgm.configs.schema import DataConfig as DataConfig
from vgm.configs.schema import EvaluationConfig as EvaluationConfig
from vgm.configs.schema import ModelConfig as ModelConfig
from vgm.configs.schema import ObjectiveConfig as ObjectiveConfig
from vgm.configs.schema import OptimizerConfig as OptimizerConfig
from vgm.configs.schema import TrainConfig as TrainConfig
from vgm.configs.schema import changed_fields as changed_fields
from vgm.configs.schema import from_dict as from_dict
from vgm.configs.schema import to_dict as to_dict
from vgm.configs.schema import validate as validate
