"""One frame of a transforms file: its numbers, its camera as COLMAP has cameras, its pose."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .colmap_model import MOST_PIXELS
from .errors import DataError
from .poses import PoseError, RigidPose, rigid_pose

_OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])  # camera axes: y up, z backward -> y down, z forward
_PERSPECTIVE = ("PERSPECTIVE", "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
_FISHEYE = ("FISHEYE", "OPENCV_FISHEYE")
_PANORAMA = ("EQUIRECTANGULAR", "LATLONG")


@dataclass(frozen=True, eq=False)
class Frame:
    """The keys of a frame, those of the whole file included, and how messages call the place."""

    values: Mapping[str, Any]
    where: str

    @property
    def file_path(self) -> str:
        """What the file calls the photograph."""
        return self.values["file_path"]

    def number(self, key: str, default: float | None = None) -> float | None:
        """A finite number, or the default where there is none. Raises DataError for anything else."""
        value = self.values.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            raise DataError(f"{self.where}: `{key}` is {value!r}, not a number; export the file again")
        return float(value)

    def size(self, default: tuple[int, int]) -> tuple[int, int]:
        """Width and height that the camera is of. Raises DataError for what cannot be one."""
        return self._pixels("w", default[0]), self._pixels("h", default[1])

    def _pixels(self, key: str, default: int) -> int:
        value = self.number(key, default)
        if not 1 <= value <= MOST_PIXELS:
            raise DataError(f"{self.where}: `{key}` is {value:g}, not a number of pixels; export the file again")
        return int(value)

    def pose(self) -> RigidPose:
        """The camera-to-world, OpenGL axes. Raises DataError for a matrix that is none."""
        try:
            return rigid_pose(self.values.get("transform_matrix"))
        except PoseError as error:
            raise DataError(f"{self.where}: `transform_matrix` is not a pose: {error}; export the file again") from None


def read_frames(path: Path, meta: Mapping[str, Any], listed: Sequence[Any], what: str = "frame") -> list[Frame]:
    """The frames of a list in the file `path`, in order, each with what the file says for all.

    Raises DataError for one that names no photograph.
    """
    shared = {key: value for key, value in meta.items() if key != "frames"}
    frames = []
    for index, frame in enumerate(listed):
        name = get(frame, "file_path", str, path, f"{what} {index}")
        frames.append(Frame({**shared, **frame}, f"{path}: {what} {index}, {name}"))
    return frames


def get(values: Any, key: str, kind: type, path: Path, where: str) -> Any:
    """The value of a key that must be there, of a type. Raises DataError otherwise."""
    value = values.get(key) if isinstance(values, dict) else None
    if value is None:
        raise DataError(f"{path}: {where} has no `{key}`; export the file again")
    if not isinstance(value, kind):
        raise DataError(f"{path}: `{key}` of {where} is a {type(value).__name__}; see the transforms.json format")
    return value


def model_and_params(frame: Frame, width: int, height: int) -> tuple[str, list[float]]:
    """The camera of a frame, of that many pixels, as COLMAP calls it: model and parameters.

    Raises DataError for a model that is not read, and for one without a focal length.
    """
    stated = str(frame.values.get("camera_model") or "PERSPECTIVE").upper()
    if stated in _PANORAMA or frame.values.get("equirectangular") or frame.values.get("latlong"):
        return "EQUIRECTANGULAR", [float(width), float(height)]
    if (stated not in _PERSPECTIVE and stated not in _FISHEYE) or "ftheta_p0" in frame.values:
        model = "f-theta" if "ftheta_p0" in frame.values else stated
        raise DataError(f"{frame.where}: camera model {model} is not read; undistort the images to a pinhole camera")
    fx, fy = _focal(frame, "x", width), _focal(frame, "y", height)
    if fx is None and fy is None:
        raise DataError(f"{frame.where}: no `camera_angle_x`, `fl_x` or `x_fov`; export the file again")
    pinhole = [fx or fy, fy or fx, frame.number("cx", 0.5 * width), frame.number("cy", 0.5 * height)]
    k1, k2, k3, k4, k5, k6, p1, p2 = (
        frame.number(key, 0.0) for key in ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
    )
    if stated in _FISHEYE or frame.values.get("is_fisheye"):
        return "OPENCV_FISHEYE", [*pinhole, k1, k2, k3, k4]
    if any((k3, k4, k5, k6)):
        return "FULL_OPENCV", [*pinhole, k1, k2, p1, p2, k3, k4, k5, k6]
    return "OPENCV", [*pinhole, k1, k2, p1, p2]


def viewmat(pose: RigidPose) -> np.ndarray:
    """World-to-camera, OpenCV axes, from an OpenGL camera-to-world."""
    return np.linalg.inv(pose.matrix @ _OPENGL_TO_OPENCV)


def _focal(frame: Frame, axis: str, pixels: int) -> float | None:
    """Focal length in pixels along an axis, from a length or a field of view; None without either."""
    length = frame.number(f"fl_{axis}")
    if length is not None:
        return length
    degrees, angle = frame.number(f"{axis}_fov"), frame.number(f"camera_angle_{axis}")
    if degrees is not None:
        angle = math.radians(degrees)
    if angle is None:
        return None
    if not 0.0 < angle < math.pi:
        raise DataError(f"{frame.where}: `camera_angle_{axis}` is {angle}; it must be between 0 and pi radians")
    return 0.5 * pixels / math.tan(0.5 * angle)
