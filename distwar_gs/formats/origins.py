"""The origin of a file's positions: what was taken off those of the input, and how the file says so.

A PLY has the comment `SplatOrigin: x y z`, a .glb `SplatOrigin` in the extras of its asset. A .splat, .spz or .sog has
no place for it: NAME.origin.json lies beside it, with `{"origin": [x, y, z]}`. Adding the origin to every position, in
float64, gives the frame of the input. Files without either are in that frame already.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from distwar_datasets.origin import needs_origin, round_origin, scene_origin
from distwar_gs.formats.packing import middle_of
from distwar_gs.formats.ply import ModelFileError
from distwar_gs.formats.table import SOG_META, Format
from distwar_gs.system.files import replacing

if TYPE_CHECKING:
    from distwar_datasets.scene import Scene

COMMENT = "SplatOrigin: "
"""How a PLY's comment with the origin begins."""

_LONGEST_RECORD = 2**16  # bytes of a NAME.origin.json

log = logging.getLogger(__name__)


def export_origin(scene: Scene, choice: str) -> np.ndarray:
    """The origin of everything a run writes: float64 [3], in the world frame. Said in one line, once a session.

    Args:
        scene: what is trained on.
        choice: the setting train.export_origin. input: zeros. local: always near the cameras. auto: near the cameras
            where float32 is too coarse in the frame of the input (`distwar_datasets.origin.needs_origin`), else zeros.
    """
    needed = scene_origin(scene)
    origin = {"input": np.zeros(3), "local": scene_origin(scene, always=True), "auto": needed}[choice]
    if choice == "input" and needed.any():
        log.warning(
            "positions are written in the frame of the input, where 32-bit numbers are multiples of %g; "
            "--export_origin auto takes an offset off first, and records it", grid(needed),
        )  # fmt: skip
    elif origin.any():
        log.log(
            logging.WARNING if choice == "auto" else logging.INFO,
            "positions in PLY files and cameras.json are relative to (%s), as each of these files tells; in the frame "
            "of the input 32-bit numbers are multiples of %g there (--export_origin input writes those)",
            words(origin, ", "), grid(needed if needed.any() else origin),
        )  # fmt: skip
    return origin


def positions_origin(means: np.ndarray, *, always: bool = False) -> np.ndarray:
    """As `distwar_datasets.origin.scene_origin`, of a model without its scene: of its positions [N, 3], float64.

    The median position stands for the cameras, the median distance from it for the scene extent.
    """
    center, spread = middle_of(means)
    return round_origin(center, spread) if always or needs_origin(center, spread) else np.zeros(3)


def placed(
    params: Mapping[str, Tensor], origin: np.ndarray, choice: str, row: Format | None
) -> tuple[dict[str, Tensor], np.ndarray]:
    """The Gaussians with positions, float32, as --export_origin asks for them, and the origin of these, float64 [3].

    Args:
        params: as `load_exactly` gives them: positions are float64 where the file has them so.
        origin: likewise, what they are relative to.
        choice: auto moves them where they are float64 and too far from the origin for float32, or the format
            to write cannot reach them.
        row: this format.
    """
    means = params["means"].numpy()
    if choice == "input":
        wanted = np.zeros(3)
    elif choice == "local" or (row and row.is_beyond_reach(means)):
        wanted = positions_origin(means + origin, always=True)
    else:
        wanted = origin + positions_origin(means) if means.dtype == np.float64 else origin
    moved = means if np.array_equal(wanted, origin) else means.astype(np.float64) + (origin - wanted)
    return {**params, "means": torch.from_numpy(moved.astype(np.float32))}, wanted


def grid(position: np.ndarray) -> float:
    """How far apart float32 numbers are at the farthest coordinate of a position [3]."""
    return float(np.spacing(np.float32(np.abs(position).max())))


def words(origin: np.ndarray, separator: str = " ") -> str:
    """The three numbers in decimal notation, which reads back to the same bits."""
    return separator.join(f"{value:.17g}" for value in origin)


# ---------------------------------------------------------------------------------------------------------- records


def comments_of(origin: np.ndarray | None) -> tuple[str, ...]:
    """The comments by which a PLY tells its origin; none where there is none."""
    return (COMMENT + words(origin),) if origin is not None and origin.any() else ()


def origin_of_comments(path: str | os.PathLike[str], comments: Iterable[str]) -> np.ndarray | None:
    """The origin that the comments of a PLY tell, float64 [3]; None: nothing.

    Raises: ModelFileError for a comment that begins as ours and is not followed by three finite numbers.
    """
    found = next((line for line in comments if line.startswith(COMMENT.strip())), None)
    return None if found is None else origin_in(path, found.removeprefix(COMMENT.strip()).split(), f"comment {found}")


def record_of(path: str | os.PathLike[str]) -> Path:
    """Where the origin of a file without comments is: NAME.origin.json beside it, of a SOG's folder in there."""
    path = Path(path) / SOG_META if os.path.isdir(path) else Path(path)
    return path.with_name(f"{path.name}.origin.json")


def write_record(path: str | os.PathLike[str], origin: np.ndarray | None, axes: str) -> None:
    """Write the origin of the model `path` beside it; without one, remove what an earlier model of this name had.

    axes: how the axes of the file relate to those of the input, in words.
    """
    record = record_of(path)
    if origin is None or not origin.any():
        record.unlink(missing_ok=True)
        return
    meaning = f"added to the positions of {Path(path).name} ({axes}) it gives the frame of the input"
    with replacing(record) as temporary:
        temporary.write_text(json.dumps({"origin": origin.tolist(), "meaning": meaning}, indent=1) + "\n", "utf-8")


def read_record(path: str | os.PathLike[str]) -> np.ndarray | None:
    """The origin that lies beside the model `path`, float64 [3]; None: no such file.

    Raises: ModelFileError for a file that does not hold three finite numbers as `origin`.
    """
    record = record_of(path)
    if not record.is_file():
        return None
    try:
        if record.stat().st_size > _LONGEST_RECORD:
            raise ValueError("too long")
        values = json.loads(record.read_bytes())["origin"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ModelFileError(
            f'{record}: not readable ({type(error).__name__}: {error}); it must be JSON such as {{"origin": [x, y, z]}}'
        ) from None
    return origin_in(record, values, "`origin`")


def origin_in(path: str | os.PathLike[str], values: Any, where: str) -> np.ndarray:
    """Three finite numbers that a file tells, float64 [3]; ModelFileError, which says where, for anything else."""
    try:
        origin = np.array(values, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        origin = np.empty(0)
    if origin.shape != (3,) or not np.isfinite(origin).all():
        raise ModelFileError(f"{path}: {where} does not give three finite numbers x, y, z; correct it")
    return origin
