"""COLMAP models, binary or text, with any camera that is, or can be made, a pinhole."""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap

from .errors import DataError
from .imagefile import pair_images, read_size
from .resize import DIVISORS, resize_views
from .scene import PointCloud, RawScene, View
from .undistort import Shot, is_distorted, undistort_views

logger = logging.getLogger(__name__)

MODEL_PLACES = ("sparse/0", "sparse", "colmap/sparse/0")
MODEL_FILES = ("cameras", "images", "points3D")

_LENGTH = struct.Struct("<Q")


def find_model(source: Path) -> Path | None:
    """The first of MODEL_PLACES that holds a sparse model, complete or not."""
    for place in MODEL_PLACES:
        if any((source / place / f"images{suffix}").is_file() for suffix in (".bin", ".txt")):
            return source / place
    return None


def read_colmap(source: Path, images: str, resolution: int) -> RawScene:
    """Read the sparse model under `source` and the size of every photograph in the folder `images`.

    With resolution 2, 4 or 8 and `images == "images"`, a folder `images_2`, `images_4` or `images_8` is used if it is
    there. Distorted photographs are undistorted, then too large ones resized, each into a cache. Raises DataError for
    a model or a folder that is missing, empty or damaged, and for images that disagree with their cameras.
    """
    place = find_model(source)
    if place is None:
        raise DataError(f"{source}: no COLMAP model in {', '.join(MODEL_PLACES)}; run COLMAP's mapper on the images")
    model = _read_model(place)
    folder, resolution = _image_folder(source, images, resolution)
    views, undistorted = _undistorted(source, folder.name, _pair(model, place, folder), place)
    views, resized = resize_views(source, folder.name, views, resolution)
    image_source = " ".join(filter(None, [folder.name, undistorted, resized]))
    return RawScene("colmap", tuple(views), image_source, points=_points(model, place))


def _read_model(place: Path) -> pycolmap.Reconstruction:
    suffix = ".bin" if (place / "images.bin").is_file() else ".txt"
    missing = [f"{name}{suffix}" for name in MODEL_FILES if not (place / f"{name}{suffix}").is_file()]
    if missing:
        raise DataError(f"{place}: {', '.join(missing)} missing; copy the whole model that COLMAP wrote")
    if suffix == ".bin":
        _check_lengths(place)
    try:
        model = pycolmap.Reconstruction()
        (model.read_binary if suffix == ".bin" else model.read_text)(place)
    except Exception as error:  # a damaged file shows as ValueError, RuntimeError, MemoryError or IndexError
        raise DataError(f"{place}: not a readable COLMAP model ({error}); export it from COLMAP again") from error
    if suffix == ".bin" and (place / "cameras.bin").stat().st_size < _cameras_length(model):
        raise _cut_short(place / "cameras.bin")  # pycolmap makes the missing parameters up
    if not any(image.has_pose for image in model.images.values()):
        raise DataError(f"{place}: the model has no image with a pose; run COLMAP's mapper again")
    return model


def _check_lengths(place: Path) -> None:
    """Raise DataError when images.bin or points3D.bin ends within a record.

    pycolmap takes the missing bytes for counts, and may fill the memory before it fails. The layouts are those of
    COLMAP's documentation, "Output Format".
    """
    for name, skip in (("images.bin", _skip_image), ("points3D.bin", _skip_point)):
        data = (place / name).read_bytes()
        try:
            offset = _LENGTH.size
            for _ in range(_LENGTH.unpack_from(data)[0]):
                offset = skip(data, offset)
        except (struct.error, ValueError):
            offset = len(data) + 1
        if offset > len(data):
            raise _cut_short(place / name)


def _cut_short(path: Path) -> DataError:
    return DataError(f"{path}: is cut short; copy it again, or export the model from COLMAP again")


def _cameras_length(model: pycolmap.Reconstruction) -> int:
    return _LENGTH.size + sum(24 + 8 * len(camera.params) for camera in model.cameras.values())


def _skip_image(data: bytes, offset: int) -> int:
    name_end = data.index(0, offset + 64)  # after id, quaternion, translation, camera id
    return name_end + 1 + _LENGTH.size + 24 * _LENGTH.unpack_from(data, name_end + 1)[0]


