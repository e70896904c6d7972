"""Values by key, "section.name": checked against types and rules, and made into a configuration."""

import dataclasses
import difflib
import math
import os
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from distwar_gs.config.rules import Rule
from distwar_gs.config.schedule import stretched
from distwar_gs.config.schema import DEFAULT_STRATEGY, FIELDS, LENGTH, PRESETS, QUALITIES, Config, current_name
from distwar_gs.config.strategies import STRATEGIES
from distwar_gs.system.errors import ConfigError


def _as_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _as_int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    return value


def _as_float(value: Any) -> float:
    # Strings too: YAML 1.1 has no dot-less exponents, so PyYAML reads 1e-4 as the string "1e-4".
    if isinstance(value, bool) or not isinstance(value, int | float | str) or not math.isfinite(float(value)):
        raise TypeError
    return float(value)


def _as_str(value: Any) -> str:
    if not isinstance(value, str | os.PathLike):
        raise TypeError
    return os.fspath(value)


def _as_ints(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError
    return tuple(_as_int(item) for item in value)


def _or_none(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else convert(value)


_TYPES: dict[Any, tuple[str, Callable[[Any], Any]]] = {
    bool: ("true or false", _as_bool),
    int: ("an integer", _as_int),
    float: ("a finite number", _as_float),
    str: ("a string (quote it if it looks like a number)", _as_str),
    str | None: ("a string or null", _or_none(_as_str)),
    int | None: ("an integer or null", _or_none(_as_int)),
    float | None: ("a finite number or null", _or_none(_as_float)),
    tuple[int, ...]: ("a list of integers such as [7000, 30000]", _as_ints),
}


def _checked(key: str, value: Any) -> Any:
    """`value` converted to the type of the field `key` and tested against its rule, or ConfigError."""
    expected, convert = _TYPES[FIELDS[key].type]
    try:
        value = current_name(key, convert(value))
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{key} is {shown(value)}: expected {expected}") from None
    if isinstance(value, str) and not _can_be_a_name(value):
        raise ConfigError(f"{key} is {shown(value)}: no file can be called so; give another name")
    rule: Rule | None = FIELDS[key].metadata.get("rule")
    if rule is not None and value is not None and not rule.holds(value):
        hint = did_you_mean(value, rule.choices) if rule.choices else ""
        raise ConfigError(f"{key} is {shown(value)}: it must be {rule.words}{hint}")
    return value


def _can_be_a_name(text: str) -> bool:
    """Whether the operating system takes a string; names whose bytes are no UTF-8 come as surrogates (PEP 383)."""
    try:
        return "\0" not in text and bool(os.fsencode(text) or not text)
    except UnicodeEncodeError:
        return False


def shown(value: Any) -> str:
    """A value as messages quote it. Aliases let a file of a few lines name a list without end, so it is abridged."""
    try:
        return _ABRIDGED.repr(list(value) if isinstance(value, tuple) else value)
    except ValueError:  # Python does not print integers of more than 4300 digits
        return "a number of thousands of digits"


_LONGEST_KEY = 100  # difflib's time grows with the square

_ABRIDGED = reprlib.Repr()
_ABRIDGED.maxstring = _ABRIDGED.maxother = 100
_ABRIDGED.maxlist = _ABRIDGED.maxdict = 12


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """ "; did you mean ...?" with the candidate nearest to a word, or "" where none is near."""
    nearest = difflib.get_close_matches(word[:_LONGEST_KEY], list(candidates), n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def known(key: str) -> str:
    """`key` if it is a "section.name" of the configuration, else ConfigError with the nearest one and its type."""
    if key in FIELDS:
        return key
    name = key.rpartition(".")[2]
    key = key[:_LONGEST_KEY]
    moved = [other for other in FIELDS if other.endswith(f".{name}")]  # right name, wrong or no section
    nearest = moved or difflib.get_close_matches(key, FIELDS, n=1, cutoff=0.0)
    hints = " or ".join(f"{other} ({_TYPES[FIELDS[other].type][0]})" for other in nearest)
    raise ConfigError(f"unknown key {key}; did you mean {hints}?")


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy of `config` with the given values, keyed "section.name".

    Raises ConfigError for an unknown key (naming the nearest), a wrong type or a value out of range.
    """
    changes: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, name = known(key).partition(".")
        changes.setdefault(section, {})[name] = _checked(key, value)
    sections = {name: dataclasses.replace(getattr(config, name), **new) for name, new in changes.items()}
    return dataclasses.replace(config, **sections)


def config_of(values: Mapping[str, Any]) -> Config:
    """The configuration with these values, keyed "section.name", over those that their strategy (`PRESETS`) and their
    quality (`QUALITIES`) bring; what is counted in steps follows the length of the run (`distwar_gs.config.schedule`).

    Raises ConfigError as `with_values` does.
    """
    values = {"densification.strategy": DEFAULT_STRATEGY} | dict(values)
    named = with_values(Config(), values)
    brought = PRESETS[named.densification.strategy] | QUALITIES[named.train.quality]
    config = with_values(Config(), brought | values)
    return with_values(config, stretched(as_values(config), values.keys()))


def overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The values of both, those `above` where both set one; a length of the run (`LENGTH`) replaces any other."""
    replaced = LENGTH if any(key in above for key in LENGTH) else ()
    return {key: value for key, value in below.items() if key not in replaced} | dict(above)


def validate(config: Config) -> Config:
    """`config` with every value checked, alone and against the others, and in its clean type; else ConfigError."""
    config = with_values(config, as_values(config))
    if (config.model.near_plane or 0.0) >= config.model.far_plane:
        raise ConfigError(f"model.near_plane is {config.model.near_plane}: it must be below model.far_plane")
    if config.model.init_ply and config.model.init != "auto":
        raise ConfigError(
            f"model.init is {config.model.init}: leave it auto with model.init_ply, which takes its place"
        )
    density = config.densification
    if density.start > density.stop:
        raise ConfigError(f"densification.start is {density.start}: it must not be above densification.stop")
    if density.opacity_reset_value <= density.prune_opacity:
        raise ConfigError(
            f"densification.opacity_reset_value is {density.opacity_reset_value}: it must be above "
            f"densification.prune_opacity ({density.prune_opacity}), or a reset removes every Gaussian"
        )
    if config.train.seconds is not None and config.train.deterministic:
        raise ConfigError(
            f"train.seconds is {config.train.seconds:g}: how many steps that is differs from run to run, so it does "
            "not go with train.deterministic; give --iterations instead"
        )
    if STRATEGIES[density.strategy].needs_all_updated and config.optim.adam == "visible":
        raise ConfigError(
            f"optim.adam is visible: with densification.strategy {density.strategy} every Gaussian pays for its "
            "opacity and its size at every step; use lazy or dense"
        )
    return config


def as_values(config: Config) -> dict[str, Any]:
    """The configuration as one flat dictionary keyed "section.name"; `with_values` takes it back."""
    return {key: getattr(getattr(config, key.partition(".")[0]), spec.name) for key, spec in FIELDS.items()}
