"""How large a view's buffers must be, learnt from the views before: so that the host need not wait for each count."""

from collections import deque

import torch
from torch import Tensor

_SLACK = 1.25  # views differ
_GRAIN = 1 << 14  # sizes are multiples of it, large ones of an eighth of a power of two: the allocator sees few sizes
_WINDOW = 400  # views after which older ones are forgotten, twice that at most
_FIRST = (1.0, 8.0)  # visible Gaussians, and entries of the tile lists, for each Gaussian, before anything is known


class Room:
    """Sizes of the fused rasteriser's buffers, for each Gaussian there is.

    A view that needs more is cut short, and leaves the model as it is; the room grows as soon as the host hears of it.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self.cut_short = 0
        """Views that did not fit, among those heard of."""
        self._now, self._before = (0.0, 0.0), (0.0, 0.0)
        self._views = 0
        self._pending: deque[tuple[torch.cuda.Event | None, Tensor, int, tuple[int, int]]] = deque()
        self._free: list[Tensor] = []

    def sizes(self, gaussians: int) -> tuple[int, int]:
        """Gaussians, and entries of the tile lists, that the next view has room for."""
        shares = tuple(map(max, self._now, self._before)) if self._views else _FIRST
        visible, entries = (_SLACK * share * gaussians for share in shares)
        return _grains(min(visible, gaussians)), _grains(entries)

    def fits(self, counts: Tensor, gaussians: int, sizes: tuple[int, int]) -> bool:
        """Waits for the counts of a view that had these sizes; whether it was whole. If not, the next one will be."""
        return self._learn(counts.tolist(), gaussians, sizes)

    def watch(self, counts: Tensor, gaussians: int, sizes: tuple[int, int]) -> None:
        """Hears of a view that was just launched with these sizes, and of earlier ones that are done by now. Waits for
        nothing."""
        on_host = self._free.pop() if self._free else torch.empty(2, dtype=torch.int32, pin_memory=counts.is_cuda)
        on_host.copy_(counts, non_blocking=True)
        done = None
        if counts.is_cuda:
            done = torch.cuda.Event()
            done.record()
        self._pending.append((done, on_host, gaussians, sizes))
        self.listen()

    def listen(self, wait: bool = False) -> None:
        """Hears of views that are done by now; with `wait`, of all."""
        while self._pending:
            done, on_host, gaussians, sizes = self._pending[0]
            if done is not None and not done.query():
                if not wait:
                    return
                done.synchronize()
            self._pending.popleft()
            self.cut_short += not self._learn(on_host.tolist(), gaussians, sizes)
            self._free.append(on_host)

    def _learn(self, counts: list[int], gaussians: int, sizes: tuple[int, int]) -> bool:
        shares = tuple(count / max(gaussians, 1) for count in counts)
        if self._views % _WINDOW == 0:
            self._before, self._now = self._now, (0.0, 0.0)
        self._now = tuple(map(max, self._now, shares))
        self._views += 1
        return all(count <= size for count, size in zip(counts, sizes, strict=True))


def _grains(size: float) -> int:
    grain = max(_GRAIN, 1 << max(int(size).bit_length() - 4, 0))
    return max(-(-int(size) // grain), 1) * grain


_ROOMS: dict[torch.device, Room] = {}


def room_of(device: torch.device) -> Room:
    """The room that renderings outside of training loops share on this device."""
    return _ROOMS.setdefault(device, Room())
