"""COLMAP models, binary or text, with any camera that is, or can be made, a pinhole."""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pycolmap

from .distinct import without_repeats
from .errors import DataError
from .imagefile import read_size
from .names import slashed
from .pairing import relative_name
from .prepare import ImageOptions, find_photographs, prepare_views
from .scene import PointCloud, RawScene, View, finite_points
from .undistort import Shot, camera_at_size

logger = logging.getLogger(__name__)

MODEL_PLACES = ("sparse/0", "sparse", "colmap/sparse/0")
"""Where a scene has its model."""
OTHER_PLACES = ("colmap/sparse", "0", ".")
"""Where it is in a folder without transforms.json: beside the images, or in what is no scene but its sparse folder."""
MODEL_FILES = ("cameras", "images", "points3D")

_LENGTH = struct.Struct("<Q")


def find_model(source: Path, places: Sequence[str] = MODEL_PLACES) -> Path | None:
    """The first of `places` that holds a sparse model, complete or not."""
    for place in places:
        needed = ("cameras", "images") if place == "." else ("images",)  # an images.txt alone may be any list
        for suffix in (".bin", ".txt"):
            if all((source / place / f"{name}{suffix}").is_file() for name in needed):
                return source / place
    return None


def scene_of(source: Path, place: Path, options: ImageOptions) -> Path:
    """The folder of the scene whose model is in `place`: `source`, or where that is the model or its `sparse` folder,
    the one above that has the images."""
    if place not in (source, source / "0"):
        return source
    folder = source.absolute()
    above = [folder.parent]
    while above[-1].name in ("sparse", "colmap"):
        above.append(above[-1].parent)
    return next((scene for scene in (source, *above) if options.has_images(scene)), source)


def read_colmap(source: Path, place: Path, options: ImageOptions) -> RawScene:
    """Read the sparse model in `place` and the size of every photograph in the image folder of `source`.

    With resolution 2, 4 or 8 and the default folder, `images_2`, `images_4` or `images_8` is used if it is there.
    Distorted photographs are undistorted, then too large ones resized, each into a cache. Raises DataError for a model
    or a folder that is missing, empty or damaged, and for images that disagree with their cameras.
    """
    model = _read_model(place)
    names = _names(model, place)
    cameras = {name: model.cameras[image.camera_id] for name, image in names}
    sizes = {name: (camera.width, camera.height) for name, camera in cameras.items()}
    folder, options, paths = find_photographs(source, options, sizes)
    shots = without_repeats(_shots(model, names, paths, place, folder), place)
    views, image_source = prepare_views(source, folder.name, shots, place, options)
    return RawScene("colmap", views, image_source, points=_points(model, place))


def _read_model(place: Path) -> pycolmap.Reconstruction:
    absent = {
        suffix: [f"{name}{suffix}" for name in MODEL_FILES if not (place / f"{name}{suffix}").is_file()]
        for suffix in (".bin", ".txt")
    }
    suffix, missing = min(absent.items(), key=lambda item: len(item[1]))  # binary where both are whole
    if missing:
        raise DataError(f"{place}: {', '.join(missing)} missing; copy the whole model that COLMAP wrote")
    others = sorted(path.name for path in place.parent.iterdir() if path.name.isdigit() and path != place)
    if place.name == "0" and others:
        logger.warning("%s: also holds the models %s; only model 0 is used", place.parent, ", ".join(others))
    if suffix == ".bin":
        _check_lengths(place)
    try:
        model = pycolmap.Reconstruction()
        (model.read_binary if suffix == ".bin" else model.read_text)(place)
    except Exception as error:  # a damaged file shows as ValueError, RuntimeError, MemoryError or IndexError
        raise DataError(f"{place}: not a readable COLMAP model ({error}); export it from COLMAP again") from error
    if not any(image.has_pose for image in model.images.values()):
        raise DataError(f"{place}: the model has no image with a pose; run COLMAP's mapper again")
    return model


def _check_lengths(place: Path) -> None:
    """Raise DataError when a binary file ends within a record.

    pycolmap takes the missing bytes for counts, and may run for hours or fill the memory before it fails; missing
    parameters of cameras it makes up. The layouts are those of COLMAP's documentation, "Output Format".
    """
    for name, skip in _SKIPS.items():
        path = place / name
        data = path.read_bytes() if path.is_file() else _LENGTH.pack(0)  # COLMAP 3.x wrote no rigs and frames
        try:
            offset = _LENGTH.size
            for _ in range(_LENGTH.unpack_from(data)[0]):
                offset = skip(data, offset)
        except KeyError as error:
            raise DataError(f"{path}: camera model {error} is unknown; export the model from COLMAP again") from None
        except (struct.error, ValueError, OverflowError):
            offset = len(data) + 1
        if offset > len(data):
            raise DataError(f"{path}: is cut short; copy it again, or export the model from COLMAP again")


