"""Tile lists: which projected Gaussians touch which 16x16-pixel tile, nearest first."""

import torch
from torch import Tensor

from distwar_kernels import loader
from distwar_kernels.constants import TILE_SIZE
from distwar_kernels.gsplat_ops import gsplat
from distwar_kernels.library import LIBRARY


def tile_grid(image_width: int, image_height: int) -> tuple[int, int]:
    """Tiles across and down that cover an image of this size in pixels."""
    return -(-image_width // TILE_SIZE), -(-image_height // TILE_SIZE)


@torch.no_grad()
def intersect_tiles(
    means2d: Tensor,  # [C, N, 2]
    radii: Tensor,  # [C, N, 2] int32
    depths: Tensor,  # [C, N]
    image_width: int,
    image_height: int,
) -> tuple[Tensor, Tensor]:
    """Lists the Gaussians of every tile, sorted by depth.

    Args:
        means2d: centres in pixels. radii: half extents of the bounding box in pixels, 0 for culled Gaussians.
        depths: along the camera's z axis.

    Returns:
        isect_offsets [C, tile_height, tile_width] int32 and flatten_ids [n_isects] int32, indices into [C * N], as
        ``rasterize_to_pixels`` takes them. On CUDA they come from gsplat's public functions; the
        fused rasteriser makes its own.
    """
    tile_width, tile_height = tile_grid(image_width, image_height)
    if means2d.is_cuda:
        return _intersect_with_gsplat(means2d, radii, depths, tile_width, tile_height)
    loader.load("cpu")
    return torch.ops.distwar.intersect_tiles(
        means2d.contiguous(), radii.contiguous(), depths.contiguous(), tile_width, tile_height
    )


def _intersect_with_gsplat(
    means2d: Tensor, radii: Tensor, depths: Tensor, tile_width: int, tile_height: int
) -> tuple[Tensor, Tensor]:
    _, isect_ids, flatten_ids = gsplat().isect_tiles(means2d, radii, depths, TILE_SIZE, tile_width, tile_height)
    return gsplat().isect_offset_encode(isect_ids, len(means2d), tile_width, tile_height), flatten_ids


LIBRARY.define(
    "intersect_tiles(Tensor means2d, Tensor radii, Tensor depths, int tile_width, int tile_height)"
    " -> (Tensor isect_offsets, Tensor flatten_ids)"
)
