"""Image files through Pillow: size, pixels, pairing with names, and a thread pool for many of them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from .errors import DataError
from .regular import check_regular

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
Progress = Callable[[int, int], None]
"""Called with (done, total) after each image."""
Item = TypeVar("Item")
Result = TypeVar("Result")

_EXIF_ORIENTATION = 0x0112  # 5 to 8: turned by a quarter

# Pillow knows formats that start other programs (EPS), and what it raises for a damaged file depends on the format.
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF")


def read_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels from the header alone. Raises DataError for a file that is not an image."""
    try:
        check_regular(path)
        with Image.open(path, formats=_FORMATS) as image:
            return image.size
    except Exception as error:
        raise _undecodable(path, error) from error


def decode_image(path: Path) -> np.ndarray:
    """Pixels as uint8 [H, W, 3], or [H, W, 4] when the file has transparency (not premultiplied).

    Grey, palette, CMYK and 16-bit files become 8-bit RGB. EXIF orientation is left alone, as structure from motion
    leaves it: the poses belong to the pixels as stored. Raises DataError naming a file that cannot be decoded.
    """
    try:
        check_regular(path)
        with Image.open(path, formats=_FORMATS) as image:
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
        check_regular(path)
        with Image.open(path, formats=_FORMATS) as image:
            image.load()
            # Pillow's own conversion of 16-bit grey clips at 255.
            return np.array(image if image.mode.startswith("I") else image.convert("L")).astype(np.int64)
    except Exception as error:
        raise _undecodable(path, error) from error


def name_parts(name: str) -> list[str]:
    """The parts of an image's name, none of which leads up or to a root: they are part of the paths of new files."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return [part for part in parts if part not in ("/", "..") and not part.endswith(":")] or [""]


def is_turned(path: Path) -> bool:
    """Whether EXIF tells viewers to show the image turned by a quarter. Raises DataError as `read_size`."""
    try:
        check_regular(path)
        with Image.open(path, formats=_FORMATS) as image:
            return image.getexif().get(_EXIF_ORIENTATION, 1) >= 5
    except Exception as error:
        raise _undecodable(path, error) from error


def save_png(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 [H, W, 3 or 4] or [H, W] losslessly, making folders as needed; fast rather than small."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG", compress_level=1)


def pair_images(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """The file of each name: the same relative path, else the same relative path with another extension.

    A downscaled folder may hold `a.png` for `a.JPG`, and sub-folders are part of the name; order of files never
    matters. Raises DataError naming the first five that are absent.
    """
    pairs = {name: folder / name for name in names}
    unmatched = [name for name, path in pairs.items() if not path.is_file()]
    if unmatched:
        by_stem = _files_by_stem(folder)
        pairs.update({name: _only(name, by_stem[_stem(name)]) for name in unmatched if _stem(name) in by_stem})
        absent = [name for name in unmatched if _stem(name) not in by_stem]
        remedy = "copy them there, or choose the folder that has them with -i/--images"
        check_present(folder, absent, len(pairs), remedy)
    return pairs


def find_image(path: Path) -> Path | None:
    """`path` itself, else the image beside it of the same name with another suffix or, if it has none, with any.

    Raises DataError when there are several.
    """
    if path.is_file():
        return path
    stem = path.stem if path.suffix.lower() in SUFFIXES else path.name
    siblings = (path.with_name(stem + suffix) for suffix in (*sorted(SUFFIXES), *sorted(map(str.upper, SUFFIXES))))
    there = {file.name.lower(): file for file in siblings if file.is_file()}  # some disks ignore case
    return _only(path.name, list(there.values())) if there else None


def check_present(folder: Path, missing: Sequence[str], total: int, remedy: str = "copy them there") -> None:
    """Raise DataError naming the first five of `missing`, if any, and the remedy."""
    if missing:
        shown = ", ".join(sorted(missing)[:5]) + (", ..." if len(missing) > 5 else "")
        raise DataError(f"{folder}: {len(missing)} of {total} images are missing: {shown}; {remedy}")


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
    reason = str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        reason = f"none of {', '.join(_FORMATS)}"
    return DataError(f"{path}: cannot be read as an image ({reason}); replace the file, or take it out of the dataset")


def _stem(name: str) -> str:
    path = PurePosixPath(name)
    return path.with_suffix("").as_posix() if path.name else name


def _files_by_stem(folder: Path) -> dict[str, list[Path]]:
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            by_stem[_stem(path.relative_to(folder).as_posix())].append(path)
    return by_stem


def _only(name: str, paths: list[Path]) -> Path:
    if len(paths) > 1:
        found = " and ".join(path.name for path in paths)
        raise DataError(f"{paths[0].parent}: both {found} could be image {name}; keep one of them")
    return paths[0]
