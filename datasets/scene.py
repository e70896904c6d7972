"""The Scene value: everything training needs to know about a dataset, with no pixel decoded.

Frames and units. Cameras have OpenCV axes (x right, y down, z forward). `viewmat` maps world to camera, `K` maps the
camera to pixels of the image as trained, with pixel centres at +0.5. The *world frame* is the one of the files; the
*training frame* differs from it by a shift and one scale only, so spherical harmonics need no rotation on export.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .errors import DataError
from .extent import camera_extent, distances_from_middle, stray_cameras, view_depths
from .name_lists import NameLists
from .splits import NO_LIST, Split

logger = logging.getLogger(__name__)

TEST_EVERY = 8
"""Every which image is held out unless someone says otherwise."""


@dataclass(frozen=True)
class Mask:
    """Which pixels of a photograph count; `datasets.masks` reads it."""

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
    """float64 [3, 3], camera to pixels of `width` x `height`, true principal point."""
    viewmat: np.ndarray
    """float64 [4, 4], world-to-camera (or training-frame-to-camera), OpenCV axes."""
    camera_id: int
    """Views with the same id were taken by one physical camera."""
    mask: Mask | None = None
    """None: every pixel counts."""
    alpha_is_mask: bool = False
    """Whether the picture's transparency is in `mask`, so that its colours are taken as they are."""

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
    getNerfppNorm), stray cameras left out (`datasets.extent`); training units; 1.0 after normalisation, and when all
    cameras coincide."""
    image_source: str
    """Where the pixels come from, for the metrics' protocol: "images_4", "images resized to 1/2 (Lanczos)"."""
    split_rule: str
    """How test views were chosen, for the metrics' protocol."""
    bounds: tuple[np.ndarray, np.ndarray] | None = None
    """Lowest and highest corner, float64 [3] each, of the box that random initial points should fill, if known."""
    nearest: float | None = None
    """Depth at which the nearest things before any camera begin (`datasets.extent.view_depths`), training units; None
    where no points tell."""


@dataclass(frozen=True, eq=False)
class RawScene:
    """What a reader found, in the world frame, before splitting and normalising."""

    kind: str
    views: tuple[View, ...]
    image_source: str
    test_views: tuple[View, ...] | None = None
    """Further views that are for testing only; then no view of `views` is held out."""
    test_rule: str = ""
    """Where `test_views` come from, for the metrics' protocol."""
    lists: tuple[NameLists, ...] = ()
    """What the cameras' own file says of which of `views` are for testing."""
    points: PointCloud | None = None
    bounds: tuple[np.ndarray, np.ndarray] | None = None


def split_views(
    views: Sequence[View], test_every: int, hold_out: bool
) -> tuple[tuple[View, ...], tuple[View, ...], str]:
    """Train views, test views and the rule in words; sorted by name, every `test_every`-th is held out.

    The first view is a test view, as in Mip-NeRF 360 and 3DGS (scene/dataset_readers.py, llffhold).
    """
    ordered = tuple(sorted(views, key=lambda view: view.name))
    if not hold_out or test_every == 0:
        return ordered, (), "none"
    test = ordered[::test_every]
    train = tuple(view for index, view in enumerate(ordered) if index % test_every)
    return train, test, f"every {_ordinal(test_every)} image by name held out"


def build_scene(
    source: Path, raw: RawScene, *, test_every: int, hold_out: bool, normalise: bool, split: Split | None = None
) -> Scene:
    """Split `raw` into train and test views and move everything into the training frame.

    split: which views are for what, where a list says so; it comes before `test_every` and the test views of `raw`.
    Raises DataError when no train view would be left.
    """
    train, test, rule = _split(raw, test_every, hold_out, split)
    if not train:
        raise DataError(
            f"{source}: {len(raw.views)} image(s), all held out for testing ({rule}); train on all with --no_eval, "
            f"hold out fewer with a larger --test_every, or give another list with --test_list ({NO_LIST}: no list)"
        )
    depths = view_depths(train + test, raw.points)
    stray = stray_cameras(train + test, depths)
    _name_strays(source, train + test, stray)
    near_depths = depths[~stray & np.isfinite(depths[:, 0]), 0]
    extent = camera_extent(_where(train, ~stray[: len(train)]) or train)
    frame = _normalisation(_where(train + test, ~stray), extent) if normalise else Normalisation.identity()
    return Scene(
        source=source,
        kind=raw.kind,
        train=_transform_views(train, frame),
        test=_transform_views(test, frame),
        points=raw.points and replace(raw.points, positions=frame.apply_points(raw.points.positions)),
        normalisation=frame,
        extent=1.0 if normalise else extent,
        image_source=raw.image_source,
        split_rule=rule,
        bounds=raw.bounds and (frame.apply_points(raw.bounds[0]), frame.apply_points(raw.bounds[1])),
        nearest=float(near_depths.min()) * frame.scale if len(near_depths) else None,
    )


def _split(
    raw: RawScene, test_every: int, hold_out: bool, split: Split | None
) -> tuple[tuple[View, ...], tuple[View, ...], str]:
    if not hold_out or (raw.test_views is None and split is None):
        return split_views(raw.views, test_every, hold_out)
    everything = (*raw.views, *(raw.test_views or ()))
    if split:
        train = [view for view in everything if view.name in split.train]
        test, rule = [view for view in everything if view.name in split.test], split.rule
    else:
        train, test, rule = raw.views, raw.test_views, raw.test_rule
    if test_every not in (0, TEST_EVERY):
        logger.warning(
            "test_every %d has no effect, since it is given which images are for testing (%s); --test_list %s holds "
            "out every %s image instead", test_every, rule, NO_LIST, _ordinal(test_every),
        )  # fmt: skip
    return split_views(train, 0, False)[0], split_views(test, 0, False)[0], rule


def _where(views: Sequence[View], chosen: np.ndarray) -> list[View]:
    return [view for view, wanted in zip(views, chosen, strict=True) if wanted]


def _name_strays(source: Path, views: Sequence[View], stray: np.ndarray) -> None:
    if not stray.any():
        return
    distances = distances_from_middle(views)
    times = distances / np.median(distances[~stray]).clip(1e-12)
    shown = [f"{views[i].name} ({times[i]:.0f} times as far)" for i in np.flatnonzero(stray)[:5]]
    logger.warning(
        "%s: far from all other cameras (%d of %d): %s%s. The size of the scene is taken from the others; if these are "
        "misplaced, take their images out of the dataset",
        source, stray.sum(), len(views), ", ".join(shown), ", ..." if stray.sum() > len(shown) else "",
    )  # fmt: skip


def _normalisation(views: Sequence[View], extent: float) -> Normalisation:
    return Normalisation(np.mean([view.center for view in views], axis=0), 1.0 / extent)


def _transform_views(views: Sequence[View], frame: Normalisation) -> tuple[View, ...]:
    return tuple(replace(view, viewmat=frame.apply_viewmat(view.viewmat)) for view in views)


def _ordinal(number: int) -> str:
    suffix = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"