def _skip_point(data: bytes, offset: int) -> int:
    track = offset + 43  # after id, position, colour, error
    return track + _LENGTH.size + 8 * _LENGTH.unpack_from(data, track)[0]


def _image_folder(source: Path, images: str, resolution: int) -> tuple[Path, int]:
    """The folder to read and what remains to be done of `resolution`."""
    downscaled = source / f"images_{resolution}"
    if images == "images" and resolution in DIVISORS[1:] and downscaled.is_dir():
        return downscaled, 1
    folder = source / images
    if not folder.is_dir():
        there = ", ".join(sorted(path.name for path in source.iterdir() if path.is_dir())) or "no folder"
        raise DataError(f"{folder}: no such image folder; {source} holds {there}; choose one with -i/--images")
    return folder, resolution


def _pair(model: pycolmap.Reconstruction, place: Path, folder: Path) -> list[Shot]:
    posed = {image.name.replace("\\", "/"): image for image in model.images.values() if image.has_pose}
    paths = pair_images(folder, posed)
    cameras: dict[tuple[int, int, int], pycolmap.Camera] = {}
    shots = []
    for name, image in sorted(posed.items()):
        size = read_size(paths[name])
        key = (image.camera_id, *size)
        if key not in cameras:
            cameras[key] = _camera_at_size(model.cameras[image.camera_id], size, place, paths[name])
        shots.append(Shot(_view(name, paths[name], image, cameras[key], place), cameras[key]))
    return shots


def _camera_at_size(camera: pycolmap.Camera, size: tuple[int, int], place: Path, path: Path) -> pycolmap.Camera:
    """A copy of the camera in pixels of `size`, each axis scaled by its own ratio."""
    width, height = size
    focal_ok = camera.width > 0 and camera.height > 0 and np.isfinite(camera.params).all()
    if not focal_ok or (camera.is_perspective() and min(camera.focal_length_x, camera.focal_length_y) <= 0):
        raise DataError(f"{place}: camera {camera.camera_id} is not usable ({camera}); run COLMAP again")
    # 1 % for cameras calibrated at a slightly cropped size, one pixel for the rounding of downscaled folders
    if abs(camera.height * width / camera.width - height) > 0.01 * height + 1:
        raise DataError(
            f"{path}: is {width}x{height} but its camera {camera.camera_id} is {camera.width}x{camera.height}; "
            "use the images that COLMAP saw, not cropped and not rotated"
        )
    scaled = pycolmap.Camera(camera.todict())
    scaled.rescale(width, height)
    return scaled


def _view(name: str, path: Path, image: pycolmap.Image, camera: pycolmap.Camera, place: Path) -> View:
    viewmat = np.vstack([image.cam_from_world().matrix(), [0.0, 0.0, 0.0, 1.0]])
    if not np.isfinite(viewmat).all():
        raise DataError(f"{place}: image {name} has a pose that is not finite; run COLMAP again")
    intrinsics = camera.calibration_matrix() if camera.is_perspective() else np.eye(3)
    return View(name, path, camera.width, camera.height, intrinsics, viewmat, image.camera_id)


def _undistorted(source: Path, label: str, shots: Sequence[Shot], place: Path) -> tuple[list[View], str]:
    """All views as pinholes, and the note "undistorted from MODEL" or ""."""
    distorted = [shot for shot in shots if is_distorted(shot.camera, place)]
    if not distorted:
        return [shot.view for shot in shots], ""
    models = ", ".join(sorted({shot.camera.model_name for shot in distorted}))
    logger.info("%d images have %s distortion: training on undistorted copies", len(distorted), models)
    replaced = {view.name: view for view in undistort_views(source, label, distorted)}
    return [replaced.get(shot.view.name, shot.view) for shot in shots], f"undistorted from {models}"


def _points(model: pycolmap.Reconstruction, place: Path) -> PointCloud | None:
    points = [point for _, point in sorted(model.points3D.items())]
    if not points:
        return None
    cloud = PointCloud(np.array([point.xyz for point in points]), np.array([point.color for point in points], np.uint8))
    finite = np.isfinite(cloud.positions).all(axis=1)
    if not finite.all():
        logger.warning("%s: %d points are not finite and are left out", place, np.count_nonzero(~finite))
        cloud = replace(cloud, positions=cloud.positions[finite], colors=cloud.colors[finite])
    return cloud
