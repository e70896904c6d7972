"""antimatter15's .splat, which gsplat writes: 32 bytes per Gaussian (position and scale as float32, colour, opacity and
rotation as bytes), no harmonics (antimatter15/splat, convert.py), in the frame of the PLY it is made from."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from distwar_gs.formats.packing import content_of, logit
from distwar_gs.formats.ply import ModelFileError
from distwar_gs.formats.table import Arrays, Notes
from distwar_kernels.constants import HARMONIC0 as SH_C0

_SPLAT = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])


def write(path: Path, arrays: Arrays, notes: Notes) -> None:
    """A .splat file; see distwar_gs.formats.table."""
    path.write_bytes(encode_splat(arrays))


def read(path: str | os.PathLike[str], rub: bool) -> tuple[dict[str, np.ndarray], None]:
    """See distwar_gs.formats.table."""
    return read_splat(path), None


def encode_splat(arrays: Arrays) -> bytes:
    """The content of a .splat file, in the order of a Morton curve.

    Args:
        arrays: as in distwar_gs.gaussians.model, float32, finite, N > 0, in the frame of the input; harmonics are left
            out.
    """
    return exported(arrays, "splat")


def exported(arrays: Arrays, layout: str) -> bytes:
    """The content of a file as gsplat writes it."""
    from gsplat.exporter import export_splats  # takes seconds; builds nothing

    return export_splats(**{name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, format=layout)


def read_splat(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Arrays as in distwar_gs.gaussians.model, without harmonics, in the frame of the file.

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
