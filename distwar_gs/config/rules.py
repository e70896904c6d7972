"""What a value of the settings must satisfy, beside its type."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Rule:
    """What a value must satisfy: a test and the words for it, shared by validation, --help and default.yaml."""

    holds: Callable[[Any], bool]
    words: str
    choices: tuple[str, ...] = ()


def one_of(*choices: str) -> Rule:
    """A rule: one of these names."""
    return Rule(lambda value: value in choices, "one of " + ", ".join(choices), choices)


def between(low: float, high: float, note: str = "") -> Rule:
    """A rule: `low` <= value <= `high`; `note` says what the bounds are."""
    return Rule(lambda value: low <= value <= high, f"between {low} and {high}" + (f" ({note})" if note else ""))


def inside(low: float, high: float) -> Rule:
    """A rule: `low` < value < `high`."""
    return Rule(lambda value: low < value < high, f"between {low} and {high}, both excluded")


def at_least(low: float) -> Rule:
    """A rule: value >= `low`."""
    return Rule(lambda value: value >= low, f"at least {low}")


def above(low: float) -> Rule:
    """A rule: value > `low`."""
    return Rule(lambda value: value > low, f"above {low}")


FRAMES = between(1, 1_000_000, "frames of a video")
PIXELS = between(1, 16_384, "as many as H.264 allows")
FPS = between(0.01, 1000.0, "frames per second")
RESOLUTION = Rule(lambda value: value == -1 or value >= 1, "-1 or a positive number")
A_SHARE = Rule(lambda value: 0 < value <= 1, "above 0 and at most 1")
STEPS = Rule(lambda steps: all(step == -1 or step >= 1 for step in steps), "steps counted from 1 (-1: none)")


def setting(default: Any, rule: Rule | None = None) -> Any:
    """A dataclass field with a default and, where not every value of its type makes sense, a rule."""
    return field(default=default, metadata={} if rule is None else {"rule": rule})
