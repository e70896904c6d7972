"""Masks: which pixels of a photograph count. Black is ignored, COLMAP's and nerfstudio's polarity."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from .errors import DataError
from .imagefile import decode_grey, decode_image, find_image, has_alpha, map_threads, save_png
from .scene import Mask, View

logger = logging.getLogger(__name__)

DEFAULT_FOLDER = "masks"


def with_masks(views: Sequence[View], source: Path, folder: str | None, inverted: bool) -> tuple[View, ...]:
    """The views with the masks of the sub-folder `folder` of `source`; views that have one already keep it, inverted.

    The mask of `left/a.jpg` is `left/a.jpg.png`, as COLMAP names it, or `left/a` with any image suffix; a leading
    folder of the name (`images/` of a transforms file) may be left out. The default folder may be missing; with
    None no view has a mask. Raises DataError for any other folder that is missing, and for one in which no file belongs
    to a view.
    """
    if folder is None:
        return tuple(replace(view, mask=None) for view in views)
    place = source / folder
    if place.is_dir():
        found = {view.name: _find_mask(place, view.name) for view in views}
        if not any(found.values()):
            raise DataError(
                f"{place}: none of its files is the mask of an image; name them like {views[0].name}.png, or choose "
                "another folder with data.masks"
            )
        views = [_masked(view, found[view.name]) for view in views]
    elif folder != DEFAULT_FOLDER:
        raise DataError(f"{place}: no such mask folder; set data.masks to the folder in {source} that has them")
    return tuple(replace(view, mask=_turned(view.mask)) if inverted and view.mask else view for view in views)


def with_alpha(views: Sequence[View]) -> tuple[View, ...]:
    """The views with the transparency of their photographs as masks, beside those that they have.

    Raises DataError for a photograph that cannot be read.
    """
    return tuple(_alpha_masked(view) if has_alpha(view.image_path) else view for view in views)


def decode_mask(mask: Mask, size: tuple[int, int]) -> np.ndarray:
    """True where a pixel of the photograph counts: bool [H, W] at `size` (width, height).

    Black is what is darker than half of the mask's brightest value, so masks of 0 and 1, of 0 and 255 and ones that
    went through JPEG read alike; so it is with the alpha of soft edges. A pixel that a larger mask ignores in part is
    ignored. Raises DataError for a file that cannot be decoded or has another shape than the photograph.
    """
    kept = _decode_one(mask, size)
    return kept & decode_mask(mask.also, size) if mask.also else kept


def _decode_one(mask: Mask, size: tuple[int, int]) -> np.ndarray:
    grey = _alpha(mask.path) if mask.is_alpha else decode_grey(mask.path)
    kept = (grey * 2 >= grey.max()) & (grey > 0)
    kept = ~kept if mask.inverted else kept
    height, width = kept.shape
    if (width, height) == size:
        return kept
    if abs(height * size[0] / width - size[1]) > 0.01 * size[1] + 1:
        raise DataError(f"{mask.path}: is {width}x{height}, its image {size[0]}x{size[1]}; make the mask of that shape")
    resized = Image.fromarray(kept.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
    return np.asarray(resized) == 255


def save_mask(path: Path, kept: np.ndarray) -> None:
    """Write bool [H, W] as a mask of which black is ignored."""
    save_png(path, kept.astype(np.uint8) * 255)


def ignored_share(views: Sequence[View], threads: int = 0) -> float:
    """The share of all pixels of `views` that their masks ignore, 0 to 1.

    Raises DataError for a mask that cannot be read, and for one that leaves nothing of its image.
    """
    masked = [view for view in views if view.mask]
    ignored = sum(map_threads(_ignored_pixels, masked, threads))
    return ignored / max(1, sum(view.width * view.height for view in views))


def _ignored_pixels(view: View) -> int:
    ignored = int(np.count_nonzero(~decode_mask(view.mask, (view.width, view.height))))
    if ignored == view.width * view.height:
        otherwise = "use data.alpha=background" if view.alpha_is_mask else "turn the masks round with --invert_masks"
        raise DataError(
            f"{view.mask.path}: ignores the whole image; take {view.name} out of the dataset, or {otherwise}"
        )
    return ignored


def _find_mask(folder: Path, name: str) -> Path | None:
    parts = PurePosixPath(name).parts
    names = [name] if len(parts) == 1 else [name, str(PurePosixPath(*parts[1:]))]
    exact = (folder / f"{name}.png" for name in names)
    return next((path for path in exact if path.is_file()), None) or next(
        filter(None, (find_image(folder / name) for name in names)), None
    )


def _masked(view: View, path: Path | None) -> View:
    return view if path is None or view.mask else replace(view, mask=Mask(path))


def _alpha(path: Path) -> np.ndarray:
    """Opacity [H, W], integers from 0 to 255."""
    pixels = decode_image(path)
    return pixels[..., 3].astype(np.int64) if pixels.shape[-1] == 4 else np.full(pixels.shape[:2], 255)


def _alpha_masked(view: View) -> View:
    return replace(view, mask=Mask(view.image_path, is_alpha=True, also=view.mask), alpha_is_mask=True)


def _turned(mask: Mask) -> Mask:
    return replace(mask, inverted=not mask.inverted)
