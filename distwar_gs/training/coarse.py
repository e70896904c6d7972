"""The first part of a run on smaller photos: few Gaussians cannot draw what a full photo shows, and a quarter of the
pixels takes a quarter of the time.

Photos are shrunk by a whole number, each pixel the mean of a block, and cameras with them: positions, sizes and the
gradients in normalised coordinates that density control counts mean the same. (DashGaussian, Chen et al. 2025, raises
resolution and count together, by the frequencies of the photos; here the share of the run that is over decides.)
"""

import torch
from torch import Tensor

from distwar_gs.training.batch import Batch
from distwar_kernels import Cameras

LEVELS = ((0.25, 4), (1.0, 2))
"""Up to which share of the coarse part of a run photos are shrunk by how much."""
SMALLEST = 240
"""Pixels that the shorter side of a photo keeps. Below, launches take the time and not pixels, and D-SSIM's window sees
too much at once."""


class CoarsePhotos:
    """Training views at the size that a moment of the run asks for."""

    def __init__(self, until: float, *, keeps: bool) -> None:
        """Of a run whose first part, the share `until`, is coarse; `keeps`: shrunk photos stay in memory."""
        self._until, self._keeps = until, keeps
        self._factor = 1
        self._kept: dict[int, Batch] = {}

    def at(self, batch: Batch, share: float) -> Batch:
        """The view, of full size, as it is trained on where the share `share` of the run is over."""
        wanted = self._wanted(share)
        if wanted == 1:
            return batch
        batch = batch._replace(together=tuple(_shrunk_camera(camera, wanted) for camera in batch.together))
        factor = fitting(wanted, batch.camera)
        if factor == 1:
            return batch
        if factor != self._factor:
            self._factor = factor
            self._kept.clear()
        small = self._kept.get(batch.view) or shrunk(batch, factor)
        if self._keeps:
            self._kept[batch.view] = small
        return small._replace(background=batch.background, together=batch.together)

    def _wanted(self, share: float) -> int:
        levels = (factor for end, factor in LEVELS if share < end * self._until)
        return next(levels, 1)


def _shrunk_camera(camera: Cameras, wanted: int) -> Cameras:
    factor = fitting(wanted, camera)
    return camera if factor == 1 else camera.shrunk(factor)


def fitting(factor: int, camera: Cameras) -> int:
    """The factor, halved until the shorter side of the image has SMALLEST pixels, or it is 1."""
    while factor > 1 and min(camera.width, camera.height) < factor * SMALLEST:
        factor //= 2
    return factor


def shrunk(batch: Batch, factor: int) -> Batch:
    """A view whose pixels are means of blocks of `factor` x `factor`; a rest at the right and the bottom is left out.

    A pixel counts where all of its block does. Colours are weighted by their alpha.
    """
    height, width = batch.camera.height // factor, batch.camera.width // factor
    mask = batch.mask
    if mask is not None:
        mask = _blocks(mask, factor, height, width).all(dim=3).all(dim=1)
    pixels = _blocks(batch.photo, factor, height, width).float()
    colors = pixels.mean(dim=(1, 3))
    if pixels.shape[-1] == 4:
        colors[..., :3] = (pixels[..., :3] * pixels[..., 3:]).mean(dim=(1, 3)) / colors[..., 3:].clamp_min(1e-6)
    return batch._replace(
        camera=batch.camera.shrunk(factor), photo=colors.round_().clamp_(0, 255).to(torch.uint8), mask=mask
    )


def _blocks(image: Tensor, factor: int, height: int, width: int) -> Tensor:
    """[H, W, ...] -> [height, factor, width, factor, ...]."""
    cut = image[: height * factor, : width * factor]
    return cut.reshape(height, factor, width, factor, *image.shape[2:])
