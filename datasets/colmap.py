"""COLMAP models, binary or text, with any camera that is, or can be made, a pinhole."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pycolmap

from .colmap_binary import read_binary_model
from .colmap_model import PosedImage, SparseModel
from .colmap_text import read_text_model
from .distinct import without_repeats
from .errors import DataError
from .imagefile import read_size
from .names import slashed
from .pairing import relative_name
from .pointcloud import count_points, find_points, read_points
from .prepare import ImageOptions, find_photographs, prepare_views
from .scene import PointCloud, RawScene, View, finite_points
from .undistort import Shot, camera_at_size

logger = logging.getLogger(__name__)

MODEL_PLACES = ("sparse/0", "sparse", "colmap/sparse/0")
"""Where a scene has its model."""
OTHER_PLACES = ("colmap/sparse", "0", ".")
"""Where it is in a folder without transforms.json: beside the images, or in what is no scene but its sparse folder."""
MODEL_FILES = ("cameras", "images", "points3D")

_WITHIN_SCENES = ("sparse", "colmap")
_READERS = {".bin": read_binary_model, ".txt": read_text_model}


def find_model(source: Path, places: Sequence[str] = MODEL_PLACES) -> Path | None:
    """The first of `places` that holds a sparse model, complete or not."""
    for place in places:
        needed = ("cameras", "images") if place == "." else ("images",)  # an images.txt alone may be any list
        for suffix in _READERS:
            if all((source / place / f"{name}{suffix}").is_file() for name in needed):
                return source / place
    return None


def scene_of(source: Path, place: Path, options: ImageOptions) -> tuple[Path, Path]:
    """The folder of the scene whose model is in `place`, and that place: `source`, or where that is the model, or only
    a folder `sparse` or `colmap` with it, the one above that has the images."""
    folder = Path(os.path.abspath(source))
    above = [folder.parent] if place in (source, source / "0") or folder.name in _WITHIN_SCENES else []
    while above and above[-1].name in _WITHIN_SCENES:
        above.append(above[-1].parent)
    scene = next((scene for scene in (source, *above) if options.has_images(scene)), source)
    return scene, place if scene == source else Path(os.path.abspath(place))


def read_colmap(source: Path, place: Path, options: ImageOptions) -> RawScene:
    """Read the sparse model in `place` and the size of every photograph in the image folder of `source`.

    With a resolution N that divides and the default folder, `images_N` is used if it is there. Distorted photographs
    are undistorted, then too large ones resized, each into a cache. Raises DataError for a model or a folder that is
    missing, empty or damaged, and for images that disagree with their cameras.
    """
    model = _read_model(place)
    images = sorted(model.images, key=lambda image: (slashed(image.name), image.image_id))
    cameras = {image.name: model.cameras[image.camera_id] for image in images}
    sizes = {name: (camera.width, camera.height) for name, camera in cameras.items()}
    folder, options, paths = find_photographs(source, options, sizes)
    shots = without_repeats(_shots(images, model.cameras, paths, place, folder), place)
    views, image_source = prepare_views(source, folder.name, shots, place, options)
    return RawScene("colmap", views, image_source, points=_points(model, place))


def _read_model(place: Path) -> SparseModel:
    absent = {
        suffix: [f"{name}{suffix}" for name in MODEL_FILES if not _is_there(place / f"{name}{suffix}")]
        for suffix in _READERS
    }
    suffix, missing = min(absent.items(), key=lambda item: len(item[1]))  # binary where both are whole
    pointless = missing == [f"points3D{suffix}"] and find_points(place) is not None
    if missing and not pointless:
        raise DataError(f"{place}: {', '.join(missing)} missing; copy the whole model that COLMAP wrote")
    others = sorted(path.name for path in place.parent.iterdir() if path.name.isdigit() and path != place)
    if place.name == "0" and others:
        logger.warning("%s: also holds the models %s; only model 0 is used", place.parent, ", ".join(others))
    model = _READERS[suffix](place, pointless)
    if not model.images:
        raise DataError(f"{place}: the model has no image with a pose; run COLMAP's mapper again")
    return model


def _is_there(path: Path) -> bool:
    """Whether a file of a model is there; one of points that has no bytes is as good as none, as long as another has
    them (`find_points`)."""
    hollow = path.name == "points3D.bin" and find_points(path.parent) is not None
    return path.is_file() and not (hollow and path.stat().st_size == 0)


def _shots(
    images: Sequence[PosedImage],
    cameras: Mapping[int, pycolmap.Camera],
    paths: Mapping[str, Path],
    place: Path,
    folder: Path,
) -> list[Shot]:
    """A shot of each image, with its camera at the size of its file; images whose files are of one size share it."""
    sized: dict[tuple[int, int, int], pycolmap.Camera] = {}
    shots = []
    for image in images:
        path = paths[image.name]
        size = read_size(path)
        key = (image.camera_id, *size)
        if key not in sized:
            sized[key] = camera_at_size(cameras[image.camera_id], size, place, path)
        shots.append(Shot(_view(relative_name(image.name, path, folder), path, image, sized[key]), sized[key]))
    return shots


def _view(name: str, path: Path, image: PosedImage, camera: pycolmap.Camera) -> View:
    viewmat = np.vstack([image.cam_from_world, [0.0, 0.0, 0.0, 1.0]])
    intrinsics = camera.calibration_matrix() if camera.is_perspective() else np.eye(3)
    return View(name, path, camera.width, camera.height, intrinsics, viewmat, image.camera_id)


def _points(model: SparseModel, place: Path) -> PointCloud | None:
    """The model's points; where it has none, those of the points3D.ply that 3DGS writes beside it, if it is there."""
    beside = find_points(place)
    if not len(model.positions) and beside is not None:
        logger.info("the model has no points: they are read from %s", beside)
        return read_points(beside, "copy it again, or delete it to start from random points")
    others = count_points(beside) if beside else None
    if others not in (None, len(model.positions)):
        logger.warning(
            "%s: its %s points are not used, but the %s of the COLMAP model; start from them with --init_ply %s",
            beside, f"{others:,}", f"{len(model.positions):,}", beside,
        )  # fmt: skip
    return finite_points(PointCloud(model.positions, model.colors), place)
