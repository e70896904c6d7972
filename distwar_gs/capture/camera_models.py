"""Camera models of COLMAP that can stand for one another, and what is odd about the intrinsics of a camera."""

from __future__ import annotations

import numpy as np
import pycolmap
from scipy.optimize import least_squares

MOST_ASPECT = 0.01
"""fx and fy may differ by so much, relatively: pixels of cameras are square, those of some videos are not."""
MOST_OFF_CENTER = 0.05
"""The principal point may be so far from the centre, in widths and heights: lenses are, cropped photos need not be."""
FOCAL_LENGTHS = (0.3, 5.0)
"""In units of the longer side: 118 degrees to 11 degrees across it."""
FISHEYE_FOCAL_LENGTHS = (0.15, 5.0)
"""A circular fisheye of 180 degrees whose circle is half as wide as the photo has 0.16."""
_GRID = 9


def converted(camera: pycolmap.Camera, name: str) -> pycolmap.Camera:
    """The camera of lens model `name` that sends rays to pixels most nearly as `camera` does; the centre is kept."""
    if camera.model_name == name:
        return pycolmap.Camera(camera.todict())
    other = pycolmap.Camera.create_from_model_name(camera.camera_id, name, 1.0, camera.width, camera.height)
    other.has_prior_focal_length = camera.has_prior_focal_length
    start = np.zeros(len(other.params))
    start[list(other.focal_length_idxs())] = camera.mean_focal_length()
    start[list(other.principal_point_idxs())] = camera.principal_point_x, camera.principal_point_y
    free = [*other.focal_length_idxs(), *other.extra_params_idxs()]
    pixels, rays = _pixels_and_rays(camera)

    def mismatch(values: np.ndarray) -> np.ndarray:
        start[free] = values
        other.params = start  # type: ignore[assignment]  # an array is what it gives back, too
        found = other.img_from_cam(rays)
        return np.where(np.isfinite(found), found - pixels, 2.0 * (camera.width + camera.height)).ravel()

    mismatch(least_squares(mismatch, start[free], loss="soft_l1", x_scale=np.maximum(np.abs(start[free]), 1.0)).x)
    return other


def _pixels_and_rays(camera: pycolmap.Camera) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of a grid [K, 2] and their unit rays [K, 3], without those at which the model folds."""
    pixels = _grid(camera)
    rays, sound = _rays(camera, pixels)
    return pixels[sound], rays[sound]


def _grid(camera: pycolmap.Camera) -> np.ndarray:
    x, y = np.meshgrid(np.linspace(0, camera.width, _GRID), np.linspace(0, camera.height, _GRID))
    return np.stack([x.ravel(), y.ravel()], axis=-1)


def _rays(camera: pycolmap.Camera, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit rays [K, 3] of pixels, and whether each is projected back to where it comes from, bool [K]."""
    rays = np.array(camera.cam_ray_from_img(pixels)).reshape(-1, 3)
    back = np.array(camera.img_from_cam(np.nan_to_num(rays))).reshape(-1, 2)
    with np.errstate(invalid="ignore"):
        sound = np.isfinite(rays).all(axis=1) & (np.abs(back - pixels).max(axis=1) < 1.0)
    return rays, sound


def folds(camera: pycolmap.Camera) -> bool:
    """Whether the model sends two rays to one pixel, or none, somewhere within the image: it cannot be undistorted."""
    pixels = _grid(camera)
    rays, sound = _rays(camera, pixels)
    if not sound.all():
        return True
    # An orderly grid stays one: neighbours' rays turn the same way round everywhere.
    mesh = (rays / np.maximum(np.linalg.norm(rays, axis=1, keepdims=True), 1e-12)).reshape(_GRID, _GRID, 3)
    right, down = mesh[:-1, 1:] - mesh[:-1, :-1], mesh[1:, :-1] - mesh[:-1, :-1]
    return bool((np.einsum("ijk,ijk->ij", np.cross(right, down), mesh[:-1, :-1]) <= 0).any())


def oddities(camera: pycolmap.Camera) -> dict[str, str]:
    """What is implausible about the intrinsics of a camera: kinds, and each in some words. Empty: nothing."""
    if not camera.is_perspective():
        return {}
    if not np.isfinite(camera.params).all() or min(camera.focal_length_x, camera.focal_length_y) <= 0:
        return {"invalid": "its parameters are not those of a camera"}
    found = {}
    ratio = camera.focal_length_x / camera.focal_length_y
    if abs(ratio - 1.0) > MOST_ASPECT:
        found["aspect"] = f"fx and fy differ by {100 * abs(ratio - 1.0):.1f} % (those of square pixels are equal)"
    x, y = camera.principal_point_x / camera.width, camera.principal_point_y / camera.height
    if max(abs(x - 0.5), abs(y - 0.5)) > MOST_OFF_CENTER:
        found["centre"] = f"the principal point is at {100 * x:.0f} % of the width and {100 * y:.0f} % of the height"
    low, high = FISHEYE_FOCAL_LENGTHS if camera.is_perspective_fisheye() else FOCAL_LENGTHS
    relative = camera.mean_focal_length() / max(camera.width, camera.height)
    if not low <= relative <= high:
        found["focal"] = f"the focal length is {relative:.2g} times the longer side (usual: {low:g} to {high:g})"
    if folds(camera):
        found["folds"] = "the distortion folds within the image, or it is wider than 180 degrees"
    return found
