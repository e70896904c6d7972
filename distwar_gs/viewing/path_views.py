"""The frames of a camera path as views of a scene: in its training frame, with a lens each, at one size."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from distwar_datasets.errors import DataError
from distwar_gs.viewing import camera_paths
from distwar_gs.viewing.path_files import MOST_PIXELS, OPENGL_TO_OPENCV, CameraPath, size_of

if TYPE_CHECKING:
    from distwar_datasets.scene import Scene, View

_NEARER = 10.0
"""Times that a path must be nearer to the cameras in the frame of the model's file to be taken for one in it."""
_FAR = 100.0
"""Scene extents away from the cameras, from which on a path is taken for one of another frame, and this is said."""

WIDEST = math.radians(90.0)
"""Field of view, along the longer side, of the pinhole that stands for a wider lens where a film needs one."""

log = logging.getLogger(__name__)


Size = tuple[int | None, int | None]
"""Width and height that are asked for; None: as the path has it, or what goes with the other one."""


def own_views(kind: str, scene: Scene, frames: int, asked: Size = (None, None)) -> list[View]:
    """A path around the training cameras, `ellipse` or `interpolate`, through the lens of one of them, or a pinhole of
    its scale."""
    views = scene.train
    poses = getattr(camera_paths, kind)(np.stack([view.viewmat for view in views]), frames)
    template = sized(through_pinhole(views[len(views) // 2]), asked)
    return [replace(template, viewmat=pose) for pose in poses]


def sized(view: View, asked: Size) -> View:
    """A view at the size that is asked for, which shows all of what it showed, and more where the shape is another; of
    a lens that is no pinhole the same in another shape."""
    own = (view.width, view.height)
    size = asked_size(asked, own)
    if size == own:
        return view
    if view.lens is not None:
        lens = view.lens.scaled(size[0] / own[0], size[1] / own[1])
        return replace(view, width=size[0], height=size[1], K=lens.K, lens=lens, mask=None)
    return replace(view, width=size[0], height=size[1], K=_fitted(view.K, own, size), mask=None)


def through_pinhole(view: View) -> View:
    """A view through a pinhole with the scale of its lens, of at most WIDEST across."""
    if view.lens is None:
        return view
    focal = max(view.K[0, 0], 0.5 * max(view.width, view.height) / math.tan(0.5 * WIDEST))
    K = np.array([[focal, 0.0, 0.5 * view.width], [0.0, focal, 0.5 * view.height], [0.0, 0.0, 1.0]])
    return replace(view, K=K, lens=None, mask=None)


def asked_size(asked: Size, own: tuple[int, int]) -> tuple[int, int]:
    """Width and height as asked for; where one is missing, in the shape that `own` has."""
    width, height = asked
    if width is None and height is None:
        return own
    width = width or max(round(own[0] * (height or 1) / own[1]), 1)
    height = height or max(round(own[1] * width / own[0]), 1)
    return min(width, MOST_PIXELS), min(height, MOST_PIXELS)


def path_views(
    path: CameraPath, scene: Scene, origin: np.ndarray, frames: int | None = None, asked: Size = (None, None)
) -> list[View]:
    """A view for each frame of the video.

    Args:
        path: from `read_path`.
        scene: whose training frame they are for. Its first test view (training view, if there is none) has the size
            and the lens that the file does not give.
        origin: what the positions in the model's file are relative to, float64 [3], in the frame of the input.
        frames: None: one for each pose of the file. Else so many, along a smooth path through these.
        asked: the size of the video, where it is not to be the file's.
    """
    template = through_pinhole((scene.test or scene.train)[0])
    own = (template.width, template.height)
    size = video_size(path, own)
    viewmats = np.stack([scene.normalisation.apply_viewmat(pose) for pose in _viewmats(path, scene, origin)])
    Ks = np.stack([intrinsics(frame.lens, size, template.K, own) for frame in path.frames])
    if frames is not None:
        viewmats, Ks = camera_paths.interpolate(viewmats, frames), camera_paths.along(viewmats, Ks, frames)
    blank = replace(template, width=size[0], height=size[1], mask=None)
    views = (replace(blank, viewmat=viewmat, K=K) for viewmat, K in zip(viewmats, Ks, strict=True))
    return [sized(view, asked) for view in views]


def _viewmats(path: CameraPath, scene: Scene, origin: np.ndarray) -> np.ndarray:
    """World-to-camera [N, 4, 4] in the frame of the input, OpenCV axes."""
    seen = np.stack([scene.normalisation.undo_viewmat(view.viewmat) for view in (*scene.train, *scene.test)])
    centers, extent = camera_paths.centers_of(seen), scene.extent / scene.normalisation.scale
    poses = np.stack([frame.to_world for frame in path.frames])
    _check_handedness(path, poses, scene)
    poses[:, :3, 3] += _offset(path, poses[:, :3, 3], centers, origin)
    if not path.axes_known:
        poses = _with_known_axes(path, poses, seen)
    distance = np.linalg.norm(centers[:, None] - np.median(poses[:, :3, 3], axis=0), axis=-1).min() / extent
    if distance > _FAR:
        log.warning("%s: its cameras are %.0f scene extents away from those of %s; it must be of this scene, in the "
                    "frame of its input", path.file, distance, scene.source)  # fmt: skip
    turns = poses[:, :3, :3].transpose(0, 2, 1)
    return camera_paths.viewmats_of(turns, poses[:, :3, 3])


def _check_handedness(path: CameraPath, poses: np.ndarray, scene: Scene) -> None:
    """Poses [N, 4, 4] may be mirrored only where the scene's cameras are (a left-handed world)."""
    mirrored, left_handed = np.linalg.det(poses[:, :3, :3]) < 0.0, np.linalg.det(scene.train[0].viewmat[:3, :3]) < 0.0
    if left_handed and not mirrored.any():
        log.warning("%s: its poses are right-handed and the cameras of %s left-handed: its pictures are mirror images "
                    "of the photos", path.file, scene.source)  # fmt: skip
    elif mirrored.any() and not (left_handed and mirrored.all()):
        others = "other poses" if left_handed else f"the cameras of {scene.source}"
        raise DataError(f"{path.file}: pose {mirrored.argmax()}: its axes are left-handed (mirrored), those of {others}"
                        " are not; flip one of them")  # fmt: skip


def _offset(path: CameraPath, places: np.ndarray, centers: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """What takes the path's positions [N, 3] to the frame of the input, where the scene's cameras are at `centres`."""
    if path.in_input_frame or not origin.any():
        return np.zeros(3)
    away = np.median(places, axis=0) - np.median(centers, axis=0)
    if _NEARER * np.linalg.norm(away + origin) >= np.linalg.norm(away):
        return np.zeros(3)
    log.info("%s: its positions are taken for relative to the model's origin, near which they are", path.file)
    return origin


def _with_known_axes(path: CameraPath, poses: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Poses [N, 4, 4] in OpenCV axes, of a file that does not tell its axes: those with which they look as the scene's
    cameras do.

    In the other axes a camera looks backwards and stands on its head. So what is ahead of each pose, and what is down,
    is compared with the nearest of the scene's cameras, `seen` [V, 4, 4].
    """
    centers, agreement = camera_paths.centers_of(seen), 0.0
    for pose in poses:
        nearest = np.argmin(np.linalg.norm(centers - pose[:3, 3], axis=1))
        agreement += float((pose[:3, 1:3].T * seen[nearest, 1:3, :3]).sum())
    name, other = ("OpenCV", "OpenGL") if agreement >= 0.0 else ("OpenGL", "OpenCV")
    log.info("%s: its poses are taken for camera-to-world in %s axes, with which they look as the scene's cameras do; "
             "docs/formats.md says how to write %s ones", path.file, name, other)  # fmt: skip
    return poses if agreement >= 0.0 else poses @ OPENGL_TO_OPENCV


def video_size(path: CameraPath, otherwise: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the video: the file's, else the commonest of its frames, else by their aspect ratio.

    otherwise: width and height of the pictures where the file has neither; its height goes with an aspect ratio.
    """
    sizes = Counter(size for frame in path.frames if (size := size_of(frame.lens)))
    if path.size or sizes:
        return path.size or sizes.most_common(1)[0][0]
    aspect = path.frames[0].lens.get("aspect")
    return (min(max(round(otherwise[1] * aspect), 1), MOST_PIXELS), otherwise[1]) if aspect else otherwise


def intrinsics(
    lens: Mapping[str, float], size: tuple[int, int], otherwise: np.ndarray, other_size: tuple[int, int]
) -> np.ndarray:
    """K, float64 [3, 3], of a frame in a video of that width and height.

    A frame of another size or shape is fitted in, so that the video shows all of it.

    Args:
        lens: what the file says of the frame (`PathFrame.lens`).
        size: width and height of the video.
        otherwise: K [3, 3] where the file says nothing of the lens.
        other_size: width and height of the pictures that `otherwise` is for.
    """
    width, height = size_of(lens) or size
    fx, fy = _focal(lens, "x", width), _focal(lens, "y", height)
    if fx is None and fy is None:
        return _fitted(otherwise, other_size, size)
    K = np.eye(3)
    K[0, 0], K[1, 1] = fx or fy, fy or fx
    K[0, 2], K[1, 2] = lens.get("cx", 0.5 * width), lens.get("cy", 0.5 * height)
    return _fitted(K, (width, height), size)


def _focal(lens: Mapping[str, float], axis: str, pixels: int) -> float | None:
    """In pixels, from a length or an angle; None without either."""
    if f"f{axis}" in lens:
        return lens[f"f{axis}"]
    angle = lens.get(f"fov_{axis}")
    return None if angle is None else 0.5 * pixels / math.tan(0.5 * angle)


def _fitted(K: np.ndarray, size: Sequence[int], wanted: Sequence[int]) -> np.ndarray:
    """K of pictures of one size for those of another that show all of them, centred."""
    if tuple(size) == tuple(wanted):
        return K
    scale = min(wanted[0] / size[0], wanted[1] / size[1])
    result = K.copy()
    result[:2, :2] *= scale
    for axis in (0, 1):
        result[axis, 2] = (K[axis, 2] - 0.5 * size[axis]) * scale + 0.5 * wanted[axis]
    return result
