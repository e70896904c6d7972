"""What benchmarks/time_to_quality.py trains: scenes and variants as they are typed, and the configs they make."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distwar_gs.config import Config, ConfigError, as_values, config_of, overlaid, override, read_values, validate


@dataclass(frozen=True)
class Named:
    """A scene or a variant: a name and what it sets."""

    text: str
    """As it was typed."""
    name: str
    values: dict[str, Any]


_SETTING = r"(?=[a-z]+\.\w+=)"
"""What comes begins as a setting does."""


def scene_of(text: str) -> Named:
    """[NAME=]PATH[:SETTINGS]; without a name that of the folder, or of the file without .yaml. ConfigError."""
    place, *more = re.split(f":{_SETTING}", text, maxsplit=1)
    name, equals, path = place.partition("=")
    path = path if equals else place
    values = _values_of(more[0] if more else "")
    if path.endswith((".yaml", ".yml")):
        values = overlaid(read_values(path), values)
    else:
        values = {"data.source_path": path} | values
    source = values.get("data.source_path")
    if not source or not Path(source).exists():
        raise ConfigError(f"--scene {text}: {source}: no such folder")
    return Named(text, name if equals else Path(os.path.abspath(path)).stem, values)


def variant_of(text: str) -> Named:
    """A strategy's name, a YAML file, or NAME:SETTINGS. ConfigError."""
    name, colon, what = text.partition(":")
    if colon:
        return Named(text, name, _values_of(what))
    if text.endswith((".yaml", ".yml")):
        return Named(text, Path(text).stem, read_values(text))
    return Named(text, text, override(f"densification.strategy={text}"))


def _values_of(text: str) -> dict[str, Any]:
    """What comma- or space-separated settings, and a YAML file before them, set."""
    values: dict[str, Any] = {}
    for part in filter(None, re.split(rf"[,\s]+{_SETTING}", text.strip())):
        values = overlaid(values, read_values(part) if part.endswith((".yaml", ".yml")) else override(part))
    return values


def unique(named: Sequence[Named], flag: str) -> Sequence[Named]:
    """The same; ConfigError where two have one name."""
    names = [one.name for one in named]
    for one in named:
        if names.count(one.name) > 1:
            raise ConfigError(f"{flag} {one.text}: there are two of the name {one.name}; give one of them another")
    return named


# ----------------------------------------------------------------------------------------------------- one training

NO_PART_OF_THE_RESULT = (
    "data.source_path", "data.image_budget_gib", "data.host_budget_gib", "data.loader_threads", "train.result_dir",
    "train.resume", "train.device", "train.seed", "train.test_iterations", "train.save_iterations",
    "train.checkpoint_iterations", "train.checkpoint_every", "train.keep_checkpoints", "log.",
)  # fmt: skip
"""Settings that rows need not tell: where things are, what is written; seed and card have columns of their own."""


@dataclass(frozen=True)
class Job:
    """One training."""

    scene: Named
    variant: Named
    seed: int
    config: Config
    """Without a run folder."""
    settings: str

    @property
    def name(self) -> str:
        """Of its folder, and for messages."""
        return f"{self.scene.name}_{self.variant.name}_{self.seed}"

    @property
    def digest(self) -> str:
        """Of all settings that the result depends on, but the seed."""
        values = {
            key: value for key, value in as_values(self.config).items() if not key.startswith(NO_PART_OF_THE_RESULT)
        }
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]


def make_job(scene: Named, variant: Named, seed: int, common: dict[str, Any]) -> Job:
    """Defaults < `common` < what the scene sets < what the variant sets. ConfigError as train.py's."""
    chosen = overlaid(overlaid(common, scene.values), variant.values)
    own = {"train.seed": seed, "train.checkpoint_every": 0, "log.quiet": True, "train.resume": None}
    try:
        config = validate(config_of(chosen | own))
    except ConfigError as error:
        raise ConfigError(f"{scene.text} with {variant.text}: {error}") from None
    shown = {key: value for key, value in chosen.items() if not key.startswith(NO_PART_OF_THE_RESULT)}
    return Job(scene, variant, seed, config, " ".join(f"{key}={_plain(shown[key])}" for key in sorted(shown)))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
