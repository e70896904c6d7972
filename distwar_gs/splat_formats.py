"""The small formats of web viewers: antimatter15's .splat and PlayCanvas' compressed PLY. gsplat writes both.

`.splat`: 32 bytes a Gaussian (position and scale as float32, colour, opacity and rotation as bytes), no harmonics
(antimatter15/splat, convert.py). Compressed PLY: 16 bytes a Gaussian, in chunks of 256 that share bounds, and 1 byte a
harmonic (playcanvas/splat-transform, write-compressed-ply.ts). Both are in the frame of the PLY they are made from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import torch

from datasets.ply import Ply
from distwar_gs.packing import content_of, from_smallest_three, logit
from distwar_gs.ply import ModelFileError, columns, element
from distwar_kernels.constants import HARMONIC0 as SH_C0

CHUNK = 256
"""Gaussians that share their bounds in a compressed PLY."""

_SPLAT = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])


def encode_splat(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of a .splat file, in the order of a Morton curve.

    Args:
        arrays: as in distwar_gs.model, float32, finite, N > 0, in the frame of the input; harmonics are left out.
    """
    return _exported(arrays, "splat")


def encode_compressed_ply(arrays: Mapping[str, np.ndarray], comments: tuple[str, ...] = ()) -> bytes:
    """The content of a compressed PLY, in the order of a Morton curve; Gaussians of an opacity up to 1/255, which no
    renderer shows, are left out.

    Args:
        arrays: as in distwar_gs.model, float32, finite, N > 0, in the frame of the input.
        comments: lines for its header.
    """
    header, end, body = _exported(arrays, "ply_compressed").partition(b"end_header\n")
    lines = header.decode().splitlines()
    lines[2:2] = [f"comment {comment}" for comment in comments]
    if arrays["shN"].shape[1] == 0:  # readers refuse an element without columns
        lines = [line for line in lines if not line.startswith("element sh ")]
    return "\n".join([*lines, ""]).encode() + end + body


def _exported(arrays: Mapping[str, np.ndarray], layout: str) -> bytes:
    from gsplat.exporter import export_splats  # takes seconds; builds nothing

    return export_splats(**{name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, format=layout)


def read_splat(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Arrays as in distwar_gs.model, without harmonics, in the frame of the file.

    Raises: ModelFileError for a missing file, or one whose length is not that of whole records.
    """
    content = content_of(path)
    if not content or len(content) % _SPLAT.itemsize:
        raise ModelFileError(
            f"{path}: not a readable .splat file ({len(content)} bytes are not records of {_SPLAT.itemsize}); "
            "export or copy it again"
        )
    records = np.frombuffer(content, _SPLAT)
    colors = records["rgba"] / np.float32(255.0)
    with np.errstate(divide="ignore", invalid="ignore"):  # sizes of 0 are flat; negative ones are left out later
        scales = np.log(records["scale"])
    return {
        "means": records["mean"].copy(),
        "quats": records["quat"] / np.float32(127.5) - np.float32(1.0),  # writers round down from 128 (q + 1)
        "scales": scales,
        "opacities": logit(colors[:, 3]),
        "sh0": ((colors[:, None, :3] - 0.5) / SH_C0).astype(np.float32),
        "shN": np.empty((len(records), 0, 3), np.float32),
    }


def is_compressed(ply: Ply) -> bool:
    """Whether a PLY is PlayCanvas' compressed one."""
    return "chunk" in ply and "vertex" in ply and "packed_position" in ply.elements["vertex"].names


def read_compressed_ply(path: str | os.PathLike[str], ply: Ply) -> dict[str, np.ndarray]:
    """Arrays as in distwar_gs.model, in the frame of the file.

    Raises: ModelFileError where columns are missing, or the elements do not belong together.
    """
    bounds, packed = element(path, ply, "chunk"), element(path, ply, "vertex")
    if len(bounds) != -(-len(packed) // CHUNK):
        raise ModelFileError(
            f"{path}: {len(bounds)} rows of `chunk` do not fit {len(packed)} of `vertex`, {CHUNK} to each; "
            "export it again"
        )
    names = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
    position, rotation, scale, color = columns(path, packed, names, "u").T
    rgba = _fractions(color, (24, 8), (16, 8), (8, 8), (0, 8))
    rgb = rgba[:, :3] if "min_r" not in bounds.dtype.names else _between(path, bounds, "r g b", rgba[:, :3])
    triple = ((21, 11), (11, 10), (0, 11))
    return {
        "means": _between(path, bounds, "x y z", _fractions(position, *triple)),
        "quats": _rotations(rotation),
        "scales": _between(path, bounds, "scale_x scale_y scale_z", _fractions(scale, *triple)),
        "opacities": logit(rgba[:, 3]),
        "sh0": ((rgb[:, None, :] - 0.5) / SH_C0).astype(np.float32),
        "shN": _harmonics(path, ply, len(packed)),
    }


def _fractions(words: np.ndarray, *fields: tuple[int, int]) -> np.ndarray:
    """Float64 [N, len(fields)] from 0 to 1 of unsigned integers, each at (shift, bits) of the words."""
    return np.stack([(words >> shift & 2**bits - 1) / (2**bits - 1) for shift, bits in fields], axis=1)


def _between(path: str | os.PathLike[str], bounds: np.ndarray, names: str, fractions: np.ndarray) -> np.ndarray:
    """Float32 [N, 3] at the fractions between the bounds of each row's chunk."""
    chunk = np.arange(len(fractions)) // CHUNK
    low, high = (columns(path, bounds, [f"{end}_{name}" for name in names.split()])[chunk] for end in ("min", "max"))
    return (low * (1.0 - fractions) + high * fractions).astype(np.float32)


def _rotations(words: np.ndarray) -> np.ndarray:
    """Float32 [N, 4], wxyz: 2 bits say which is largest, 10 bits stand for -sqrt(1/2) to sqrt(1/2) of each other."""
    others = (_fractions(words, (20, 10), (10, 10), (0, 10)) - 0.5) * np.sqrt(2.0)
    return from_smallest_three((words >> 30).astype(np.int64), others)


def _harmonics(path: str | os.PathLike[str], ply: Ply, count: int) -> np.ndarray:
    """Float32 [N, K, 3] of bytes that stand for -4 to 4."""
    if "sh" not in ply:
        return np.empty((count, 0, 3), np.float32)
    table = element(path, ply, "sh")
    if len(table) != count or len(table.dtype) not in (9, 24, 45):
        raise ModelFileError(
            f"{path}: `sh` has {len(table)} rows of {len(table.dtype)} columns for {count} Gaussians; export it again"
        )
    codes = columns(path, table, [f"f_rest_{index}" for index in range(len(table.dtype))], "u").astype(np.float32)
    fractions = np.where(codes == 0, 0.0, np.where(codes == 255, 1.0, (codes + 0.5) / 256.0))
    channel_major = (8.0 * (fractions - 0.5)).reshape(count, 3, -1)
    return np.ascontiguousarray(channel_major.transpose(0, 2, 1), np.float32)
