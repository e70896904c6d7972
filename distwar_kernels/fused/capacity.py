"""How large a view's buffers must be, learnt from the views before: so that the host need not wait for each count."""

from collections import deque

import torch
from torch import Tensor

_SLACK = 1.25  # views differ
_GRAIN = 1 << 14  # sizes are multiples of it, large ones of an eighth of a power of two: the allocator sees few sizes
_WINDOW = 400  # views after which older ones are forgotten, twice that at most
_MORE_SEEN = 1.5
_FIRST = (1.0, 8.0)  # visible Gaussians and entries of the tile lists, per Gaussian, before anything is known

BYTES_PER_GAUSSIAN = 225
"""Of all buffers, if every Gaussian is visible: 152 bytes per visible Gaussian (splat, colour slopes, gradient record,
sorting), 13 for each of two entries in the tile lists, and the slack."""


class BufferSizes:
    """Buffer capacities per Gaussian, learnt from earlier views.

    A view that overflows its buffers is cut short and its step is skipped; capacities grow once its counts reach the
    host.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self.overflows = 0
        """Views that did not fit, among those whose counts have reached the host."""
        self._now, self._before = (0.0, 0.0), (0.0, 0.0)
        self._views = 0
        self._pending: deque[tuple[torch.cuda.Event | None, Tensor, int, tuple[int, int]]] = deque()
        self._free: list[Tensor] = []

    def capacities(self, gaussians: int) -> tuple[int, int]:
        """Of the next view's buffers: visible Gaussians, and entries of the tile lists."""
        shares = tuple(map(max, self._now, self._before)) if self._views else _FIRST
        visible, entries = (_SLACK * share * gaussians for share in shares)
        return _grains(min(visible, gaussians)), _grains(entries)

    def fits(self, counts: Tensor, gaussians: int, capacities: tuple[int, int]) -> bool:
        """Waits for the counts of a view that had these capacities; whether it was whole. If not, the next will be."""
        return self._learn(counts.tolist(), gaussians, capacities)

    def watch(self, counts: Tensor, gaussians: int, capacities: tuple[int, int]) -> None:
        """Notes a view that was just launched with these capacities, and learns from earlier ones that are done by now.
        Waits for nothing."""
        on_host = self._free.pop() if self._free else torch.empty(2, dtype=torch.int32, pin_memory=counts.is_cuda)
        on_host.copy_(counts, non_blocking=True)
        done = None
        if counts.is_cuda:
            done = torch.cuda.Event()
            done.record()
        self._pending.append((done, on_host, gaussians, capacities))
        self.collect()

    def expect_larger(self, ratio: float) -> None:
        """Views from now on may have `ratio` times as many pixels as any before: up to so many times as many entries,
        and more Gaussians that are not too faint for a pixel."""
        self._now, self._before = (
            (visible * min(ratio, _MORE_SEEN), entries * ratio) for visible, entries in (self._now, self._before)
        )

    def collect(self, wait: bool = False) -> None:
        """Learns from the views that are done by now; with `wait`, from all."""
        while self._pending:
            done, on_host, gaussians, capacities = self._pending[0]
            if done is not None and not done.query():
                if not wait:
                    return
                done.synchronize()
            self._pending.popleft()
            self.overflows += not self._learn(on_host.tolist(), gaussians, capacities)
            self._free.append(on_host)

    def _learn(self, counts: list[int], gaussians: int, capacities: tuple[int, int]) -> bool:
        if self._views % _WINDOW == 0:
            self._before, self._now = self._now, (0.0, 0.0)
        visible, entries = (count / max(gaussians, 1) for count in counts)
        self._now = (max(self._now[0], visible), max(self._now[1], entries))
        self._views += 1
        return all(count <= capacity for count, capacity in zip(counts, capacities, strict=True))


def _grains(size: float) -> int:
    grain = max(_GRAIN, 1 << max(int(size).bit_length() - 4, 0))
    return max(-(-int(size) // grain), 1) * grain


_SHARED: dict[torch.device, BufferSizes] = {}


def shared_sizes(device: torch.device) -> BufferSizes:
    """What renderings outside of training loops have learnt on this device."""
    return _SHARED.setdefault(device, BufferSizes())
