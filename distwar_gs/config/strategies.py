"""The strategies by which Gaussians come and go, a row each: what the rest of the trainer must know of one. What makes
one is in distwar_gs.strategies.base.MAKERS; configs/strategies has a file of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class StrategyRow:
    """A row of STRATEGIES."""

    preset: Mapping[str, Any] = field(default_factory=dict)
    """The defaults that it changes, as published, keyed "section.name"; docs/strategies.md has the sources."""
    absgrad: bool = False
    """Whether it counts sums of absolute gradients (AbsGS) instead of gradients."""
    needs_all_updated: bool = False
    """Whether every step changes every Gaussian, by what its opacity and its size add to the loss: optim.adam visible,
    which leaves out those that are not seen, is refused then."""
    statistics: tuple[str, ...] = ("grad2d", "count")
    """What it counts of each Gaussian, and keeps in checkpoints."""
    over_cap: str = "none are added"
    """What happens to Gaussians that are more than densification.cap_max from the start, in words."""


STRATEGIES = {
    "adc": StrategyRow(),
    "absgrad": StrategyRow(preset={"densification.grad_threshold": 8e-4}, absgrad=True),
    "mcmc": StrategyRow(
        preset={
            "model.init_opacity": 0.5,
            "model.init_scale": 0.1,
            "optim.opacities_lr": 5e-2,
            "densification.stop": 25_000,
            "densification.cap_max": 1_000_000,
        },
        needs_all_updated=True,
        statistics=(),
        over_cap="the faintest go",
    ),
    "guided": StrategyRow(
        preset={
            "model.antialiased": True,
            "model.init_pixels": 0.3,
            "optim.opacities_lr": 5e-2,
            "optim.rates_final": 0.1,
            "densification.stop": 25_000,
            "densification.opacity_reg": 0.003,
            "densification.trim": 0.005,
            "train.iterations": 20_000,
        },
        needs_all_updated=True,
        statistics=("grad2d", "count", "score"),
        over_cap="the faintest go",
    ),
}
"""By the value of densification.strategy."""
