"""COLMAP's binary models, read by pycolmap after their lengths have been checked."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pycolmap

from .colmap_model import PosedImage, SparseModel, parameter_counts
from .errors import DataError
from .poses import LENGTH_EXACT, PoseError, report_lengths, unit_quaternion

POINTS_FILE = "points3D.bin"

_LENGTH = struct.Struct("<Q")
_POINT = np.dtype([("id", "<u8"), ("position", "<f8", 3), ("color", "u1", 3)])  # error and track follow
_MODEL_NAMES = {int(model): name for name, model in pycolmap.CameraModelId.__members__.items() if int(model) >= 0}


def read_binary_model(place: Path, pointless: bool = False) -> SparseModel:
    """The model in the folder `place`: cameras.bin, images.bin, points3D.bin, and rigs.bin and frames.bin if they are.

    pointless: without points3D.bin; the model has no points then. Raises DataError naming the file or the image.
    """
    for name, skip in _SKIPS.items():
        _records(place / name, skip)
    points = () if pointless else _points(*_records(place / POINTS_FILE, _skip_point))
    try:
        model = _read_pointless(place) if pointless else _read_files(place)
    except Exception as error:  # a damaged file shows as ValueError, RuntimeError, MemoryError or IndexError
        raise DataError(f"{place}: not a readable COLMAP model ({error}); export it from COLMAP again") from error
    lengths: dict[str, float] = {}
    images = [_posed(image, place, lengths) for image in model.images.values() if image.has_pose]
    report_lengths(place, lengths)
    cameras = {number: pycolmap.Camera(camera.todict()) for number, camera in model.cameras.items()}
    return SparseModel(cameras, images, *points)


def _read_files(place: Path) -> pycolmap.Reconstruction:
    model = pycolmap.Reconstruction()
    model.read_binary(place)
    return model


def _read_pointless(place: Path) -> pycolmap.Reconstruction:
    """A model whose file of points is missing: pycolmap reads it beside an empty one."""
    with tempfile.TemporaryDirectory() as folder:
        for path in place.glob("*.bin"):
            if path.name != POINTS_FILE:
                (Path(folder) / path.name).symlink_to(path.resolve())
        (Path(folder) / POINTS_FILE).write_bytes(_LENGTH.pack(0))
        return _read_files(Path(folder))


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


def _name(image: pycolmap.Image, place: Path) -> str:
    try:
        return image.name
    except UnicodeDecodeError:
        remedy = "rename its file in ASCII, and run COLMAP again"
        raise DataError(f"{place}: the name of image {image.image_id} is not UTF-8; {remedy}") from None


def _records(path: Path, skip: Callable[[bytes, int], int]) -> tuple[bytes, list[int]]:
    """The bytes of a file, and where each of its records starts. Raises DataError when it ends within one.

    pycolmap takes the missing bytes for counts, and may run for hours or fill the memory before it fails; missing
    parameters of cameras it makes up. The layouts are those of COLMAP's documentation, "Output Format".
    """
    data = path.read_bytes() if path.is_file() else _LENGTH.pack(0)  # COLMAP 3.x wrote no rigs and frames
    starts, offset = [], _LENGTH.size
    try:
        for _ in range(_LENGTH.unpack_from(data)[0]):
            starts.append(offset)
            offset = skip(data, offset)
    except KeyError as error:
        raise DataError(f"{path}: camera model {error} is unknown; export the model from COLMAP again") from None
    except (struct.error, ValueError, OverflowError):
        offset = len(data) + 1
    if offset > len(data):
        raise DataError(f"{path}: is cut short; copy it again, or export the model from COLMAP again")
    return data, starts


def _points(data: bytes, starts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Positions float64 [P, 3] and colours uint8 [P, 3], in the order of the points' ids."""
    # A point may begin at any byte.
    anywhere = np.ndarray(max(0, len(data) - _POINT.itemsize + 1), _POINT, data, strides=(1,))
    points = anywhere[np.array(starts, dtype=np.int64)]
    points = points[np.argsort(points["id"], kind="stable")]
    return points["position"].astype(np.float64), points["color"].astype(np.uint8)


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
    "rigs.bin": _skip_rig,
    "frames.bin": _skip_frame,
}
"""For each file but that of the points, how one record is passed over; each begins with the number of records."""
