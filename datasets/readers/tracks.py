"""Which of the scene's points each photo shows: by the tracks of structure from motion, or by looking."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pycolmap

from ..names import slashed
from ..scene import PointCloud, Scene, View
from .colmap import MODEL_PLACES, OTHER_PLACES, find_model

logger = logging.getLogger(__name__)

CELLS = 64
"""Across the image: in how many cells it is looked for points before others."""
BEHIND = 1.1
"""A point is taken for hidden where one in its cell, or in a cell beside it, is nearer by more than this factor."""


def seen_points(scene: Scene) -> tuple[dict[str, np.ndarray], str]:
    """Points that each training view shows, float64 [P, 3] by the view's name, in the training frame; and, for the log,
    how that is known.

    Of a COLMAP model with tracks those that were matched in the photo. Else the points that lie in the image and that
    no other hides (`not_hidden`).
    """
    tracked = _tracked(scene) if scene.kind == "colmap" else {}
    if tracked:
        return tracked, "by the tracks of the COLMAP model"
    if scene.points is None:
        return {}, "there are no points"
    seen = {view.name: not_hidden(view, scene.points) for view in scene.train}
    return seen, "that lie in the image and have none before them (there are no tracks)"


def not_hidden(view: View, points: PointCloud) -> np.ndarray:
    """The points [P, 3] that lie in the image with none right before them: of `CELLS` cells across the image, no point
    in the same cell or in one beside it is nearer by a factor of `BEHIND`."""
    pixels, depths, inside = view.look(points.positions)
    positions, depths = points.positions[inside], depths[inside]
    column, row = (pixels[inside] / (view.width / CELLS)).astype(int).T
    size = view.width / CELLS
    nearest = np.full((int(view.height / size) + 3, CELLS + 3), np.inf)  # with a border
    np.minimum.at(nearest, (row + 1, column + 1), depths)
    around = np.full(len(depths), np.inf)
    for down in range(3):
        for across in range(3):
            around = np.minimum(around, nearest[row + down, column + across])
    return positions[depths <= BEHIND * around]


def _tracked(scene: Scene) -> dict[str, np.ndarray]:
    """Of a model with tracks; empty where there is none."""
    place = find_model(scene.source, (*MODEL_PLACES, *OTHER_PLACES))
    if place is None:
        return {}
    try:
        model = pycolmap.Reconstruction(str(place))
    except Exception as error:  # whatever is wrong with it, the reader of the scene has read it its own way
        logger.warning("%s: its tracks cannot be read (%s); points are looked for in the images instead", place, error)
        return {}
    positions = {number: point.xyz for number, point in model.points3D.items() if np.isfinite(point.xyz).all()}
    tracked = {}
    for image in model.images.values():
        ids = [point.point3D_id for point in image.points2D if point.has_point3D() and point.point3D_id in positions]
        if ids:
            seen = np.stack([positions[number] for number in ids])
            tracked[slashed(image.name)] = scene.normalisation.apply_points(seen)
    return _of_views(tracked, scene.train)


def _of_views(tracked: dict[str, np.ndarray], views: Sequence[View]) -> dict[str, np.ndarray]:
    """By the names of the views: those of the model, or their ends where the model has longer ones."""
    found = {}
    for view in views:
        name = next((name for name in (view.name,) if name in tracked), None)
        name = name or next((name for name in tracked if name.endswith("/" + view.name)), None)
        if name is not None:
            found[view.name] = tracked[name]
    return found
