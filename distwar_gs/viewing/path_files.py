"""Camera paths that other programs wrote, or this one: the poses of a video, and how large and wide its pictures are.

| file                                             | poses, camera-to-world                              |
|--------------------------------------------------|-----------------------------------------------------|
| cameras.json of a run, of 3DGS                   | `position`, `rotation`; OpenCV axes                 |
| nerfstudio's camera_path.json                    | `camera_path`, each `camera_to_world`; OpenGL axes  |
| transforms.json (nerfstudio, instant-ngp, Blender) | `frames`, each `transform_matrix`; OpenGL axes    |
| JSON, .npy or .txt of matrices                   | [N, 4, 4] or [N, 3, 4], also flat; axes not told    |

OpenCV axes are x right, y down, z forward; OpenGL axes x right, y up, z back. Layouts: 3DGS, utils/camera_utils.py
(camera_to_JSON); nerfstudio, cameras/camera_paths.py (get_path_from_json) and its documentation, "Data conventions".
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distwar_datasets.errors import DataError
from distwar_datasets.readers.poses import PoseError, rigid_pose
from distwar_gs.config import FPS, FRAMES

MOST_PIXELS = 16_384
"""Along a side of a video; as many as H.264 allows."""

OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
"""From the right of a camera-to-world pose, turns the camera's axes; its own inverse."""

_LONGEST = 2**29  # bytes of a file
_LARGEST = 1e15  # number in it, whose square still is one
_REMEDY = "docs/formats.md lists what a camera path may be"


@dataclass(frozen=True)
class PathFrame:
    """One frame of a path, in the numbers of its file."""

    to_world: np.ndarray
    """float64 [4, 4], camera-to-world, a rotation (mirrored where the file has it so) and a place; of OpenCV axes where
    the file tells its axes."""
    lens: dict[str, float]
    """What the file says of the picture: width, height, fx, fy, cx, cy (pixels), fov_x, fov_y (radians), aspect."""


@dataclass(frozen=True)
class CameraPath:
    """The frames of a file, and what it says of all of them."""

    file: Path
    frames: tuple[PathFrame, ...]
    axes_known: bool = True
    """Whether the axes are known to be OpenCV's."""
    in_input_frame: bool = False
    """Whether the file says what its positions are relative to, which has been added; else they are in the frame of the
    input, or in that of the model's file."""
    size: tuple[int, int] | None = None
    """Width and height of the video, if the file gives them for all frames."""
    fps: float | None = None


