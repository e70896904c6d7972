"""Camera paths for videos, made from the cameras of a scene.

World-to-camera matrices in and out: float64 [.., 4, 4], OpenCV axes (x right, y down, z forward), any frame and unit.
Both paths work from a single camera up. Where the cameras are those of a left-handed world (3x3 parts of determinant
-1), the path is made in its mirror image and comes back mirrored, so that its pictures are turned as the photos are.
"""

import functools
from collections.abc import Callable

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, RotationSpline

_EPS = 1e-9
# The least radii of a loop, in mean distances to the focus, for cameras too few or too aligned to tell:
_MIN_SWAY = 0.05  # of a loop in front of the focus
_MIN_ORBIT = 0.3  # of a loop around the focus, which must not pass through it
_MIRROR = np.diag([1.0, 1.0, -1.0, 1.0])

Path = Callable[[np.ndarray, int], np.ndarray]


def _either_handed(path: Path) -> Path:
    """`path` for cameras of left-handed worlds as well."""

    @functools.wraps(path)
    def mirrored(viewmats: np.ndarray, frames: int) -> np.ndarray:
        _check(viewmats, frames)
        if np.linalg.det(viewmats[0, :3, :3]) > 0.0:
            return path(viewmats, frames)
        return path(viewmats @ _MIRROR, frames) @ _MIRROR

    return mirrored


@_either_handed
def ellipse(viewmats: np.ndarray, frames: int) -> np.ndarray:
    """A closed elliptical loop through the spread of the cameras, always looking at their common focus.

    If the cameras surround the focus, the loop goes around it at their mean height; if they all look from one side, it
    stays in front, around their mean position. Its radii are the 90th percentile of the cameras' offsets, and its speed
    is constant, as in the render path of mip-NeRF 360 (google-research/multinerf, camera_utils.py,
    generate_ellipse_path). The last frame leads into the first.

    Args:
        viewmats: the scene's cameras, [V,4,4].
        frames: number of poses.

    Returns: [frames,4,4]. Raises ValueError without cameras or frames.
    """
    centers, up = centers_of(viewmats), mean_up(viewmats)
    focus = focus_point(viewmats)
    offsets = centers - focus
    distance = np.linalg.norm(offsets, axis=1).mean()
    if _surrounds(offsets, up):
        middle, normal, floor = focus + up * (offsets @ up).mean(), up, _MIN_ORBIT * distance
    else:
        middle, normal, floor = centers.mean(axis=0), -offsets.mean(axis=0), _MIN_SWAY * distance
    return np.stack([_look_at(place, focus, up) for place in _loop(centers, middle, normal, floor, frames)])


@_either_handed
def interpolate(viewmats: np.ndarray, frames: int) -> np.ndarray:
    """A smooth open path through the given cameras, in their order, from the first to the last.

    Positions follow a cubic spline, orientations a rotation spline. A segment's share of the time is the square root of
    its length (centripetal: Lee 1989, "Choosing nodes in parametric curve interpolation"), which avoids overshoot
    between unevenly spaced cameras.

    Args:
        viewmats: the cameras to pass through, [V,4,4]; with one, the path stands still.
        frames: number of poses.

    Returns: [frames,4,4]. Raises ValueError without cameras or frames.
    """
    if len(viewmats) == 1:
        return np.repeat(viewmats, frames, axis=0)
    knots = _knots(viewmats)
    times = np.linspace(0.0, knots[-1], frames)
    turns = Rotation.from_matrix(viewmats[:, :3, :3].transpose(0, 2, 1))  # camera-to-world
    rotations = RotationSpline(knots, turns)(times).as_matrix().transpose(0, 2, 1)
    return viewmats_of(rotations, CubicSpline(knots, centers_of(viewmats))(times))


def along(viewmats: np.ndarray, values: np.ndarray, frames: int) -> np.ndarray:
    """Values [frames, ...] between those of the cameras, [V, ...] (intrinsics, say), in the time of `interpolate`."""
    _check(viewmats, frames)
    if len(viewmats) == 1:
        return np.repeat(values, frames, axis=0)
    knots, flat = _knots(viewmats), values.reshape(len(values), -1)
    times = np.linspace(0.0, knots[-1], frames)
    columns = [np.interp(times, knots, column) for column in flat.T]
    return np.stack(columns, axis=-1).reshape(frames, *values.shape[1:])


def _knots(viewmats: np.ndarray) -> np.ndarray:
    """The time [V] at which `interpolate` passes each of several cameras."""
    lengths = np.linalg.norm(np.diff(centers_of(viewmats), axis=0), axis=1)
    # Cameras at one place still need time to turn: no segment is shorter than a tenth of the mean.
    lengths = np.maximum(lengths, 0.1 * lengths.mean()) if lengths.any() else np.ones_like(lengths)
    return np.concatenate([[0.0], np.cumsum(np.sqrt(lengths))])


