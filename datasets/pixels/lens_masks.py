"""Places of an image that no ray leads to, masked: outside the circle of a fisheye, beyond where a distortion folds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..lenses import Lens
from ..scene import Mask, View
from .cache import cached_folder
from .masks import save_mask

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 64
_LARGEST = 1600
"""Pixels of a mask's longer side."""
_Key = tuple[Lens, int, int]


def with_lens_masks(source: Path, label: str, views: Sequence[View]) -> list[View]:
    """The views, in order, those of lenses that do not fill their image with a mask of the circle, beside their own.

    The masks are kept in a cache, a file for each lens and size. Raises DataError when the cache fails.
    """
    keys = {_key(view): None for view in views if view.lens is not None}
    cut = [key for key in keys if not _fills(*key)]
    if not cut:
        return list(views)
    files = {key: f"lens-{index}.png" for index, key in enumerate(cut)}

    def build(folder: Path) -> None:
        for key, file in files.items():
            save_mask(folder / file, kept_places(*key))

    sizes = {file: (width, height) for (_, width, height), file in files.items()}
    described = [[lens.model, *lens.numbers, width, height] for lens, width, height in cut]
    folder = cached_folder(source, f"lens-masks-{label}", described, sizes, build)
    logger.info("what is outside of the image circle of %d lenses is masked", len(cut))
    return [_masked(view, folder / files[_key(view)]) if view.lens and _key(view) in files else view for view in views]


def kept_places(lens: Lens, width: int, height: int) -> np.ndarray:
    """bool [height, width]: the pixels that a ray leads to."""
    kept = np.empty((height, width), dtype=bool)
    for top in range(0, height, _ROWS_AT_ONCE):
        rows = np.arange(top, min(top + _ROWS_AT_ONCE, height)) + 0.5
        kept[top : top + len(rows)] = _has_rays(lens, np.arange(width) + 0.5, rows)
    return kept


def _fills(lens: Lens, width: int, height: int) -> bool:
    """Whether rays lead to the whole border of the image, and so to all of it."""
    across, down = np.arange(width) + 0.5, np.arange(height) + 0.5
    sides = [(across, down[[0, -1]]), (across[[0, -1]], down)]
    return all(bool(_has_rays(lens, *side).all()) for side in sides)


def _has_rays(lens: Lens, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    places = np.stack(np.meshgrid(across, down), axis=-1)
    return np.isfinite(lens.rays(places.reshape(-1, 2))).all(axis=1).reshape(places.shape[:2])


def _key(view: View) -> _Key:
    """The lens at the size of the mask: as many pixels as tell a circle, for each takes some microseconds."""
    assert view.lens is not None
    shrink = -(-max(view.width, view.height) // _LARGEST)
    size = (max(1, round(view.width / shrink)), max(1, round(view.height / shrink)))
    return view.lens.scaled(size[0] / view.width, size[1] / view.height), *size


def _masked(view: View, path: Path) -> View:
    return replace(view, mask=Mask(path, also=view.mask))
