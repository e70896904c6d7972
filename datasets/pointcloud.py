"""Point clouds in PLY files of any program: laser scanners, photogrammetry, other trainers.

Colours are the part on which programs differ. PDAL and laser scanners write 16 bits (or 8 bits in a 16-bit column),
MeshLab and CloudCompare bytes, Open3D and research code fractions of 1; the columns are called `red`, `r`,
`diffuse_red` (VCG, older MeshLab) or `scalar_R` (CloudCompare), and a file of Gaussians has harmonics instead.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import DataError
from .ply import Ply, PlyError, find_names
from .scene import PointCloud, finite_points

logger = logging.getLogger(__name__)

FILE = "points3d.ply"
"""Name of a point cloud that comes with cameras, in lower case (3DGS scene/dataset_readers.py)."""
GREY = 128
"""Of points without a colour."""
OVERSHOOT = 10.0
"""Fractions of 1 may exceed it, by resampling or in pictures of a high dynamic range. Numbers with a fraction of which
none reaches this are taken for such: as levels of 255 they would all but be black."""

_SH_C0 = 0.28209479177387814  # the harmonic of degree 0: colour = 0.5 + _SH_C0 * f_dc
_HARMONICS = ("f_dc_0", "f_dc_1", "f_dc_2")
_PREFIXES = ("", "diffuse_", "vertex_", "point_", "scalar_", "color_", "colour_")
_TRIPLES = [(f"{prefix}red", f"{prefix}green", f"{prefix}blue") for prefix in _PREFIXES]
_TRIPLES += [(f"{prefix}r", f"{prefix}g", f"{prefix}b") for prefix in _PREFIXES]
_BRIGHTNESS = ("intensity", "scalar_intensity", "reflectance", "amplitude", "grey", "gray")


@dataclass(frozen=True, eq=False)
class Colors:
    """The colours that a table of points holds."""

    values: np.ndarray
    """float32 [P, 3] from 0 to 1; NaN where the file has one."""
    columns: tuple[str, ...]
    """The columns they were read from."""
    words: str
    """How they are stored, for the log: "uint16, 0 to 65535"."""

    @property
    def are_usual(self) -> bool:
        """Whether they are bytes called red, green and blue, of which nothing need be said."""
        return self.columns == _TRIPLES[0] and self.words.startswith("uint8")

    def as_bytes(self) -> np.ndarray:
        """uint8 [P, 3]; grey where there is no number."""
        levels = np.nan_to_num(self.values * 255.0, nan=GREY, posinf=255.0, neginf=0.0)
        return np.clip(np.round(levels), 0, 255).astype(np.uint8)


def read_points(path: Path, remedy: str) -> PointCloud | None:
    """The `vertex` table of a PLY, grey where it has no colours; None, with a warning, where no point is finite.

    Says which columns colours were read from, and as what, unless they are bytes. Raises DataError for a file that is
    missing or broken, with `remedy` at the end of the message.
    """
    try:
        ply = Ply.open(path)
        if "vertex" not in ply:
            raise PlyError(f"no `vertex` element among {', '.join(ply.elements) or 'none'}")
        table = ply.table("vertex")
        axes = find_names(table.dtype.names, "xyz")
        if axes is None:
            raise PlyError("no columns x, y and z")
    except (PlyError, OSError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", None) or error
        raise DataError(f"{path}: not a readable point cloud ({reason}); {remedy}") from error
    positions = np.stack([table[axis] for axis in axes], axis=-1).astype(np.float64)
    cloud = finite_points(PointCloud(positions, _bytes(path, table)), path) if len(table) else None
    if cloud is None:
        logger.warning("%s: holds no points", path)
    return cloud


def find_points(folder: Path) -> Path | None:
    """The point cloud that 3DGS keeps beside cameras, `points3D.ply`, or BlenderNeRF, `points3d.ply`; None without."""
    return next((path for path in sorted(folder.iterdir()) if path.name.lower() == FILE and path.is_file()), None)


def count_points(path: Path) -> int | None:
    """How many points the header of a PLY says there are; None where it cannot be read."""
    try:
        vertices = Ply.open(path).elements.get("vertex")
    except (PlyError, OSError):
        return None
    return vertices.count if vertices else None


def colors_of(table: np.ndarray) -> Colors | None:
    """The colours of a structured array [P] with columns of numbers, whatever their type and range; None without.

    Integers are of 8 bits if none is above 255, else of 16, else of their type. Floating-point ones are fractions of 1
    if none is above it (or above `OVERSHOOT`, and not all are whole numbers), else levels of 8 or 16 bits.
    """
    names = next(filter(None, (find_names(table.dtype.names, triple) for triple in _TRIPLES)), None)
    if names is None:
        names = find_names(table.dtype.names, _HARMONICS)
        return names and Colors(0.5 + np.float32(_SH_C0) * _side_by_side(table, names), (*names,), "harmonics")
    levels = np.stack([_unsigned(table[name]) for name in names], axis=-1)
    full = _full_scale(levels)
    values = levels.astype(np.float32) / np.float32(full)
    return Colors(values, (*names,), f"{table.dtype[names[0]].name}, 0 to {full:g}")


def _bytes(path: Path, table: np.ndarray) -> np.ndarray:
    """uint8 [P, 3], and a word in the log unless they are bytes already."""
    colors = colors_of(table)
    if colors is None:
        brightness = next((name for name in table.dtype.names if name.lower() in _BRIGHTNESS), None)
        only = f", only {brightness}" if brightness else ""
        logger.warning("%s: its points have no colours%s; they start grey", path, only)
        return np.full((len(table), 3), GREY, np.uint8)
    if not colors.are_usual:
        logger.info("%s: colours from %s (%s)", path, " ".join(colors.columns), colors.words)
    return colors.as_bytes()


def _side_by_side(table: np.ndarray, names: list[str]) -> np.ndarray:
    return np.stack([table[name] for name in names], axis=-1).astype(np.float32)


def _unsigned(column: np.ndarray) -> np.ndarray:
    """Bytes and 16-bit numbers that a writer without unsigned types declared signed."""
    kind = column.dtype.kind
    if kind == "i" and column.dtype.itemsize < 4 and len(column) and column.min() < 0:
        return np.ascontiguousarray(column).view(column.dtype.str.replace("i", "u"))
    return column


def _full_scale(levels: np.ndarray) -> float:
    """What stands for a full colour in numbers [P, 3] of one range."""
    finite = levels[np.isfinite(levels)] if levels.dtype.kind == "f" else levels
    top = float(finite.max()) if finite.size else 0.0
    if levels.dtype.kind == "f" and (top <= 1.0 or (top < OVERSHOOT and (finite % 1 != 0).any())):
        return 1.0
    for full in (255.0, 65535.0):
        if top < full + 1:
            return full
    return top if levels.dtype.kind == "f" else float(np.iinfo(levels.dtype).max)