def read_path(file: Path) -> CameraPath:
    """Read a camera path of any of the kinds above.

    Raises DataError naming the file, the pose and the remedy, for anything that is not one.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such file; --path takes ellipse, interpolate, none or a file of poses ({_REMEDY})")
    if file.stat().st_size > _LONGEST:
        raise DataError(f"{file}: has {file.stat().st_size} bytes, more than a camera path can; {_REMEDY}")
    readers = {".npy": _read_npy, ".txt": _read_text}
    path = readers.get(file.suffix.lower(), _read_json)(file)
    if not path.frames:
        raise DataError(f"{file}: holds no poses; {_REMEDY}")
    if not FRAMES.holds(len(path.frames)):
        raise DataError(f"{file}: holds {len(path.frames)} poses; it must be {FRAMES.words}")
    return path


# --------------------------------------------------------------------------------------------------------- the files


def _read_json(file: Path) -> CameraPath:
    try:
        content = json.loads(file.read_bytes())  # also of UTF-16, and with a byte order mark
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not readable as JSON ({error}), nor of another kind; {_REMEDY}") from None
    if isinstance(content, dict) and isinstance(content.get("camera_path"), list):
        return _of_nerfstudio(file, content)
    if isinstance(content, dict) and isinstance(content.get("frames"), list):
        return _of_transforms(file, content)
    if isinstance(content, list) and content and all(isinstance(entry, dict) for entry in content):
        return _of_cameras(file, content)
    if isinstance(content, list):
        return _of_matrices(file, content)
    raise DataError(
        f"{file}: neither a list of cameras or poses, nor an object with `camera_path` or `frames`; {_REMEDY}"
    )


def _read_npy(file: Path) -> CameraPath:
    try:
        # A memory map: no memory is taken for what a header only promises.
        poses = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception:  # numpy parses the header with Python's own parser, which raises a dozen kinds
        poses = None
    if not isinstance(poses, np.ndarray) or poses.dtype.kind not in "fiu":
        raise DataError(f"{file}: not an array of plain numbers as numpy.save writes it, or cut short; {_REMEDY}")
    shape = list(poses.shape)
    if poses.ndim in (2, 3) and math.prod(shape[1:]) in (12, 16) and shape[-1] in (4, 12, 16):
        return _of_matrices(file, poses)
    if shape in ([3, 4], [4, 4]):
        return _of_matrices(file, poses[None])
    raise DataError(f"{file}: an array {shape}; poses are [N, 4, 4] or [N, 3, 4] ({_REMEDY})")


def _read_text(file: Path) -> CameraPath:
    """One pose per line, of 12 or 16 numbers; or one row of 4 numbers per line."""
    try:
        lines = file.read_text(encoding="utf-8-sig").replace(",", " ").splitlines()
        with warnings.catch_warnings(action="ignore"):  # of a file without numbers
            rows = np.loadtxt(lines, dtype=np.float64, ndmin=2)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{file}: not readable as rows of numbers ({_first_line(error)}); {_REMEDY}") from None
    count, width = rows.shape if rows.size else (0, 12)
    if width in (12, 16):
        return _of_matrices(file, rows.reshape(count, width))
    if width == 4 and count % 4 == 0 and np.allclose(rows[3::4], [0.0, 0.0, 0.0, 1.0]):
        return _of_matrices(file, rows.reshape(-1, 4, 4))
    if width == 4 and count % 3 == 0:
        return _of_matrices(file, rows.reshape(-1, 3, 4))
    raise DataError(f"{file}: {count} rows of {width} numbers; a pose has 12 or 16, in one row or in rows of 4")


def _of_cameras(file: Path, entries: Sequence[dict[str, Any]]) -> CameraPath:
    """cameras.json; or a list of entries that each have a matrix, as those of the other files."""
    if any(_matrix_key(entry) for entry in entries):
        return _of_transforms(file, {"frames": list(entries)})
    names = {name: name for name in ("width", "height", "fx", "fy", "cx", "cy")}
    frames = []
    for index, entry in enumerate(entries):
        where = f"{file}: camera {index}"
        pose = np.eye(4)
        pose[:3, :3] = _numbers(entry.get("rotation"), (3, 3), f"{where}: `rotation`")
        pose[:3, 3] = _numbers(entry.get("position"), (3,), f"{where}: `position`")
        if "origin" in entry:
            pose[:3, 3] += _numbers(entry["origin"], (3,), f"{where}: `origin`")
        frames.append(PathFrame(_rigid(pose, where), _lens(entry, names, where)))
    return CameraPath(file, tuple(frames), in_input_frame=any("origin" in entry for entry in entries))


def _of_nerfstudio(file: Path, content: dict[str, Any]) -> CameraPath:
    """What its viewer saves: perspective cameras; `fov` is vertical, in degrees."""
    _check_perspective(content.get("camera_type"), f"{file}: `camera_type`")
    shared = _lens(content, {"width": "render_width", "height": "render_height"}, str(file))
    frames = []
    for index, entry in enumerate(content["camera_path"]):
        where = f"{file}: camera_path {index}"
        if not isinstance(entry, dict):
            raise DataError(f"{where} is no object with `camera_to_world`; export it again")
        _check_perspective(entry.get("camera_type"), f"{where}: `camera_type`")
        lens = shared | _lens(entry, {"fov_y": "fov", "aspect": "aspect"}, where, degrees=("fov_y",))
        frames.append(PathFrame(_opengl(entry, where), lens))
    speed = _lens(content, {"fps": "fps", "seconds": "seconds"}, str(file))
    rate = len(frames) / speed["seconds"] if "seconds" in speed else speed.get("fps")
    fps = None if rate is None or not frames else _checked_fps(rate, file)
    return CameraPath(file, tuple(frames), size=size_of(shared), fps=fps)


def _of_transforms(file: Path, content: dict[str, Any]) -> CameraPath:
    """The keys of a frame come before those of the whole file. Distortion is not drawn."""
    names = {
        "width": "w", "height": "h", "fx": "fl_x", "fy": "fl_y", "cx": "cx", "cy": "cy",
        "fov_x": "camera_angle_x", "fov_y": "camera_angle_y", "degrees_x": "x_fov", "degrees_y": "y_fov",
        "vertical": "fov", "aspect": "aspect",
    }  # fmt: skip
    degrees = {"degrees_x": "fov_x", "degrees_y": "fov_y", "vertical": "fov_y"}
    shared, frames = {key: value for key, value in content.items() if key != "frames"}, []
    for index, entry in enumerate(content["frames"]):
        where = f"{file}: frame {index}"
        if not isinstance(entry, dict):
            raise DataError(f"{where} is no object with `transform_matrix`; export it again")
        values = shared | entry
        _check_perspective(values.get("camera_model"), f"{where}: `camera_model`")
        lens = _lens(values, names, where, degrees=tuple(degrees))
        lens |= {degrees[name]: lens.pop(name) for name in degrees if name in lens}
        frames.append(PathFrame(_opengl(entry, where), lens))
    return CameraPath(file, tuple(frames))


def _of_matrices(file: Path, matrices: Sequence[Any] | np.ndarray) -> CameraPath:
    """Poses without a word about their axes."""
    if len(matrices) in (3, 4) and all(np.shape(_listed(row)) == (4,) for row in matrices):
        matrices = [matrices]  # one pose, given by its rows
    poses = [_matrix(matrix, f"{file}: pose {index}") for index, matrix in enumerate(matrices)]
    if any(_is_transposed(pose) for pose in poses):
        poses = [pose.T for pose in poses]
    frames = [PathFrame(_rigid(pose, f"{file}: pose {index}"), {}) for index, pose in enumerate(poses)]
    return CameraPath(file, tuple(frames), axes_known=False)


# ----------------------------------------------------------------------------------------------------- their numbers


def _listed(value: Any) -> Any:
    """A value as numpy takes it without a word about ragged lists."""
    flat = isinstance(value, list) and not any(isinstance(item, list | dict) for item in value)
    return value if flat or isinstance(value, np.ndarray) else []


def _numbers(value: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    """Finite float64 of that shape, or DataError."""
    try:
        result = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        result = np.empty(0)
    if result.shape != shape or not (np.abs(result) <= _LARGEST).all():
        expected = f"{' x '.join(map(str, shape))} finite numbers" if shape else "a finite number"
        raise DataError(f"{where} is not {expected}; export it again, or see docs/formats.md")
    return result


def _matrix(value: Any, where: str) -> np.ndarray:
    """A 4x4 matrix of rows, or flat; of 3x4 the last row is added."""
    try:
        numbers = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.empty(0)
    if numbers.shape not in ((4, 4), (3, 4), (16,), (12,)) or not (np.abs(numbers) <= _LARGEST).all():
        raise DataError(f"{where} is not a 4x4 or 3x4 matrix of finite numbers; {_REMEDY}")
    rows = numbers.reshape(-1, 4)
    return rows if len(rows) == 4 else np.vstack([rows, [0.0, 0.0, 0.0, 1.0]])


def _is_transposed(matrix: np.ndarray) -> bool:
    """Whether a 4x4 matrix is given by its columns, as three.js does: the place is in the last row."""
    last = [0.0, 0.0, 0.0, 1.0]
    return not np.allclose(matrix[3], last) and np.allclose(matrix[:, 3], last)


def _matrix_key(entry: Mapping[str, Any]) -> str | None:
    return next((key for key in ("transform_matrix", "camera_to_world") if key in entry), None)


def _opengl(entry: Mapping[str, Any], where: str) -> np.ndarray:
    """The pose of an entry with OpenGL axes, in those of OpenCV."""
    key = _matrix_key(entry)
    if key is None:
        raise DataError(f"{where} has no `transform_matrix` or `camera_to_world`; export it again")
    matrix = _matrix(entry[key], f"{where}: `{key}`")
    return _rigid(matrix.T if _is_transposed(matrix) else matrix, where) @ OPENGL_TO_OPENCV


def _rigid(pose: np.ndarray, where: str) -> np.ndarray:
    """The pose without the scale of its axes, and with the rotation nearest to what rounding left of one.

    Raises DataError for a matrix that is no such pose.
    """
    try:
        return rigid_pose(pose).matrix
    except PoseError as error:
        raise DataError(f"{where}: no camera-to-world pose: {error}; {_REMEDY}") from None


def _lens(
    values: Mapping[str, Any], names: Mapping[str, str], where: str, degrees: Sequence[str] = ()
) -> dict[str, float]:
    """The numbers that are there, by our names of them; DataError for one that is not positive, or no angle."""
    found: dict[str, float] = {}
    for name, key in names.items():
        value = values.get(key)
        if value is None:
            continue
        number = float(_numbers(value, (), f"{where}: `{key}`"))
        if name in degrees:
            number = math.radians(number)
        is_angle = name.startswith("fov") or name in degrees
        if is_angle and not 0.0 < number < math.pi:
            raise DataError(f"{where}: `{key}` is {value}; it must be above 0 and below 180 degrees")
        if number <= 0.0 and name not in ("cx", "cy"):
            raise DataError(f"{where}: `{key}` is {value}; it must be positive, or left out")
        if name in ("width", "height") and not 1.0 <= number <= MOST_PIXELS:
            raise DataError(f"{where}: `{key}` is {value}; pictures are 1 to {MOST_PIXELS} pixels along a side")
        found[name] = number
    return found


def _check_perspective(stated: Any, where: str) -> None:
    names = ("PERSPECTIVE", "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
    if stated is not None and str(stated).upper() not in names:
        raise DataError(
            f"{where} is {stated!r}; only perspective cameras are read: change it to perspective, and give another lens"
            " with --lens"
        )


def _checked_fps(rate: float, file: Path) -> float:
    if not FPS.holds(rate):
        raise DataError(f"{file}: {rate:g} frames per second; it must be {FPS.words}: change `fps` or `seconds`")
    return rate


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def size_of(lens: Mapping[str, float]) -> tuple[int, int] | None:
    """Width and height that a file gives, in whole pixels; None unless it gives both."""
    return (int(lens["width"]), int(lens["height"])) if "width" in lens and "height" in lens else None
