"""Masks: which pixels of a photograph count. Black is ignored, COLMAP's and nerfstudio's polarity."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from .errors import DataError, printable
from .imagefile import decode_grey, decode_image, has_alpha, map_threads, save_png
from .names import stem_of
from .pairing import ImageFinder, as_written, same_shape
from .scene import Mask, View

logger = logging.getLogger(__name__)

DEFAULT_FOLDER = "masks"
_MARKED = ("{}.mask", "{}_mask", "{}-mask", "mask_{}", "mask-{}", "mask.{}")
"""How other programs call the mask of an image {}, which may be written with its suffix or without: RealityScan
(a.jpg.mask.png), Metashape (a_mask.png), Meshroom and many scripts."""


def with_masks(views: Sequence[View], source: Path, folder: str | None, inverted: bool) -> tuple[View, ...]:
    """The views with the masks of the sub-folder `folder` of `source`; views that have one already keep it, inverted.

    The mask of `left/a.jpg` is `left/a.jpg.png`, as COLMAP names it, `left/a` with any image suffix, or one of these
    with "mask" before or behind (`_MARKED`); a leading folder of the name (`images/` of a transforms file) may be left
    out. The default folder may be missing: then marked files beside the images are their masks. With None no view has a
    mask. Raises DataError for any other folder that is missing, for one in which no file belongs to a view, and for a
    mask that could be that of two photographs.
    """
    if folder is None:
        return tuple(replace(view, mask=None) for view in views)
    place = as_written(source, folder)
    if place.is_dir():
        finder, images = ImageFinder(place), {view.image_path for view in views}
        found = [_find_mask(finder, view.name, images) for view in views]
        if not any(found):
            raise DataError(
                f"{place}: none of its files is the mask of an image; name them like {views[0].name}.png, or choose "
                "another folder with data.masks"
            )
    elif folder != DEFAULT_FOLDER:
        raise DataError(f"{place}: no such mask folder; set data.masks to the folder in {source} that has them")
    else:
        found = _masks_beside(views, source)
    found = [path if view.mask is None else None for view, path in zip(views, found, strict=True)]
    _check_owners(views, found)
    views = [view if path is None else replace(view, mask=Mask(path)) for view, path in zip(views, found, strict=True)]
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
    if not same_shape((width, height), size):
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


def _find_mask(finder: ImageFinder, name: str, images: Collection[Path]) -> Path | None:
    """The mask of an image in the finder's folder, the plainest of names first; not a file of `images`."""
    *folders, last = PurePosixPath(name).parts
    for above in (folders, folders[1:]) if folders else (folders,):
        for file in (f"{last}.png", last, *_marked(last)):
            path = finder.find("/".join([*above, file]))
            if path and path not in images:
                return path
    return None


def _marked(name: str) -> list[str]:
    """Names of masks of the image `name` that say so; `ImageFinder` finds those with another suffix."""
    return [form.format(start) + ".png" for start in dict.fromkeys((name, stem_of(name))) for form in _MARKED]


def _masks_beside(views: Sequence[View], source: Path) -> list[Path | None]:
    """The files beside the photographs that are called masks of these, and are not images of views themselves."""
    images = {view.image_path for view in views}
    places = {folder: _with_original(folder, source) for folder in {view.image_path.parent for view in views}}
    finders = {folder: ImageFinder(folder) for folder in set().union(*places.values()) if _may_have_masks(folder)}
    if not finders:
        return [None] * len(views)
    beside = {folder: [finders[place] for place in places[folder] if place in finders] for folder in places}
    found = [_mask_beside(view, beside[view.image_path.parent], images) for view in views]
    if any(found):
        first = printable(str(next(filter(None, found))))
        logger.info("masks of %d images are beside them, as %s is", sum(map(bool, found)), first)
    return found


def _mask_beside(view: View, finders: Sequence[ImageFinder], images: Collection[Path]) -> Path | None:
    names = dict.fromkeys([*_marked(view.image_path.name), *_marked(PurePosixPath(view.name).name)])
    paths = (finder.find(name) for finder in finders for name in names)
    return next((path for path in paths if path and path not in images), None)


def _may_have_masks(folder: Path) -> bool:
    return folder.is_dir() and any("mask" in name.lower() for name in os.listdir(folder))


def _with_original(folder: Path, source: Path) -> list[Path]:
    """A folder of images and, where these are smaller copies in `images_N`, the folder in `images`."""
    with contextlib.suppress(ValueError):
        first, *others = folder.relative_to(source).parts or ("",)
        if re.fullmatch(r"images_\d+", first):
            return [folder, source.joinpath("images", *others)]
    return [folder]


def _check_owners(views: Sequence[View], masks: Sequence[Path | None]) -> None:
    """Raise DataError for a mask that was found for two photographs."""
    owners: dict[Path, View] = {}
    for view, mask in zip(views, masks, strict=True):
        other = owners.setdefault(mask, view) if mask else view
        if other.image_path != view.image_path:
            raise DataError(
                f"{mask}: could be the mask of {other.name} or of {view.name}; make one for each, like {view.name}.png"
            )


def _alpha(path: Path) -> np.ndarray:
    """Opacity [H, W], integers from 0 to 255."""
    pixels = decode_image(path)
    return pixels[..., 3].astype(np.int64) if pixels.shape[-1] == 4 else np.full(pixels.shape[:2], 255)


def _alpha_masked(view: View) -> View:
    return replace(view, mask=Mask(view.image_path, is_alpha=True, also=view.mask), alpha_is_mask=True)


def _turned(mask: Mask) -> Mask:
    return replace(mask, inverted=not mask.inverted)
