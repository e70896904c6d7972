"""Settings in YAML: files with their bases, the config.yaml of a run, and --set of the command line."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import yaml

from distwar_gs.config.schema import FIELDS, LENGTH, SECTIONS, Config
from distwar_gs.config.values import as_values, config_of, did_you_mean, known, overlaid, shown, validate, with_values
from distwar_gs.system.errors import ConfigError
from distwar_gs.system.files import read_bounded, replacing


def load_config(path: str | os.PathLike[str]) -> Config:
    """The configuration of a YAML file: `config_of` the values that it and its bases set.

    Raises ConfigError naming the file for unreadable YAML, a cycle of bases, an unknown key or section, a wrong type or
    a value out of range.
    """
    values = read_values(path)
    try:
        return validate(config_of(values))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_values(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a YAML file sets, keyed "section.name", over what the file its `base:` key names (relative to it) sets, ...

    Raises ConfigError as `load_config` does.
    """
    values: dict[str, Any] = {}
    for file, tree in _inheritance(Path(path)):
        try:
            values = overlaid(values, _flatten(tree))
            config = with_values(Config(), values)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from None
        if len(values) == len(FIELDS):
            values = chosen_values(config)
    return values


def chosen_values(config: Config) -> dict[str, Any]:
    """Of all values those that are a choice, keyed "section.name": `config_of` makes the others of them again.

    configs/default.yaml and what is made from it repeat the defaults, the config.yaml of a run what came of its
    strategy and its length; taken for choices, these would win over another strategy, and stay as they are at another
    length.
    """
    values, chosen = as_values(config), dict[str, Any]()
    for key in (*LENGTH, "densification.strategy", "densification.every"):  # the others follow these
        chosen |= {key: values[key]} if values[key] != as_values(config_of(chosen))[key] else {}
    made = as_values(config_of(chosen))
    return {key: value for key, value in values.items() if key in chosen or value != made[key]}


def save_config(config: Config, path: str | os.PathLike[str]) -> None:
    """Write all values as YAML, atomically; `load_config` reads them back equal."""
    tree = {name: plain_values(getattr(config, name)) for name in SECTIONS}
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    with replacing(path) as temporary:
        temporary.write_text("# The settings of this run, fully resolved.\n" + text, encoding="utf-8")


def _inheritance(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The YAML trees of `path` and of all its bases, the farthest base first."""
    chain: list[tuple[Path, dict[str, Any]]] = []
    while True:
        names = [file for file, _ in chain]
        if path.resolve() in (file.resolve() for file in names):
            cycle = " -> ".join(str(file) for file in [*reversed(names), path])
            raise ConfigError(f"{path}: the base keys form a cycle: {cycle}")
        tree = _read_tree(path, wanted_by=names[0] if names else None)
        base = tree.pop("base", None)
        chain.insert(0, (path, tree))
        if base is None:
            return chain
        if not isinstance(base, str) or not base.isprintable():
            raise ConfigError(f"{path}: base is {shown(base)}: expected the path of a YAML file")
        path = Path(os.path.normpath(path.parent / base))


_LARGEST = 2**20
"""Bytes of a YAML file; configs/default.yaml has some 12,000."""


def _read_tree(path: Path, wanted_by: Path | None) -> dict[str, Any]:
    try:
        tree = _parse_yaml(read_bounded(path, _LARGEST), str(path))
    except OSError as error:
        reason = f" (the base of {wanted_by})" if wanted_by else ""
        raise ConfigError(f"{path}: cannot read the configuration{reason}: {error.strerror}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected sections such as `train:`, found {type(tree).__name__}")
    return tree


def _flatten(tree: dict[Any, Any]) -> dict[str, Any]:
    """{"train": {"seed": 1}} -> {"train.seed": 1}; an unknown section is a ConfigError."""
    values: dict[str, Any] = {}
    for section, entries in tree.items():
        if section not in SECTIONS:
            # A key without its section is the likelier slip: `iterations: 100` at the top level.
            if not isinstance(entries, dict):
                known(str(section))
            raise ConfigError(f"unknown section {section}{did_you_mean(str(section), SECTIONS)}")
        if not isinstance(entries, dict | None):
            raise ConfigError(f"section {section} is {shown(entries)}: expected `key: value` lines")
        values |= {f"{section}.{name}": value for name, value in (entries or {}).items()}
    return values


_DEEPEST = 50  # brackets within brackets


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, except that a key given twice is an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        """PyYAML's time grows with the square of the open brackets."""
        if self.flow_level >= _DEEPEST:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=self.get_mark())
        super().fetch_flow_collection_start(token)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """What is no number, date or truth value raises many kinds of errors, none of which has a line."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            problem = f"{shown(node.value)} is no {node.tag.rpartition(':')[2]}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error


def _parse_yaml(text: str | bytes, origin: str) -> Any:
    try:
        return yaml.load(text, _StrictLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None)
        raise ConfigError(f"{origin}: not readable as YAML{line}: {problem}; correct it there") from None
    except RecursionError:
        raise ConfigError(f"{origin}: not readable as YAML: nested too deeply; correct it there") from None


def override(assignment: str) -> dict[str, Any]:
    """{"section.name": value} of a "section.name=value"; the value is read as YAML (`--set` of the command line).

    Raises ConfigError as `with_values` does.
    """
    key, equals, text = assignment.partition("=")
    if not equals:
        raise ConfigError(f"--set {assignment}: expected section.key=value")
    values = {key.strip(): _parse_yaml(text, f"--set {assignment}")}
    with_values(Config(), values)
    return values


def plain_values(section: Any) -> dict[str, Any]:
    """The values of a section by name, as YAML has them."""
    values = dataclasses.asdict(section)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
