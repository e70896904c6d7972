"""One view over all ranks: each has some rows of its tiles, a band.

All bands are equally high, whole tiles, so that tiles and what they list are those of the view; the last ones may reach
beyond it, where nothing is drawn.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from distwar_gs.system.parallel import Ranks
from distwar_kernels import Cameras
from distwar_kernels.constants import TILE_SIZE
from distwar_kernels.tiles.tiles import tile_grid


@dataclass(frozen=True)
class Bands:
    """Of an image, a band for each rank."""

    width: int
    height: int
    """Pixels of the image."""
    ranks: Ranks

    @classmethod
    def of(cls, camera: Cameras, ranks: Ranks) -> "Bands":
        """Of what a camera (C = 1) sees."""
        return cls(camera.width, camera.height, ranks)

    @property
    def rows(self) -> int:
        """Pixels that a band is high."""
        return TILE_SIZE * -(-tile_grid(self.width, self.height)[1] // self.ranks.count)

    def size(self, camera: Cameras) -> Cameras:
        """A camera whose image is as large as a band: to blend splats whose centres are relative to one."""
        return camera._replace(height=self.rows)

    def tops(self, like: Tensor) -> Tensor:
        """[ranks] the first row of each band, on the device of `like`, of its dtype."""
        return self.rows * torch.arange(self.ranks.count, device=like.device, dtype=like.dtype)

    def touched(self, top: Tensor, bottom: Tensor) -> Tensor:
        """[ranks, M] bool: the bands in which what reaches from row `top` to row `bottom` [M] of the image is seen."""
        first = self.tops(top)[:, None]
        return (bottom > first) & (top < (first + self.rows).clamp_max(self.height))

    def own(self, image: Tensor) -> Tensor:
        """This rank's band [rows, W, ...] of an image [H, W, ...], zeros beyond it."""
        first = self.ranks.rank * self.rows
        rows = image[first : first + self.rows]
        if len(rows) == self.rows:
            return rows
        return torch.cat([rows, rows.new_zeros(self.rows - len(rows), *image.shape[1:])])

    def whole(self, band: Tensor) -> Tensor:
        """The image [H, W, ...] of the bands that the ranks have [rows, W, ...], on each."""
        bands = self.ranks.swap(band.expand(self.ranks.count, *band.shape))
        return bands.view(-1, *band.shape[1:])[: self.height]

    def summed(self, values: Tensor) -> Tensor:
        """The sum of what the ranks have, in their order, on each."""
        return self.ranks.swap(values.expand(self.ranks.count, *values.shape)).sum(dim=0)
