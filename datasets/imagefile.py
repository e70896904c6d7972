"""Image files through Pillow: size, pixels, and a thread pool for many of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from .errors import DataError
from .regular import check_regular

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
"""Of photographs that COLMAP decodes, too; `datasets.names.SUFFIXES` has all."""
Progress = Callable[[int, int], None]
"""Called with (done, total) after each image."""
Item = TypeVar("Item")
Result = TypeVar("Result")

_EXIF_ORIENTATION = 0x0112  # 5 to 8: turned by a quarter

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # ISO/IEC 23008-12
_AVIF_BRANDS = (b"avif", b"avis")


@cache
def formats() -> tuple[str, ...]:
    """The formats of Pillow to read: it knows some that start other programs (EPS). HEIF comes with pillow-heif."""
    known = ["PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF"]
    if find_spec("PIL._avif"):
        known.append("AVIF")
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
        known.append("HEIF")
    return tuple(known)


def _opened(path: Path) -> Image.Image:
    """The image, its header read. What is no file, and may have no end, is not opened."""
    check_regular(path)
    return Image.open(path, formats=formats())


def read_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels from the header alone. Raises DataError for a file that is not an image."""
    try:
        with _opened(path) as image:
            return image.size
    except Exception as error:
        raise _undecodable(path, error) from error


def decode_image(path: Path) -> np.ndarray:
    """Pixels as uint8 [H, W, 3], or [H, W, 4] when the file has transparency (not premultiplied).

    Grey, palette, CMYK and 16-bit files become 8-bit RGB. EXIF orientation is left alone, as structure from motion
    leaves it: the poses belong to the pixels as stored. Raises DataError naming a file that cannot be decoded.
    """
    try:
        with _opened(path) as image:
            image.load()
            if image.mode.startswith("I"):
                return _grey16_to_rgb(np.asarray(image))
            if image.mode == "F":
                raise ValueError("floating-point pixels are not supported, convert it to 8-bit PNG")
            return np.array(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    except Exception as error:
        raise _undecodable(path, error) from error


def decode_grey(path: Path) -> np.ndarray:
    """Pixels as brightness [H, W], integers from 0; transparency is left out. Raises DataError as `decode_image`."""
    try:
        with _opened(path) as image:
            image.load()
            # Pillow's own conversion of 16-bit grey clips at 255.
            return np.array(image if image.mode.startswith("I") else image.convert("L")).astype(np.int64)
    except Exception as error:
        raise _undecodable(path, error) from error


def has_alpha(path: Path) -> bool:
    """Whether `decode_image` gives transparency, by the header alone. Raises DataError as `read_size`."""
    try:
        with _opened(path) as image:
            return image.has_transparency_data and not image.mode.startswith("I")
    except Exception as error:
        raise _undecodable(path, error) from error


def is_turned(path: Path) -> bool:
    """Whether EXIF tells viewers to show the image turned by a quarter. Raises DataError as `read_size`."""
    try:
        with _opened(path) as image:
            return image.getexif().get(_EXIF_ORIENTATION, 1) >= 5
    except Exception as error:
        raise _undecodable(path, error) from error


def thumbnail(path: Path, size: int) -> np.ndarray:
    """Brightness of a small square version of the image, whatever its shape: float32 [size, size], 0 to 255.

    Photographs as JPEG are decoded at an eighth of their size where that is enough. Raises DataError as `decode_image`.
    """
    try:
        with _opened(path) as image:
            image.draft("L", (4 * size, 4 * size))
            grey = Image.fromarray(decode_image(path)) if image.mode.startswith("I") else image
            small = grey.convert("RGB").convert("L").resize((size, size), Image.Resampling.BOX)
            return np.asarray(small, dtype=np.float32)
    except Exception as error:
        raise _undecodable(path, error) from error


def save_png(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 [H, W, 3 or 4] or [H, W] losslessly, making folders as needed; fast rather than small."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG", compress_level=1)


def worker_count() -> int:
    """Threads to use when none are asked for: the CPUs this process may run on, at most 16."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, available)


def map_threads(
    function: Callable[[Item], Result], items: Sequence[Item], threads: int = 0, progress: Progress | None = None
) -> list[Result]:
    """`[function(item) for item in items]` on `threads` threads (0: automatic); the first error stops the rest."""
    pool = ThreadPoolExecutor(threads or worker_count())
    results: list[Result] = []
    try:
        for result in pool.map(function, items):
            results.append(result)
            if progress:
                progress(len(results), len(items))
    finally:
        pool.shutdown(cancel_futures=True)
    return results


def _grey16_to_rgb(grey: np.ndarray) -> np.ndarray:
    # Pillow's own conversion clips 16-bit grey at 255 and turns a photograph white.
    grey8 = np.round(np.clip(grey, 0, 65535) * (255.0 / 65535.0)).astype(np.uint8)
    return np.repeat(grey8[..., None], 3, axis=-1)


def _undecodable(path: Path, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        reason = _missing_decoder(path) or "none of PNG, JPEG, TIFF, BMP, WEBP, GIF, AVIF, HEIC"
    return DataError(f"{path}: cannot be read as an image ({reason}); replace the file, or take it out of the dataset")


def _missing_decoder(path: Path) -> str:
    """What to install for a file whose format could be read here; "" if that would not help."""
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError:
        return ""
    if start[4:8] != b"ftyp":
        return ""
    if start[8:] in _HEIF_BRANDS and "HEIF" not in formats():
        return "HEIC needs pillow-heif: pip install pillow-heif"
    if start[8:] in _AVIF_BRANDS and "AVIF" not in formats():
        return "AVIF needs Pillow 11.3 or newer: pip install -U pillow"
    return ""
