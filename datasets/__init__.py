"""Files on disk -> one Scene value. Pixels come later, from `datasets.images.ImageStore` (the only part with torch)."""

from __future__ import annotations

import os
from pathlib import Path

from .colmap import MODEL_PLACES, find_model, read_colmap
from .errors import DataError
from .prepare import ImageOptions
from .scene import Mask, Normalisation, PointCloud, RawScene, Scene, View, build_scene
from .transforms import SHARED_FILE, TRAIN_FILE, read_transforms

__all__ = ["DataError", "Mask", "Normalisation", "PointCloud", "Scene", "View", "load_scene"]


def load_scene(
    source_path: str | os.PathLike[str],
    *,
    images: str = "images",
    resolution: int = -1,
    masks: str | None = "masks",
    invert_masks: bool = False,
    test_every: int = 8,
    hold_out: bool = True,
    normalise: bool = True,
) -> Scene:
    """Read the dataset at `source_path`; image headers only, no pixels.

    source_path: a folder with a COLMAP model, `transforms_train.json` or `transforms.json`; or a transforms file, to
        choose it where a folder has a COLMAP model too.
    images: folder of a COLMAP dataset's images.
    resolution: 1, 2, 4, 8 divide the size (a folder `images_N` is used when there is one); another positive number is
        the width in pixels; -1 keeps the size but brings images wider than 1600 pixels to 1600.
    masks: folder of masks, used when it is there; black is ignored. Masks that a transforms file names come first;
        None: no masks.
    invert_masks: white is ignored instead.
    test_every: every n-th image by name is a test view, starting with the first (0: none); ignored where the dataset
        says which views are for testing.
    hold_out: False trains on all images that a dataset has for training.
    normalise: shift the mean camera to the origin and scale the camera extent to 1; recorded on the Scene.
    Raises DataError, whose message names the file and the remedy.
    """
    source = Path(os.path.expanduser(source_path))  # pathlib's raises an error where there is no home
    if test_every < 0:
        raise DataError(f"test_every {test_every}: use a positive number, or 0 to hold out nothing")
    options = ImageOptions(images=images, resolution=resolution, masks=masks, invert_masks=invert_masks)
    raw = _read(source, options)
    folder = source if source.is_dir() else source.parent
    return build_scene(folder, raw, test_every=test_every, hold_out=hold_out, normalise=normalise)


def _read(source: Path, options: ImageOptions) -> RawScene:
    if source.suffix == ".json" and source.is_file():
        return read_transforms(source, options)
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; give the folder that holds the dataset with -s/--source_path")
    if (source / TRAIN_FILE).is_file():
        return read_transforms(source / TRAIN_FILE, options)
    if find_model(source):
        return read_colmap(source, options)
    if (source / SHARED_FILE).is_file():
        return read_transforms(source / SHARED_FILE, options)
    there = ", ".join(sorted(path.name for path in source.iterdir())[:10]) or "nothing"
    raise DataError(
        f"{source}: no dataset found; looked for {TRAIN_FILE}, {SHARED_FILE} and for a COLMAP model (images.bin or "
        f"images.txt) in {', '.join(MODEL_PLACES)}; the folder holds {there}"
    )
