"""The settings of what shapes Gaussians may have: a section of its own (see distwar_gs.config.schema)."""

from dataclasses import dataclass

from distwar_gs.config.rules import Rule, at_least, setting


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """What shapes Gaussians may have (docs/limits.md)."""

    needle: float = setting(0.0, Rule(lambda value: value == 0 or value >= 1, "0 or at least 1"))
    """Longest axis of a Gaussian, at the most, in lengths of its middle axis: disks stay, needles do not. 0: no such
    limit."""
    size: float = setting(0.0, at_least(0))
    """Longest axis of a Gaussian, at the most: its standard deviation in scene extents. 0: no such limit."""
