"""The settings of what is learned of the cameras: a section of its own (see distwar_gs.config.schema)."""

from dataclasses import dataclass

from distwar_gs.config.rules import above, between, setting


@dataclass(frozen=True, kw_only=True)
class PosesConfig:
    """What is learned of where the training photos were taken from, beside the Gaussians (docs/poses.md)."""

    refine: bool = setting(False)
    """Learn a rotation and a shift of the camera of each training photo. For poses that are a little off: from a
    phone's own tracking, from few matches, of a moving rig. The run folder's cameras.json and refined/ have the new
    cameras."""
    lr: float = setting(1e-3, above(0))
    """How far a camera moves when its photo is seen, at the most and at first: in radians, and in scene extents."""
    lr_final: float = setting(1e-5, above(0))
    """The same at the end of the run; between the two it falls exponentially."""
    warm_up: float = setting(0.02, between(0, 1))
    """Share of the run in which the rate rises from 0, since the first Gaussians say little of where a camera is."""
