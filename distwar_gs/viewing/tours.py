"""How a page shows a model, from the cameras that looked at its scene (distwar_gs.formats.tour)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from distwar_gs.config import load_config
from distwar_gs.formats.tour import Look, Tour
from distwar_gs.rendering.views import evaluation_background
from distwar_gs.viewing import camera_paths
from distwar_gs.viewing.path_files import CameraPath, read_path, size_of
from distwar_gs.viewing.path_views import intrinsics

KEYS = 48
"""Cameras along the loop; the viewer goes along a spline through them."""
_DISPLAY_UP = np.array([0.0, -1.0, 0.0])


def tour_of(viewmats: np.ndarray, angle: float, background: Sequence[float] = (0.0, 0.0, 0.0)) -> Tour:
    """A look through the first camera, then a loop around what all look at (`camera_paths.ellipse`) from near there.

    Args:
        viewmats: world-to-camera, float64 [V, 4, 4], V > 0, OpenCV axes, in the frame of the model.
        angle: that a picture sees along its longer side, in degrees.
        background: RGB in [0, 1].
    """
    focus = camera_paths.focus_point(viewmats)
    places = camera_paths.centers_of(camera_paths.ellipse(viewmats, KEYS))
    first = camera_paths.centers_of(viewmats)[0]
    places = np.roll(places, -int(np.argmin(np.linalg.norm(places - first, axis=1))), axis=0)
    forward = viewmats[0, 2, :3]
    ahead = float((focus - first) @ forward)
    distance = ahead if ahead > 0 else float(np.linalg.norm(focus - first)) or 1.0
    start = Look(first, first + distance * forward)
    loop = tuple(Look(place, focus) for place in places)
    red, green, blue = background
    return Tour(upright(viewmats), start, loop, angle, (red, green, blue))


def upright(viewmats: np.ndarray) -> np.ndarray:
    """The orthogonal matrix [3, 3] that turns what is up for most cameras [V, 4, 4] to 0, -1, 0, by the smallest turn;
    for those of a left-handed world, behind a mirror."""
    mirror = np.diag([1.0, 1.0, 1.0 if np.linalg.det(viewmats[0, :3, :3]) > 0 else -1.0])
    up = mirror @ camera_paths.mean_up(viewmats)
    if np.allclose(up, _DISPLAY_UP, atol=1e-6):
        return mirror
    return Rotation.align_vectors(_DISPLAY_UP[None], up[None])[0].as_matrix() @ mirror


def longer_angle(K: np.ndarray, width: int, height: int) -> float:
    """What a camera sees along the longer side of its picture, in degrees; K [3, 3] in pixels."""
    focal, pixels = (K[0, 0], width) if width >= height else (K[1, 1], height)
    return math.degrees(2.0 * math.atan(0.5 * pixels / focal))


def tour_of_run(run: Path) -> Tour | None:
    """Of a run folder, by its cameras.json and the background of its config.yaml; None where it has no cameras.json.
    In the frame of the input: a model relative to an origin is shown by `tour.moved(-origin)`.

    Raises: DataError for a cameras.json that is not one.
    """
    cameras, config = run / "cameras.json", run / "config.yaml"
    if not cameras.is_file():
        return None
    path = read_path(cameras)
    poses = np.stack([frame.to_world for frame in path.frames])
    turns = poses[:, :3, :3].transpose(0, 2, 1)
    viewmats = camera_paths.viewmats_of(turns, poses[:, :3, 3])
    background = evaluation_background(load_config(config)) if config.is_file() else Tour.background
    return tour_of(viewmats, _angle(path), background)


def tour_of_model(file: Path) -> Tour | None:
    """Of a file of Gaussians that a run has saved, by `tour_of_run`; None for others."""
    return tour_of_run(file.resolve().parents[2]) if file.parent.name.startswith("iteration_") else None


def _angle(path: CameraPath) -> float:
    """Of the first camera that tells it, else 60 degrees."""
    lens = path.frames[0].lens
    size = size_of(lens)
    if size is None or not ("fx" in lens or "fy" in lens):
        return Tour.angle
    return longer_angle(intrinsics(lens, size, np.eye(3), size), *size)
