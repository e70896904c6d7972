"""A step of Adam as the fused rasteriser's kernels take it."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class AdamStep:
    """A step of Adam as the kernels make it."""

    moments: Sequence[Tensor]
    """exp_avg of the six parameters, then exp_avg_sq."""
    rates: Sequence[float]
    """A step size for each, beta1, beta2, eps, 1 / sqrt(1 - beta2^t), two prices (`fused.adam_rates`)."""
    last_steps: Tensor | None = None
    """[N] int32, the step up to which each Gaussian is. With it Adam is lazy: Gaussians that do not contribute are left
    as they are, and what dense Adam would have done to them in the steps they skipped (zero gradients: their moments
    decay, and their old momentum moves them on) is added, in closed form, whenever their parameters are read. So is
    what they would have paid where opacities and scales have a price."""
    t: int = 0
    """The step, from 1."""

    def arguments(self) -> tuple:
        """As the ops take them."""
        return self.moments, self.rates, self.last_steps, self.t
