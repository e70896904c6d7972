"""Pixels as JPEG, and photos to compare them with. No torch: its threads are the training's."""

from __future__ import annotations

import io
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from distwar_datasets import View
from distwar_datasets.pixels.imagefile import decode_image
from distwar_datasets.pixels.images import composite
from distwar_datasets.pixels.masks import decode_mask
from distwar_gs.viewing.live.orders import LARGEST, Look

FINE, FAST = 92, 70
"""Qualities of JPEG: of a picture at rest, of one while the camera moves."""
_KEPT = 4  # decoded photos
_ERROR_GAIN = 4.0  # a quarter of full brightness wrong is as bright as can be


@dataclass(frozen=True)
class Picture:
    """What was rendered for a page."""

    pixels: np.ndarray
    """uint8 [H, W, 3]."""
    look: Look
    told: dict[str, Any]
    """What the page learns with it: step, count."""


class Photos:
    """The photos of views, decoded when they are asked for; the last ones are kept. For several threads."""

    def __init__(self, views: Sequence[View], background: tuple[float, float, float]) -> None:
        """`background`: what transparent places show, RGB in [0, 1]."""
        self.views, self._background = tuple(views), background
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()

    def scaled(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """A photo at width and height: uint8 [H, W, 3]. Raises DataError for one that cannot be decoded."""
        photo = self._whole(index)
        if photo.shape[1::-1] == size:
            return photo
        return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))

    def kept(self, index: int, size: tuple[int, int]) -> np.ndarray | None:
        """[H, W] bool, False where a mask ignores the photo; None without one. Raises DataError as `scaled` does."""
        view = self.views[index]
        if view.mask is None:
            return None
        whole = Image.fromarray(decode_mask(view.mask, (view.width, view.height)))
        return np.asarray(whole.resize(size, Image.Resampling.NEAREST))

    def jpeg(self, index: int) -> bytes:
        """A photo as the page shows it, no larger than a picture may be."""
        view = self.views[index]
        scale = min(1.0, LARGEST / max(view.width, view.height))
        return as_jpeg(self.scaled(index, (round(view.width * scale), round(view.height * scale))), FINE)

    def _whole(self, index: int) -> np.ndarray:
        with self._lock:
            if index not in self._kept:
                pixels = decode_image(self.views[index].image_path)
                cut_out = pixels.shape[-1] == 4 and not self.views[index].alpha_is_mask
                self._kept[index] = composite(pixels, self._background) if cut_out else pixels[..., :3]
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(index)
            return np.ascontiguousarray(self._kept[index])


def encode(picture: Picture, photos: Photos) -> bytes:
    """A message to the page: length of the header (4 bytes, little end first), header (JSON), JPEG.

    Of mode `error` the pixels are compared with the photo here, away from the training.
    """
    look, pixels, told = picture.look, picture.pixels, dict(picture.told)
    height, width = pixels.shape[:2]
    if look.mode == "error":
        pixels = error_picture(pixels, photos, look, told)
    header = {"number": look.number, "mode": look.mode, "width": width, "height": height,
              "photo": look.photo, "moving": look.is_moving, **told}  # fmt: skip
    text = json.dumps(header).encode()
    return len(text).to_bytes(4, "little") + text + as_jpeg(pixels, FAST if look.is_moving else FINE)


def error_picture(pixels: np.ndarray, photos: Photos, look: Look, told: dict[str, Any]) -> np.ndarray:
    """How wrong each pixel is against the photo that the camera is at, with its PSNR in `told`; what a mask ignores is
    black, and not counted. Where the camera is at no photo: the pixels as they are, and a remark."""
    if look.photo is None:
        told["remark"] = "the error is that of a photo: jump to one"
        return pixels
    size = (pixels.shape[1], pixels.shape[0])
    try:
        photo, kept = photos.scaled(look.photo, size), photos.kept(look.photo, size)
    except (OSError, ValueError) as error:  # DataError is a ValueError
        told["remark"] = str(error)
        return pixels
    difference = pixels.astype(np.float32) - photo
    if kept is not None:
        difference *= kept[..., None]
    counted = difference.size if kept is None else max(3 * int(kept.sum()), 1)
    mean = float(np.square(difference / 255.0).sum()) / counted
    told["psnr"] = round(-10.0 * float(np.log10(max(mean, 1e-10))), 2)
    return heat(np.abs(difference).mean(axis=-1) * (_ERROR_GAIN / 255.0))


def heat(values: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] of values [H, W] in [0, 1]: black, red, yellow, white."""
    bands = np.clip(values[..., None] * 3.0 - np.array([0.0, 1.0, 2.0], np.float32), 0.0, 1.0)
    return (bands * 255.0 + 0.5).astype(np.uint8)


def as_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """A JPEG of uint8 [H, W, 3]."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()
