"""Tile lists one tile at a time, as the references read them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from distwar_kernels.constants import TILE_SIZE


@dataclass(frozen=True)
class TileList:
    """A tile that has a list."""

    ids: Tensor
    """[n] int64, its primitives, nearest first."""
    pixels: Tensor
    """[TILE_SIZE^2, 2] pixel centres, row by row."""
    square: tuple[int, slice, slice]
    """Its place in arrays [images, tile_height * TILE_SIZE, tile_width * TILE_SIZE, ...]."""


def tiles_of(isect_offsets: Tensor, flatten_ids: Tensor, masks: Tensor | None, like: Tensor) -> Iterator[TileList]:
    """Every tile that has a list and is not masked; pixel centres in the dtype of `like`, on its device."""
    bounds = [*isect_offsets.flatten().tolist(), len(flatten_ids)]
    rows, columns = isect_offsets.shape[-2:]
    for tile, (begin, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
        if begin == end or (masks is not None and not masks.flatten()[tile]):
            continue
        image, row, column = tile // (rows * columns), tile // columns % rows, tile % columns
        y, x = row * TILE_SIZE, column * TILE_SIZE
        square = (image, slice(y, y + TILE_SIZE), slice(x, x + TILE_SIZE))
        yield TileList(flatten_ids[begin:end].long(), tile_pixels(row, column, like), square)


def tile_pixels(row: int, column: int, like: Tensor) -> Tensor:
    """Pixel centres of a tile [TILE_SIZE^2, 2], row by row."""
    offsets = torch.arange(TILE_SIZE, dtype=like.dtype, device=like.device) + 0.5
    y, x = torch.meshgrid(offsets + row * TILE_SIZE, offsets + column * TILE_SIZE, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)
