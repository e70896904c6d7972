"""What the ranks agree on now and then, and not at every step: their hosts wait for each other then."""

import torch
from torch import Tensor

import distwar_kernels as kernels
from distwar_gs.system.parallel import Ranks
from distwar_kernels import Reduction
from distwar_kernels.tuner import CANDIDATES, Run

AGREE_EVERY = 16
"""Steps between two times."""


class AgreedReduction:
    """How the blend's backward pass sums. Where that is found by measuring (auto), the first rank measures, since all
    wait for one that does, and tells the others."""

    def __init__(self, ranks: Ranks, wanted: Reduction, device: torch.device) -> None:
        """`wanted`: as the settings say."""
        self._ranks, self._wanted, self._device = ranks, wanted, device
        self._is_auto = wanted.strategy == "auto"

    def agree(self) -> None:
        """All take what the first one has found; asks nobody where nothing is measured."""
        if self._is_auto:
            tuner = kernels.tuner_of(self._device)
            tuner.reduction = CANDIDATES[self._ranks.numbers(CANDIDATES.index(tuner.reduction))[0]]

    @property
    def setting(self) -> Reduction:
        """For ops that measure by themselves: only the first rank's do."""
        if self._is_auto and not self._ranks.leads:
            return kernels.tuner_of(self._device).reduction
        return self._wanted

    def watched(self, gradient: Tensor, primitives: int, run: Run) -> Reduction:
        """What to sum with now; on the first rank, `run(gradient, reduction)` may be measured before, of a pass that is
        run by hand."""
        reduction, tuner = kernels.resolve(self.setting, self._device)
        if tuner:
            tuner.watch_gradient(gradient, primitives, run)
        return reduction
