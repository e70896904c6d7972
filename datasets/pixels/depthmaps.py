"""Depth maps beside photos: 16-bit PNG, or NPY."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import DataError
from ..scene import View

SUFFIXES = (".npy", ".png")


def find_map(folder: Path, view: View) -> Path | None:
    """The map of a view: a.npy, a.png, or the same after the photo's whole name (a.jpg.png); None if there is none."""
    name = Path(*view.name.split("/"))
    stems = (folder / name.with_suffix(""), folder / name, folder / name.stem, folder / name.name)
    paths = (stem.with_name(stem.name + suffix) for stem in stems for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def read_map(path: Path, width: int, height: int) -> np.ndarray:
    """float32 [height, width], NaN where nothing is known (0, or what is not finite). A map of another size is read at
    the nearest places. Raises DataError for what is no map, or of another shape than the photo's."""
    try:
        numbers = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.asarray(Image.open(path))
    except Exception as error:  # many kinds, of two libraries
        raise DataError(f"{path}: not a depth map ({error}); write a 16-bit PNG or an NPY of numbers") from None
    numbers = np.squeeze(numbers)
    if numbers.ndim != 2 or numbers.dtype.kind not in "fiu":
        raise DataError(f"{path}: a depth map has one number for each pixel, this has {numbers.shape} {numbers.dtype}")
    rows, columns = numbers.shape
    if abs(columns * height - rows * width) > 0.02 * rows * width:
        raise DataError(
            f"{path}: is {columns} x {rows}, which is not of the shape of its photo ({width} x {height}); make maps of "
            "the photos as they are trained with: undistorted, and not turned"
        )
    x = ((np.arange(width) + 0.5) * columns / width).astype(int)
    y = ((np.arange(height) + 0.5) * rows / height).astype(int)
    known = numbers[np.ix_(y, x)].astype(np.float32)
    known[~np.isfinite(known) | (known <= 0.0)] = np.nan
    return known
