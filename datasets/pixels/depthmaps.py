"""Maps beside photos, a number or three for each pixel: depth as 16-bit PNG or NPY, normals as RGB PNG or NPY."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import DataError
from ..scene import View

SUFFIXES = (".npy", ".png")
LEAST_NORMAL = 0.5
"""Vectors that are shorter than this say nothing: a PNG's gray, zeros."""


def find_map(folder: Path, view: View) -> Path | None:
    """The map of a view: a.npy, a.png, or the same after the photo's whole name (a.jpg.png); None if there is none."""
    name = Path(*view.name.split("/"))
    stems = (folder / name.with_suffix(""), folder / name, folder / name.stem, folder / name.name)
    paths = (stem.with_name(stem.name + suffix) for stem in stems for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def read_map(path: Path, width: int, height: int) -> np.ndarray:
    """float32 [height, width], NaN where nothing is known (0, or what is not finite). A map of another size is read at
    the nearest places. Raises DataError for what is no map, or of another shape than the photo's."""
    numbers = np.squeeze(_numbers(path, "a depth map", "a 16-bit PNG or an NPY of numbers"))
    if numbers.ndim != 2 or numbers.dtype.kind not in "fiu":
        raise DataError(f"{path}: a depth map has one number for each pixel, this has {numbers.shape} {numbers.dtype}")
    known = _nearest(path, numbers, width, height).astype(np.float32)
    known[~np.isfinite(known) | (known <= 0.0)] = np.nan
    return known


def read_normals(path: Path, width: int, height: int, opengl: bool) -> np.ndarray:
    """float32 [height, width, 3] of length 1, in OpenCV's axes of the camera (x right, y down, z forward), NaN where
    nothing is known.

    Args:
        path: an NPY of vectors [H, W, 3] or [3, H, W], or a PNG whose red, green and blue from 0 to 1 are the vector's
            numbers from -1 to 1 (of 16 bits the higher 8 are read: half a degree).
        opengl: whether the file has OpenGL's axes (x right, y up, z towards who looks).

    Raises DataError for what is no map, or of another shape than the photo's.
    """
    numbers = _numbers(path, "a normal map", "an RGB PNG or an NPY of vectors")
    if numbers.ndim == 3 and numbers.shape[2] != 3 and numbers.shape[0] == 3:
        numbers = numbers.transpose(1, 2, 0)
    if numbers.ndim != 3 or numbers.shape[2] < 3 or numbers.dtype.kind not in "fu":
        raise DataError(f"{path}: a normal map has a vector for each pixel, this has {numbers.shape} {numbers.dtype}")
    vectors = _nearest(path, numbers, width, height)[..., :3]
    if vectors.dtype.kind == "u":
        vectors = vectors / np.float32(0.5 * np.iinfo(vectors.dtype).max) - 1.0
    vectors = vectors.astype(np.float32) * np.array([1, -1, -1] if opengl else [1, 1, 1], np.float32)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(np.isfinite(length) & (length > LEAST_NORMAL), vectors / np.maximum(length, LEAST_NORMAL), np.nan)


def _numbers(path: Path, what: str, wanted: str) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.asarray(Image.open(path))
    except Exception as error:  # many kinds, of two libraries
        raise DataError(f"{path}: not {what} ({error}); write {wanted}") from None


def _nearest(path: Path, numbers: np.ndarray, width: int, height: int) -> np.ndarray:
    """A map [rows, columns, ...] at the nearest places of a photo's pixels [height, width, ...]."""
    rows, columns = numbers.shape[:2]
    if abs(columns * height - rows * width) > 0.02 * rows * width:
        raise DataError(
            f"{path}: is {columns} x {rows}, which is not of the shape of its photo ({width} x {height}); make maps of "
            "the photos as they are trained with: undistorted, and not turned"
        )
    x = ((np.arange(width) + 0.5) * columns / width).astype(int)
    y = ((np.arange(height) + 0.5) * rows / height).astype(int)
    return numbers[np.ix_(y, x)]
