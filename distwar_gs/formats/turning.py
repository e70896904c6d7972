"""Gaussians in a frame whose axes are turned or mirrored: positions, rotations and harmonics."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from distwar_gs.formats.table import Arrays
from distwar_kernels.sh.sh_torch import sh_basis

_DIRECTIONS = 200
"""At which harmonics are compared before and after; 16 would do for degree 3, if they were well spread."""

_SIGNS = {
    "x": (np.array([1, -1, -1], np.float32),
          np.array([-1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1], np.float32)),
    "z": (np.array([-1, -1, 1], np.float32),
          np.array([-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1], np.float32)),
}  # fmt: skip
"""Of a half turn about an axis: what becomes of x, y, z, and of the harmonics of degrees 1 to 3."""


def half_turn(arrays: Arrays, axis: str) -> dict[str, np.ndarray]:
    """Half a turn about the x or the z axis, which is its own way back; exact, as only signs change.

    From x right, y down, z forward, as in a PLY, `x` leads to x right, y up, z back, and `z` to x left, y up, z
    forward.
    """
    places, directions = _SIGNS[axis]
    means = arrays["means"] * places
    quats = arrays["quats"] * np.array([1, *places], np.float32)  # F R F for F = diag(places)
    harmonics = arrays["shN"] * directions[: arrays["shN"].shape[1], None]
    return {**arrays, "means": means, "quats": quats, "shN": harmonics}


def turned(arrays: Arrays, axes: np.ndarray) -> dict[str, np.ndarray]:
    """The Gaussians at `axes @ position`, looking from there as they did from here.

    Args:
        arrays: as in distwar_gs.gaussians.model, float32.
        axes: orthogonal, float64 [3, 3]. Of determinant -1: the model is mirrored; a Gaussian is its own mirror image
            through its centre, so its rotation is that by -axes.
    """
    if np.array_equal(axes, np.eye(3)):
        return dict(arrays)
    rotation = Rotation.from_matrix(axes * np.linalg.det(axes))
    own = Rotation.from_quat(np.roll(arrays["quats"].astype(np.float64), -1, axis=1))
    quats = np.roll((rotation * own).as_quat(), 1, axis=1)
    means = arrays["means"].astype(np.float64) @ axes.T
    return {**arrays, "means": means.astype(np.float32), "quats": quats.astype(np.float32),
            "shN": _harmonics(arrays["shN"], axes)}  # fmt: skip


def _harmonics(harmonics: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Coefficients [N, K, 3] that give in direction `axes @ d` the colour that `harmonics` give in direction d."""
    degree = math.isqrt(harmonics.shape[1] + 1) - 1
    if degree == 0:
        return harmonics
    directions = np.random.default_rng(0).standard_normal((_DIRECTIONS, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    here, there = (sh_basis(degree, torch.from_numpy(d)).numpy()[:, 1:] for d in (directions, directions @ axes.T))
    change = np.linalg.lstsq(there, here, rcond=None)[0]
    return np.einsum("jk,nkc->njc", change.astype(np.float32), harmonics)
