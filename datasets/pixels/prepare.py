"""From photographs with cameras to views as they are trained: masks found, distortion removed, size changed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import DataError
from ..names import as_written
from ..scene import View
from ..textfiles import is_utf8
from .distinct import with_unique_names
from .lens_masks import with_lens_masks
from .masks import DEFAULT_FOLDER, with_alpha, with_masks
from .pairing import ImageFinder, all_found, pair_by_order, pair_images, pair_names_by_order
from .resize import AUTO, DIVISORS, check_resolution, resize_views
from .undistort import UNDISTORT, Shot, drawn_views

logger = logging.getLogger(__name__)

ALPHA = ("background", "mask")
"""What transparency may mean: the background shows through, or the pixel does not count."""
DEFAULT_IMAGES = "images"


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What a user chooses about images; `distwar_datasets.load_scene` explains each."""

    images: str = DEFAULT_IMAGES
    resolution: int = AUTO
    masks: str | None = DEFAULT_FOLDER
    invert_masks: bool = False
    alpha: str = ALPHA[0]
    undistort: str = UNDISTORT[0]

    def __post_init__(self) -> None:
        """Raises DataError for a resolution, a meaning of alpha or a way to undistort that there is not."""
        check_resolution(self.resolution)
        if self.alpha not in ALPHA:
            raise DataError(f"alpha {self.alpha!r}: use one of {', '.join(ALPHA)}")
        if self.undistort not in UNDISTORT:
            raise DataError(f"undistort {self.undistort!r}: use one of {', '.join(UNDISTORT)}")

    def downscaled_folder(self, source: Path) -> Path | None:
        """`images_N` of `source` if resolution N asks for it, no other folder was chosen and it is there."""
        folder = source / f"images_{self.resolution}"
        wanted = self.images == DEFAULT_IMAGES and self.resolution in DIVISORS[1:]
        return folder if wanted and folder.is_dir() else None

    def has_images(self, source: Path) -> bool:
        """Whether `source` has the folder with the images."""
        return as_written(source, self.images).is_dir() or self.downscaled_folder(source) is not None


def prepare_views(
    source: Path, label: str, shots: Sequence[Shot], model: Path, options: ImageOptions
) -> tuple[tuple[View, ...], str]:
    """Views in the order of `shots`, as they are trained on, and where their pixels come from in words.

    `label` names the image folder in caches and words, `model` the file or folder of the cameras in messages. Masks go
    the way of their images. No two photographs have one name in the result. Raises DataError as the steps do.
    """
    for shot in shots:
        if not is_utf8(shot.view.name):
            raise DataError(
                f"{model}: the image name {shot.view.name} is not UTF-8; rename the file, and correct it there"
            )
    shots = with_unique_names(shots)
    views = with_masks([shot.view for shot in shots], source, options.masks, options.invert_masks)
    views = with_alpha(views) if options.alpha == "mask" else views
    shots = [replace(shot, view=view) for shot, view in zip(shots, views, strict=True)]
    drawn, undistorted = drawn_views(source, label, shots, model, options.undistort)
    drawn = with_lens_masks(source, label, drawn)
    views, resized = resize_views(source, label, drawn, options.resolution)
    alpha = ", alpha as mask" if any(view.alpha_is_mask for view in views) else ""
    return views, " ".join(filter(None, [label, undistorted, resized])) + alpha


def find_photographs(
    source: Path, options: ImageOptions, sizes: Mapping[str, tuple[int, int]]
) -> tuple[Path, ImageOptions, dict[str, Path]]:
    """The folder to read images from, the options with what remains to be done to them, and the file of each name.

    Copies in another folder than `images` may have other names (`pair_by_order`). Where those of `images_N` do not
    belong to the photographs of `images`, these are resized. Raises DataError when there is no folder, or files are
    missing.

    sizes: by the name that the dataset gives a photograph, (width, height) of its camera.
    """
    folder, remaining = _image_folder(source, options)
    full = source / DEFAULT_IMAGES
    if folder == full:
        return folder, remaining, pair_images(folder, sizes)
    try:
        return folder, remaining, _copies(folder, full, sizes)
    except DataError as error:
        if remaining is options or not full.is_dir():
            raise
        logger.warning("%s. Taking the photographs of %s and resizing them", error, full)
        return full, options, pair_images(full, sizes)


def _copies(folder: Path, full: Path, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Path]:
    """The file in `folder` of each name: by names where there is one of these, else by order."""
    finder, names = ImageFinder(folder), list(sizes)
    paths = finder.find_all(names)
    if any(paths):
        return all_found(finder, names, paths)
    if full.is_dir():
        return pair_by_order(folder, pair_images(full, sizes), full)
    return pair_names_by_order(folder, sizes)


def _image_folder(source: Path, options: ImageOptions) -> tuple[Path, ImageOptions]:
    """The folder to read images from, and the options with what remains to be done to them.

    Raises DataError when there is none.
    """
    downscaled = options.downscaled_folder(source)
    if downscaled:
        return downscaled, replace(options, resolution=1)
    folder = as_written(source, options.images)
    if not folder.is_dir():
        folders = (path.name for path in source.iterdir() if path.is_dir() and not path.name.startswith("."))
        there = ", ".join(sorted(folders)) or "no folder"
        raise DataError(f"{folder}: no such image folder; {source} holds {there}; choose one with -i/--images")
    return folder, options