def focus_point(viewmats: np.ndarray) -> np.ndarray:
    """The point [3] nearest, in the least-squares sense, to the optical axes of all cameras [V,4,4].

    Where the axes do not meet in front of the cameras (one camera, parallel axes, cameras looking outwards) it lies
    ahead of their mean position, as far away as the cameras are spread.
    """
    centers, forwards = centers_of(viewmats), viewmats[:, 2, :3]
    # A point p is off the axis (c, d) by (I - d d^T)(p - c). Where the sum of squares is least, its gradient is zero:
    # sum (I - d d^T) p = sum (I - d d^T) c.
    across = np.eye(3) - forwards[:, :, None] * forwards[:, None, :]
    matrix, target = across.sum(axis=0), (across @ centers[:, :, None]).sum(axis=0)[:, 0]
    if np.linalg.cond(matrix) < 1e6:
        point = np.linalg.solve(matrix, target)
        if np.median(((point - centers) * forwards).sum(axis=1)) > 0.0:
            return point
    spread = np.linalg.norm(centers - centers.mean(axis=0), axis=1).max()
    return centers.mean(axis=0) + _unit(forwards.mean(axis=0), forwards[0]) * (spread if spread > _EPS else 1.0)


def _loop(centers: np.ndarray, middle: np.ndarray, normal: np.ndarray, floor: float, frames: int) -> np.ndarray:
    """Points [frames,3] on an ellipse around `middle`, fitted to the cameras as seen along `normal`."""
    axes = _plane_axes(centers - middle, normal)
    radii = np.maximum(np.percentile(np.abs((centers - middle) @ axes.T), 90, axis=0), floor)
    angles = np.linspace(0.0, 2.0 * np.pi, 1025)
    curve = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii
    travelled = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    wanted = np.linspace(0.0, travelled[-1], frames, endpoint=False)
    angles = np.interp(wanted, travelled, angles)
    return middle + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii @ axes


def _plane_axes(offsets: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Principal axes [2,3] of the offsets [V,3] in the plane across `normal`, orthonormal."""
    normal = _unit(normal, np.array([0.0, 0.0, 1.0]))
    flat = offsets - (offsets @ normal)[:, None] * normal
    # The normal as by far the strongest "offset" makes it the first singular vector, so the others span the plane.
    strong = 1.0 + 10.0 * np.linalg.norm(flat)
    return np.linalg.svd(np.vstack([strong * normal, flat]))[2][1:]


def _surrounds(offsets: np.ndarray, up: np.ndarray) -> bool:
    """Whether cameras at these offsets [V,3] from the focus stand all around it, rather than on one side."""
    flat = offsets - (offsets @ up)[:, None] * up
    directions = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), _EPS)
    return bool(np.linalg.norm(directions.mean(axis=0)) < 0.5)


def _look_at(place: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """World-to-camera [4,4] of a camera at `place` that looks at `target` with `up` upwards."""
    forward = _unit(target - place, np.array([0.0, 0.0, 1.0]))
    right = np.cross(forward, up)
    if np.linalg.norm(right) < 1e-6:  # looking straight up or down: any other direction may be up
        right = np.cross(forward, np.eye(3)[np.argmin(np.abs(forward))])
    right = right / np.linalg.norm(right)
    return viewmats_of(np.stack([right, np.cross(forward, right), forward])[None], place[None])[0]


def viewmats_of(rotations: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """World-to-camera [F,4,4] from world-to-camera rotations [F,3,3] and camera centres [F,3]."""
    viewmats = np.tile(np.eye(4), (len(centers), 1, 1))
    viewmats[:, :3, :3] = rotations
    viewmats[:, :3, 3] = -(rotations @ centers[:, :, None])[:, :, 0]
    return viewmats


def centers_of(viewmats: np.ndarray) -> np.ndarray:
    """Camera centres [V,3]: -R^T t."""
    return -(viewmats[:, :3, :3].transpose(0, 2, 1) @ viewmats[:, :3, 3:])[:, :, 0]


def mean_up(viewmats: np.ndarray) -> np.ndarray:
    """Mean upward direction [3] of the cameras (their y axes point down), a unit vector."""
    return _unit(-viewmats[:, 1, :3].mean(axis=0), -viewmats[0, 1, :3])


def _unit(vector: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """`vector` at length 1, or `otherwise` when it has no direction."""
    length = np.linalg.norm(vector)
    return vector / length if length > _EPS else otherwise


def _check(viewmats: np.ndarray, frames: int) -> None:
    if viewmats.ndim != 3 or viewmats.shape[1:] != (4, 4) or len(viewmats) == 0:
        raise ValueError(f"viewmats has shape {viewmats.shape}: a camera path needs [V,4,4] with at least one camera")
    if frames < 1:
        raise ValueError(f"frames is {frames}: a camera path needs at least one")
