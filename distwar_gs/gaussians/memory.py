"""How many Gaussians fit into memory: what each takes, and what is free."""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distwar_datasets import View
from distwar_datasets.pixels.images import available_memory
from distwar_gs.config import STRATEGIES, Config
from distwar_gs.formats.parameters import harmonics_of, numbers_of
from distwar_gs.gaussians.rows import SLACK
from distwar_gs.rendering.renderer import RASTERIZERS
from distwar_gs.system.parallel import ALONE, Ranks

log = logging.getLogger(__name__)

SHARES = {"cuda": 0.9, "cpu": 0.5}
"""Of the free memory, what Gaussians may take: on a GPU evaluation and the allocator's waste need some, on the host so
do other programs."""
PIXEL_BYTES = {"cuda": 200, "cpu": 800}
"""What rendering and loss take for each pixel of a view, generously."""

COUNTED = 2
"""Numbers of statistics that `bytes_per_gaussian` counts; a strategy may keep more."""


def bytes_per_gaussian(sh_degree: int, rasterizer: str, adam: str) -> tuple[int, int]:
    """What a Gaussian takes for good, and for a while: (kept, working) bytes.

    Kept are its parameters and both moments of Adam (14 + h numbers each, h = 3 ((d + 1)^2 - 1) of the harmonics; all
    with the room that distwar_gs.gaussians.rows leaves), two numbers of statistics and one of lazy Adam. Working is the
    larger of what a step takes and what growing takes: the largest parameter a second time, and the plan (48 bytes).

    Args:
        sh_degree: the model's.
        rasterizer: as distwar_gs.rendering.renderer chose, which knows what a step takes.
        adam: the setting `optim.adam`; "dense" stores gradients with the fused rasteriser, too.
    """
    numbers, largest = numbers_of(sh_degree), 3 * harmonics_of(sh_degree)
    step = RASTERIZERS[rasterizer].step_bytes(sh_degree, adam)
    return math.ceil(SLACK * 12 * numbers) + 4 * COUNTED + 4, max(step, 4 * largest + 48)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on a device: with those that torch has and does not use, within the process's share
    (torch.cuda.set_per_process_memory_fraction)."""
    if device.type == "cpu":
        return available_memory()
    index = torch.cuda.current_device() if device.index is None else device.index  # a fraction is of one by number
    free, total = torch.cuda.mem_get_info(index)
    allocated, reserved = torch.cuda.memory_allocated(index), torch.cuda.memory_reserved(index)
    allowed = torch.cuda.get_per_process_memory_fraction(index) * total
    return max(0, int(min(free + reserved, allowed)) - allocated)


@dataclass(frozen=True)
class Budget:
    """What memory a run may fill with Gaussians."""

    device: torch.device
    kept: int
    working: int
    """Bytes for a Gaussian, from `bytes_per_gaussian`."""
    pixels: int
    """Of the largest training view."""
    ranks: Ranks = ALONE
    """Those that hold the Gaussians together, each on a GPU of its own, or in the memory of one host."""

    def gaussians(self, held: int) -> int:
        """How many fit, if `held` bytes of the kept ones are taken already; on all ranks together, all as full as the
        fullest."""
        kind, count = self.device.type, self.ranks.count
        sharing = count if kind == "cpu" else 1
        free = max(0, free_memory(self.device) - PIXEL_BYTES[kind] * self.pixels * sharing) // sharing
        return count * min(self.ranks.numbers(max(1, int((SHARES[kind] * free + held) / (self.kept + self.working)))))


class Cap:
    """How many Gaussians there may be: as configured or as memory allows, and never more than when it ran out."""

    def __init__(self, configured: int | None, budget: Budget | None = None) -> None:
        """`configured` is densification.cap_max; None leaves it to the budget, and without one there is no cap."""
        self._configured, self._budget = configured, budget if configured is None else None
        self._warned, self._warned_of_memory = False, False

    def for_start(self, share: float) -> int | None:
        """How many Gaussians a run may begin with: as configured, or a share of what fits; None: no limit."""
        return (self._configured or None) if self._budget is None else max(1, int(share * self._budget.gaussians(0)))

    def begin(self, count: int, tensors: Iterable[Tensor]) -> None:
        """Fixes a cap that depends on memory, and says it; `tensors` are what is kept of `count` Gaussians."""
        if self._budget is None:
            return
        self._configured = self._budget.gaussians(_size(tensors))
        log.info(
            "at most %s Gaussians fit into the %.1f GiB that are free (densification.cap_max null; %d bytes each)",
            f"{self._configured:,}", free_memory(self._budget.device) / 2**30, self._budget.kept + self._budget.working,
        )  # fmt: skip
        if count > self._configured:
            log.warning("there are %s Gaussians already: memory may run out", f"{count:,}")

    def now(self, tensors: Iterable[Tensor]) -> int:
        """The cap for a refinement, 0: none. One that depends on memory is lower while others use that memory."""
        cap = self._configured or 0
        return min(cap, self._budget.gaussians(_size(tensors))) if cap and self._budget else cap

    def reached(self, step: int, count: int) -> None:
        """Says, once, that the cap holds back growth."""
        if not self._warned:
            log.info(
                "step %d: %s Gaussians, as many as densification.cap_max or memory allow; from here on Gaussians grow "
                "as others go, those with the largest gradients first", step, f"{count:,}",
            )  # fmt: skip
        self._warned = True

    def ran_out(self, step: int, count: int) -> None:
        """No more than these `count` from now on: for one more there was no memory. Said once."""
        log.log(
            logging.DEBUG if self._warned_of_memory else logging.WARNING,
            "step %d: out of memory while Gaussians were added; growth is skipped, training goes on with at most the "
            "%s there are (a larger -r, a lower --sh_degree or --set data.image_budget_gib=0 leave more memory)",
            step, f"{count:,}",
        )  # fmt: skip
        self._configured, self._warned, self._warned_of_memory = count, True, True


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def cap_of(config: Config, rasterizer: str, views: Sequence[View], device: torch.device, ranks: Ranks = ALONE) -> Cap:
    """The cap of a run on these training views."""
    kept, working = bytes_per_gaussian(config.model.sh_degree, rasterizer, config.optim.adam)
    kept += 4 * max(0, len(STRATEGIES[config.densification.strategy].statistics) - COUNTED)
    pixels = max(view.width * view.height for view in views)
    return Cap(config.densification.cap_max, Budget(device, kept, working, pixels, ranks))
