"""Atomic traffic of the blend's backward pass: what each reduction strategy sends to memory, counted, not estimated.

DISTWAR's two observations (arXiv 2401.05345, section 3) as numbers of a scene: all active lanes of a warp add to one
address (here by construction: a warp visits one Gaussian at a time), and warps differ widely in how many lanes are
active. Everything follows from one histogram.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from distwar_kernels import loader
from distwar_kernels.constants import WARP_SIZE
from distwar_kernels.library import LIBRARY
from distwar_kernels.reduction import Reduction

GEOMETRY_VALUES = 6
"""Numbers a record holds beside its colour channels: conic 3, mean 2, opacity 1."""


@dataclass(frozen=True)
class AtomicTraffic:
    """How backward warps (8x4 pixels) meet Gaussians, summed over the views it was counted for."""

    visits_by_lanes: Tensor
    """[33] int64: visits with 1..32 active lanes; at 0 the list entries that a warp walks without an active lane."""
    record_size: int
    """Numbers that a lane brings to a visit, each an atomic addition if it goes to memory by itself."""

    @property
    def visits(self) -> int:
        """Visits with at least one active lane."""
        return int(self.visits_by_lanes[1:].sum())

    @property
    def pairs(self) -> int:
        """Contributing (pixel, Gaussian) pairs."""
        return int((self.visits_by_lanes * torch.arange(WARP_SIZE + 1)).sum())

    @property
    def mean_lanes(self) -> float:
        """Active lanes of an average visit; 0 if there is none."""
        return self.pairs / max(self.visits, 1)

    def atomics(self, reduction: Reduction) -> int:
        """Atomic additions that a strategy issues: a record for each active lane, or one for a visit it reduces.

        Raises ValueError for "gsplat", whose warps cover other pixels than ours.
        """
        if reduction.strategy == "gsplat":
            raise ValueError("gsplat's warps are not ours: its traffic is not counted")
        lanes = torch.arange(WARP_SIZE + 1)
        reduces = (lanes >= reduction.balance_threshold) & (reduction.strategy != "atomic")
        records = torch.where(reduces, lanes.clamp_max(1), lanes)
        return int((self.visits_by_lanes * records).sum()) * self.record_size


@torch.no_grad()
def atomic_traffic(
    means2d: Tensor,  # [..., N, 2] or [nnz, 2]
    conics: Tensor,  # [..., N, 3] or [nnz, 3]
    opacities: Tensor,  # [..., N] or [nnz]
    image_width: int,
    image_height: int,
    isect_offsets: Tensor,  # [..., tile_height, tile_width] int32
    flatten_ids: Tensor,  # [n_isects] int32
    masks: Tensor | None = None,  # [..., tile_height, tile_width] bool
    *,
    channels: int = 3,
) -> AtomicTraffic:
    """Counts the traffic of one backward pass over these images; arguments as for ``rasterize_to_pixels``.

    It runs on the CPU: tensors on a GPU are copied there, so it is for looking now and then, not for every step.
    """
    loader.load("cpu")
    tiles = isect_offsets.shape[-2:]
    tensors = (means2d, conics, opacities, None if masks is None else masks.reshape(-1, *tiles))
    histogram = torch.ops.distwar.warp_visits(
        *(None if t is None else t.detach().cpu().contiguous() for t in tensors),
        isect_offsets.reshape(-1, *tiles).cpu().contiguous(),
        flatten_ids.cpu().contiguous(),
        image_width,
        image_height,
    )
    return AtomicTraffic(histogram, channels + GEOMETRY_VALUES)


LIBRARY.define(
    "warp_visits(Tensor means2d, Tensor conics, Tensor opacities, Tensor? masks, Tensor isect_offsets,"
    " Tensor flatten_ids, int width, int height) -> Tensor"
)
