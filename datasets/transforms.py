"""transforms.json: cameras as Blender (NeRF-synthetic), instant-ngp and nerfstudio write them.

One format with three habits. Blender's file has a field of view, transparent images and a second file for the test
views. instant-ngp's adds focal lengths, a principal point and OpenCV's distortion; nerfstudio's, for each frame if need
be, a camera model, masks, a point cloud and lists of the test images (instant-ngp, src/nerf_loader.cu; nerfstudio
documentation, "Data conventions"). Poses are camera-to-world with OpenGL axes; points are in the frame of the poses.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pycolmap
from plyfile import PlyData

from .errors import DataError
from .imagefile import check_present, find_image, name_parts, read_size
from .plyheader import check_ply_header
from .prepare import ImageOptions, prepare_views
from .regular import check_regular
from .scene import Mask, PointCloud, RawScene, View, finite_points
from .undistort import Shot, camera_at_size

logger = logging.getLogger(__name__)

TRAIN_FILE = "transforms_train.json"
TEST_FILE = "transforms_test.json"
SHARED_FILE = "transforms.json"
HALF_BOX = 1.3
"""World half side of the cube around the origin that holds a NeRF-synthetic object (3DGS scene/dataset_readers.py)."""

_OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])  # camera axes: y up, z backward -> y down, z forward
_PERSPECTIVE = ("PERSPECTIVE", "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
_FISHEYE = ("FISHEYE", "OPENCV_FISHEYE")
_PANORAMA = ("EQUIRECTANGULAR", "LATLONG")
_MOST_PIXELS = 2**31 - 1  # in a row or a column, as COLMAP counts them


def read_transforms(path: Path, options: ImageOptions) -> RawScene:
    """Read the cameras of the file `path` and the sizes of their images.

    Beside transforms_train.json, transforms_test.json has the test views if it is there. Without a `ply_file_path`
    there are no points; a NeRF-synthetic scene has bounds then. Raises DataError naming the file, and the key or the
    images that are missing.
    """
    source, file = path.parent, _File.open(path, options)
    train, test, test_rule = *file.split(file.shots()), file.test_rule
    if path.name == TRAIN_FILE and (source / TEST_FILE).is_file():
        test, test_rule = _File.open(source / TEST_FILE, options).shots(), TEST_FILE
    views, image_source = prepare_views(source, file.label, train + test, path, file.options)
    corner = np.full(3, HALF_BOX)
    return RawScene(
        kind="blender" if path.name == TRAIN_FILE else "transforms",
        views=views[: len(train)],
        image_source=image_source,
        test_views=views[len(train) :] if test_rule else None,
        test_rule=test_rule,
        points=_points(source, file.meta),
        bounds=(-corner, corner) if path.name == TRAIN_FILE and "fl_x" not in file.meta else None,
    )


@dataclass(frozen=True)
class _Values:
    """The keys of a frame, those of the whole file included, and how messages call the place."""

    values: dict[str, Any]
    where: str

    def number(self, key: str, default: float | None = None) -> float | None:
        """A finite number, or the default where there is none. Raises DataError for anything else."""
        value = self.values.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            raise DataError(f"{self.where}: `{key}` is {value!r}, not a number; export the file again")
        return float(value)

    def pixels(self, key: str, default: int) -> int:
        """A width or height. Raises DataError for what cannot be one."""
        value = self.number(key, default)
        if not 1 <= value <= _MOST_PIXELS:
            raise DataError(f"{self.where}: `{key}` is {value:g}, not a number of pixels; export the file again")
        return int(value)


@dataclass
class _File:
    """A transforms file: its frames become shots."""

    path: Path
    meta: dict[str, Any]
    frames: dict[str, _Values]
    """By `file_path`, in order."""
    options: ImageOptions
    """What remains to be done to the images."""
    downscaled: Path | None
    """The folder `images_N` in the place of `images`."""
    cameras: dict[tuple, pycolmap.Camera] = field(default_factory=dict)
    """By all their values: frames with equal ones share a camera."""

    @classmethod
    def open(cls, path: Path, options: ImageOptions) -> _File:
        """The file's frames, checked as far as that goes without images."""
        try:
            check_regular(path)
            meta = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: not readable as JSON ({error}); copy it again") from error
        listed = _get(meta, "frames", list, path, "the file")
        if not listed:
            raise DataError(f"{path}: `frames` is empty; the file must list at least one image")
        shared = {key: value for key, value in meta.items() if key != "frames"}
        frames = {}
        for index, frame in enumerate(listed):
            name = _get(frame, "file_path", str, path, f"frame {index}")
            frames[name] = _Values({**shared, **frame}, f"{path}: frame {index}, {name}")
        # Without the full size there is no telling how the cameras shrink with the images.
        sized = all("w" in frame.values and "h" in frame.values for frame in frames.values())
        downscaled = options.downscaled_folder(path.parent) if sized else None
        return cls(path, meta, frames, replace(options, resolution=1) if downscaled else options, downscaled)

    @property
    def label(self) -> str:
        """What caches and the metrics' protocol call the images."""
        return self.downscaled.name if self.downscaled else "images"

    @property
    def test_rule(self) -> str:
        """How the file says which images are for testing; "" if it does not."""
        key = next((key for key in ("test_filenames", "val_filenames") if self.meta.get(key)), None)
        return f"{key} of {self.path.name}" if key else ""

    def split(self, shots: list[Shot]) -> tuple[list[Shot], list[Shot]]:
        """Training and test shots by nerfstudio's lists of files; all are for training where there are none."""
        if not self.test_rule:
            return shots, []
        test = self._listed(self.test_rule.split()[0])
        train = self._listed("train_filenames")
        stems = [_stem(shot.view.name) for shot in shots]
        for_training = [shot for shot, stem in zip(shots, stems, strict=True) if stem in (train or {stem}) - test]
        return for_training, [shot for shot, stem in zip(shots, stems, strict=True) if stem in test]

    def _listed(self, key: str) -> set[str]:
        names = self.meta.get(key) or []
        if not isinstance(names, list):
            raise DataError(f"{self.path}: `{key}` is a {type(names).__name__}, not a list of files; export it again")
        return {_stem(str(name)) for name in names}

    def shots(self) -> list[Shot]:
        """A shot for each frame whose image is there, in the order of the file.

        Images of transforms.json that are missing are left out with a warning, as instant-ngp does (its files may list
        more frames than were kept), unless most are; elsewhere they are an error.
        """
        images = {name: self._find_image(name) for name in self.frames}
        absent = [name for name, image in images.items() if image is None]
        if self.path.name in (TRAIN_FILE, TEST_FILE) or 2 * len(absent) > len(images):
            check_present(self.path.parent, absent, len(images), f"copy them there, as {self.path.name} says")
        if absent:
            first = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
            logger.warning("%s: %d of %d images are missing, left out: %s", self.path, len(absent), len(images), first)
        return [self._shot(name, image) for name, image in images.items() if image]

    def _find_image(self, file_path: str) -> Path | None:
        """The file, whatever its extension, or without one."""
        parts = name_parts(file_path)
        if self.downscaled and parts[0] == "images":
            return find_image(self.downscaled.joinpath(*parts[1:]))
        return find_image(self.path.parent / file_path.replace("\\", "/"))

    def _shot(self, file_path: str, image: Path) -> Shot:
        frame, size = self.frames[file_path], read_size(image)
        camera = self._camera(frame, size, image)
        name = "/".join([*name_parts(file_path)[:-1], PurePosixPath(name_parts(file_path)[-1]).stem]) + image.suffix
        K = camera.calibration_matrix() if camera.is_perspective() else np.eye(3)
        mask = _mask(self.path.parent, frame, image)
        return Shot(View(name, image, *size, K, _viewmat(frame), camera.camera_id, mask), camera)

    def _camera(self, frame: _Values, size: tuple[int, int], image: Path) -> pycolmap.Camera:
        full = (frame.pixels("w", size[0]), frame.pixels("h", size[1]))
        model, params = _model_and_params(frame, *full)
        key = (model, *params, *full, *size)
        if key not in self.cameras:
            number = len(self.cameras) + 1
            camera = pycolmap.Camera(camera_id=number, model=model, width=full[0], height=full[1], params=params)
            self.cameras[key] = camera_at_size(camera, size, self.path, image)
        return self.cameras[key]


