"""COLMAP's text models, as COLMAP and the many others write them.

The format is that of COLMAP's documentation, "Output Format" (read and written in src/colmap/scene/
reconstruction_io_text.cc). COLMAP's own reader takes every second line of images.txt for 2D points, ends a name at the
first space, and believes quaternions of any length. Here a line is told by what it holds, so the lines of 2D points may
be missing, all or some; names are the rest of their line; numbers are apart by any white space; line ends and a byte
order mark do not matter (datasets.textfiles). 2D points, tracks and errors are passed over.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pycolmap

from .colmap_model import MOST_PIXELS, PosedImage, SparseModel, parameter_counts
from .errors import DataError
from .poses import ROUNDING, PoseError, report_lengths, unit_quaternion
from .textfiles import is_utf8, open_text, text_lines

logger = logging.getLogger(__name__)

_WHITE = re.compile(r"[ \t\v\f]+")  # not what else Unicode calls white: that may begin a name
_POINT = 7  # columns of a point that count: id, position, colour
_DISAGREE = 1e-3


def read_text_model(place: Path, pointless: bool = False) -> SparseModel:
    """The model in the folder `place`: cameras.txt, images.txt, points3D.txt, and rigs.txt with frames.txt if both are.

    pointless: without points3D.txt; the model has no points then. Raises DataError naming file, line and what is wrong
    with it.
    """
    cameras = _cameras(place / "cameras.txt")
    images = _images(place / "images.txt", cameras)
    frames = place / "frames.txt"
    if frames.is_file() and (place / "rigs.txt").is_file():
        images = _with_frames(images, _frame_poses(frames, _sensor_poses(place / "rigs.txt")), frames)
    points = () if pointless else _points(place / "points3D.txt")
    return SparseModel(cameras, images, *points)


class _LineError(ValueError):
    """What is wrong with a line."""


def _read_lines(path: Path, read: Callable[[str], None]) -> None:
    """Give each line to `read`; what it raises becomes a DataError with file and line."""
    for number, text in text_lines(path):
        try:
            read(text)
        except (_LineError, PoseError) as error:
            raise _unreadable(path, number, error) from None


def _unreadable(path: Path, number: int, error: Exception) -> DataError:
    return DataError(
        f"{path}, line {number}: not a readable COLMAP model ({error}); correct the line, or export the model again"
    )


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _LineError(f"{name} is {_short(text)}, not a number") from None


def _whole(text: str, name: str) -> int:
    """An id or a count."""
    try:
        value = float(text) if len(text) < 18 else int(text)
        if value != int(value):
            raise ValueError
    except (ValueError, OverflowError):
        raise _LineError(f"{name} is {_short(text)}, not a whole number") from None
    return int(value)


def _short(text: str) -> str:
    return ascii(text if len(text) < 40 else text[:40] + "...")


# ------------------------------------------------------------------------------------------------------- cameras


def _cameras(path: Path) -> dict[int, pycolmap.Camera]:
    cameras: dict[int, pycolmap.Camera] = {}

    def read(text: str) -> None:
        camera = _camera(_WHITE.split(text))
        if camera.camera_id in cameras:
            raise _LineError(f"camera {camera.camera_id} is there twice")
        cameras[camera.camera_id] = camera

    _read_lines(path, read)
    return cameras


def _camera(fields: Sequence[str]) -> pycolmap.Camera:
    if len(fields) < 5:
        raise _LineError(f"a camera has an id, a model, width, height and parameters, here are {len(fields)} values")
    number, width, height = (_whole(fields[i], name) for i, name in ((0, "id"), (2, "width"), (3, "height")))
    params = [_number(text, "a parameter") for text in fields[4:]]
    if not 0 <= number < 2**32 - 1 or not (0 < width <= MOST_PIXELS and 0 < height <= MOST_PIXELS):
        raise _LineError(f"camera {number} of {width}x{height} pixels cannot be")
    model = fields[1].upper()
    if model not in parameter_counts():
        raise _LineError(f"camera model {_short(fields[1])} is unknown")
    if len(params) != parameter_counts()[model]:
        raise _LineError(f"{model} has {parameter_counts()[model]} parameters, here are {len(params)}")
    return pycolmap.Camera(camera_id=number, model=model, width=width, height=height, params=params)


# -------------------------------------------------------------------------------------------------------- images


def _images(path: Path, cameras: dict[int, pycolmap.Camera]) -> list[PosedImage]:
    images: dict[int, PosedImage] = {}
    lengths: dict[str, float] = {}
    points_may_follow = False

    def read(text: str) -> None:
        nonlocal points_may_follow
        fields = _WHITE.split(text, 9)
        if _like_points(fields) and not _like_image(fields):
            if not points_may_follow:
                raise _LineError("2D points without an image before them")
            points_may_follow = False
            return
        image, length = _image(fields, cameras)
        if image.image_id in images:
            raise _LineError(f"image {image.image_id} is there twice")
        images[image.image_id], lengths[image.name], points_may_follow = image, length, True

    _read_lines(path, read)
    report_lengths(path, lengths)
    return list(images.values())


def _like_image(fields: Sequence[str]) -> bool:
    """Whether numbers, of which the first ten are apart, are an image (with a name of numbers) and not 2D points.

    2D points whose second to fifth number are by chance of length 1 lie in the first pixel and see point 1 at most.
    """
    whole = len(fields) == 10 and _is_whole(fields[0]) and _is_whole(fields[8])
    return whole and abs(np.linalg.norm([float(text) for text in fields[1:5]]) - 1.0) <= ROUNDING


def _like_points(fields: Sequence[str]) -> bool:
    """Whether a line, of which the first nine words are apart, is 2D points, x y id each, by the first four of them."""
    if not all(map(_is_whole, fields[2:9:3])):  # an image has fractions there, unless its camera stands upright
        return False
    head = [*fields[:9], *_WHITE.split(fields[9], 3)[:3]] if len(fields) == 10 else fields
    return len(head) % 3 == 0 and all(map(_is_whole, head[2::3])) and all(map(_is_number, head))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal() or (_is_number(text) and float(text).is_integer())


def _image(fields: Sequence[str], cameras: dict[int, pycolmap.Camera]) -> tuple[PosedImage, float]:
    """The image, and the length of its quaternion before it was made 1."""
    if len(fields) < 10:
        raise _LineError(
            "neither an image (id, quaternion, translation, camera id, name) nor 2D points (x, y, id each)"
        )
    number, camera = _whole(fields[0], "the image id"), _whole(fields[8], "the camera id")
    name = _name(fields[9], number)
    if camera not in cameras:
        raise _LineError(f"image {name} has camera {camera}, which cameras.txt does not have")
    matrix, length = _pose(fields[1:8], f"image {name}")
    return PosedImage(number, name, camera, matrix.matrix()), length


def _name(text: str, number: int) -> str:
    """The name as it is, without the quotes that some put around names with spaces."""
    if not is_utf8(text):
        raise _LineError(f"the name of image {number} is not UTF-8; rename its file in ASCII")
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] == '"' else text


def _pose(texts: Sequence[str], owner: str) -> tuple[pycolmap.Rigid3d, float]:
    """The pose of seven numbers, quaternion (w first) and translation, and the quaternion's length in the file."""
    values = np.array([_number(text, f"the pose of {owner}") for text in texts])
    if not np.isfinite(values).all():
        raise _LineError(f"{owner} has a pose that is not finite")
    try:
        (w, x, y, z), length = unit_quaternion(values[:4])
    except PoseError as error:
        raise _LineError(f"{owner} has no pose: {error}") from None
    return pycolmap.Rigid3d(pycolmap.Rotation3d(np.array([x, y, z, w])), values[4:]), length


