"""Atomic traffic: what each reduction strategy sends to memory, counted, not estimated.

DISTWAR's two observations (arXiv 2401.05345, section 3) as numbers of a scene: how many of a warp's active lanes add
to one address, and how widely warps differ in how many lanes are active. Each raster op has a function that counts
(``atomic_traffic`` for the blend, ``sphere_traffic`` for spheres); everything else follows from three histograms.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from distwar_kernels.constants import WARP_SIZE
from distwar_kernels.reduction import Reduction


@dataclass(frozen=True)
class AtomicTraffic:
    """How the warps of a backward pass meet addresses. Counts of several views may be added up with ``+``."""

    counts: Tensor
    """[3, 33] int64, each row by number of lanes n, counted by kernels as ``traffic.h`` defines it:
    visits of a warp with n active lanes (at 0: list entries without an active lane), groups of n lanes with one
    address, and visits whose n active lanes all share one address."""
    record_size: int
    """Numbers that a lane brings to a visit, each an atomic addition if it goes to memory by itself."""

    def __add__(self, other: "AtomicTraffic") -> "AtomicTraffic":
        if self.record_size != other.record_size:
            raise ValueError(f"records of {self.record_size} and of {other.record_size} numbers cannot be added up")
        return AtomicTraffic(self.counts + other.counts, self.record_size)

    @property
    def visits_by_lanes(self) -> Tensor:
        """[33] int64: visits with 1..32 active lanes; at 0 the list entries that a warp reads without one."""
        return self.counts[0]

    @property
    def visits(self) -> int:
        """Visits with at least one active lane."""
        return int(self.visits_by_lanes[1:].sum())

    @property
    def pairs(self) -> int:
        """Contributing (pixel, primitive) pairs."""
        return int((self.visits_by_lanes * torch.arange(WARP_SIZE + 1)).sum())

    @property
    def mean_lanes(self) -> float:
        """Active lanes of an average visit; 0 if there is none."""
        return self.pairs / max(self.visits, 1)

    @property
    def one_address_share(self) -> float:
        """Share of the visits whose active lanes all add to one address: the paper's first observation."""
        return int(self.counts[2, 1:].sum()) / max(self.visits, 1)

    def atomics(self, reduction: Reduction) -> int:
        """Atomic additions that a strategy issues.

        ``atomic``: every active lane's record. ``sw_s``: one record for each group of at least `threshold` lanes.
        ``sw_b``, ``sw_t``: one for each visit with one address and at least `threshold` lanes. The rest go lane by
        lane.

        Raises ValueError for "gsplat", whose warps cover other pixels than ours, and for "auto", which is a choice
        among the others.
        """
        if reduction.strategy in ("gsplat", "auto"):
            raise ValueError(f"reduction {reduction.strategy!r} names no kernel of ours: its traffic is not counted")
        lanes = torch.arange(WARP_SIZE + 1)
        groups, shared = self.counts[1], self.counts[2]
        reducible = {"atomic": torch.zeros_like(lanes), "sw_s": groups, "sw_b": shared, "sw_t": shared}
        reduced = torch.where(lanes >= reduction.threshold, reducible[reduction.strategy], 0)
        saved = (reduced * (lanes - 1).clamp_min(0)).sum()
        return (self.pairs - int(saved)) * self.record_size
