"""Typed configuration, and the presets by name."""

from vgm.configs.checks import validate as validate
from vgm.configs.plain import activation as activation
from vgm.configs.plain import changed_fields as changed_fields
from vgm.configs.plain import from_dict as from_dict
from vgm.configs.plain import resolved as resolved
from vgm.configs.plain import to_dict as to_dict
from vgm.configs.presets import PRESETS as PRESETS
from vgm.configs.readers import require_read as require_read
from vgm.configs.schema import Config as Config
from vgm.configs.schema import DataConfig as DataConfig
from vgm.configs.schema import DiffusionConfig as DiffusionConfig
from vgm.configs.schema import EvaluationConfig as EvaluationConfig
from vgm.configs.schema import FlowConfig as FlowConfig
from vgm.configs.schema import LatentConfig as LatentConfig
from vgm.configs.schema import ModelConfig as ModelConfig
from vgm.configs.schema import ObjectiveConfig as ObjectiveConfig
from vgm.configs.schema import OptimizerConfig as OptimizerConfig
from vgm.configs.schema import TrainConfig as TrainConfig
