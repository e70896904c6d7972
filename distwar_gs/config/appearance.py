"""The settings of what is learned of the light of each photo: a section of its own (see distwar_gs.config.schema)."""

from dataclasses import dataclass

from distwar_gs.config.rules import above, at_least, one_of, setting


@dataclass(frozen=True, kw_only=True)
class AppearanceConfig:
    """What is learned of the light of each photo, beside the Gaussians (docs/appearance.md)."""

    model: str = setting("none", one_of("none", "exposure", "physical", "bilateral"))
    """For captures whose exposure or white balance changes. exposure: a 3x3 colour matrix and an offset for each photo.
    physical: exposure and white balance of each photo, the vignette of each camera, a response curve. bilateral: a
    bilateral grid for each photo, of colour matrices that depend on place and brightness. All have the neutral mean
    over the photos, so that the model keeps the colours; none is part of it when it is saved."""
    exposure_lr: float = setting(0.01, above(0))
    """Learning rate of the matrix of each photo at the first step, or of its exposure and white balance (as logarithms)
    with physical. A grid has a matrix beside its cells, added to all."""
    exposure_lr_final: float = setting(1e-4, above(0))
    """The same at the end of the run; between the two it falls exponentially. 3DGS ends at 1e-3, at which matrices keep
    swinging (docs/appearance.md)."""
    physical_lr: float = setting(5e-3, above(0))
    """Learning rate of vignettes and response curve, which begin when a twentieth of the run is done; it rises over
    another, and falls exponentially to a tenth. Only used by physical."""
    physical_pull: float = setting(1e-3, at_least(0))
    """Weight in the loss of half the squares of their parameters. Only used by physical."""
    grid_lr: float = setting(2e-3, above(0))
    """Learning rate of the grids after the first thirtieth of the run, in which it rises; it falls exponentially to a
    hundredth. Only used by bilateral."""
    grid_tv: float = setting(10.0, at_least(0))
    """Weight of the total variation of a grid in the loss: how smooth it is. Only used by bilateral."""
