"""Files other programs read: the Gaussians as PLY and the cameras as JSON, both as the 3DGS reference writes them, and
the Gaussians in the smaller formats of viewers.

Layouts: graphdeco-inria/gaussian-splatting, scene/gaussian_model.py (construct_list_of_attributes) and
utils/camera_utils.py (camera_to_JSON); distwar_gs.spz and distwar_gs.splat_formats. Everything is written in the frame
of the input scene, or, where that is far from its origin, relative to an origin that the file tells
(distwar_gs.origins).
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import plyfile
import torch
from torch import Tensor

from datasets.pointcloud import colors_of
from distwar_gs.files import SOG_META, is_model_file, replacing, unread_model
from distwar_gs.origins import comments_of, origin_of_comments, read_record, write_record
from distwar_gs.ply import ModelFileError, columns, element, read_ply
from distwar_gs.sog import is_antialiased_sog, is_sog, read_sog
from distwar_gs.splat_formats import (
    encode_compressed_ply,
    encode_splat,
    is_compressed,
    read_compressed_ply,
    read_splat,
)
from distwar_gs.spz import encode_spz, is_beyond_reach, read_spz
from distwar_kernels.constants import HARMONIC0 as SH_C0

if TYPE_CHECKING:
    from datasets.scene import Normalisation, View

_POSITION = ("x", "y", "z")
_NORMAL = ("nx", "ny", "nz")  # always zero, but viewers expect the columns
_SH0 = ("f_dc_0", "f_dc_1", "f_dc_2")
_SCALE = ("scale_0", "scale_1", "scale_2")
_QUATERNION = ("rot_0", "rot_1", "rot_2", "rot_3")
_REST_COUNTS = tuple(3 * ((degree + 1) ** 2 - 1) for degree in range(4))  # 0, 9, 24, 45
_RENDER_MODE = "SplatRenderMode: "  # the comment by which exporters and viewers tell antialiased models apart
_POSTSHOT = {"antialiased 0": "default", "antialiased 1": "mip"}
_MODES = (_RENDER_MODE, *_POSTSHOT)

LIMIT = 80.0
"""Infinite opacities (logit), which converters write for bytes of 0 and 255, and scales (log) of flat Gaussians become
this or its negative: no float32 shows the difference."""

FLATNESS = 1e-4
"""Thickness of a Gaussian that is written with two scales, in multiples of the smaller one: no picture shows it."""

log = logging.getLogger(__name__)


# --------------------------------------------------------------------------------------------------------- Gaussians


def save_ply(
    path: str | os.PathLike[str],
    params: Mapping[str, Tensor],
    normalisation: Normalisation | None = None,
    *,
    antialiased: bool = False,
    origin: np.ndarray | None = None,
) -> None:
    """Write the Gaussians as a binary little-endian PLY of float32 columns, atomically.

    Columns: position, normal (zeros), f_dc, f_rest (channel-major; 45 at degree 3), opacity (logit), scale (log) and
    rotation (wxyz, as optimised: not normalised).

    Args:
        path: the file; missing folders are made.
        params: means [N,3], quats [N,4], scales [N,3], opacities [N], sh0 [N,1,3], shN [N,K,3]; any device.
        normalisation: the transform of the training frame, undone here; None writes the numbers as they are.
        antialiased: recorded as `comment SplatRenderMode: mip` (else `default`).
        origin: float64 [3], what the positions are relative to in the frame of the input, recorded as `comment
            SplatOrigin: x y z`. Taken off where there is a normalisation; else it is off already.
    """
    table = _table(params, _about(normalisation, origin))
    names = _names(table.shape[1])
    vertices = table.view([(name, "<f4") for name in names]).reshape(len(table))
    ply = plyfile.PlyData(
        [plyfile.PlyElement.describe(vertices, "vertex")], byte_order="<", comments=_comments(antialiased, origin)
    )
    with replacing(path) as temporary:
        ply.write(str(temporary))
        write_record(path, None, "")


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
    return _in_frame(*_read_ply(path), normalisation)


def load_model(
    path: str | os.PathLike[str], normalisation: Normalisation | None = None, *, rub: bool = True
) -> dict[str, Tensor]:
    """As `load_ply`, for any of MODEL_SUFFIXES and the folder of a SOG. `rub`: whether an SPZ has the axes its format
    prescribes."""
    return _in_frame(*_read(path, rub), normalisation)


def load_exactly(path: str | os.PathLike[str], *, rub: bool = True) -> tuple[dict[str, Tensor], np.ndarray]:
    """As `load_model`, in the frame of the file, with `means` as float64 where the file has them so; and its origin.

    The origin, float64 [3], added to the means gives the frame of the input; zeros where the file tells none.
    """
    arrays, origin = _read(path, rub)
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}, origin


def read_origin(path: str | os.PathLike[str]) -> np.ndarray:
    """What the positions of a file of Gaussians are relative to, float64 [3]; zeros where it does not tell."""
    return _origin_of(path, read_ply(path).comments if _is_ply(path) else ())


def save_model(
    path: str | os.PathLike[str],
    params: Mapping[str, Tensor],
    *,
    antialiased: bool = False,
    rub: bool = True,
    origin: np.ndarray | None = None,
) -> None:
    """Write the Gaussians in the format that the file's name ends in, atomically, in the frame they are in.

    Args:
        path: .ply, .compressed.ply, .splat or .spz; missing folders are made.
        params: as for `save_ply`, N > 0, finite: as `load_model` gives them without a normalisation.
        antialiased: recorded where the format can (all but .splat).
        rub: of .spz, whether to turn the axes to those its format prescribes (`encode_spz`).
        origin: float64 [3], what the positions are relative to in the frame of the input; recorded in a comment, or in
            NAME.origin.json beside the file.

    Raises: ModelFileError for another name, and for Gaussians of which an SPZ cannot reach most.
    """
    path = Path(path)
    name, arrays = path.name.lower(), {name: _as_array(tensor) for name, tensor in params.items()}
    if name.endswith(".compressed.ply"):
        content = encode_compressed_ply(arrays, _comments(antialiased, origin))
    elif name.endswith(".splat"):
        content = encode_splat(arrays)
    elif name.endswith(".spz"):
        if is_beyond_reach(arrays["means"]):
            raise ModelFileError(
                f"{path}: no SPZ reaches so far from the origin; take an offset off, as --export_origin local of "
                "scripts/convert.py does, or choose another format"
            )
        content = encode_spz(arrays, antialiased=antialiased, rub=rub)
    elif name.endswith(".ply"):
        return save_ply(path, params, antialiased=antialiased, origin=origin)
    else:
        raise ModelFileError(f"{path}: no format to write; let the name end in .ply, .compressed.ply, .splat or .spz")
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        turned = name.endswith(".spz") and rub
        axes = "after y and z have changed sign" if turned else "in the axes they have"
        write_record(path, None if name.endswith(".ply") else origin, axes)


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
    normalisation = _about(normalisation, origin)
    arrays = (_as_array(params[name]) for name in ("means", "scales"))
    rounded = _to_training_frame(*_to_file_frame(*arrays, normalisation), normalisation)
    means, scales = (torch.from_numpy(array).to(params["means"].device) for array in rounded)
    return {**params, "means": means, "scales": scales}


def read_render_mode(path: str | os.PathLike[str]) -> str | None:
    """What the file says of its training: "mip" (antialiased), "default", or None: nothing.

    In a PLY it is the last comment SplatRenderMode (Brush, SuperSplat) or antialiased (Postshot), in an SPZ or SOG a
    flag; a .splat cannot tell.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".spz":
        return "mip" if read_spz(path)[1] else "default"
    if suffix == ".splat":
        return None
    if is_sog(path):
        return "mip" if is_antialiased_sog(path) else "default"
    lines = (line.strip() for line in read_ply(path).comments)
    modes = [_POSTSHOT.get(line, line.removeprefix(_RENDER_MODE)) for line in lines if line.startswith(_MODES)]
    return modes[-1] if modes else None


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


