"""From photographs with cameras to views as they are trained: masks found, distortion removed, size changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import DataError
from .masks import DEFAULT_FOLDER, with_alpha, with_masks
from .resize import AUTO, DIVISORS, check_resolution, resize_views
from .scene import View
from .undistort import Shot, pinhole_views

ALPHA = ("background", "mask")
"""What transparency may mean: the background shows through, or the pixel does not count."""


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What a user chooses about images; `datasets.load_scene` explains each."""

    images: str = "images"
    resolution: int = AUTO
    masks: str | None = DEFAULT_FOLDER
    invert_masks: bool = False
    alpha: str = ALPHA[0]

    def __post_init__(self) -> None:
        """Raises DataError for a resolution, or a meaning of alpha, that there is not."""
        check_resolution(self.resolution)
        if self.alpha not in ALPHA:
            raise DataError(f"alpha {self.alpha!r}: use one of {', '.join(ALPHA)}")

    def downscaled_folder(self, source: Path) -> Path | None:
        """`images_N` of `source` if resolution N asks for it, no other folder was chosen and it is there."""
        folder = source / f"images_{self.resolution}"
        wanted = self.images == "images" and self.resolution in DIVISORS[1:]
        return folder if wanted and folder.is_dir() else None


def prepare_views(
    source: Path, label: str, shots: Sequence[Shot], model: Path, options: ImageOptions
) -> tuple[tuple[View, ...], str]:
    """Pinhole views in the order of `shots`, and where their pixels come from in words.

    `label` names the image folder in caches and words, `model` the file or folder of the cameras in messages. Masks go
    the way of their images. Raises DataError as the steps do.
    """
    views = with_masks([shot.view for shot in shots], source, options.masks, options.invert_masks)
    views = with_alpha(views) if options.alpha == "mask" else views
    shots = [replace(shot, view=view) for shot, view in zip(shots, views, strict=True)]
    views, undistorted = pinhole_views(source, label, shots, model)
    views, resized = resize_views(source, label, views, options.resolution)
    alpha = ", alpha as mask" if any(view.alpha_is_mask for view in views) else ""
    return views, " ".join(filter(None, [label, undistorted, resized])) + alpha


def image_folder(source: Path, options: ImageOptions) -> tuple[Path, ImageOptions]:
    """The folder to read images from, and the options with what remains to be done to them.

    Raises DataError when there is none.
    """
    downscaled = options.downscaled_folder(source)
    if downscaled:
        return downscaled, replace(options, resolution=1)
    folder = source / options.images
    if not folder.is_dir():
        there = ", ".join(sorted(path.name for path in source.iterdir() if path.is_dir())) or "no folder"
        raise DataError(f"{folder}: no such image folder; {source} holds {there}; choose one with -i/--images")
    return folder, options
