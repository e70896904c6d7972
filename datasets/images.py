"""All pixels of a set of views, decoded once and kept as 8-bit tensors."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch

from .errors import DataError
from .imagefile import Progress, decode_image, map_threads
from .scene import View

logger = logging.getLogger(__name__)

FREE_SHARE = 0.5
"""Share of the free GPU memory that images may take at most; the rest is for the model."""


class ImageStore:
    """Images of `views` by index, uint8 [H, W, 3] (or [H, W, 4], see `background`), delivered on `device`.

    On a GPU they live there when they fit the budget, else in pinned CPU memory from where each access starts an
    asynchronous copy: it is ordered before later work of the current stream, so use the tensor as usual.
    """

    def __init__(
        self,
        views: Sequence[View],
        *,
        background: tuple[float, float, float] | None,
        device: torch.device | str,
        budget_bytes: int,
        threads: int = 0,
        progress: Progress | None = None,
    ) -> None:
        """Decode every view with `threads` threads (0: automatic), calling `progress(done, total)` after each.

        background: RGB in [0, 1] that transparent images are laid on; None keeps their alpha as a fourth channel.
        budget_bytes: GPU memory that the images may fill; at most half of what is free is used.
        Raises DataError naming an image that cannot be decoded or no longer has the size of its view.
        """
        self.device = torch.device(device)
        expected = sum(view.width * view.height * 3 for view in views)
        logger.info("decoding %d images, about %.0f MiB as 8-bit RGB", len(views), expected / 2**20)
        images = map_threads(lambda view: _load(view, background), views, threads, progress)
        self.nbytes: int = sum(image.nbytes for image in images)
        self._images = self._place(images, budget_bytes)
        self.where: str = self._images[0].device.type if images else "cpu"

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._images[index].to(self.device, non_blocking=True)

    def _place(self, images: list[torch.Tensor], budget_bytes: int) -> list[torch.Tensor]:
        if self.device.type != "cuda":
            return images
        free, _ = torch.cuda.mem_get_info(self.device)
        if self.nbytes <= min(budget_bytes, FREE_SHARE * free):
            return [image.to(self.device) for image in images]
        logger.info("%.1f GiB of images stay in pinned CPU memory", self.nbytes / 2**30)
        return [image.pin_memory() for image in images]


def composite(pixels: np.ndarray, background: tuple[float, float, float]) -> np.ndarray:
    """Lay uint8 RGBA [H, W, 4] on a colour in [0, 1]: uint8 RGB [H, W, 3].

    rgb * a + background * (1 - a), as the 3DGS reader does (scene/dataset_readers.py, readCamerasFromTransforms);
    it truncates to 8 bits, which darkens by half a level on average, and we round.
    """
    alpha = pixels[..., 3:].astype(np.float32) / 255.0
    colour = np.asarray(background, dtype=np.float32) * 255.0
    blended = pixels[..., :3] * alpha + colour * (1.0 - alpha)
    return np.round(blended).astype(np.uint8)


def _load(view: View, background: tuple[float, float, float] | None) -> torch.Tensor:
    pixels = decode_image(view.image_path)
    height, width = pixels.shape[:2]
    if (width, height) != (view.width, view.height):
        raise DataError(
            f"{view.image_path}: is {width}x{height}, but was {view.width}x{view.height} when the scene was read; "
            "leave the images alone while training starts"
        )
    if pixels.shape[-1] == 4 and background is not None:
        pixels = composite(pixels, background)
    return torch.from_numpy(pixels)
