"""COLMAP models, binary or text, with any camera that is, or can be made, a pinhole."""

from __future__ import annotations

import logging
import struct
import tempfile
from pathlib import Path

import numpy as np
import pycolmap

from .colmap_model import PosedImage, SparseModel, parameter_counts
from .colmap_text import read_text_model
from .errors import DataError
from .imagefile import name_parts, pair_images, read_size
from .pointcloud import count_points, find_points, read_points
from .poses import LENGTH_EXACT, PoseError, report_lengths, unit_quaternion
from .prepare import ImageOptions, image_folder, prepare_views
from .scene import PointCloud, RawScene, View, finite_points
from .undistort import Shot, camera_at_size

logger = logging.getLogger(__name__)

MODEL_PLACES = ("sparse/0", "sparse", "colmap/sparse/0")
MODEL_FILES = ("cameras", "images", "points3D")

_LENGTH = struct.Struct("<Q")
_MODEL_NAMES = {int(model): name for name, model in pycolmap.CameraModelId.__members__.items() if int(model) >= 0}


def find_model(source: Path) -> Path | None:
    """The first of MODEL_PLACES that holds a sparse model, complete or not."""
    for place in MODEL_PLACES:
        if any((source / place / f"images{suffix}").is_file() for suffix in (".bin", ".txt")):
            return source / place
    return None


def read_colmap(source: Path, options: ImageOptions) -> RawScene:
    """Read the sparse model under `source` and the size of every photograph in the image folder.

    With a resolution N that divides and the default folder, `images_N` is used if it is there.
    Distorted photographs are undistorted, then too large ones resized, each into a cache. Raises DataError for a model
    or a folder that is missing, empty or damaged, and for images that disagree with their cameras.
    """
    place = find_model(source)
    if place is None:
        raise DataError(f"{source}: no COLMAP model in {', '.join(MODEL_PLACES)}; run COLMAP's mapper on the images")
    model = _read_model(place)
    folder, options = image_folder(source, options)
    views, image_source = prepare_views(source, folder.name, _pair(model, place, folder), place, options)
    return RawScene("colmap", views, image_source, points=_points(model, place))


def _read_model(place: Path) -> SparseModel:
    absent = {
        suffix: [f"{name}{suffix}" for name in MODEL_FILES if not _is_there(place / f"{name}{suffix}")]
        for suffix in (".bin", ".txt")
    }
    suffix, missing = min(absent.items(), key=lambda item: len(item[1]))  # binary where both are whole
    pointless = missing == [_points_file(suffix)] and find_points(place) is not None
    if missing and not pointless:
        raise DataError(f"{place}: {', '.join(missing)} missing; copy the whole model that COLMAP wrote")
    others = sorted(path.name for path in place.parent.iterdir() if path.name.isdigit() and path != place)
    if place.name == "0" and others:
        logger.warning("%s: also holds the models %s; only model 0 is used", place.parent, ", ".join(others))
    model = _read_binary(place, pointless) if suffix == ".bin" else read_text_model(place, pointless)
    if not model.images:
        raise DataError(f"{place}: the model has no image with a pose; run COLMAP's mapper again")
    return model


def _points_file(suffix: str) -> str:
    return f"points3D{suffix}"


def _is_there(path: Path) -> bool:
    """Whether a file of a model is there; one of points that has no bytes is as good as none, as long as another has
    them (`find_points`)."""
    hollow = path.name == _points_file(".bin") and find_points(path.parent) is not None
    return path.is_file() and not (hollow and path.stat().st_size == 0)


def _read_binary(place: Path, pointless: bool) -> SparseModel:
    """The model of the files `*.bin`; without points where its file of these is missing (`pointless`)."""
    _check_lengths(place, pointless)
    try:
        model = _read_pointless(place) if pointless else _read_files(place)
    except Exception as error:  # a damaged file shows as ValueError, RuntimeError, MemoryError or IndexError
        raise DataError(f"{place}: not a readable COLMAP model ({error}); export it from COLMAP again") from error
    lengths: dict[str, float] = {}
    images = [_posed(image, place, lengths) for image in model.images.values() if image.has_pose]
    report_lengths(place, lengths)
    points = [point for _, point in sorted(model.points3D.items())]
    positions = np.array([point.xyz for point in points]).reshape(-1, 3)
    colors = np.array([point.color for point in points], np.uint8).reshape(-1, 3)
    cameras = {number: pycolmap.Camera(camera.todict()) for number, camera in model.cameras.items()}
    return SparseModel(cameras, images, positions, colors)