def _table(params: Mapping[str, Tensor], normalisation: Normalisation | None) -> np.ndarray:
    """All columns side by side, float32 [N, 17 + 3 K]."""
    arrays = {name: _as_array(tensor) for name, tensor in params.items()}
    means, scales = _to_file_frame(arrays["means"], arrays["scales"], normalisation)
    count = len(means)
    sh0 = arrays["sh0"].reshape(count, 3)
    rest = arrays["shN"].transpose(0, 2, 1).reshape(count, 3 * arrays["shN"].shape[1])
    opacities = arrays["opacities"].reshape(count, 1)
    parts = (means, np.zeros_like(means), sh0, rest, opacities, scales, arrays["quats"])
    return np.concatenate(parts, axis=1, dtype="<f4")


def _as_array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float32).numpy()


def _about(normalisation: Normalisation | None, origin: np.ndarray | None) -> Normalisation | None:
    """The transform between the frame of a file and that of the training."""
    return normalisation if normalisation is None or origin is None else normalisation.about(origin)


def _read(path: str | os.PathLike[str], rub: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The Gaussians of any file, in its frame, and its origin."""
    if _is_ply(path):
        return _read_ply(path)
    readers = {".spz": lambda: read_spz(path, rub=rub)[0], ".splat": lambda: read_splat(path)}
    arrays = readers.get(Path(path).suffix.lower(), lambda: read_sog(path)[0])()
    return _usable(path, arrays), _origin_of(path, ())


def _read_ply(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    ply = read_ply(path)
    arrays = read_compressed_ply(path, ply) if is_compressed(ply) else _arrays(path, element(path, ply, "vertex"))
    return _usable(path, arrays), _origin_of(path, ply.comments)


def _is_ply(path: str | os.PathLike[str]) -> bool:
    """Whether a file is read as a PLY, which has comments: whatever is of no other format."""
    return Path(path).suffix.lower() not in (".spz", ".splat") and not is_sog(path)


def _origin_of(path: str | os.PathLike[str], comments: Sequence[str]) -> np.ndarray:
    """What the file's comments tell, or the record beside it; zeros where there is neither."""
    told = origin_of_comments(path, comments)
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


def _names(count: int) -> list[str]:
    rest = [f"f_rest_{index}" for index in range(count - 17)]
    return [*_POSITION, *_NORMAL, *_SH0, *rest, "opacity", *_SCALE, *_QUATERNION]


def _comments(antialiased: bool, origin: np.ndarray | None) -> tuple[str, ...]:
    mode = _RENDER_MODE + ("mip" if antialiased else "default")
    return "Generated by distwar-gs", mode, *comments_of(origin)


def _arrays(path: str | os.PathLike[str], vertices: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of the reference's PLY, as the parameters have them."""
    rest = _rest_columns(path, vertices.dtype.names)
    means = columns(path, vertices, _POSITION, precision=np.float64)
    if all(vertices.dtype[axis].itemsize <= 4 for axis in _POSITION):
        means = means.astype(np.float32)
    quats, opacities = (columns(path, vertices, names) for names in (_QUATERNION, ("opacity",)))
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
    if _SCALE[2] in vertices.dtype.names or not set(_SCALE[:2]) <= set(vertices.dtype.names):
        return columns(path, vertices, _SCALE)
    along = columns(path, vertices, _SCALE[:2])
    return np.concatenate([along, along.min(axis=1, keepdims=True) + np.float32(math.log(FLATNESS))], axis=1)


def _sh0(path: str | os.PathLike[str], vertices: np.ndarray) -> np.ndarray:
    """Harmonics of degree 0 [N, 3], from colours where the file has those instead (nerfstudio, `rgb`)."""
    colors = None if set(_SH0) & set(vertices.dtype.names) else colors_of(vertices)
    if colors is None:
        return columns(path, vertices, _SH0)
    log.info("%s: no f_dc, colours from %s (%s)", path, " ".join(colors.columns), colors.words)
    return (colors.values - np.float32(0.5)) / np.float32(SH_C0)


def _rest_columns(path: str | os.PathLike[str], names: Sequence[str]) -> list[str]:
    """The f_rest columns in order; their number must be that of a degree from 0 to 3."""
    count = sum(name.startswith("f_rest_") for name in names)
    if count not in _REST_COUNTS:
        allowed = ", ".join(map(str, _REST_COUNTS))
        raise ModelFileError(f"{path}: has {count} f_rest columns; spherical harmonics need one of {allowed}")
    return [f"f_rest_{index}" for index in range(count)]


def _usable(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
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


def _in_frame(
    arrays: Mapping[str, np.ndarray], origin: np.ndarray, normalisation: Normalisation | None
) -> dict[str, Tensor]:
    means, scales = _to_training_frame(arrays["means"], arrays["scales"], _about(normalisation, origin))
    placed = {**arrays, "means": means, "scales": scales}
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in placed.items()}


# ----------------------------------------------------------------------------------------------------------- cameras


def save_cameras_json(
    path: str | os.PathLike[str], views: Sequence[View], normalisation: Normalisation, origin: np.ndarray | None = None
) -> None:
    """Write the cameras as the 3DGS viewers read them, atomically, in the frame of the run's PLYs.

    A list with, for each view: id, img_name, width, height, position (camera centre), rotation (camera-to-world, rows),
    fy, fx in pixels, and beyond the reference's layout cx, cy (pixel centres at +0.5) and, if the positions are
    relative to one, origin (added to a position it gives the frame of the input).
    """
    frame = _about(normalisation, origin)
    told = {} if origin is None or not origin.any() else {"origin": origin.tolist()}
    entries = [_camera_entry(index, view, frame) | told for index, view in enumerate(views)]
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def _camera_entry(index: int, view: View, normalisation: Normalisation) -> dict[str, Any]:
    to_world = np.linalg.inv(normalisation.undo_viewmat(view.viewmat))
    return {
        "id": index,
        "img_name": view.name,
        "width": view.width,
        "height": view.height,
        "position": to_world[:3, 3].tolist(),
        "rotation": to_world[:3, :3].tolist(),
        "fy": float(view.K[1, 1]),
        "fx": float(view.K[0, 0]),
        "cx": float(view.K[0, 2]),
        "cy": float(view.K[1, 2]),
    }
