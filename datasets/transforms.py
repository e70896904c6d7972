"""transforms.json: cameras as Blender (NeRF-synthetic), instant-ngp and nerfstudio write them.

One format with three habits. Blender's file has a field of view, transparent images and a second file for the test
views. instant-ngp's adds focal lengths, a principal point and OpenCV's distortion; nerfstudio's, for each frame if need
be, a camera model, masks, a point cloud and lists of the test images (instant-ngp, src/nerf_loader.cu; nerfstudio
documentation, "Data conventions"). Poses are camera-to-world with OpenGL axes; points are in the frame of the poses.
"""

from __future__ import annotations

import logging
import math
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pycolmap

from .errors import DataError
from .imagefile import check_present, find_image, name_parts, read_size
from .name_lists import NameLists, held_frames, transforms_lists
from .pointcloud import find_points, read_points
from .poses import PoseError, RigidPose, check_handedness, report_poses, rigid_pose
from .prepare import ImageOptions, prepare_views
from .scene import Mask, PointCloud, RawScene, View
from .textfiles import read_json
from .undistort import Shot, camera_at_size

logger = logging.getLogger(__name__)

TRAIN_FILE = "transforms_train.json"
TEST_FILE = "transforms_test.json"
SHARED_FILE = "transforms.json"
HELD_FILES = (TEST_FILE, "transforms_val.json", "transforms_eval.json")
"""The first of these beside TRAIN_FILE or SHARED_FILE has the test views."""
HALF_BOX = 1.3
"""World half side of the cube around the origin that holds a NeRF-synthetic object (3DGS scene/dataset_readers.py)."""

_OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])  # camera axes: y up, z backward -> y down, z forward
_PERSPECTIVE = ("PERSPECTIVE", "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
_FISHEYE = ("FISHEYE", "OPENCV_FISHEYE")
_PANORAMA = ("EQUIRECTANGULAR", "LATLONG")
_SCANNETPP = {
    (False, "images"): ("resized_images", "original_images", "images"),
    (False, "masks"): ("resized_anon_masks", "original_anon_masks", "masks"),
    (True, "images"): ("undistorted_images", "resized_undistorted_images"),
    (True, "masks"): ("undistorted_anon_masks", "resized_undistorted_masks"),
}
"""Folders beside nerfstudio/transforms.json (False) and nerfstudio/transforms_undistorted.json (True)."""
_MOST_PIXELS = 2**31 - 1  # in a row or a column, as COLMAP counts them


def read_transforms(path: Path, options: ImageOptions) -> RawScene:
    """Read the cameras of the file `path` and the sizes of their images.

    Beside transforms_train.json or transforms.json, the first of HELD_FILES has the test views, unless the file itself
    says which they are. Without a `ply_file_path` there are no points; a NeRF-synthetic scene has bounds then. Raises
    DataError naming the file, and the key or the images that are missing.
    """
    source, file = path.parent, _File.open(path, options)
    train, lists = file.shots(), transforms_lists(path, file.meta)
    test, test_rule = file.held_shots(), lists.origin if lists else ""
    if not lists:
        test, test_rule, lists = _held_file(path, train, options)
    check_handedness(path, [shot.view for shot in train + test])
    views, image_source = prepare_views(source, file.label, train + test, path, file.options)
    corner = np.full(3, HALF_BOX)
    return RawScene(
        kind="blender" if path.name == TRAIN_FILE else "transforms",
        views=views[: len(train)],
        image_source=image_source,
        test_views=views[len(train) :] if test else None,
        test_rule=test_rule,
        lists=(lists,) if lists else (),
        points=_points(source, file.meta),
        bounds=(-corner, corner) if path.name == TRAIN_FILE and "fl_x" not in file.meta else None,
    )


def _held_file(path: Path, train: list[Shot], options: ImageOptions) -> tuple[list[Shot], str, NameLists | None]:
    """The test shots of the file beside `path` that has them, its name, and a list of them where some are in `train`.

    That is so beside a transforms.json of all images; what transforms_train.json has is for training. Only beside the
    latter transforms_test.json must be whole; other files that are not are left out with a warning.
    """
    names = HELD_FILES if path.name in (TRAIN_FILE, SHARED_FILE) else ()
    held = next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)
    if held is None:
        return [], "", None
    try:
        shots = _File.open(held, options).shots()
    except DataError as error:
        if (path.name, held.name) == (TRAIN_FILE, TEST_FILE):
            raise
        logger.warning("%s; %s is not used", error, held.name)
        return [], "", None
    known = {shot.view.name for shot in train}
    if path.name == TRAIN_FILE or not any(shot.view.name in known for shot in shots):
        return shots, held.name, None
    lists = NameLists(held.name, held, test=tuple(shot.view.name for shot in shots))
    return [shot for shot in shots if shot.view.name not in known], held.name, lists


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
    poses: dict[str, RigidPose] = field(default_factory=dict)
    """By `file_path`, as they are read."""

    @classmethod
    def open(cls, path: Path, options: ImageOptions) -> _File:
        """The file's frames, checked as far as that goes without images."""
        meta = read_json(path)
        listed = _get(meta, "frames", list, path, "the file")
        if not listed:
            raise DataError(f"{path}: `frames` is empty; the file must list at least one image")
        frames = _frames(path, meta, listed)
        # Without the full size there is no telling how the cameras shrink with the images.
        sized = all("w" in frame.values and "h" in frame.values for frame in frames.values())
        downscaled = options.downscaled_folder(path.parent) if sized else None
        return cls(path, meta, frames, replace(options, resolution=1) if downscaled else options, downscaled)

    @property
    def label(self) -> str:
        """What caches and the metrics' protocol call the images."""
        return self.downscaled.name if self.downscaled else "images"

    def held_shots(self) -> list[Shot]:
        """A shot for each frame for testing that is not among the others and whose image is there.

        Those of ScanNet++'s test_frames are not published for its hidden scenes.
        """
        listed = held_frames(self.meta) or held_frames(self.meta, "val")
        frames = _frames(self.path, self.meta, listed, "test frame")
        frames = {name: values for name, values in frames.items() if name not in self.frames}
        there = {name: values for name, values in frames.items() if self._find_image(name)}
        absent = [name for name in frames if name not in there]
        if absent:
            logger.warning("%s: %d of %d test images are missing, left out: %s", self.path, len(absent), len(frames),
                           ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else ""))  # fmt: skip
        return replace(self, frames=there, poses={}).shots()

    def shots(self) -> list[Shot]:
        """A shot for each frame whose image is there, in the order of the file.

        Images of transforms.json that are missing are left out with a warning, as instant-ngp does (its files may list
        more frames than were kept), unless most are; elsewhere they are an error.
        """
        images = {name: self._find_image(name) for name in self.frames}
        absent = [name for name, image in images.items() if image is None]
        if self.path.name in (TRAIN_FILE, *HELD_FILES) or 2 * len(absent) > len(images):
            check_present(self.path.parent, absent, len(images), f"copy them there, as {self.path.name} says")
        if absent:
            first = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
            logger.warning("%s: %d of %d images are missing, left out: %s", self.path, len(absent), len(images), first)
        shots = [self._shot(name, image) for name, image in images.items() if image]
        report_poses(self.path, self.poses)
        return shots

    def _find_image(self, file_path: str) -> Path | None:
        """The file, whatever its extension, or without one."""
        parts = name_parts(file_path)
        if self.downscaled and parts[0] == "images":
            return find_image(self.downscaled.joinpath(*parts[1:]))
        return _find(file_path, self.path, "images")

    def _shot(self, file_path: str, image: Path) -> Shot:
        frame, size = self.frames[file_path], read_size(image)
        camera = self._camera(frame, size, image)
        name = "/".join([*name_parts(file_path)[:-1], PurePosixPath(name_parts(file_path)[-1]).stem]) + image.suffix
        K = camera.calibration_matrix() if camera.is_perspective() else np.eye(3)
        mask, pose = _mask(self.path, frame, image), _pose(frame)
        self.poses[file_path] = pose
        return Shot(View(name, image, *size, K, _viewmat(pose), camera.camera_id, mask), camera)

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


