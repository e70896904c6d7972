"""transforms.json: cameras as Blender (NeRF-synthetic), instant-ngp and nerfstudio write them.

One format with three habits. Blender's file has a field of view, transparent images and a second file for the test
views. instant-ngp's adds focal lengths, a principal point and OpenCV's distortion; nerfstudio's, for each frame if need
be, a camera model, masks, a point cloud and lists of the test images (instant-ngp, src/nerf_loader.cu; nerfstudio
documentation, "Data conventions"). Poses are camera-to-world with OpenGL axes; points are in the frame of the poses.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from .distinct import without_repeats
from .errors import DataError, printable
from .imagefile import read_size
from .name_lists import NameLists, held_frames, transforms_lists
from .names import split_suffix, stem_of
from .pairing import as_written, check_present
from .pointcloud import find_points, read_points
from .poses import RigidPose, check_handedness, report_poses
from .prepare import ImageOptions, prepare_views
from .scene import PointCloud, RawScene, View
from .textfiles import read_json
from .transforms_files import FrameFiles, FramePhoto
from .transforms_frame import Frame, get, model_and_params, read_frames, viewmat
from .undistort import Shot, camera_at_size

logger = logging.getLogger(__name__)

TRAIN_FILE = "transforms_train.json"
TEST_FILE = "transforms_test.json"
SHARED_FILE = "transforms.json"
HELD_FILES = (TEST_FILE, "transforms_val.json", "transforms_eval.json")
"""The first of these beside TRAIN_FILE or SHARED_FILE has the test views."""
HALF_BOX = 1.3
"""World half side of the cube around the origin that holds a NeRF-synthetic object (3DGS scene/dataset_readers.py)."""


def read_transforms(path: Path, options: ImageOptions) -> RawScene:
    """Read the cameras of the file `path` and the sizes of their images.

    Beside transforms_train.json or transforms.json, the first of HELD_FILES has the test views, unless the file itself
    says which they are. Without a `ply_file_path` or a points3d.ply there are no points; a NeRF-synthetic scene has
    bounds then. Raises DataError naming the file, and the key or the images that are missing.
    """
    file = _File.open(path)
    lists = transforms_lists(path, file.meta)
    beside = None if lists else _open_beside(path)
    frames, files = [*file.frames, *(beside.frames if beside else file.held)], FrameFiles(path)
    photos, label, options = files.photographs(frames, options)
    photos, held, shots = photos[: len(file.frames)], photos[len(file.frames) :], _Shots(files)
    whole = path.name in (TRAIN_FILE, *HELD_FILES)
    train = shots.of(path, _present(path, photos, "images", missing=0.0 if whole else 0.5))
    if beside:
        test, lists = _beside(path, beside.path, shots, held, train)
    else:
        test = _others(shots.of(path, _present(path, held, "test images", missing=1.0)), train)
    check_handedness(path, [shot.view for shot in train + test])
    views, image_source = prepare_views(path.parent, label, train + test, path, options)
    names = {shot.view.image_path: view.name for shot, view in zip(train + test, views, strict=True)}
    called = {photo.frame.file_path: names[photo.image] for photo in [*photos, *held] if photo.image in names}
    corner = np.full(3, HALF_BOX)
    return RawScene(
        kind="blender" if path.name == TRAIN_FILE else "transforms",
        views=views[: len(train)],
        image_source=image_source,
        test_views=views[len(train) :] if test else None,
        test_rule=lists.origin if lists else beside.path.name if beside else "",
        lists=(lists.renamed(called),) if lists else (),
        points=_points(path.parent, file.meta),
        bounds=(-corner, corner) if path.name == TRAIN_FILE and "fl_x" not in file.meta else None,
    )


@dataclass(frozen=True, eq=False)
class _File:
    """What a transforms file says, checked as far as that goes without images."""

    path: Path
    meta: Mapping[str, Any]
    frames: list[Frame]
    held: list[Frame]
    """For testing only: those of a list of their own (ScanNet++'s test_frames) that are not among the others."""

    @classmethod
    def open(cls, path: Path) -> _File:
        """Raises DataError for what is no transforms file."""
        meta = read_json(path)
        listed = get(meta, "frames", list, path, "the file")
        if not listed:
            raise DataError(f"{path}: `frames` is empty; the file must list at least one image")
        frames = read_frames(path, meta, listed)
        held = read_frames(path, meta, held_frames(meta) or held_frames(meta, "val"), "test frame")
        known = {frame.file_path for frame in frames}
        return cls(path, meta, frames, [frame for frame in held if frame.file_path not in known])


def _open_beside(path: Path) -> _File | None:
    """The file beside `path` that has the test views, if one does."""
    names = HELD_FILES if path.name in (TRAIN_FILE, SHARED_FILE) else ()
    other = next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)
    if other:
        with _optional(path, other):
            return _File.open(other)
    return None


