"""Lenses that bend: which of the renderer's lenses a COLMAP camera is, and where points are in its image, and back.

A lens has the name and the numbers that the renderer knows (distwar_kernels/cameras.py); docs/lenses.md lists them. The
way through it is written here once more, for arrays of points on the CPU in float64: which points a photo shows, the
rays of its pixels. COLMAP's own functions end at 90 degrees from the axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from .distortion import Bent, bent_of

if TYPE_CHECKING:
    import pycolmap

MOST_ANGLE = 3.1
"""Radians from the axis of a fisheye beyond which nothing is drawn."""
_REACH = 4.0  # a perspective lens draws what is so many times as far from the axis as the corner of its image
_MARGIN = 0.2  # radians

_RADIAL = {
    "SIMPLE_RADIAL": ("k1",), "RADIAL": ("k1", "k2"), "OPENCV": ("k1", "k2", "p1", "p2"),
    "FULL_OPENCV": ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
}  # fmt: skip
_FISHEYE = {
    "SIMPLE_FISHEYE": (), "FISHEYE": (), "SIMPLE_RADIAL_FISHEYE": ("k1",), "RADIAL_FISHEYE": ("k1", "k2"),
    "OPENCV_FISHEYE": ("k1", "k2", "k3", "k4"),
    "THIN_PRISM_FISHEYE": ("k1", "k2", "p1", "p2", "k3", "k4", "s1", "s3"), "FOV": (),
}  # fmt: skip
_COEFFICIENTS = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "s1", "s2", "s3", "s4")


@dataclass(frozen=True)
class Lens:
    """How a camera that is no pinhole maps points to pixels."""

    model: str
    """As the renderer calls it: opencv, fisheye, unified or equirectangular."""
    numbers: tuple[float, ...]
    """Its intrinsics in the renderer's order; fx, fy, cx, cy first, in pixels of the image as trained."""

    @property
    def K(self) -> np.ndarray:  # noqa: N802
        """float64 [3, 3]: of a pinhole that has the lens's scale at its centre."""
        fx, fy, cx, cy = self.numbers[:4]
        stretch = self.numbers[18] if self.model == "fisheye" else 1.0
        return np.array([[fx * stretch, 0.0, cx], [0.0, fy * stretch, cy], [0.0, 0.0, 1.0]])

    @property
    def sees_all_around(self) -> bool:
        """Whether depth is the distance from the camera: there may be things behind it."""
        return self.model != "opencv"

    def scaled(self, across: float, down: float) -> Lens:
        """Of images that are so many times as wide and as high."""
        fx, fy, cx, cy, *others = self.numbers
        return replace(self, numbers=(fx * across, fy * down, cx * across, cy * down, *others))

    def depths(self, points: np.ndarray) -> np.ndarray:
        """[P] of points [P, 3] in camera axes, as the renderer has them."""
        return np.linalg.norm(points, axis=1) if self.sees_all_around else points[:, 2]

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Where points [P, 3] in camera axes are: [P, 2] pixels, NaN for those that the lens does not see."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ideal = _IDEAL[self.model](self, points)
            placed = self._bent.apply(ideal) if self._bent else ideal
        return placed * self.numbers[:2] + self.numbers[2:4]

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """Unit rays [P, 3], camera axes, of places [P, 2] in the image; NaN where no ray leads."""
        places = (np.asarray(pixels, dtype=np.float64) - self.numbers[2:4]) / self.numbers[:2]
        with np.errstate(divide="ignore", invalid="ignore"):
            ideal = self._bent.undo(places) if self._bent else places
            rays = _RAYS[self.model](self, ideal)
            return rays / np.linalg.norm(rays, axis=1, keepdims=True)

    def pixel_rays(self, width: int, height: int) -> np.ndarray:
        """Unit rays [height, width, 3] of the pixels' middles, as `rays`."""
        places = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)
        return self.rays(places.reshape(-1, 2)).reshape(height, width, 3)

    @property
    def _bent(self) -> Bent | None:
        if self.model not in ("opencv", "fisheye"):
            return None
        return bent_of(self.model == "opencv", self.numbers[4:17])


def lens_of(camera: pycolmap.Camera) -> Lens | None:
    """The renderer's lens of a camera that is no pinhole; None where it has none."""
    name, params = camera.model_name, [float(value) for value in camera.params]
    if name == "EQUIRECTANGULAR":
        width, height = params
        return Lens("equirectangular", (width / math.tau, height / math.pi, 0.5 * width, 0.5 * height))
    pinhole = (camera.focal_length_x, camera.focal_length_y, camera.principal_point_x, camera.principal_point_y)
    extra = params[-len(camera.extra_params_idxs()) :] if len(camera.extra_params_idxs()) else []
    size = (camera.width, camera.height)
    if name in ("SIMPLE_DIVISION", "DIVISION", "EUCM"):
        alpha, beta = extra if name == "EUCM" else (0.5, -4.0 * extra[0])
        return Lens("unified", (*pinhole, alpha, beta, 1.3 * _corner(pinhole, size)))
    if name == "FOV":
        return _field_of_view(pinhole, extra[0], size)
    for model, table in (("opencv", _RADIAL), ("fisheye", _FISHEYE)):
        if name in table:
            values = dict(zip(table[name], extra, strict=True))
            return _distorted(model, pinhole, tuple(values.get(key, 0.0) for key in _COEFFICIENTS), size)
    return None