def _get(values: Any, key: str, kind: type | tuple[type, ...], path: Path, where: str) -> Any:
    value = values.get(key) if isinstance(values, dict) else None
    if value is None:
        raise DataError(f"{path}: {where} has no `{key}`; export the file again")
    if not isinstance(value, kind):
        raise DataError(f"{path}: `{key}` of {where} is a {type(value).__name__}; see the transforms.json format")
    return value


def _stem(file_path: str) -> str:
    *folders, last = name_parts(file_path)
    return "/".join([*folders, PurePosixPath(last).stem])


def _model_and_params(frame: _Values, width: int, height: int) -> tuple[str, list[float]]:
    """The camera of a frame as COLMAP calls it: model and parameters."""
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


def _focal(frame: _Values, axis: str, pixels: int) -> float | None:
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


def _viewmat(frame: _Values) -> np.ndarray:
    """World-to-camera, OpenCV axes, from the frame's OpenGL camera-to-world."""
    try:
        pose = np.array(frame.values["transform_matrix"], dtype=np.float64)
        if pose.shape == (3, 4):
            pose = np.vstack([pose, [0.0, 0.0, 0.0, 1.0]])
        rigid = pose.shape == (4, 4) and np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-3)
    except (KeyError, TypeError, ValueError):
        rigid = False
    if not rigid or not np.isfinite(pose).all():
        raise DataError(f"{frame.where}: `transform_matrix` is not a 4x4 rigid pose; export the file again")
    return np.linalg.inv(pose @ _OPENGL_TO_OPENCV)


