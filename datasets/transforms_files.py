"""The files that a transforms file names: photographs, smaller copies of these, masks."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import DataError
from .names import stem_of
from .pairing import ImageFinder, check_owners, check_present, pair_by_order, relative_name
from .prepare import DEFAULT_IMAGES, ImageOptions
from .scene import Mask
from .transforms_frame import Frame

logger = logging.getLogger(__name__)

_SCANNETPP = {
    (False, "images"): ("resized_images", "original_images", "images"),
    (False, "masks"): ("resized_anon_masks", "original_anon_masks", "masks"),
    (True, "images"): ("undistorted_images", "resized_undistorted_images"),
    (True, "masks"): ("undistorted_anon_masks", "resized_undistorted_masks"),
}
"""Folders beside nerfstudio/transforms.json (False) and nerfstudio/transforms_undistorted.json (True)."""


@dataclass(frozen=True, eq=False)
class FramePhoto:
    """The photograph of a frame."""

    frame: Frame
    name: str
    """Its path relative to the transforms file, also where that has an absolute one; with forward slashes."""
    image: Path | None
    """The file, or its smaller copy; None if it is not there."""


class FrameFiles:
    """Finds the files that frames of the transforms file `path` name.

    They are below its folder. ScanNet++ names files without a folder, and keeps them beside the folder of
    transforms.json (scannetpp/scannetpp, dslr/configs/undistort.yml).
    """

    def __init__(self, path: Path) -> None:
        self.root = path.parent
        here, folder = ImageFinder(self.root), path.absolute().parent
        self._finders = {what: [here] for what in ("images", "masks")}
        if folder.name == "nerfstudio":
            for what, finders in self._finders.items():
                beside = _SCANNETPP["undistorted" in path.stem, what]
                finders += [ImageFinder(folder.parent / other) for other in beside]

    def photographs(self, frames: Sequence[Frame], options: ImageOptions) -> tuple[list[FramePhoto], str, ImageOptions]:
        """The photograph of each frame, what caches and the metrics' protocol call them, and the options with what
        remains to be done to them.

        They are of `images_N` if a resolution N divides and all have a copy there; else, with a warning, of full size.
        Raises DataError where only `images_N` is there and lacks some.
        """
        found = self._find_all([frame.file_path for frame in frames])
        names = [
            relative_name(frame.file_path, photo or Path(frame.file_path), self.root)
            for frame, photo in zip(frames, found, strict=True)
        ]
        # Without the full size there is no telling how the cameras shrink with the images.
        sized = all("w" in frame.values and "h" in frame.values for frame in frames)
        folder, images, label = options.downscaled_folder(self.root) if sized else None, found, DEFAULT_IMAGES
        if folder:
            try:
                images, label = self._copies(folder, names, found), folder.name
                options = replace(options, resolution=1)
            except DataError as error:
                full = self.root / DEFAULT_IMAGES
                if not full.is_dir():
                    raise
                logger.warning("%s. Taking the photographs of %s and resizing them", error, full)
        return [FramePhoto(*of) for of in zip(frames, names, images, strict=True)], label, options

    def mask(self, frame: Frame, image: Path) -> Mask | None:
        """nerfstudio's `mask_path` (black is ignored), or instant-ngp's file beside the image (white is ignored)."""
        named = frame.values.get("mask_path")
        if named:
            paths = (finder.find(str(named)) for finder in self._finders["masks"])
            path = next(filter(None, paths), None)
            if path is None:
                raise DataError(f"{frame.where}: the mask {named} is missing; copy it, or take out its `mask_path`")
            return Mask(path)
        dynamic = image.with_name(f"dynamic_mask_{stem_of(image.name)}.png")
        return Mask(dynamic, inverted=True) if os.path.isfile(dynamic) else None

    def _find_all(self, names: Sequence[str]) -> list[Path | None]:
        """The file of each name, in the first place that has it."""
        found: list[Path | None] = [None] * len(names)
        for finder in self._finders["images"]:
            absent = [index for index, path in enumerate(found) if path is None]
            for index, path in zip(absent, finder.find_all([names[index] for index in absent]), strict=True):
                found[index] = path
        return found

    def _copies(self, folder: Path, names: Sequence[str], photos: Sequence[Path | None]) -> list[Path | None]:
        """The copy in `folder` of each photograph, by its name or else by order (`pair_by_order`).

        Raises DataError where a photograph has none.
        """
        finder, full = ImageFinder(folder), self.root / DEFAULT_IMAGES
        inside = [name.partition("/")[2] if name.startswith(f"{DEFAULT_IMAGES}/") else "" for name in names]
        copies = [finder.find(name) if name else photo for name, photo in zip(inside, photos, strict=True)]
        lacking = [index for index, photo in enumerate(photos) if photo and copies[index] is None]
        if not lacking:
            check_owners(folder, names, copies)
            return copies
        if any(copies):
            check_present(folder, [names[index] for index in lacking], len(copies))
        pairs = pair_by_order(folder, {str(index): photos[index] for index in lacking}, full)
        return [pairs.get(str(index)) for index in range(len(copies))]
