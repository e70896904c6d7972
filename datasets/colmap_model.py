"""A sparse model of COLMAP, from whichever of its formats: cameras, images with poses, points."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pycolmap

MOST_PIXELS = 2**31 - 1
"""In a row or a column, as COLMAP counts them."""


@dataclass(frozen=True, eq=False)
class PosedImage:
    """An image that has a pose."""

    image_id: int
    name: str
    """As the model has it."""
    camera_id: int
    cam_from_world: np.ndarray
    """float64 [3, 4], world-to-camera, OpenCV axes, a rotation to the last digits and a translation."""


@dataclass(frozen=True, eq=False)
class SparseModel:
    """What training needs of a model, in the world frame; no 2D points and no tracks."""

    cameras: dict[int, pycolmap.Camera]
    """By id."""
    images: list[PosedImage]
    positions: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    """float64 [P, 3], in the order of the points' ids."""
    colors: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.uint8))
    """uint8 [P, 3], RGB."""


@cache
def parameter_counts() -> dict[str, int]:
    """How many parameters each camera model has, by COLMAP's name of it."""
    models = ((name, model) for name, model in pycolmap.CameraModelId.__members__.items() if int(model) >= 0)
    return {name: len(pycolmap.Camera.create_from_model_id(0, model, 1.0, 1, 1).params) for name, model in models}
