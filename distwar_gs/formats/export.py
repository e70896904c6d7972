"""Files of Gaussians, read and written in any format (distwar_gs.formats.table), checked, and in which frame.

Everything is written in the frame of the input scene, or, where that is far from its origin, relative to an origin that
the file tells (distwar_gs.formats.origins).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from distwar_gs.formats.cameras_json import save_cameras_json as save_cameras_json
from distwar_gs.formats.origins import read_record, write_record
from distwar_gs.formats.ply import ModelFileError
from distwar_gs.formats.table import (
    ORIGIN,
    PLY,
    RENDER_MODE,
    SOG_META,
    WRITTEN_SUFFIXES,
    Arrays,
    Format,
    Notes,
    is_model_file,
    listed,
    read_format,
    unread_model,
    written_format,
)
from distwar_gs.system.files import replacing

if TYPE_CHECKING:
    from distwar_datasets.scene import Normalisation
    from distwar_gs.formats.tour import Tour

LIMIT = 80.0
"""Infinite opacities (logit), which converters write for bytes of 0 and 255, and scales (log) of flat Gaussians become
this or its negative: no float32 shows the difference."""

log = logging.getLogger(__name__)


def save_ply(
    path: str | os.PathLike[str],
    params: Mapping[str, Tensor],
    normalisation: Normalisation | None = None,
    *,
    antialiased: bool = False,
    origin: np.ndarray | None = None,
) -> None:
    """Write the Gaussians as a PLY (distwar_gs.formats.inria_ply), atomically.

    Args:
        path: the file; missing folders are made.
        params: means [N,3], quats [N,4], scales [N,3], opacities [N], sh0 [N,1,3], shN [N,K,3]; any device.
        normalisation: the transform of the training frame, undone here; None writes the numbers as they are.
        antialiased: recorded as `comment SplatRenderMode: mip` (else `default`).
        origin: float64 [3], what the positions are relative to in the frame of the input, recorded as `comment
            SplatOrigin: x y z`. Taken off where there is a normalisation; else it is off already.
    """
    arrays = {name: _as_array(tensor) for name, tensor in params.items()}
    means, scales = _to_file_frame(arrays["means"], arrays["scales"], _about(normalisation, origin))
    _write(PLY, path, {**arrays, "means": means, "scales": scales}, Notes(antialiased, origin))


def load_ply(path: str | os.PathLike[str], normalisation: Normalisation | None = None) -> dict[str, Tensor]:
    """Read Gaussians from a PLY in the layout of the 3DGS reference, with or without normals and f_rest, or compressed.

    Gaussians that are not finite, or have a rotation of zeros, are left out with a warning.

    Args:
        path: the file.
        normalisation: the transform of the training frame, applied here, after the origin that the file tells is
            added; None keeps the frame of the file.

    Returns: means [N,3], quats [N,4] (wxyz), scales [N,3] (log), opacities [N] (logit), sh0 [N,1,3] and shN [N,K,3]
        with K = 0, 3, 8 or 15; all float32 on the CPU.
    Raises: ModelFileError for a missing or broken file, or one without the columns of 3D Gaussians.
    """
    return _in_frame(*_read(PLY, path), normalisation)


def load_model(
    path: str | os.PathLike[str], normalisation: Normalisation | None = None, *, rub: bool = True
) -> dict[str, Tensor]:
    """As `load_ply`, for any of MODEL_SUFFIXES and the folder of a SOG. `rub`: whether a file of a format with axes of
    its own has these."""
    return _in_frame(*_read(read_format(path), path, rub), normalisation)


def load_exactly(path: str | os.PathLike[str], *, rub: bool = True) -> tuple[dict[str, Tensor], np.ndarray]:
    """As `load_model`, in the frame of the file, with `means` as float64 where the file has them so; and its origin.

    The origin, float64 [3], added to the means gives the frame of the input; zeros where the file tells none.
    """
    arrays, origin = _read(read_format(path), path, rub)
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}, origin


def read_origin(path: str | os.PathLike[str]) -> np.ndarray:
    """What the positions of a file of Gaussians are relative to, float64 [3]; zeros where it does not tell."""
    row = read_format(path)
    return _origin_of(path, None if ORIGIN in row.lacks else row.functions().read_origin(path))


def save_model(
    path: str | os.PathLike[str],
    params: Mapping[str, Tensor],
    *,
    antialiased: bool = False,
    rub: bool = True,
    origin: np.ndarray | None = None,
    tour: Tour | None = None,
) -> None:
    """Write the Gaussians in the format that the file's name ends in, atomically, in the frame they are in.

    Args:
        path: its name ends in one of WRITTEN_SUFFIXES; missing folders are made.
        params: as for `save_ply`, N > 0, finite: as `load_model` gives them without a normalisation.
        antialiased: recorded unless the format lacks RENDER_MODE.
        rub: whether to turn the axes to those that the format prescribes, if it does.
        origin: float64 [3], what the positions are relative to in the frame of the input; recorded in a comment, or in
            NAME.origin.json beside the file.
        tour: of a page, how it shows the model, in the frame of `params`; None: from outside.

    Raises: ModelFileError for another name, and for Gaussians most of which the format cannot hold.
    """
    row = written_format(path)
    if row is None:
        raise ModelFileError(f"{path}: no format to write; let the name end in {listed(WRITTEN_SUFFIXES, 'or')}")
    arrays = {name: _as_array(tensor) for name, tensor in params.items()}
    if row.is_beyond_reach(arrays["means"]):
        raise ModelFileError(
            f"{path}: no {row.suffix[1:].upper()} reaches so far from the origin; take an offset off, as "
            "--export_origin local of scripts/convert.py does, or choose another format"
        )
    _write(row, path, arrays, Notes(antialiased, origin, rub, Path(path).stem, tour))


def as_reloaded(
    params: Mapping[str, Tensor], normalisation: Normalisation, origin: np.ndarray | None = None
) -> dict[str, Tensor]:
    """The Gaussians to the last bit as `load_ply` gives them from the file that `save_ply` writes.

    What is measured should be what the file holds: positions and scales are rounded on the way to the frame of the
    input and back, so numbers of the parameters themselves could not be had again from the file.

    Args:
        params: as for `save_ply`; finite (of others `load_ply` leaves some out).
        normalisation: the transform of the training frame.
        origin: as for `save_ply`.

    Returns: the same tensors, but means and scales, which are new, on the same device.
    """
    frame = _about(normalisation, origin)
    means, scales = _to_file_frame(_as_array(params["means"]), _as_array(params["scales"]), frame)
    rounded = _to_training_frame(means, scales, frame)
    return {
        **params,
        **{
            name: torch.from_numpy(array).to(params[name].device)
            for name, array in zip(("means", "scales"), rounded, strict=True)
        },
    }


def read_render_mode(path: str | os.PathLike[str]) -> str | None:
    """What the file says of its training: "mip" (antialiased), "default", or None: nothing.

    In a PLY it is a comment, in an SPZ or SOG a flag; a .splat cannot tell.
    """
    row = read_format(path)
    return None if RENDER_MODE in row.lacks else row.functions().read_render_mode(path)


def find_ply(model: str | os.PathLike[str], iteration: int | None = None) -> Path:
    """The PLY of a run folder, by default that of the newest iteration; a path of a model's file is returned as it is.

    Raises: ModelFileError that lists the iterations there are.
    """
    model = Path(model)
    if is_model_file(model):
        return model / SOG_META if model.is_dir() else model
    unread = unread_model(model)
    if unread:
        raise ModelFileError(unread)
    files = model.glob("point_cloud/iteration_*/point_cloud.ply")
    numbered = [(file.parent.name.removeprefix("iteration_"), file) for file in files]
    saved = {int(number): file for number, file in numbered if number.isdecimal()}
    wanted = max(saved, default=None) if iteration is None else iteration
    if wanted in saved:
        return saved[wanted]
    there = "iterations " + ", ".join(map(str, sorted(saved))) if saved else "none, so let train.py save one first"
    what = "a saved model" if iteration is None else f"iteration {iteration}"
    raise ModelFileError(f"{model}: no point_cloud/iteration_N/point_cloud.ply with {what}; there are: {there}")


def _as_array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float32).numpy()


def _about(normalisation: Normalisation | None, origin: np.ndarray | None) -> Normalisation | None:
    """The transform between the frame of a file and that of the training."""
    return normalisation if normalisation is None or origin is None else normalisation.about(origin)


def _write(row: Format, path: str | os.PathLike[str], arrays: Arrays, notes: Notes) -> None:
    """The file, and the origin beside it if the format lacks a place for one."""
    axes = "after y and z have changed sign" if row.axes and notes.rub else "in the axes they have"
    with replacing(path) as temporary:
        row.functions().write(temporary, arrays, notes)
        write_record(path, notes.origin if ORIGIN in row.lacks else None, axes)


def _read(row: Format, path: str | os.PathLike[str], rub: bool = True) -> tuple[Arrays, np.ndarray]:
    """The Gaussians of a file, in its frame, and its origin."""
    arrays, told = row.functions().read(path, rub)
    return _usable(path, arrays), _origin_of(path, told)


def _origin_of(path: str | os.PathLike[str], told: np.ndarray | None) -> np.ndarray:
    """What the file tells, or the record beside it; zeros where there is neither."""
    told = read_record(path) if told is None else told
    return np.zeros(3) if told is None else told


def _to_file_frame(
    means: np.ndarray, scales: np.ndarray, normalisation: Normalisation | None
) -> tuple[np.ndarray, np.ndarray]:
    """Centres and log scales of the training frame in the frame of the file, float32."""
    if normalisation is None:
        return means, scales
    means = normalisation.undo_points(means.astype(np.float64)).astype(np.float32)
    return means, (scales.astype(np.float64) - math.log(normalisation.scale)).astype(np.float32)


def _to_training_frame(
    means: np.ndarray, scales: np.ndarray, normalisation: Normalisation | None
) -> tuple[np.ndarray, np.ndarray]:
    """The way back; it gives other last digits than the numbers had, as float32 rounds."""
    if normalisation is None:
        return means.astype(np.float32), scales
    means = normalisation.apply_points(means.astype(np.float64)).astype(np.float32)
    return means, scales + np.float32(math.log(normalisation.scale))


def _usable(path: str | os.PathLike[str], arrays: Arrays) -> dict[str, np.ndarray]:
    """The Gaussians that are finite and have a rotation; ModelFileError if there are none."""
    arrays = {
        **arrays,
        "opacities": np.clip(arrays["opacities"], -LIMIT, LIMIT),
        "scales": np.maximum(arrays["scales"], -LIMIT),
    }
    with np.errstate(over="ignore"):  # of float64, what float32 cannot hold is not finite either
        finite = {name: np.isfinite(array.astype(np.float32, copy=False)) for name, array in arrays.items()}
    sound = {name: values.reshape(len(values), -1).all(axis=1) for name, values in finite.items()}
    sound["quats"] &= (arrays["quats"] != 0).any(axis=1)
    keep = np.logical_and.reduce(list(sound.values()))
    if keep.all():
        return arrays
    spoiled = ", ".join(name for name, rows in sound.items() if not rows.all())
    if not keep.any():
        raise ModelFileError(f"{path}: none of its {len(keep)} Gaussians has sound {spoiled}; export it again")
    log.warning("%s: %d of %d Gaussians are left out: their %s are not finite, or rotations of zeros", path,
                np.count_nonzero(~keep), len(keep), spoiled)  # fmt: skip
    return {name: array[keep] for name, array in arrays.items()}


def _in_frame(arrays: Arrays, origin: np.ndarray, normalisation: Normalisation | None) -> dict[str, Tensor]:
    means, scales = _to_training_frame(arrays["means"], arrays["scales"], _about(normalisation, origin))
    placed = {**arrays, "means": means, "scales": scales}
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in placed.items()}
