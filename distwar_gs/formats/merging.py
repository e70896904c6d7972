"""Two models in one: brought into one frame by the photos that both were trained with, each kept where its cameras are.

The similarity between the frames is that of Umeyama (1991) for the camera centres, with the rotation that the cameras'
own rotations agree on best, so that two photos that both have are enough.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from distwar_gs.formats.ply import ModelFileError
from distwar_gs.formats.table import Arrays
from distwar_gs.formats.turning import turned

EQUAL = 1e-6
"""Frames that differ less than this (radians, and shares of the size of the cameras' cloud) are one."""


@dataclass(frozen=True)
class Similarity:
    """From one frame to another: `scale * rotation @ x + shift`."""

    scale: float
    rotation: np.ndarray
    """float64 [3, 3]."""
    shift: np.ndarray
    """float64 [3]."""

    def points(self, points: np.ndarray) -> np.ndarray:
        """[..., 3] from the one frame to the other, float64."""
        return self.scale * points @ self.rotation.T + self.shift

    def gaussians(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """Gaussians (means float64, as in distwar_gs.gaussians.model else) from the one frame to the other."""
        moved = turned(arrays, self.rotation)
        scales = arrays["scales"] + np.float32(math.log(self.scale))
        return {**moved, "means": self.points(arrays["means"].astype(np.float64)), "scales": scales}


IDENTITY = Similarity(1.0, np.eye(3), np.zeros(3))
Poses = dict[str, tuple[np.ndarray, np.ndarray]]
"""Of cameras by the photos' names: centres [3] and camera-to-world rotations [3, 3], float64."""


def read_poses(run: Path) -> Poses:
    """Of a run folder's cameras.json, in the frame of its input. Raises ModelFileError where it has none."""
    path = run / "cameras.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(entry["img_name"]): (
                np.array(entry["position"], dtype=np.float64).reshape(3) + np.array(entry.get("origin", [0.0] * 3)),
                np.array(entry["rotation"], dtype=np.float64).reshape(3, 3),
            )
            for entry in entries
        }
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror}); give a run folder of train.py") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{path}: not the cameras of a run ({error!r}); give a run folder of train.py") from None


def frame_between(here: Mapping, there: Mapping) -> tuple[Similarity, int]:
    """From the frame of the second cameras to that of the first, by the photos in both (and how many these are).

    The identity where they are in one frame already, or have fewer than two photos with different centres in common.
    """
    names = sorted(here.keys() & there.keys())
    if len(names) < 2:
        return IDENTITY, len(names)
    to, start = (np.stack([poses[name][0] for name in names]) for poses in (here, there))
    away_to, away_start = to - to.mean(axis=0), start - start.mean(axis=0)
    spread = float((away_start**2).sum())
    if spread == 0.0:
        return IDENTITY, len(names)
    rotation = Rotation.from_matrix([here[name][1] @ there[name][1].T for name in names]).mean().as_matrix()
    scale = float((away_to * (away_start @ rotation.T)).sum()) / spread
    if scale <= 0.0:
        raise ModelFileError(
            "the cameras that both runs have do not look alike: are their names those of the same photos?"
        )
    found = Similarity(scale, rotation, to.mean(axis=0) - scale * rotation @ start.mean(axis=0))
    size = math.sqrt(float((away_to**2).sum()) / len(names))
    is_same = (
        np.abs(found.points(start) - start).max() <= EQUAL * size
        and Rotation.from_matrix(rotation).magnitude() <= EQUAL
    )
    return (IDENTITY if is_same else found), len(names)


def own_rows(means: np.ndarray, own: np.ndarray, others: np.ndarray, ties: bool) -> np.ndarray:
    """bool [N]: which Gaussians of a model are nearer to a camera of its own [C, 3] than to all of the other model's.
    Where both are as near (a camera that both have) `ties` decides."""
    near, far = (cKDTree(cameras).query(means, workers=1)[0] for cameras in (own, others))
    return near <= far if ties else near < far


def joined(one: Arrays, other: Arrays) -> dict[str, np.ndarray]:
    """The Gaussians of both; harmonics that one of them lacks are 0."""
    rows = max(one["shN"].shape[1], other["shN"].shape[1])
    wide = [{**a, "shN": np.pad(a["shN"], ((0, 0), (0, rows - a["shN"].shape[1]), (0, 0)))} for a in (one, other)]
    return {name: np.concatenate([arrays[name] for arrays in wide]) for name in one}
