"""NeRF-synthetic scenes: `transforms_train.json` and `transforms_test.json` as Blender wrote them for NeRF."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError
from .imagefile import check_present, read_size
from .resize import resize_views
from .scene import RawScene, View

TRAIN_FILE = "transforms_train.json"
TEST_FILE = "transforms_test.json"
HALF_BOX = 1.3
"""World half side of the cube around the origin that holds a NeRF-synthetic object (3DGS scene/dataset_readers.py)."""

_OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])  # camera axes: y up, z backward -> y down, z forward
_DISTORTION_KEYS = ("k1", "k2", "k3", "k4", "p1", "p2")


def read_blender(source: Path, resolution: int) -> RawScene:
    """Read cameras and image sizes; the test file is optional. Points are None, bounds the NeRF-synthetic cube.

    Raises DataError naming the file and the key or the images that are missing.
    """
    train = _read_transforms(source, TRAIN_FILE)
    test = _read_transforms(source, TEST_FILE) if (source / TEST_FILE).is_file() else None
    views, note = resize_views(source, "frames", train + (test or []), resolution)
    corner = np.full(3, HALF_BOX)
    return RawScene(
        kind="blender",
        views=views[: len(train)],
        image_source=" ".join(filter(None, ["images", note])),
        test_views=None if test is None else views[len(train) :],
        test_rule=TEST_FILE,
        bounds=(-corner, corner),
    )


def _read_transforms(source: Path, file_name: str) -> list[View]:
    path = source / file_name
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); copy it again") from error
    angle = _get(meta, "camera_angle_x", (int, float), path, "the file")
    frames = _get(meta, "frames", list, path, "the file")
    _refuse_other_cameras(meta, angle, path)
    if not frames:
        raise DataError(f"{path}: `frames` is empty; the file must list at least one image")
    named = {_get(frame, "file_path", str, path, f"frame {i}"): frame for i, frame in enumerate(frames)}
    images = {name: _find_image(source, name) for name in named}
    check_present(source, [name for name, image in images.items() if image is None], len(images))
    return [_view(source, images[name], frame, angle, path) for name, frame in named.items()]


def _get(values: Any, key: str, kind: type | tuple[type, ...], path: Path, where: str) -> Any:
    value = values.get(key) if isinstance(values, dict) else None
    if value is None:
        raise DataError(f"{path}: {where} has no `{key}`; NeRF-synthetic files need it")
    if not isinstance(value, kind):
        raise DataError(f"{path}: `{key}` of {where} is a {type(value).__name__}; see the NeRF-synthetic format")
    return value


def _refuse_other_cameras(meta: dict, angle: float, path: Path) -> None:
    if not 0.0 < angle < math.pi:
        raise DataError(f"{path}: `camera_angle_x` is {angle}; it must be between 0 and pi radians")
    for key in _DISTORTION_KEYS:
        if meta.get(key):
            raise DataError(f"{path}: `{key}` is {meta[key]}; only pinhole cameras are read, undistort the images")


def _find_image(source: Path, file_path: str) -> Path | None:
    """The file, with the extension given or left out."""
    base = source / file_path.replace("\\", "/")
    candidates = [base, *(base.with_name(base.name + suffix) for suffix in (".png", ".jpg", ".jpeg"))]
    return next((path for path in candidates if path.is_file()), None)


def _view(source: Path, image: Path, frame: dict, angle: float, path: Path) -> View:
    width, height = read_size(image)
    focal = 0.5 * width / math.tan(0.5 * angle)
    intrinsics = np.array([[focal, 0.0, 0.5 * width], [0.0, focal, 0.5 * height], [0.0, 0.0, 1.0]])
    name = image.relative_to(source).as_posix()
    return View(name, image, width, height, intrinsics, _viewmat(frame, name, path), camera_id=1)


def _viewmat(frame: dict, name: str, path: Path) -> np.ndarray:
    """World-to-camera, OpenCV axes, from the frame's OpenGL camera-to-world."""
    try:
        pose = np.array(frame["transform_matrix"], dtype=np.float64)
        rigid = pose.shape == (4, 4) and np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-3)
    except (KeyError, TypeError, ValueError):
        rigid = False
    if not rigid or not np.isfinite(pose).all():
        raise DataError(f"{path}: `transform_matrix` of {name} is not a 4x4 rigid pose; export the file again")
    return np.linalg.inv(pose @ _OPENGL_TO_OPENCV)