def _frames(path: Path, meta: dict[str, Any], listed: list[Any], key: str = "frame") -> dict[str, _Values]:
    """The frames of a list by `file_path`, with what the file says for all."""
    shared = {name: value for name, value in meta.items() if name != "frames"}
    frames = {}
    for index, frame in enumerate(listed):
        name = _get(frame, "file_path", str, path, f"{key} {index}")
        frames[name] = _Values({**shared, **frame}, f"{path}: {key} {index}, {name}")
    return frames


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


def _pose(frame: _Values) -> RigidPose:
    """The frame's OpenGL camera-to-world."""
    try:
        return rigid_pose(frame.values.get("transform_matrix"))
    except PoseError as error:
        raise DataError(f"{frame.where}: `transform_matrix` is not a pose: {error}; export the file again") from None


def _viewmat(pose: RigidPose) -> np.ndarray:
    """World-to-camera, OpenCV axes, from an OpenGL camera-to-world."""
    return np.linalg.inv(pose.matrix @ _OPENGL_TO_OPENCV)


def _find(name: str, file: Path, what: str) -> Path | None:
    """The image or mask that a frame of `file` calls `name`: there, or where ScanNet++ has it.

    ScanNet++ names files without a folder, and keeps them beside the folder of transforms.json (scannetpp/scannetpp,
    dslr/configs/undistort.yml).
    """
    name, folder = name.replace("\\", "/"), file.absolute().parent
    folders = [file.parent]
    if folder.name == "nerfstudio":
        folders += [folder.parent / other for other in _SCANNETPP["undistorted" in file.stem, what]]
    paths = (folder / name for folder in folders)
    return next((found for path in paths if path.name and (found := find_image(path))), None)


def _mask(file: Path, frame: _Values, image: Path) -> Mask | None:
    """nerfstudio's `mask_path` (black is ignored), or instant-ngp's file beside the image (white is ignored)."""
    named = frame.values.get("mask_path")
    if named:
        path = _find(str(named), file, "masks")
        if path is None:
            raise DataError(f"{frame.where}: the mask {named} is missing; copy it there, or take out its `mask_path`")
        return Mask(path)
    dynamic = image.with_name(f"dynamic_mask_{image.stem}.png")
    return Mask(dynamic, inverted=True) if dynamic.is_file() else None


def _points(source: Path, meta: dict[str, Any]) -> PointCloud | None:
    """The cloud of `ply_file_path`, or one beside the file that is called as 3DGS and BlenderNeRF call it; None without
    either."""
    name = meta.get("ply_file_path")
    if name:
        remedy = "copy the `ply_file_path` there, or take the key out to start from random points"
        return read_points(source / str(name).replace("\\", "/"), remedy)
    beside = find_points(source)
    if beside is None:
        return None
    logger.info("starting points: %s", beside)
    return read_points(beside, "copy it again, or delete it to start from random points")
