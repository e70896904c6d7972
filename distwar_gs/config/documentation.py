"""What the settings mean, from the docstrings under their fields: for --help, messages and configs/default.yaml."""

import ast
import functools
import inspect
import textwrap

import yaml

from distwar_gs.config.rules import Rule
from distwar_gs.config.schema import FIELDS, SECTIONS
from distwar_gs.config.values import config_of
from distwar_gs.config.yaml_files import plain_values


@functools.cache
def field_docs() -> dict[str, str]:
    """The docstring under each field as one line, keyed "section.name" (Python drops them, so read from the source)."""
    docs: dict[str, str] = {}
    for section, cls in SECTIONS.items():
        body = _class_body(cls)
        for line, following in zip(body, body[1:], strict=False):
            if (
                isinstance(line, ast.AnnAssign)
                and isinstance(line.target, ast.Name)
                and isinstance(following, ast.Expr)
            ):
                docs[f"{section}.{line.target.id}"] = " ".join(ast.literal_eval(following.value).split())
    return docs


def _class_body(cls: type) -> list[ast.stmt]:
    (node,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(node, ast.ClassDef)
    return node.body


def rule_of(key: str) -> Rule | None:
    """The rule for the values of "section.name", or None if every value of its type is allowed."""
    return FIELDS[key].metadata.get("rule")


def choices_of(key: str) -> tuple[str, ...] | None:
    """The values that "section.name" may have, or None if they are not a list."""
    rule = rule_of(key)
    return rule.choices if rule else None


def commented_defaults() -> str:
    """The text of configs/default.yaml: every key with its default, under a comment made from its docstring."""
    docs, defaults = field_docs(), config_of({})
    lines = [
        "# Every setting with its default and meaning, generated from distwar_gs/config/schema.py (see there).",
        "# To change some: a file of your own that starts with `base: default.yaml`, or --set section.key=value.",
    ]
    for section, cls in SECTIONS.items():
        lines += ["", f"# {cls.__doc__}", f"{section}:"]
        for name, value in plain_values(getattr(defaults, section)).items():
            rule = rule_of(f"{section}.{name}")
            comment = docs[f"{section}.{name}"] + (f" Must be {rule.words}." if rule else "")
            lines += textwrap.wrap(
                comment, 116, initial_indent="  # ", subsequent_indent="  # ", break_on_hyphens=False
            )
            lines.append(f"  {name}: {yaml.safe_dump([value], default_flow_style=True).strip()[1:-1]}")
    return "\n".join(lines) + "\n"
