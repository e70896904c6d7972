"""How much of a step ranks spend in their exchanges: what they wait for the slowest of them is in it."""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch

from distwar_gs.engines.timing import PartTimer
from distwar_gs.system.parallel import Ranks

NAMES = ("swap", "exchange")
"""Of what a step exchanges with."""


class Communication:
    """Times the exchanges of some steps: nothing is done on others."""

    def __init__(self, ranks: Ranks, device: torch.device) -> None:
        """Of these ranks' exchanges."""
        self._ranks, self._device = ranks, device
        self._calls: list[PartTimer] = []
        self.milliseconds: list[float] = []
        """In exchanges, for each step that was timed."""
        self._whole: list[float] = []

    def begin(self) -> None:
        """A step that is timed begins."""
        self._calls, self._step = [], PartTimer(self._device)
        if self._ranks.count > 1:
            for name in NAMES:
                setattr(self._ranks, name, self._timed(getattr(self._ranks, name)))

    def end(self) -> None:
        """It has been made; waits for the device."""
        self._step.mark("step")
        if self._ranks.count > 1:
            for name in NAMES:
                delattr(self._ranks, name)
        self.milliseconds.append(math.fsum(timer.milliseconds()["communication"] for timer in self._calls))
        self._whole.append(self._step.milliseconds()["step"])

    def words(self) -> str | None:
        """For the log, the share of each rank, which all ask for; None where no step was timed."""
        ours = round(1e4 * math.fsum(self.milliseconds) / max(math.fsum(self._whole), 1e-9))
        shares = [value / 100 for value in self._ranks.numbers(ours)]
        if self._ranks.count == 1 or not self._whole:
            return None
        each = ", ".join(f"{share:.1f} %" for share in shares)
        return f"communication, waiting for other ranks included: {each} of a step, by rank"

    def _timed(self, work: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(work)
        def timed(*arguments: Any) -> Any:
            timer = PartTimer(self._device)
            result = work(*arguments)
            timer.mark("communication")
            self._calls.append(timer)
            return result

        return timed