def _skip_camera(data: bytes, offset: int) -> int:
    _, model = struct.unpack_from("<Ii", data, offset)
    return offset + 24 + 8 * _parameter_counts()[model]  # after id, model, width, height


@cache
def _parameter_counts() -> dict[int, int]:
    """How many parameters each camera model has."""
    models = (model for model in pycolmap.CameraModelId.__members__.values() if int(model) >= 0)
    return {int(model): len(pycolmap.Camera.create_from_model_id(0, model, 1.0, 1, 1).params) for model in models}


def _skip_image(data: bytes, offset: int) -> int:
    name_end = data.index(0, offset + 64)  # after id, quaternion, translation, camera id
    return name_end + 1 + _LENGTH.size + 24 * _LENGTH.unpack_from(data, name_end + 1)[0]


def _skip_point(data: bytes, offset: int) -> int:
    track = offset + 43  # after id, position, colour, error
    return track + _LENGTH.size + 8 * _LENGTH.unpack_from(data, track)[0]


def _skip_rig(data: bytes, offset: int) -> int:
    _, sensors = struct.unpack_from("<II", data, offset)
    offset += 8 + (8 if sensors else 0)  # type and id of the reference sensor
    for _ in range(sensors - 1):
        (posed,) = struct.unpack_from("<B", data, offset + 8)
        offset += 9 + (56 if posed else 0)
    return offset


def _skip_frame(data: bytes, offset: int) -> int:
    images = offset + 64  # after id, rig id, quaternion, translation
    (count,) = struct.unpack_from("<I", data, images)
    return images + 4 + 16 * count


_SKIPS = {
    "cameras.bin": _skip_camera,
    "images.bin": _skip_image,
    "points3D.bin": _skip_point,
    "rigs.bin": _skip_rig,
    "frames.bin": _skip_frame,
}
"""For each file how one record is passed over; each begins with the number of records."""


def _names(model: pycolmap.Reconstruction, place: Path) -> list[tuple[str, pycolmap.Image]]:
    """The images that have a pose, with their names, by these."""
    named = [(_name(image, place), image) for image in model.images.values() if image.has_pose]
    return sorted(named, key=lambda entry: (slashed(entry[0]), entry[1].image_id))


def _shots(
    model: pycolmap.Reconstruction,
    names: list[tuple[str, pycolmap.Image]],
    paths: dict[str, Path],
    place: Path,
    folder: Path,
) -> list[Shot]:
    cameras: dict[tuple[int, int, int], pycolmap.Camera] = {}
    shots = []
    for name, image in names:
        size = read_size(paths[name])
        key = (image.camera_id, *size)
        if key not in cameras:
            cameras[key] = camera_at_size(model.cameras[image.camera_id], size, place, paths[name])
        called = relative_name(name, paths[name], folder)
        shots.append(Shot(_view(called, paths[name], image, cameras[key], place), cameras[key]))
    return shots


def _name(image: pycolmap.Image, place: Path) -> str:
    try:
        return image.name
    except UnicodeDecodeError:
        remedy = "rename its file in ASCII, and run COLMAP again"
        raise DataError(f"{place}: the name of image {image.image_id} is not UTF-8; {remedy}") from None


def _view(name: str, path: Path, image: pycolmap.Image, camera: pycolmap.Camera, place: Path) -> View:
    viewmat = np.vstack([image.cam_from_world().matrix(), [0.0, 0.0, 0.0, 1.0]])
    if not np.isfinite(viewmat).all():
        raise DataError(f"{place}: image {name} has a pose that is not finite; run COLMAP again")
    intrinsics = camera.calibration_matrix() if camera.is_perspective() else np.eye(3)
    return View(name, path, camera.width, camera.height, intrinsics, viewmat, image.camera_id)


def _points(model: pycolmap.Reconstruction, place: Path) -> PointCloud | None:
    points = [point for _, point in sorted(model.points3D.items())]
    positions = np.array([point.xyz for point in points]).reshape(-1, 3)
    return finite_points(PointCloud(positions, np.array([point.color for point in points], np.uint8)), place)
