"""Files on disk -> one Scene value. Pixels come later, from `datasets.images.ImageStore` (the only part with torch)."""

from __future__ import annotations

import os
from pathlib import Path

from .blender import TRAIN_FILE, read_blender
from .colmap import MODEL_PLACES, find_model, read_colmap
from .errors import DataError
from .resize import check_resolution
from .scene import Normalisation, PointCloud, RawScene, Scene, View, build_scene

__all__ = ["DataError", "Normalisation", "PointCloud", "Scene", "View", "load_scene"]


def load_scene(
    source_path: str | os.PathLike[str],
    *,
    images: str = "images",
    resolution: int = -1,
    test_every: int = 8,
    hold_out: bool = True,
    normalise: bool = True,
) -> Scene:
    """Read the COLMAP or NeRF-synthetic dataset in the folder `source_path`; image headers only, no pixels.

    images: folder of a COLMAP dataset's images.
    resolution: 1, 2, 4, 8 divide the size (a folder `images_N` is used when there is one); another positive number is
        the width in pixels; -1 keeps the size but brings images wider than 1600 pixels to 1600.
    test_every: every n-th image by name is a test view, starting with the first (0: none); ignored where the dataset
        says which views are for testing.
    hold_out: False trains on all images that a dataset has for training.
    normalise: shift the mean camera to the origin and scale the camera extent to 1; recorded on the Scene.
    Raises DataError, whose message names the file and the remedy.
    """
    source = Path(source_path).expanduser()
    if test_every < 0:
        raise DataError(f"test_every {test_every}: use a positive number, or 0 to hold out nothing")
    check_resolution(resolution)
    raw = _read(source, images, resolution)
    return build_scene(source, raw, test_every=test_every, hold_out=hold_out, normalise=normalise)


def _read(source: Path, images: str, resolution: int) -> RawScene:
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; give the folder that holds the dataset with -s/--source_path")
    if (source / TRAIN_FILE).is_file():
        return read_blender(source, resolution)
    if find_model(source):
        return read_colmap(source, images, resolution)
    there = ", ".join(sorted(path.name for path in source.iterdir())[:10]) or "nothing"
    raise DataError(
        f"{source}: no dataset found; looked for {TRAIN_FILE} and for a COLMAP model (images.bin or images.txt) in "
        f"{', '.join(MODEL_PLACES)}; the folder holds {there}"
    )
