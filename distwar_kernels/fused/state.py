"""What the fused rasteriser's ops leave for each other, by name, in the order in which it travels as lists of tensors.

In C++ these are VisibleTensors and BlendTensors (fused.cpp)."""

from typing import NamedTuple

import torch
from torch import Tensor

from distwar_kernels.constants import PATCHES_PER_TILE, SPLAT_FLOATS, WARP_SIZE
from distwar_kernels.tiles.tiles import tile_grid


class VisibleSplats(NamedTuple):
    """What a camera sees of the Gaussians, from `fused_project`: the joint between projection and tile lists.

    The arrays have room for `capacity` splats; those that there are come first, in the order of the Gaussians.
    """

    total: Tensor
    """[1] int32: how many there are, also if that is more than the capacity."""
    gaussian_ids: Tensor
    """[capacity] int32: which Gaussian each is."""
    splats: Tensor
    """[capacity, 12]: the words of distwar_kernels/records.cuh. Their "gradient" is a record for each, likewise."""
    depths: Tensor
    """[capacity] along the camera's z axis."""
    color_slopes: Tensor
    """[9, capacity] d(colour)/d(mean) through the view direction, by channel and coordinate; [9, 0] if nobody asked."""

    @classmethod
    def empty(cls, like: Tensor, capacity: int, with_slopes: bool) -> "VisibleSplats":
        """Of these sizes, without values."""
        return cls(
            _ints(like, 1),
            _ints(like, capacity),
            like.new_empty(capacity, SPLAT_FLOATS),
            like.new_empty(capacity),
            like.new_empty(9, capacity if with_slopes else 0),
        )


class BlendState(NamedTuple):
    """What `fused_blend` leaves: the tile lists, and what the backward pass needs of the pixels."""

    counts: Tensor
    """[2] int32: visible Gaussians and entries of the tile lists, also where they exceed the capacities."""
    isect_offsets: Tensor
    """[tiles + 1] int32: where each tile's list begins, and where the last one ends."""
    flatten_ids: Tensor
    """[list capacity] int32, the lists: rows of the splats, nearest first."""
    transmittances: Tensor
    """[H, W] what is left of the light behind the last Gaussian."""
    last_ids: Tensor
    """[H, W] int32: position in flatten_ids of a pixel's last contributor, -1 for none."""
    visits: Tensor
    """[list capacity / 32 + tiles, 8] int32: per patch of each tile a bit per entry of its list: does it contribute?"""

    @classmethod
    def empty(cls, like: Tensor, width: int, height: int, list_capacity: int) -> "BlendState":
        """Of these sizes, without values."""
        across, down = tile_grid(width, height)
        tiles = across * down
        return cls(
            _ints(like, 2),
            _ints(like, tiles + 1),
            _ints(like, list_capacity),
            like.new_empty(height, width),
            _ints(like, height, width),
            _ints(like, list_capacity // WARP_SIZE + tiles, PATCHES_PER_TILE),
        )


class FusedState(NamedTuple):
    """Both halves of a view that was rendered whole."""

    visible: VisibleSplats
    blend: BlendState

    @property
    def capacities(self) -> tuple[int, int]:
        """Visible Gaussians, and entries of the tile lists, that there was room for."""
        return len(self.visible.splats), len(self.blend.flatten_ids)


def _ints(like: Tensor, *size: int) -> Tensor:
    return like.new_empty(size, dtype=torch.int32)
