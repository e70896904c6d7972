"""The Scene value: everything training needs to know about a dataset, with no pixel decoded.

Frames and units. Cameras have OpenCV axes (x right, y down, z forward). `viewmat` maps world to camera, `K` maps the
camera to pixels of the image as trained, with pixel centres at +0.5. The *world frame* is the one of the files; the
*training frame* differs from it by a shift and one scale only, so spherical harmonics need no rotation on export.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .lenses import Lens

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mask:
    """Which pixels of a photograph count; `distwar_datasets.pixels.masks` reads it."""

    path: Path
    """A picture as large as the photograph, or of its shape and another size."""
    inverted: bool = False
    """False: black is ignored, as in COLMAP and nerfstudio. True: black is what counts."""
    is_alpha: bool = False
    """Whether the picture's transparency is the mask, not its brightness: what is transparent is ignored."""
    also: Mask | None = None
    """Another one: only pixels that both keep count."""


@dataclass(frozen=True, eq=False)
class View:
    """One posed photograph: where its pixels are and how it was taken."""

    name: str
    """Path of the image as the dataset names it, relative, with forward slashes."""
    image_path: Path
    """The file to decode: the photograph itself, or its undistorted or resized copy in a cache."""
    width: int
    """Width in pixels of the image as trained."""
    height: int
    """Height in pixels of the image as trained."""
    K: np.ndarray
    """float64 [3, 3], camera to pixels of `width` x `height`, true principal point; with a `lens` only its scale at the
    centre."""
    viewmat: np.ndarray
    """float64 [4, 4], world-to-camera (or training-frame-to-camera), OpenCV axes."""
    camera_id: int
    """Views with the same id were taken by one physical camera."""
    mask: Mask | None = None
    """None: every pixel counts."""
    alpha_is_mask: bool = False
    """Whether the picture's transparency is in `mask`, so that its colours are taken as they are."""
    lens: Lens | None = None
    """How pixels come from points in camera axes where K does not say it; None: a pinhole."""

    def look(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where points [P, 3] of the frame that `viewmat` maps from are in the image: pixels [P, 2] (NaN where they are
        in none), depths [P] as the renderer has them, and whether they are in the image, bool [P]."""
        in_camera = points @ self.viewmat[:3, :3].T + self.viewmat[:3, 3]
        if self.lens is not None:
            pixels, depths = self.lens.pixels(in_camera), self.lens.depths(in_camera)
        else:
            depths = in_camera[:, 2]
            scaled = in_camera @ self.K.T
            with np.errstate(divide="ignore", invalid="ignore"):
                pixels = np.where(depths[:, None] > 0, scaled[:, :2] / scaled[:, 2:], np.nan)
        inside = np.all((pixels > 0) & (pixels < (self.width, self.height)), axis=1)
        return pixels, depths, np.asarray(inside)

    @property
    def center(self) -> np.ndarray:
        """Camera centre, float64 [3], in the frame that `viewmat` maps from."""
        return -self.viewmat[:3, :3].T @ self.viewmat[:3, 3]


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Sparse points of structure from motion."""

    positions: np.ndarray
    """float64 [P, 3]."""
    colors: np.ndarray
    """uint8 [P, 3], RGB."""


def finite_points(cloud: PointCloud, place: Path) -> PointCloud | None:
    """The points that are finite, with a warning that names `place` if others are left out; None if there are none."""
    finite = np.isfinite(cloud.positions).all(axis=1)
    if not finite.all():
        logger.warning("%s: %d points are not finite and are left out", place, np.count_nonzero(~finite))
    return PointCloud(cloud.positions[finite], cloud.colors[finite]) if finite.any() else None


@dataclass(frozen=True, eq=False)
class Normalisation:
    """`x_train = (x_world - shift) * scale`, and back."""

    shift: np.ndarray
    """float64 [3], world frame."""
    scale: float
    """Training units per world unit, positive."""

    @classmethod
    def identity(cls) -> Normalisation:
        """The normalisation that changes nothing."""
        return cls(np.zeros(3), 1.0)

    def apply_points(self, points: np.ndarray) -> np.ndarray:
        """World [..., 3] to training frame [..., 3]."""
        return (points - self.shift) * self.scale

    def undo_points(self, points: np.ndarray) -> np.ndarray:
        """Training frame [..., 3] to world [..., 3]."""
        return points / self.scale + self.shift

    def apply_viewmat(self, viewmat: np.ndarray) -> np.ndarray:
        """World-to-camera [4, 4] to training-frame-to-camera [4, 4]; the rotation stays, depths scale."""
        result = viewmat.copy()
        result[:3, 3] = (viewmat[:3, :3] @ self.shift + viewmat[:3, 3]) * self.scale
        return result

    def undo_viewmat(self, viewmat: np.ndarray) -> np.ndarray:
        """Inverse of `apply_viewmat`."""
        result = viewmat.copy()
        result[:3, 3] = viewmat[:3, 3] / self.scale - viewmat[:3, :3] @ self.shift
        return result

    def about(self, origin: np.ndarray) -> Normalisation:
        """The same training frame, but of a world frame whose positions are given relative to `origin` [3]."""
        return Normalisation(self.shift - origin, self.scale)

    def as_dict(self) -> dict[str, object]:
        """Plain numbers, for a config or a checkpoint."""
        return {"shift": [float(value) for value in self.shift], "scale": float(self.scale)}

    @classmethod
    def from_dict(cls, values: dict) -> Normalisation:
        """Inverse of `as_dict`."""
        return cls(np.array(values["shift"], dtype=np.float64), float(values["scale"]))


@dataclass(frozen=True, eq=False)
class Scene:
    """A dataset in its training frame: `normalisation` has been applied to views, points and bounds."""

    source: Path
    kind: str
    """"colmap", "blender" (NeRF-synthetic) or "transforms" (nerfstudio, instant-ngp)."""
    train: tuple[View, ...]
    test: tuple[View, ...]
    points: PointCloud | None
    """None when the dataset has no points; then initialise at random."""
    normalisation: Normalisation
    extent: float
    """1.1 x the greatest distance of a train camera from their mean, as 3DGS (scene/dataset_readers.py,
    getNerfppNorm), stray cameras left out (`extent`); training units; 1.0 after normalisation, and when all
    cameras coincide."""
    image_source: str
    """Where the pixels come from, for the metrics' protocol: "images_4", "images resized to 1/2 (Lanczos)"."""
    split_rule: str
    """How test views were chosen, for the metrics' protocol."""
    bounds: tuple[np.ndarray, np.ndarray] | None = None
    """Lowest and highest corner, float64 [3] each, of the box that random initial points should fill, if known."""
    nearest: float | None = None
    """Depth at which the nearest things before any camera begin (`extent.view_depths`), training units; None
    where no points tell."""
