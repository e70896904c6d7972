"""Places of an image that show nothing, masked: those that no ray leads to, and the black surround of a fisheye."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..lenses import Lens
from ..scene import Mask, View
from .cache import cached_folder, file_fingerprint
from .image_circle import FEWEST, MOST, black_surround
from .masks import decode_mask, save_mask

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 64
_LARGEST = 800
"""Pixels of a mask's longer side."""
_Key = tuple[Lens, int, int]


def with_lens_masks(source: Path, label: str, views: Sequence[View]) -> list[View]:
    """The views, in order, those of lenses that do not fill their image with a mask of the circle, beside their own.

    The masks are kept in a cache, a file for each lens and size. Raises DataError when the cache fails, or a photo of a
    fisheye cannot be read.
    """
    shown: dict[_Key, list[View]] = {}
    for view in views:
        if view.lens is not None:
            shown.setdefault(_key(view), []).append(view)
    some = {key: _spread(them) if _may_have_circle(key, them) else [] for key, them in shown.items()}
    files = _masks(source, label, {key: them for key, them in some.items() if them or not _fills(*key)})
    if files:
        logger.info("what is outside of the image circle of %d lenses is masked", len(files))
    return [_masked(view, files[_key(view)]) if view.lens and _key(view) in files else view for view in views]


def _masks(source: Path, label: str, shown: Mapping[_Key, Sequence[View]]) -> dict[_Key, Path]:
    """The file of each lens that does not fill its image; `shown`: photos to look for a black surround in."""
    if not shown:
        return {}
    names = {key: f"lens-{index}.png" for index, key in enumerate(shown)}

    def build(folder: Path) -> None:
        for key, name in names.items():
            save_mask(folder / name, _kept(key, [view.image_path for view in shown[key]]))

    sizes = {name: (width, height) for (_, width, height), name in names.items()}
    described = [
        [lens.model, *lens.numbers, width, height,
         *(file_fingerprint(view.image_path, source, view.name, f"{label}/{view.name}") for view in them)]
        for (lens, width, height), them in shown.items()
    ]  # fmt: skip
    folder = cached_folder(source, f"lens-masks-{label}", described, sizes, build)
    files = {key: folder / name for key, name in names.items()}
    return {key: path for key, path in files.items() if not decode_mask(Mask(path), key[1:]).all()}


def _kept(key: _Key, photos: Sequence[Path]) -> np.ndarray:
    """bool [height, width]: what a ray leads to and is not in a surround that is black in all photos."""
    lens, width, height = key
    kept = np.ones((height, width), dtype=bool) if _fills(*key) else kept_places(*key)
    circle = black_surround(photos, (width, height), (lens.numbers[2], lens.numbers[3]))
    return kept if circle is None else kept & circle


def kept_places(lens: Lens, width: int, height: int) -> np.ndarray:
    """bool [height, width]: the pixels that a ray leads to."""
    kept = np.empty((height, width), dtype=bool)
    for top in range(0, height, _ROWS_AT_ONCE):
        rows = np.arange(top, min(top + _ROWS_AT_ONCE, height)) + 0.5
        kept[top : top + len(rows)] = _has_rays(lens, np.arange(width) + 0.5, rows)
    return kept


def _may_have_circle(key: _Key, views: Sequence[View]) -> bool:
    """Whether the lens's image may end before the sensor does, and there are photos enough to see that."""
    return key[0].model in ("fisheye", "unified") and len(views) >= FEWEST


def _spread(views: Sequence[View]) -> list[View]:
    """A few of many, from the first to the last."""
    places = np.unique(np.linspace(0, len(views) - 1, MOST).round().astype(int))
    return [views[place] for place in places]


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
