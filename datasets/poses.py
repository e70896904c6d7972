"""Poses as other programs write them -> rigid ones, to the last digit of float64.

Files hold rotations with three digits, quaternions of any length, 3x3 parts that are a rotation times a number, and
poses of mirrored (left-handed) worlds. What differs from a rotation by no more than ROUNDING is made the nearest one;
what differs by more is refused, since nobody can tell what was meant.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError
from .scene import View

logger = logging.getLogger(__name__)

EXACT = 1e-10
"""A rotation whose rows are orthonormal to this is left as it is, bit for bit."""
LENGTH_EXACT = 1e-11
"""A quaternion this close to length 1 is left as it is; its rotation is orthonormal to EXACT."""
ROUNDING = 0.02
"""How far the singular values of a 3x3 part may lie from their mean, relative to it, and the length of a quaternion
from 1: two digits behind the point leave at most 0.015 and 0.01."""
WORTH_SAYING = 3e-4
"""Rounding beyond this (fewer than four digits) turns cameras by more than 0.02 degrees, 0.3 pixels of 1000."""
_NO_LENGTH = 1e-12
_NOISE = 1e-6  # in a last row, of matrices that were inverted


class PoseError(ValueError):
    """Numbers that are not a pose; the message says why, without the place."""


@dataclass(frozen=True, eq=False)
class RigidPose:
    """A pose, and what had to be done to the numbers for it."""

    matrix: np.ndarray
    """float64 [4, 4]; its 3x3 part is orthonormal, of determinant 1 or -1."""
    scale: float = 1.0
    """By what the 3x3 part was multiplied in the file."""
    rounding: float = 0.0
    """How far it was from a multiple of a rotation, relative; below EXACT it was not changed."""


def rigid_pose(values: Any) -> RigidPose:
    """The pose that a 4x4 or 3x4 matrix, nested or flat, row by row, stands for.

    The 3x3 part becomes the nearest rotation (of its singular value decomposition U S V^T the part U V^T); the
    translation stays, but for a last row 0 0 0 w, by which all of a homogeneous matrix is divided. Raises PoseError for
    anything else.
    """
    matrix = _four_rows(values)
    part = matrix[:3, :3]
    if np.abs(part @ part.T - np.eye(3)).max() <= EXACT:
        return RigidPose(matrix)
    left, stretch, right = np.linalg.svd(part)
    scale = float(stretch.mean())
    if scale <= _NO_LENGTH:
        raise PoseError("its 3x3 part is 0")
    rounding = float(np.abs(stretch / scale - 1.0).max())
    if rounding > ROUNDING:
        raise PoseError(
            f"its axes are stretched or sheared by {100 * rounding:.3g} %, more than rounding explains (2 % at most)"
        )
    matrix[:3, :3] = left @ right
    return RigidPose(matrix, scale, rounding)


def _four_rows(values: Any) -> np.ndarray:
    """float64 [4, 4] with a last row 0 0 0 1."""
    try:
        matrix = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise PoseError("it is not 4x4 numbers") from None
    if matrix.shape in ((16,), (12,)):
        matrix = matrix.reshape(-1, 4)
    if matrix.shape == (3, 4):
        matrix = np.vstack([matrix, [0.0, 0.0, 0.0, 1.0]])
    if matrix.shape != (4, 4):
        raise PoseError("it is not 4x4 numbers")
    if not np.isfinite(matrix).all():
        raise PoseError("not all its numbers are finite")
    last = matrix[3]
    if np.abs(last[:3]).max() > _NOISE:
        raise PoseError(f"its last row is not 0 0 0 1{'' if matrix[:3, 3].any() else ': is it transposed?'}")
    if last[3] <= _NO_LENGTH:
        raise PoseError("its last row is not 0 0 0 1")
    matrix[3, :3] = 0.0
    return matrix if last[3] == 1.0 else matrix / last[3]


def unit_quaternion(quaternion: np.ndarray) -> tuple[np.ndarray, float]:
    """The quaternion [4], any order, at length 1, and its length before; unchanged where it is that to LENGTH_EXACT.

    Raises PoseError for one that is not finite or too short to have a direction.
    """
    with np.errstate(over="ignore"):
        length = float(np.linalg.norm(quaternion))
    if not np.isfinite(length):
        raise PoseError("its quaternion is not finite")
    if length <= _NO_LENGTH:
        raise PoseError("its quaternion is 0 and says nothing of the rotation")
    return (quaternion if abs(length - 1.0) <= LENGTH_EXACT else quaternion / length), length


def report_lengths(path: Path, lengths: Mapping[str, float]) -> None:
    """Say which quaternions, by image, were not of length 1."""
    errors = {name: abs(length - 1.0) for name, length in lengths.items()}
    far = [name for name, error in errors.items() if error > ROUNDING]
    if far:
        logger.warning(
            "%s: the quaternions of %d of %d images are not of length 1 (%s: %.4g): brought to that length, which is "
            "the same rotation", path, len(far), len(lengths), min(far), lengths[min(far)],
        )  # fmt: skip
    _report_rounding(path, [error for error in errors.values() if WORTH_SAYING < error <= ROUNDING], len(lengths))


def report_poses(path: Path, poses: Mapping[str, RigidPose]) -> None:
    """Say which poses, by image, were not rigid, and what was done."""
    scaled = {name: pose.scale for name, pose in poses.items() if _is_scaled(pose)}
    if scaled:
        low, high = min(scaled.values()), max(scaled.values())
        logger.warning(
            "%s: the 3x3 part of %d of %d poses is a rotation times %s (%s): the rotation is taken, the cameras stay "
            "where they are", path, len(scaled), len(poses),
            f"{low:.6g}" if high - low < 1e-4 * high else f"{low:.4g} to {high:.4g}", next(iter(scaled)),
        )  # fmt: skip
    _report_rounding(path, [pose.rounding for pose in poses.values() if pose.rounding > WORTH_SAYING], len(poses))


def _is_scaled(pose: RigidPose) -> bool:
    """Whether the scale is more than what rounding leaves of it: about a quarter of what it does to the axes."""
    return abs(pose.scale - 1.0) > min(ROUNDING, max(1e-3, 4.0 * pose.rounding))


def _report_rounding(path: Path, errors: Sequence[float], total: int) -> None:
    if errors:
        logger.warning(
            "%s: the rotations of %d of %d images have few digits: the nearest rotations are taken, about %.2g degrees "
            "off; more digits would make sharper pictures", path, len(errors), total, np.degrees(max(errors)),
        )  # fmt: skip


def check_handedness(path: Path, views: Sequence[View]) -> None:
    """Say that poses are mirrored: a left-handed world, which is trained as it is.

    Raises DataError where only some are, which no world explains.
    """
    signs = np.linalg.det(np.stack([view.viewmat[:3, :3] for view in views]))
    mirrored = [view.name for view, sign in zip(views, signs, strict=True) if sign < 0.0]
    if not mirrored:
        return
    if len(mirrored) < len(views):
        shown = ", ".join(mirrored[:5]) + (", ..." if len(mirrored) > 5 else "")
        raise DataError(
            f"{path}: {len(mirrored)} of {len(views)} poses are mirrored (determinant -1), the others are not: {shown};"
            " export all of them with right-handed axes"
        )
    logger.warning(
        "%s: all %d poses are mirrored (determinant -1), as those of a left-handed world are. It is trained as it is, "
        "and what is written is left-handed too: a mirror image in most viewers. To mend it, negate the third row of "
        "every transform_matrix and the z of its points; if pictures stay blurred, the cameras are mirrored, not the "
        "world: negate the column of the axis that points the wrong way instead", path, len(views),
    )  # fmt: skip