def _mask(source: Path, frame: _Values, image: Path) -> Mask | None:
    """nerfstudio's `mask_path` (black is ignored), or instant-ngp's file beside the image (white is ignored)."""
    named = frame.values.get("mask_path")
    if named:
        path = find_image(source / str(named).replace("\\", "/"))
        if path is None:
            raise DataError(f"{frame.where}: the mask {named} is missing; copy it there, or take out its `mask_path`")
        return Mask(path)
    dynamic = image.with_name(f"dynamic_mask_{image.stem}.png")
    return Mask(dynamic, inverted=True) if dynamic.is_file() else None


def _points(source: Path, meta: dict[str, Any]) -> PointCloud | None:
    """The cloud of `ply_file_path`, grey where it has no colours; None without the key."""
    name = meta.get("ply_file_path")
    if not name:
        return None
    path = source / str(name)
    try:
        check_ply_header(path)
        vertices = PlyData.read(str(path))["vertex"].data
        positions = np.stack([vertices[axis] for axis in "xyz"], axis=-1).astype(np.float64)
        colors = _colors(vertices)
    except Exception as error:  # plyfile and numpy raise a dozen kinds for a file that is damaged
        raise DataError(
            f"{path}: the `ply_file_path` is not a readable point cloud ({error}); copy it there, or take the key out "
            "to start from random points"
        ) from error
    return finite_points(PointCloud(positions, colors), path)


def _colors(vertices: np.ndarray) -> np.ndarray:
    """uint8 [P, 3] from bytes, or from fractions of 1."""
    if not {"red", "green", "blue"} <= set(vertices.dtype.names):
        return np.full((len(vertices), 3), 128, np.uint8)
    values = np.stack([vertices[name] for name in ("red", "green", "blue")], axis=-1)
    return values if values.dtype == np.uint8 else np.uint8(np.clip(np.round(values * 255.0), 0, 255))
