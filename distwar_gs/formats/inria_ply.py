"""The PLY of the 3DGS reference, a column for each number of a Gaussian (graphdeco-inria/gaussian-splatting,
scene/gaussian_model.py, construct_list_of_attributes), and what other trainers make of it."""

from __future__ import annotations

import itertools
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import plyfile

from distwar_datasets.readers.ply import column_names
from distwar_datasets.readers.pointcloud import colors_of
from distwar_gs.formats.compressed_ply import is_compressed, read_compressed_ply
from distwar_gs.formats.origins import origin_of_comments
from distwar_gs.formats.parameters import DEGREES, ROWS, columns_of, harmonics_of
from distwar_gs.formats.ply import ModelFileError, columns, element, read_ply
from distwar_gs.formats.ply_comments import comments_for, render_mode_of
from distwar_gs.formats.table import Arrays, Notes
from distwar_kernels.constants import HARMONIC0 as SH_C0

_NORMAL = ("nx", "ny", "nz")  # always zero, but viewers expect the columns
_POSITION, _SCALE, _SH0 = (columns_of(name) for name in ("means", "scales", "sh0"))
_REST = {3 * harmonics_of(degree): ROWS["shN"].columns_at(degree) for degree in DEGREES}
"""The f_rest columns by their number: 0, 9, 24, 45."""

FLATNESS = 1e-4
"""Thickness of a Gaussian that is written with two scales, in multiples of the smaller one: no picture shows it."""

log = logging.getLogger(__name__)


def write(path: Path, arrays: Arrays, notes: Notes) -> None:
    """A binary little-endian PLY of float32 columns; see distwar_gs.formats.table.

    Columns: position, normal (zeros), f_dc, f_rest (channel-major; 45 at degree 3), opacity (logit), scale (log) and
    rotation (wxyz, as optimised: not normalised).
    """
    table = _table(arrays)
    rest = _REST[3 * arrays["shN"].shape[1]]
    others = (columns_of(name) for name in ("opacities", "scales", "quats"))
    names = [*_POSITION, *_NORMAL, *_SH0, *rest, *itertools.chain(*others)]
    vertices = table.view([(name, "<f4") for name in names]).reshape(len(table))
    described = plyfile.PlyElement.describe(vertices, "vertex")
    plyfile.PlyData([described], byte_order="<", comments=comments_for(notes)).write(str(path))


def read(path: str | os.PathLike[str], rub: bool) -> tuple[Arrays, np.ndarray | None]:
    """Of any PLY of Gaussians, compressed ones too; see distwar_gs.formats.table."""
    ply = read_ply(path)
    arrays = read_compressed_ply(path, ply) if is_compressed(ply) else _arrays(path, element(path, ply, "vertex"))
    return arrays, origin_of_comments(path, ply.comments)


def read_origin(path: str | os.PathLike[str]) -> np.ndarray | None:
    """See distwar_gs.formats.table."""
    return origin_of_comments(path, read_ply(path).comments)


def read_render_mode(path: str | os.PathLike[str]) -> str | None:
    """See distwar_gs.formats.table."""
    return render_mode_of(read_ply(path).comments)


def _table(arrays: Arrays) -> np.ndarray:
    """All columns side by side, float32 [N, 17 + 3 K]."""
    means, count = arrays["means"], len(arrays["means"])
    sh0 = arrays["sh0"].reshape(count, 3)
    rest = arrays["shN"].transpose(0, 2, 1).reshape(count, 3 * arrays["shN"].shape[1])
    opacities = arrays["opacities"].reshape(count, 1)
    parts = (means, np.zeros_like(means), sh0, rest, opacities, arrays["scales"], arrays["quats"])
    return np.concatenate(parts, axis=1, dtype="<f4")


def _arrays(path: str | os.PathLike[str], vertices: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of the reference's PLY, as the parameters have them."""
    rest = _rest_columns(path, column_names(vertices))
    means = columns(path, vertices, _POSITION, precision=np.float64)
    if all(vertices.dtype[axis].itemsize <= 4 for axis in _POSITION):
        means = means.astype(np.float32)
    quats, opacities = (columns(path, vertices, columns_of(name)) for name in ("quats", "opacities"))
    scales, sh0 = _scales(path, vertices), _sh0(path, vertices)
    channel_major = columns(path, vertices, rest).reshape(len(vertices), 3, len(rest) // 3)
    return {
        "means": means,
        "quats": quats,
        "scales": scales,
        "opacities": opacities[:, 0],
        "sh0": sh0[:, None, :],
        "shN": channel_major.transpose(0, 2, 1),
    }


def _scales(path: str | os.PathLike[str], vertices: np.ndarray) -> np.ndarray:
    """Log scales [N, 3]; the third of flat Gaussians (2DGS has two: hbb1/2d-gaussian-splatting) is tiny."""
    if _SCALE[2] in column_names(vertices) or not set(_SCALE[:2]) <= set(column_names(vertices)):
        return columns(path, vertices, _SCALE)
    along = columns(path, vertices, _SCALE[:2])
    return np.concatenate([along, along.min(axis=1, keepdims=True) + np.float32(math.log(FLATNESS))], axis=1)


def _sh0(path: str | os.PathLike[str], vertices: np.ndarray) -> np.ndarray:
    """Harmonics of degree 0 [N, 3], from colours where the file has those instead (nerfstudio, `rgb`)."""
    colors = None if set(_SH0) & set(column_names(vertices)) else colors_of(vertices)
    if colors is None:
        return columns(path, vertices, _SH0)
    log.info("%s: no f_dc, colours from %s (%s)", path, " ".join(colors.columns), colors.words)
    return (colors.values - np.float32(0.5)) / np.float32(SH_C0)


def _rest_columns(path: str | os.PathLike[str], names: Sequence[str]) -> list[str]:
    """The f_rest columns in order; their number must be that of a degree from 0 to 3."""
    count = sum(name.startswith("f_rest_") for name in names)
    if count not in _REST:
        allowed = ", ".join(map(str, _REST))
        raise ModelFileError(f"{path}: has {count} f_rest columns; spherical harmonics need one of {allowed}")
    return _REST[count]