def colmap_model(lens: Lens) -> tuple[str, list[float]]:
    """COLMAP's model and parameters of a lens that `lens_of` has made."""
    fx, fy, cx, cy, *others = lens.numbers
    pinhole = [fx, fy, cx, cy]
    if lens.model == "equirectangular":
        return "EQUIRECTANGULAR", [fx * math.tau, fy * math.pi]
    if lens.model == "unified":
        alpha, beta = others[:2]
        return ("DIVISION", [*pinhole, -0.25 * beta]) if alpha == 0.5 else ("EUCM", [*pinhole, alpha, beta])
    stretch = others[14] if lens.model == "fisheye" else 1.0
    if stretch != 1.0:
        omega = 2.0 * math.atan(0.5 * stretch)
        return "FOV", [fx * omega, fy * omega, cx, cy, omega]
    name = "FULL_OPENCV" if lens.model == "opencv" else "THIN_PRISM_FISHEYE"
    values = dict(zip(_COEFFICIENTS, others, strict=False))
    return name, [*pinhole, *(values[key] for key in (_RADIAL | _FISHEYE)[name])]


def _field_of_view(pinhole: tuple[float, ...], omega: float, size: tuple[int, int]) -> Lens | None:
    """FOV: r = atan(2 tan(omega / 2) tan(theta)) / omega, a fisheye of points that are farther from the axis."""
    if abs(omega) < 1e-3:
        return _distorted("opencv", pinhole, (0.0,) * 12, size)
    if not 0.0 < omega < math.pi:
        return None
    fx, fy, cx, cy = pinhole
    return _distorted("fisheye", (fx / omega, fy / omega, cx, cy), (0.0,) * 12, size, 2.0 * math.tan(0.5 * omega))


def _distorted(
    model: str, pinhole: tuple[float, ...], coefficients: tuple[float, ...], size: tuple[int, int], stretch: float = 1.0
) -> Lens:
    """With the radii up to which its coefficients are used, and things are drawn."""
    bent = bent_of(model == "opencv", (*coefficients, math.inf))
    limit = float(bent.limit_for(_corner(pinhole, size)))
    if model == "opencv":
        return Lens(model, (*pinhole, *coefficients, limit, max(_REACH, _REACH * limit)))
    reach = min(1.3 * limit + _MARGIN, MOST_ANGLE)
    return Lens(model, (*pinhole, *coefficients, limit, reach, stretch))


def _corner(pinhole: tuple[float, ...], size: tuple[int, int]) -> float:
    """How far the farthest corner is from the centre, at focal length 1."""
    fx, fy, cx, cy = pinhole
    return math.hypot(max(cx, size[0] - cx) / fx, max(cy, size[1] - cy) / fy)


# ------------------------------------------------------------------------------- the ideal image, before distortion


def _perspective(lens: Lens, points: np.ndarray) -> np.ndarray:
    q = points[:, :2] / points[:, 2:]
    seen = (points[:, 2] > 0) & (np.linalg.norm(q, axis=1) <= lens.numbers[17])
    return np.where(seen[:, None], q, np.nan)


def _perspective_rays(lens: Lens, ideal: np.ndarray) -> np.ndarray:
    return np.concatenate([ideal, np.ones((len(ideal), 1))], axis=1)


def _angles(lens: Lens, points: np.ndarray) -> np.ndarray:
    xy = lens.numbers[18] * points[:, :2]
    rho = np.linalg.norm(xy, axis=1)
    theta = np.arctan2(rho, points[:, 2])
    per_offset = np.where(rho > 0.0, theta / rho, 0.0)
    return np.where((theta <= lens.numbers[17])[:, None], per_offset[:, None] * xy, np.nan)


def _angle_rays(lens: Lens, ideal: np.ndarray) -> np.ndarray:
    theta = np.linalg.norm(ideal, axis=1, keepdims=True)
    theta = np.where(theta <= lens.numbers[17], theta, np.nan)
    aside = np.sinc(theta / math.pi) * ideal / lens.numbers[18]
    return np.concatenate([aside, np.cos(theta)], axis=1)


def _unified(lens: Lens, points: np.ndarray) -> np.ndarray:
    alpha, beta, reach = lens.numbers[4:7]
    z, rho2 = points[:, 2], (points[:, :2] ** 2).sum(axis=1)
    d = np.sqrt(beta * rho2 + z * z)
    weight = alpha * d + (1.0 - alpha) * z
    seen = (alpha * z > (alpha - 1.0) * d) & (weight > 1e-3 * np.sqrt(rho2 + z * z)) & (rho2 <= (reach * weight) ** 2)
    return np.where(seen[:, None], points[:, :2] / weight[:, None], np.nan)


def _unified_rays(lens: Lens, ideal: np.ndarray) -> np.ndarray:
    alpha, beta = lens.numbers[4:6]
    r2 = (ideal**2).sum(axis=1, keepdims=True)
    z = (1.0 - beta * alpha**2 * r2) / (alpha * np.sqrt(1.0 - (2.0 * alpha - 1.0) * beta * r2) + 1.0 - alpha)
    return np.concatenate([np.where(np.isnan(z), np.nan, ideal), z], axis=1)


def _panorama(lens: Lens, points: np.ndarray) -> np.ndarray:
    x, y, z = points.T
    return np.stack([np.arctan2(x, z), np.arctan2(y, np.hypot(x, z))], axis=1)


def _panorama_rays(lens: Lens, ideal: np.ndarray) -> np.ndarray:
    longitude, latitude = ideal.T
    aside = np.cos(latitude)
    return np.stack([aside * np.sin(longitude), np.sin(latitude), aside * np.cos(longitude)], axis=1)


_IDEAL = {"opencv": _perspective, "fisheye": _angles, "unified": _unified, "equirectangular": _panorama}
_RAYS = {
    "opencv": _perspective_rays, "fisheye": _angle_rays, "unified": _unified_rays, "equirectangular": _panorama_rays,
}  # fmt: skip