# ----------------------------------------------------------------------------------------- rigs and frames of COLMAP 4


def _sensor_poses(path: Path) -> dict[tuple[int, int], pycolmap.Rigid3d | None]:
    """sensor_from_rig by rig and camera, for the cameras of rigs.txt whose pose in the rig is known; None: identity."""
    poses: dict[tuple[int, int], pycolmap.Rigid3d | None] = {}

    def read(text: str) -> None:
        fields = iter(_WHITE.split(text))
        rig, count = _whole(_next(fields), "the rig id"), _whole(_next(fields), "the number of sensors")
        for index in range(count):
            kind, number = _next(fields), _whole(_next(fields), "a sensor id")
            posed = index == 0 or _whole(_next(fields), "whether a pose follows")
            pose = _pose([_next(fields) for _ in range(7)], f"sensor {number}")[0] if posed and index else None
            if posed and kind == "CAMERA":
                poses[rig, number] = pose

    _read_lines(path, read)
    return poses


def _frame_poses(path: Path, sensors: dict[tuple[int, int], pycolmap.Rigid3d | None]) -> dict[int, np.ndarray]:
    """cam_from_world [3, 4] by image, for the images of frames.txt whose sensor has a pose in its rig."""
    poses: dict[int, np.ndarray] = {}

    def read(text: str) -> None:
        fields = iter(_WHITE.split(text))
        frame, rig = _whole(_next(fields), "the frame id"), _whole(_next(fields), "the rig id")
        pose, _ = _pose([_next(fields) for _ in range(7)], f"frame {frame}")
        for _ in range(_whole(_next(fields), "the number of images")):
            kind, sensor, image = _next(fields), _whole(_next(fields), "a sensor id"), _whole(_next(fields), "an image")
            if kind == "CAMERA" and (rig, sensor) in sensors:
                in_rig = sensors[rig, sensor]
                poses[image] = (in_rig * pose if in_rig else pose).matrix()

    _read_lines(path, read)
    return poses


