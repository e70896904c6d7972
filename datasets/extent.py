"""How large a scene is, and how near its cameras come to it: from the poses and the sparse points alone.

Neither may hang on how far the photographer walked, or on one camera that structure from motion has misplaced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .scene import PointCloud, View

STRAY = 5.0
"""A camera is stray when it is this many times as far from the middle of all cameras as nine tenths of them are, and as
things usually are before a camera."""
ALONE = 10
"""Least number of cameras among which one can be stray where no points tell how far off things are."""
NEAR_SHARE, NEAR_RANK = 0.01, 5
"""The nearest things before a camera begin where 1 % of the points in its image are nearer, and at least 4 points: one
or two wrong points right before a lens are common."""
FEWEST = 10
"""Points that an image must show to tell a depth."""
_MOST_POINTS = 20_000


def view_depths(views: Sequence[View], points: PointCloud | None) -> np.ndarray:
    """Depths [V, 2] of the nearest things in each image and of the middle one (median), NaN where too few are seen.

    Of many points an even part is looked at; the unit is that of the views and points, whose frame must be the same.
    """
    depths = np.full((len(views), 2), np.nan)
    if points is None:
        return depths
    positions = np.ascontiguousarray(points.positions[:: -(-len(points.positions) // _MOST_POINTS)].T)
    for index, view in enumerate(views):
        seen = _depths_in_image(view, positions)
        if len(seen) >= FEWEST:
            nearest = max(NEAR_RANK, int(np.ceil(NEAR_SHARE * len(seen)))) - 1
            middle = (len(seen) - 1) // 2, len(seen) // 2
            seen.partition((nearest, *middle))
            depths[index] = seen[nearest], 0.5 * (seen[middle[0]] + seen[middle[1]])
    return depths


def stray_cameras(views: Sequence[View], depths: np.ndarray) -> np.ndarray:
    """bool [V]: which cameras are far from all others (`STRAY`); `depths` as `view_depths` gives them."""
    distances = distances_from_middle(views)
    usual = np.quantile(distances, 0.9, method="lower")
    known = depths[:, 1][np.isfinite(depths[:, 1])]
    off = float(np.median(known)) if len(known) else 0.0
    if off == 0.0 and (len(views) < ALONE or usual == 0.0):
        return np.zeros(len(views), dtype=bool)
    return distances > STRAY * max(float(usual), off)


def distances_from_middle(views: Sequence[View]) -> np.ndarray:
    """Distance [V] of each camera from the median of all."""
    centers = np.stack([view.center for view in views])
    return np.linalg.norm(centers - np.median(centers, axis=0), axis=1)


def camera_extent(views: Sequence[View]) -> float:
    """1.1 x the greatest distance of a camera from the mean of all; 1.0 when they coincide."""
    centers = np.stack([view.center for view in views])
    distances = np.linalg.norm(centers - centers.mean(axis=0), axis=1)
    coincide = distances.max() <= 1e-9 * max(1.0, float(np.abs(centers).max()))
    return 1.0 if coincide else 1.1 * float(distances.max())


def _depths_in_image(view: View, positions: np.ndarray) -> np.ndarray:
    """Depths of the points [3, P] that lie inside the image."""
    if view.lens is not None:
        _, depths, inside = view.look(positions.T)
        return depths[inside]
    x, y, z = view.K @ view.viewmat[:3, :3] @ positions + (view.K @ view.viewmat[:3, 3])[:, None]
    return z[(z > 0) & (x > 0) & (x < view.width * z) & (y > 0) & (y < view.height * z)]
