"""The blend op's atomic traffic, counted by its backward kernel on CUDA and by the CPU backend alike."""

import torch
from torch import Tensor

from distwar_kernels import loader
from distwar_kernels.library import LIBRARY
from distwar_kernels.traffic import AtomicTraffic

GEOMETRY_VALUES = 6
"""Numbers a record holds beside its colour channels: conic 3, mean 2, opacity 1."""


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

    On CUDA the backward kernel counts, run with a policy that tallies instead of summing; the CPU backend counts what
    that kernel would do. The two agree but for Gaussians within rounding of the alpha or the transmittance cut.
    """
    loader.load(means2d.device.type)
    tiles = isect_offsets.shape[-2:]
    counts = torch.ops.distwar.blend_traffic(
        means2d.detach().contiguous(),
        conics.detach().contiguous(),
        opacities.detach().contiguous(),
        None if masks is None else masks.reshape(-1, *tiles).contiguous(),
        isect_offsets.reshape(-1, *tiles).contiguous(),
        flatten_ids.contiguous(),
        image_width,
        image_height,
    )
    return AtomicTraffic(counts.cpu(), channels + GEOMETRY_VALUES)


LIBRARY.define(
    "blend_traffic(Tensor means2d, Tensor conics, Tensor opacities, Tensor? masks, Tensor isect_offsets,"
    " Tensor flatten_ids, int width, int height) -> Tensor"
)