@contextlib.contextmanager
def _optional(path: Path, other: Path) -> Iterator[None]:
    """Leaves a file that cannot be used out with a warning; only transforms_test.json beside transforms_train.json must
    be whole."""
    try:
        yield
    except DataError as error:
        if (path.name, other.name) == (TRAIN_FILE, TEST_FILE):
            raise
        logger.warning("%s; %s is not used", error, other.name)


def _present(path: Path, photos: Sequence[FramePhoto], what: str, missing: float) -> list[FramePhoto]:
    """The photographs that are there; the others are left out with a warning.

    instant-ngp's files may list more frames than were kept, and the images of ScanNet++'s test_frames are not published
    for its hidden scenes. Raises DataError where more than the share `missing` of all is not there.
    """
    absent = [photo.frame.file_path for photo in photos if photo.image is None]
    if len(absent) > missing * len(photos):
        check_present(path.parent, absent, len(photos), f"copy them there, as {path.name} says")
    if absent:
        first = printable(", ".join(absent[:5]) + (", ..." if len(absent) > 5 else ""))
        logger.warning("%s: %d of %d %s are missing, left out: %s", path, len(absent), len(photos), what, first)
    return [photo for photo in photos if photo.image]


class _Shots:
    """Makes shots of photographs; frames with equal cameras share one."""

    def __init__(self, files: FrameFiles) -> None:
        self._files = files
        self._cameras: dict[tuple, pycolmap.Camera] = {}  # by all their values

    def of(self, path: Path, photos: Sequence[FramePhoto]) -> list[Shot]:
        """A shot for each photograph of the file `path`, in its order. Raises DataError for a frame that cannot be."""
        poses: dict[str, RigidPose] = {}
        shots = [self._shot(path, photo, poses) for photo in photos]
        report_poses(path, poses)
        return without_repeats(shots, path)

    def _shot(self, path: Path, photo: FramePhoto, poses: dict[str, RigidPose]) -> Shot:
        frame, image = photo.frame, photo.image
        size = read_size(image)
        camera = self._camera(path, frame, size, image)
        suffix = split_suffix(image.name)[1]  # of the copy, where images_N has others
        name = stem_of(photo.name) + suffix if suffix else photo.name
        K = camera.calibration_matrix() if camera.is_perspective() else np.eye(3)
        mask = self._files.mask(frame, image)
        pose = poses[frame.file_path] = frame.pose()
        return Shot(View(name, image, *size, K, viewmat(pose), camera.camera_id, mask), camera)

    def _camera(self, path: Path, frame: Frame, size: tuple[int, int], image: Path) -> pycolmap.Camera:
        full = frame.size(size)
        model, params = model_and_params(frame, *full)
        key = (model, *params, *full, *size)
        if key not in self._cameras:
            number = len(self._cameras) + 1
            camera = pycolmap.Camera(camera_id=number, model=model, width=full[0], height=full[1], params=params)
            self._cameras[key] = camera_at_size(camera, size, path, image)
        return self._cameras[key]


def _beside(
    path: Path, other: Path, shots: _Shots, photos: Sequence[FramePhoto], train: Sequence[Shot]
) -> tuple[list[Shot], NameLists | None]:
    """The test shots of the file `other` beside `path`, and a list of them where some are in `train` too.

    That is so beside a transforms.json of all images; what transforms_train.json has is for training.
    """
    test: list[Shot] = []
    with _optional(path, other):
        test = shots.of(other, _present(other, photos, "images", missing=0.0))
    new = _others(test, train)
    if path.name == TRAIN_FILE or len(new) == len(test):
        return test, None
    return new, NameLists(other.name, other, test=tuple(photo.frame.file_path for photo in photos))


def _others(shots: Sequence[Shot], known: Sequence[Shot]) -> list[Shot]:
    """The shots of photographs of which there is none in `known`."""
    images = {shot.view.image_path for shot in known}
    return [shot for shot in shots if shot.view.image_path not in images]


def _points(source: Path, meta: Mapping[str, Any]) -> PointCloud | None:
    """The cloud of `ply_file_path`, or one beside the file that is called as 3DGS and BlenderNeRF call it; None without
    either."""
    name = meta.get("ply_file_path")
    if name:
        remedy = "copy the `ply_file_path` there, or take the key out to start from random points"
        return read_points(as_written(source, str(name)), remedy)
    beside = find_points(source)
    if beside is None:
        return None
    logger.info("starting points: %s", beside)
    return read_points(beside, "copy it again, or delete it to start from random points")
