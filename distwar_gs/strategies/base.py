"""How the number of Gaussians and their places are governed: what all strategies share, and which one a config gets.

`adc` and `absgrad` are adaptive density control (adaptive.py), `mcmc` is mcmc.py, `guided` is guided.py. What the rest
of the trainer must know of each is a row of distwar_gs.config.STRATEGIES.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Adam

from distwar_gs.config import Config
from distwar_gs.config.schedule import Schedule
from distwar_gs.gaussians.memory import Cap
from distwar_gs.strategies.adaptive import Densifier
from distwar_gs.strategies.guided import Guided
from distwar_gs.strategies.mcmc import Mcmc
from distwar_gs.strategies.trimming import Look
from distwar_gs.system.parallel import ALONE, Ranks


class Strategy(Protocol):
    """What the training loop holds. A step calls, in this order: `statistics`, `after_backward` (where autograd makes
    the gradients), `regularize` or `prices`, (the optimisers), `perturb`, and before the next view `step`."""

    state: dict[str, Tensor]
    """Statistics by name, [N] each."""

    def after_backward(self, step: int, means2d_grad: Tensor, radii: Tensor, width: int, height: int) -> None:
        """Counts the gradients [C, N, 2] of the projected centres, per pixel, where radii [C, N, 2] are positive."""

    def statistics(self, step: int) -> dict[str, Tensor] | None:
        """What a backward pass that counts by itself adds to, [N] each; None when its step's gradients do not count.

        By name: `grad2d` and `count` as `after_backward` counts them; `score` the root of the errors of the pixels that
        a Gaussian has a part in, in proportion to its part. A step has a score only if it is asked for here, and then
        with every engine.
        """

    def regularize(self, params: dict[str, Parameter]) -> None:
        """Adds to the gradients, before the optimisers' step. Only called where all Gaussians are updated
        (`optim.adam: dense`, or autograd)."""

    def prices(self, count: int) -> tuple[float, float]:
        """The same for lazy Adam, with so many Gaussians: what every opacity, and every scale along each axis, adds to
        the loss of every step, in multiples of itself. (0, 0) for a loss that is the image's alone."""

    def perturb(self, step: int, params: dict[str, Parameter], means_lr: float, generator: torch.Generator) -> None:
        """Changes the parameters in place, after the optimisers' step with this learning rate of the means."""

    def is_due(self, step: int) -> bool:
        """Whether `step` will change anything after this step."""

    def step(
        self, step: int, params: dict[str, Parameter], optimizers: dict[str, Adam], generator: torch.Generator
    ) -> Any:
        """Adds, moves and removes Gaussians where that is due; what it did, for the log, or None."""

    def state_dict(self) -> dict[str, Tensor]:
        """For a checkpoint."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continues from a checkpoint. Raises ValueError if it is another model's."""


def wants_score(strategy: Strategy, step: int) -> bool:
    """Whether the errors of this step's pixels are asked for."""
    statistics = strategy.statistics(step)
    return statistics is not None and "score" in statistics


@dataclass(frozen=True)
class StrategySetup:
    """What a strategy is made for."""

    config: Config
    count: int
    """Gaussians that there are."""
    device: torch.device | str
    extent: float
    """Of the scene, in the frame of the means."""
    schedule: Schedule
    """Of the run."""
    cap: Cap | None = None
    """If it depends on memory."""
    shown: float = 1.0
    """The share of the views that show a point of the scene."""
    look: Look | None = None
    """At the training views, for what they say of each Gaussian."""
    ranks: Ranks = ALONE
    """Those that hold Gaussians: `count` is of this one."""


def make_strategy(setup: StrategySetup) -> Strategy:
    """The strategy of a configuration."""
    return MAKERS[setup.config.densification.strategy](setup)


def _adaptive(setup: StrategySetup) -> Strategy:
    density, white = setup.config.densification, setup.config.data.background == "white"
    return Densifier(setup.count, setup.device, setup.extent, density, white, setup.cap, setup.schedule, setup.ranks)


def _mcmc(setup: StrategySetup) -> Strategy:
    return Mcmc(setup.extent, setup.config.densification, setup.schedule, setup.ranks, setup.count)


def _guided(setup: StrategySetup) -> Strategy:
    density = setup.config.densification
    limits = (setup.cap, setup.schedule)
    return Guided(
        setup.count, setup.device, setup.extent, density, *limits, shown=setup.shown, look=setup.look, ranks=setup.ranks
    )


MAKERS: dict[str, Callable[[StrategySetup], Strategy]] = {
    "adc": _adaptive, "absgrad": _adaptive, "mcmc": _mcmc, "guided": _guided,
}  # fmt: skip
"""What makes the strategy of each row of distwar_gs.config.STRATEGIES."""