def _read_files(place: Path) -> pycolmap.Reconstruction:
    model = pycolmap.Reconstruction()
    model.read_binary(place)
    return model


def _read_pointless(place: Path) -> pycolmap.Reconstruction:
    """A model whose file of points is missing: pycolmap reads it beside an empty one."""
    with tempfile.TemporaryDirectory() as folder:
        for path in place.glob("*.bin"):
            if path.name != _points_file(".bin"):
                (Path(folder) / path.name).symlink_to(path.resolve())
        (Path(folder) / _points_file(".bin")).write_bytes(_LENGTH.pack(0))
        return _read_files(Path(folder))


def _check_lengths(place: Path, pointless: bool) -> None:
    """Raise DataError when a binary file (that of the points only unless `pointless`) ends within a record.

    pycolmap takes the missing bytes for counts, and may run for hours or fill the memory before it fails; missing
    parameters of cameras it makes up. The layouts are those of COLMAP's documentation, "Output Format".
    """
    for name, skip in _SKIPS.items():
        if pointless and name == _points_file(".bin"):
            continue
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
    name = _MODEL_NAMES[model]
    return offset + 24 + 8 * parameter_counts()[name]  # after id, model, width, height


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


def _posed(image: pycolmap.Image, place: Path, lengths: dict[str, float]) -> PosedImage:
    """The image with its pose made rigid; the length of its quaternion goes to `lengths`, by name."""
    name = _name(image, place)
    try:
        pose, lengths[name] = _rigid(image)
    except PoseError as error:
        raise DataError(f"{place}: image {name} has no pose: {error}; run COLMAP again") from None
    matrix = pose.matrix()
    if not np.isfinite(matrix).all():
        raise DataError(f"{place}: image {name} has a pose that is not finite; run COLMAP again")
    return PosedImage(image.image_id, name, image.camera_id, matrix)


def _rigid(image: pycolmap.Image) -> tuple[pycolmap.Rigid3d, float]:
    """cam_from_world with the quaternions of frame and rig at length 1, and the length that was farthest from it.

    COLMAP multiplies poses as if quaternions were of that length. Raises PoseError for one without a direction.
    """
    parts = [image.frame.rig_from_world]
    if not image.is_ref_in_frame():
        parts.append(image.frame.rig.sensor_from_rig(image.camera.sensor_id))
    units = [unit_quaternion(part.rotation.quat) for part in parts]
    length = max((length for _, length in units), key=lambda length: abs(length - 1.0))
    if abs(length - 1.0) <= LENGTH_EXACT:
        return image.cam_from_world(), length
    world, *rig = (
        pycolmap.Rigid3d(pycolmap.Rotation3d(unit), part.translation)
        for (unit, _), part in zip(units, parts, strict=True)
    )
    return (rig[0] * world if rig else world), length


def _pair(model: SparseModel, place: Path, folder: Path) -> list[Shot]:
    posed = {image.name: image for image in model.images}
    paths = pair_images(folder, posed)
    cameras: dict[tuple[int, int, int], pycolmap.Camera] = {}
    shots = []
    for name, image in sorted(posed.items()):
        size = read_size(paths[name])
        key = (image.camera_id, *size)
        if key not in cameras:
            cameras[key] = camera_at_size(model.cameras[image.camera_id], size, place, paths[name])
        shots.append(Shot(_view(name, paths[name], image, cameras[key]), cameras[key]))
    return shots


def _name(image: pycolmap.Image, place: Path) -> str:
    try:
        return image.name.replace("\\", "/")
    except UnicodeDecodeError:
        remedy = "rename its file in ASCII, and run COLMAP again"
        raise DataError(f"{place}: the name of image {image.image_id} is not UTF-8; {remedy}") from None


def _view(name: str, path: Path, image: PosedImage, camera: pycolmap.Camera) -> View:
    viewmat = np.vstack([image.cam_from_world, [0.0, 0.0, 0.0, 1.0]])
    intrinsics = camera.calibration_matrix() if camera.is_perspective() else np.eye(3)
    return View("/".join(name_parts(name)), path, camera.width, camera.height, intrinsics, viewmat, image.camera_id)


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
