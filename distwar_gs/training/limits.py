"""Limits to the shapes of Gaussians: neither needles nor giants, at any place where the model is looked at from.

Needles fit lines of a photo and stick out where the scene is seen from elsewhere; giants fit haze. PhysGaussian (Xie et
al. 2024) and others put max(ratio - limit, 0) into the loss. Here what is beyond a limit is brought to it, now and then
and before a model is measured or saved: the same aim (to minimise under a bound), which needs no weight, holds exactly,
costs nothing between, and is the same for every strategy, engine and optimiser. What is lazy in lazy Adam stays so: a
gradient of the ratio would be due for all Gaussians at all steps, also those that no view shows.
"""

import math

import torch
from torch import Tensor

from distwar_gs.config import Config, LimitsConfig
from distwar_gs.training.state import TrainingState

EVERY = 20
"""Steps between two: in so many a scale changes by a tenth at the most, at its published rate."""


@torch.no_grad()
def limit_scales(scales: Tensor, needle: float, size: float) -> None:
    """Shortens axes in place; nothing waits for the device.

    Args:
        scales: logarithms [N, 3].
        needle: the longest axis in lengths of the middle one, at the most; 0: no such limit.
        size: the longest axis at the most, in units of the means; 0: no such limit.
    """
    if needle > 0.0:
        middle = scales.median(dim=1, keepdim=True).values
        torch.minimum(scales, middle + math.log(needle), out=scales)
    if size > 0.0:
        scales.clamp_(max=math.log(size))


class Limits:
    """A hook: brings Gaussians to the limits."""

    needs_finite = False

    def __init__(self, settings: LimitsConfig, state: TrainingState) -> None:
        """Of this training."""
        self._settings, self._state = settings, state

    def is_due(self, step: int) -> bool:
        """Every EVERY steps, and where the model is measured or saved."""
        state, train = self._state, self._state.config.train
        marks = (*train.test_iterations, *train.save_iterations)
        return state.is_over or state.schedule.is_each(step, EVERY) or state.schedule.is_one(step, marks)

    def after_step(self, step: int, state: TrainingState) -> None:
        """Changes scales; Adam's moments stay."""
        state.engine.settle(step)
        limit_scales(state.params["scales"].detach(), self._settings.needle, self._settings.size * state.extent)


def limits_of(config: Config, state: TrainingState) -> list[Limits]:
    """The hook, where the config asks for a limit."""
    asked = config.limits.needle > 0.0 or config.limits.size > 0.0
    return [Limits(config.limits, state)] if asked else []
