"""Tile lists in plain PyTorch, one tile after another: the definition that tests compare with."""

import torch
from torch import Tensor

from distwar_kernels.constants import TILE_SIZE
from distwar_kernels.tiles.tiles import tile_grid


def intersect_tiles_reference(
    means2d: Tensor, radii: Tensor, depths: Tensor, image_width: int, image_height: int
) -> tuple[Tensor, Tensor]:
    """Same arguments and results as ``intersect_tiles``."""
    tile_width, tile_height = tile_grid(image_width, image_height)
    low, high = (means2d - radii) / TILE_SIZE, (means2d + radii) / TILE_SIZE
    low, high = low.floor(), high.ceil()
    visible = (radii > 0).all(-1)
    offsets, lists, count = [], [], 0
    for image in range(len(means2d)):
        for row in range(tile_height):
            for column in range(tile_width):
                tile = low.new_tensor([column, row])
                touches = visible[image] & (low[image] <= tile).all(-1) & (tile < high[image]).all(-1)
                ids = touches.nonzero()[:, 0]
                ids = ids[torch.argsort(depths[image][ids], stable=True)]
                offsets.append(count)
                lists.append(ids + image * means2d.shape[1])
                count += len(ids)
    isect_offsets = torch.tensor(offsets, dtype=torch.int32).reshape(len(means2d), tile_height, tile_width)
    return isect_offsets, torch.cat(lists).int()