def _next(fields: Iterator[str]) -> str:
    try:
        return next(fields)
    except StopIteration:
        raise _LineError("it ends too early") from None


def _with_frames(images: Sequence[PosedImage], poses: dict[int, np.ndarray], path: Path) -> list[PosedImage]:
    """The images with the poses of their frames, which COLMAP believes too where images.txt says otherwise."""
    moved = [PosedImage(i.image_id, i.name, i.camera_id, poses.get(i.image_id, i.cam_from_world)) for i in images]
    other = [
        old.name for old, new in zip(images, moved, strict=True)
        if np.abs(old.cam_from_world - new.cam_from_world).max() > _DISAGREE * (1 + np.abs(new.cam_from_world).max())
    ]  # fmt: skip
    if other:
        logger.warning(
            "%s: has other poses than images.txt for %d of %d images (%s): those of frames.txt are used, as COLMAP "
            "does; delete rigs.txt and frames.txt if images.txt is what you want",
            path, len(other), len(moved), other[0],
        )  # fmt: skip
    return moved


# -------------------------------------------------------------------------------------------------------- points


def _points(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Positions float64 [P, 3] and colours uint8 [P, 3], in the order of the points' ids.

    One loop without a check for each value: a model may have millions of points with long tracks.
    """
    number = 0

    def values() -> Iterator[float]:
        nonlocal number
        with open_text(path) as file:
            for number, line in enumerate(file, start=1):  # noqa: B007, for the message below
                fields = line.split(None, _POINT)
                if fields and fields[0][0] != "#":
                    if len(fields) < _POINT:
                        raise ValueError(f"a point has an id, a position and a colour, here are {len(fields)} values")
                    yield from map(float, fields[:_POINT])

    try:
        table = np.fromiter(values(), np.float64).reshape(-1, _POINT)
    except ValueError as error:
        raise _unreadable(path, number, error) from None
    table = table[np.argsort(table[:, 0], kind="stable")]
    return np.ascontiguousarray(table[:, 1:4]), _colors(table[:, 4:])


def _colors(values: np.ndarray) -> np.ndarray:
    """uint8 [P, 3] from numbers up to 255, or from fractions of 1."""
    values = np.nan_to_num(values)
    fractions = len(values) and values.max() <= 1.0 and (values != np.round(values)).any()
    return np.uint8(np.clip(np.round(values * 255.0 if fractions else values), 0, 255))
