"""Every setting of a run: sections, rules, files and flags; and how schedules follow the length of a run."""

from distwar_gs.config.appearance import AppearanceConfig
from distwar_gs.config.depth import DepthConfig
from distwar_gs.config.documentation import choices_of, commented_defaults, field_docs, rule_of
from distwar_gs.config.limits import LimitsConfig
from distwar_gs.config.poses import PosesConfig
from distwar_gs.config.rules import (
    A_SHARE,
    FPS,
    FRAMES,
    PIXELS,
    RESOLUTION,
    STEPS,
    Rule,
    above,
    at_least,
    between,
    inside,
    one_of,
    setting,
)
from distwar_gs.config.schema import (
    DEFAULT_STRATEGY,
    FIELDS,
    LENGTH,
    OLD_NAMES,
    PRESETS,
    QUALITIES,
    SECTIONS,
    Config,
    DataConfig,
    DensificationConfig,
    LogConfig,
    ModelConfig,
    OptimConfig,
    ReductionConfig,
    TrainConfig,
    current_name,
)
from distwar_gs.config.sky import SkyConfig
from distwar_gs.config.strategies import STRATEGIES
from distwar_gs.config.values import as_values, config_of, overlaid, validate, with_values
from distwar_gs.config.yaml_files import chosen_values, load_config, override, read_values, save_config
from distwar_gs.system.errors import ConfigError

__all__ = [
    "A_SHARE",
    "DEFAULT_STRATEGY",
    "FIELDS",
    "FPS",
    "FRAMES",
    "LENGTH",
    "OLD_NAMES",
    "PIXELS",
    "PRESETS",
    "QUALITIES",
    "RESOLUTION",
    "SECTIONS",
    "STEPS",
    "STRATEGIES",
    "AppearanceConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "DensificationConfig",
    "DepthConfig",
    "LimitsConfig",
    "LogConfig",
    "ModelConfig",
    "OptimConfig",
    "PosesConfig",
    "ReductionConfig",
    "Rule",
    "SkyConfig",
    "TrainConfig",
    "above",
    "as_values",
    "chosen_values",
    "at_least",
    "between",
    "commented_defaults",
    "config_of",
    "current_name",
    "field_docs",
    "inside",
    "load_config",
    "one_of",
    "overlaid",
    "override",
    "read_values",
    "choices_of",
    "rule_of",
    "save_config",
    "setting",
    "validate",
    "with_values",
]
