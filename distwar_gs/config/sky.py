"""The settings of a background that is learned: a section of its own (see distwar_gs.config.schema)."""

from dataclasses import dataclass

from distwar_gs.config.rules import above, between, setting


@dataclass(frozen=True, kw_only=True)
class SkyConfig:
    """What is learned of what lies behind all Gaussians (docs/sky.md). Only used where data.background is learned."""

    degree: int = setting(3, between(0, 3, "degree of the spherical harmonics"))
    """Of the spherical harmonics of the direction of view; 0: one colour."""
    lr: float = setting(0.01, above(0))
    """Learning rate of the harmonics at the first step."""
    lr_final: float = setting(1e-4, above(0))
    """The same at the end of the run; between the two it falls exponentially."""
