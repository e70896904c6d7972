"""What a page may ask for. All that comes over the network is checked here, before any other part sees it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MODES = ("colour", "depth", "normals", "alpha", "error", "contribution", "ellipsoids")
COMMANDS = ("pause", "go", "step", "checkpoint", "export")
LONGEST = 128 * 1024
"""Bytes of a message."""
MOST_KEYS = 300
SMALLEST, LARGEST = 16, 2048
"""Pixels along a side of a picture."""
_FOV = (math.radians(2.0), math.radians(160.0))
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")
_REACH = 1e6  # training units from the origin; scene extents, mostly


class OrderError(ValueError):
    """A message that no page of ours sends."""


@dataclass(frozen=True)
class Pose:
    """Where a page's camera is, and its lens."""

    viewmat: np.ndarray
    """float64 [4, 4], training frame to camera, OpenCV axes."""
    fov: float
    """Vertical, radians."""


@dataclass(frozen=True)
class Look:
    """A wish for one picture."""

    number: int
    """The page's own; comes back with the picture."""
    pose: Pose
    photo: int | None
    """Index among the views of the page, if the camera is exactly that photo's; then its lens is taken."""
    mode: str
    """One of MODES."""
    size: tuple[int, int]
    """Width and height in pixels that the picture may have."""
    is_moving: bool
    """Whether a fast picture is better than a fine one."""
    pick: tuple[float, float] | None = None
    """A place in the picture, shares of width and height from its left and top, whose depth the page wants to know."""


@dataclass(frozen=True)
class Command:
    """A button: one of COMMANDS."""

    name: str


@dataclass(frozen=True)
class CropBox:
    """A box in the training frame."""

    center: np.ndarray
    """float64 [3]."""
    size: np.ndarray
    """float64 [3], its edges."""
    axes: np.ndarray
    """float64 [3, 3], a row for each edge's direction."""


@dataclass(frozen=True)
class SetCrop:
    """Draw only what is in a box; None: everything."""

    box: CropBox | None


@dataclass(frozen=True)
class SaveKeys:
    """Save a camera path under a name."""

    name: str
    poses: tuple[Pose, ...]


Order = Look | Command | SetCrop | SaveKeys


def parse(message: str | bytes, views: int) -> Order:
    """The order in a message of a page that shows so many views. Raises OrderError for anything else."""
    try:
        content = json.loads(message)
    except (ValueError, RecursionError):
        raise OrderError("not JSON") from None
    if not isinstance(content, dict):
        raise OrderError("not an object")
    kind = content.get("do")
    if kind == "look":
        return _look(content, views)
    if kind == "crop":
        return SetCrop(None if content.get("box") is None else crop_box(content["box"]))
    if kind == "keys":
        return _keys(content)
    if kind in COMMANDS:
        return Command(kind)
    raise OrderError("no such order")


def crop_box(content: Any) -> CropBox:
    """A box of plain numbers: center [3], size [3], axes [3, 3]. Raises OrderError for anything else."""
    if not isinstance(content, dict):
        raise OrderError("a box is an object")
    axes = _numbers(content.get("axes"), (3, 3))
    size = _numbers(content.get("size"), (3,))
    if not _is_rotation(axes) or not (size > 0.0).all():
        raise OrderError("a box has axes at right angles and a positive size")
    return CropBox(_numbers(content.get("center"), (3,)), size, axes)


def _look(content: dict[str, Any], views: int) -> Look:
    photo = content.get("photo")
    if photo is not None and not _is_whole(photo, 0, views - 1):
        raise OrderError("no such photo")
    size = content.get("size")
    if not isinstance(size, list) or len(size) != 2 or not all(_is_whole(side, SMALLEST, LARGEST) for side in size):
        raise OrderError("a size is two whole numbers")
    if content.get("mode") not in MODES:
        raise OrderError("no such mode")
    number = content.get("number")
    if not isinstance(number, int) or not _is_whole(number, 0, 2**53):
        raise OrderError("a look has a number")
    pick = content.get("pick")
    place = None if pick is None else _numbers(pick, (2,))
    if place is not None and not ((place >= 0.0) & (place <= 1.0)).all():
        raise OrderError("a place is two shares")
    return Look(
        number, _pose(content.get("pose")), photo, content["mode"], (size[0], size[1]), content.get("moving") is True,
        None if place is None else (float(place[0]), float(place[1])),
    )  # fmt: skip


def _keys(content: dict[str, Any]) -> SaveKeys:
    name, poses = content.get("name"), content.get("poses")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise OrderError("a path's name has letters, digits, - and _")
    if not isinstance(poses, list) or not 1 <= len(poses) <= MOST_KEYS:
        raise OrderError(f"a path has 1 to {MOST_KEYS} key views")
    return SaveKeys(name, tuple(map(_pose, poses)))


def _pose(content: Any) -> Pose:
    """Of {"viewmat": 16 numbers by rows, "fov": vertical, radians}."""
    if not isinstance(content, dict):
        raise OrderError("a pose is an object")
    viewmat = _numbers(content.get("viewmat"), (16,)).reshape(4, 4)
    if not _is_rotation(viewmat[:3, :3]) or not np.allclose(viewmat[3], (0.0, 0.0, 0.0, 1.0)):
        raise OrderError("no camera's matrix")
    fov = content.get("fov")
    if isinstance(fov, bool) or not isinstance(fov, int | float) or not _FOV[0] <= fov <= _FOV[1]:
        raise OrderError("no field of view")
    return Pose(viewmat, float(fov))


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_rotation(matrix: np.ndarray) -> bool:
    """Whether rows are at right angles and of length 1; mirrored ones are, too (left-handed worlds)."""
    return bool(np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-3))


def _numbers(value: Any, shape: Sequence[int]) -> np.ndarray:
    try:
        result = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        result = np.empty(0)
    if result.shape != tuple(shape) or not (np.abs(result) <= _REACH).all():
        raise OrderError("not the numbers that belong here")
    return result
