"""`resolution`, as 3DGS and gsplat understand it: a divisor, a width, or "at most 1600 pixels wide"."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import DataError
from ..names import unique_stems
from ..scene import View
from .cache import cached_folder, file_fingerprint
from .imagefile import decode_image, map_threads, save_png

logger = logging.getLogger(__name__)

NARROWEST = 16
"""No width in pixels up to this can be meant: such numbers divide, as gsplat's `data_factor` does (of 3DGS only 1, 2, 4
and 8). What would make photos narrower is refused."""
DIVISORS = range(1, NARROWEST + 1)
AUTO = -1
AUTO_WIDTH = 1600
"""Widest image kept as it is when no resolution is asked for (3DGS utils/camera_utils.py, loadCam)."""


def check_resolution(resolution: int) -> None:
    """Raise DataError unless `resolution` is -1 or positive."""
    if resolution != AUTO and resolution <= 0:
        raise DataError(
            f"resolution {resolution}: use 1 to {NARROWEST} to divide, a larger number for a width in pixels, or -1 "
            "(automatic)"
        )


def target_size(width: int, height: int, resolution: int) -> tuple[int, int]:
    """(width, height) in pixels that `resolution` makes of an image; images are never enlarged."""
    if resolution in DIVISORS:
        return max(1, round(width / resolution)), max(1, round(height / resolution))
    limit = AUTO_WIDTH if resolution == AUTO else resolution
    if width <= limit:
        return width, height
    return limit, max(1, round(height * limit / width))


def resize_views(source: Path, label: str, views: Sequence[View], resolution: int) -> tuple[tuple[View, ...], str]:
    """The views at `resolution`, with K scaled to match, and a note such as "resized to 1/2 (Lanczos)" or "".

    Resized copies (PNG, Pillow's Lanczos filter) are kept in a cache whose key holds `label` (the image folder's name)
    and every file's fingerprint. Views that have the right size already keep their file.
    """
    targets = [target_size(view.width, view.height, resolution) for view in views]
    changes = [(view, to) for view, to in zip(views, targets, strict=True) if to != (view.width, view.height)]
    for view, to in changes:
        _check_width(view, to, resolution)
    if not changes:
        return tuple(views), ""
    if resolution == AUTO:
        logger.warning("images wider than %d pixels are downsized to that; keep them with -r 1", AUTO_WIDTH)
    suffix, words = _describe(resolution)
    resized = iter(_resized(source, label, f"{label}-{suffix}", changes))
    views = [
        next(resized) if to != (view.width, view.height) else view for view, to in zip(views, targets, strict=True)
    ]
    return tuple(views), f"resized to {words} (Lanczos)"


def _check_width(view: View, target: tuple[int, int], resolution: int) -> None:
    """Raise DataError for a photograph that would become too narrow to train on, with what may have been meant."""
    if target[0] < NARROWEST:
        largest = view.width // NARROWEST
        divide = f"divide by {largest} at most" if largest > 1 else "keep its size with 1"
        raise DataError(
            f"resolution {resolution}: divides {view.name}, {view.width} pixels wide, to {target[0]} pixels; "
            f"{divide}, or give a width in pixels ({NARROWEST + 1} or more)"
        )


def _describe(resolution: int) -> tuple[str, str]:
    """How the cache folder and the metrics' protocol call this resolution."""
    if resolution in DIVISORS:
        return str(resolution), f"1/{resolution}"
    width = AUTO_WIDTH if resolution == AUTO else resolution
    return f"{width}px", f"{width} px wide"


def _resized(source: Path, images: str, label: str, changes: Sequence[tuple[View, tuple[int, int]]]) -> list[View]:
    """Each view with the copy of its image, in a cache called `label`, that is as large as said."""
    stems = unique_stems([view.name for view, _ in changes], (".png",))
    files = [f"{stem}.png" for stem in stems]

    def build(folder: Path) -> None:
        jobs = [(view, folder / file, size) for (view, size), file in zip(changes, files, strict=True)]
        map_threads(lambda job: _resize_file(*job), jobs)

    key = [label, [[view.name, *size, *_fingerprint(view, source, images)] for view, size in changes]]
    sizes = {file: size for (_, size), file in zip(changes, files, strict=True)}
    folder = cached_folder(source, label, key, sizes, build)
    return [_resized_view(view, folder / file, size) for (view, size), file in zip(changes, files, strict=True)]


def _fingerprint(view: View, source: Path, images: str) -> list[int | str]:
    image = file_fingerprint(view.image_path, source, view.name, f"{images}/{view.name}")
    return [*image, *(["opaque"] if view.alpha_is_mask else [])]


def _resize_file(view: View, target: Path, size: tuple[int, int]) -> None:
    pixels = decode_image(view.image_path)
    if view.alpha_is_mask and pixels.shape[-1] == 4:
        save_png(target, _resize_opaque(pixels, size))
        return
    # Pillow weights colour by alpha while it resizes, so transparent pixels do not bleed in.
    save_png(target, np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)))


def _resize_opaque(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [h, w, 3] of uint8 [H, W, 4]: colours are averaged over what is opaque, up to its edges, where Pillow cuts
    the filter's overshoot off alpha and leaves it in the colours."""

    def resized(plane: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.LANCZOS))

    alpha = pixels[..., 3].astype(np.float32)
    weight = np.maximum(resized(alpha), 1.0)
    colors = np.stack([resized(pixels[..., channel] * alpha) / weight for channel in range(3)], axis=-1)
    return np.clip(np.round(colors), 0, 255).astype(np.uint8)


def _resized_view(view: View, path: Path, size: tuple[int, int]) -> View:
    width, height = size
    across, down = width / view.width, height / view.height
    lens = view.lens and view.lens.scaled(across, down)
    K = np.diag([across, down, 1.0]) @ view.K
    return replace(view, image_path=path, width=width, height=height, K=K, lens=lens)
