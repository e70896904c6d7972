"""glTF with the extension KHR_gaussian_splatting (Khronos, ratified), in one binary file: a .glb.

Every number is a float32 attribute of a primitive of points. Positions, rotations of length 1 and harmonics keep their
bits; scales and opacities are stored as such, not as logarithms and logits, and round. Programs that do not know the
extension show the points in their colors (COLOR_0). The axes are glTF's: right-handed, y up, z forward, -x right;
splat-transform takes them so, too. Layout and meanings: the extension's README in KhronosGroup/glTF; sections 3.6 and 4
of the specification of glTF 2.0.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distwar_gs.formats.origins import origin_in
from distwar_gs.formats.packing import check_growth, content_of
from distwar_gs.formats.ply import ModelFileError
from distwar_gs.formats.table import Arrays, Notes
from distwar_gs.formats.turning import half_turn
from distwar_kernels.constants import HARMONIC0

EXTENSION = "KHR_gaussian_splatting"
ORIGIN, RENDER_MODE = "SplatOrigin", "SplatRenderMode"
"""In the extras of the file's asset: what a PLY has as comments."""

_HEADER, _CHUNK = struct.Struct("<4sII"), struct.Struct("<II")
_JSON, _BINARY = 0x4E4F534A, 0x004E4942
_POINTS, _ARRAY_BUFFER = 0, 34962
_COMPONENTS: dict[int, np.dtype[Any]] = {
    5120: np.dtype("<i1"), 5121: np.dtype("<u1"), 5122: np.dtype("<i2"), 5123: np.dtype("<u2"), 5126: np.dtype("<f4"),
}  # fmt: skip
_TYPES = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
_MOST_BYTES = 2**32 - 1
_UNIT = 1e-6  # how far from 1 the length of a rotation in float32 may be, to be kept to the bit
_NOT_MOVED = {"translation": [0, 0, 0], "rotation": [0, 0, 0, 1], "scale": [1, 1, 1],
              "matrix": np.eye(4).ravel().tolist()}  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- writing


def write(path: Path, arrays: Arrays, notes: Notes) -> None:
    """A .glb; see distwar_gs.formats.table. Raises ModelFileError for more than 4 GiB, which its header cannot tell."""
    attributes = attributes_of(half_turn(arrays, "z") if notes.rub else arrays)
    size = sum(values.nbytes for values in attributes.values())  # each a multiple of 4
    text = json.dumps(document(attributes, notes), separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    whole = _HEADER.size + 2 * _CHUNK.size + len(text) + size
    if whole > _MOST_BYTES:
        raise ModelFileError(
            f"{len(arrays['means']):,} Gaussians are {whole / 2**30:.1f} GiB, and a .glb holds 4; write a .ply or .spz"
        )
    with path.open("wb") as file:
        file.write(_HEADER.pack(b"glTF", 2, whole) + _CHUNK.pack(len(text), _JSON) + text + _CHUNK.pack(size, _BINARY))
        for values in attributes.values():
            file.write(values.data)


def attributes_of(arrays: Arrays) -> dict[str, np.ndarray]:
    """What the file stores, by attribute, [N] or [N, 3 or 4], in the axes of `arrays`."""
    opacities = _sigmoid(arrays["opacities"])
    largest = math.log(np.finfo(np.float32).max)
    stored = {
        "POSITION": arrays["means"],
        "COLOR_0": _point_colors(arrays["sh0"][:, 0], opacities),
        f"{EXTENSION}:ROTATION": np.roll(_of_length_1(arrays["quats"]), -1, axis=1),
        f"{EXTENSION}:SCALE": np.exp(np.minimum(arrays["scales"].astype(np.float64), largest)),
        f"{EXTENSION}:OPACITY": opacities,
    }
    harmonics = np.concatenate([arrays["sh0"], arrays["shN"]], axis=1)
    stored |= {name: harmonics[:, index] for index, name in enumerate(_harmonics(harmonics.shape[1]))}
    kinds = {name: "u1" if name == "COLOR_0" else "<f4" for name in stored}
    return {name: np.ascontiguousarray(values, kinds[name]) for name, values in stored.items()}


def document(attributes: Mapping[str, np.ndarray], notes: Notes) -> dict[str, Any]:
    """The JSON of a file with these attributes, one after another in its buffer."""
    offsets = np.cumsum([0, *(values.nbytes for values in attributes.values())]).tolist()
    splats = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display", "projection": "perspective",
              "sortingMethod": "cameraDistance"}  # fmt: skip
    primitive = {"mode": _POINTS, "attributes": {name: index for index, name in enumerate(attributes)},
                 "extensions": {EXTENSION: splats}}  # fmt: skip
    extras: dict[str, Any] = {RENDER_MODE: "mip" if notes.antialiased else "default"}
    if notes.origin is not None and notes.origin.any():
        extras[ORIGIN] = notes.origin.tolist()
    return {
        "asset": {"version": "2.0", "generator": "distwar-gs", "extras": extras},
        "extensionsUsed": [EXTENSION],
        "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}], "meshes": [{"primitives": [primitive]}],
        "accessors": [_accessor(index, name, values) for index, (name, values) in enumerate(attributes.items())],
        "bufferViews": [
            {"buffer": 0, "byteOffset": offset, "byteLength": values.nbytes, "target": _ARRAY_BUFFER}
            for offset, values in zip(offsets, attributes.values(), strict=False)
        ],
        "buffers": [{"byteLength": offsets[-1]}],
    }  # fmt: skip


def _accessor(index: int, name: str, values: np.ndarray) -> dict[str, Any]:
    kind = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}[values[0].size]
    is_bytes = values.dtype == np.uint8
    told = {"bufferView": index, "componentType": 5121 if is_bytes else 5126, "count": len(values), "type": kind}
    if is_bytes:
        told["normalized"] = True
    if name == "POSITION":
        told |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
    return told


def _harmonics(count: int) -> Iterator[str]:
    """The attributes of the coefficients 0 to `count` - 1."""
    for degree in range(math.isqrt(count)):
        yield from (f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{index}" for index in range(2 * degree + 1))


def _of_length_1(quats: np.ndarray) -> np.ndarray:
    """Rotations as unit quaternions; those that are, as far as float32 tells, to the bit."""
    exact = quats.astype(np.float64)
    length = np.linalg.norm(exact, axis=1, keepdims=True)
    return np.where(np.abs(length - 1.0) < _UNIT, exact, exact / length)


def _point_colors(sh0: np.ndarray, opacities: np.ndarray) -> np.ndarray:
    """uint8 [N, 4] of points without direction: linear colors, as glTF has them, and opacities."""
    display = np.clip(HARMONIC0 * sh0.astype(np.float64) + 0.5, 0.0, 1.0)
    linear = np.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)
    return np.round(255.0 * np.concatenate([linear, opacities[:, None]], axis=1))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))


# ----------------------------------------------------------------------------------------------------------- reading


def read(path: str | os.PathLike[str], rub: bool) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """See distwar_gs.formats.table. Raises ModelFileError for a missing or broken file, and for one whose Gaussians are
    compressed, moved by a node, in several parts, or not in display colors."""
    told, binary = _parts(path)
    try:
        stored = _stored(path, told, binary)
        arrays = _arrays(stored)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise _broken(path, f"{type(error).__name__}: {error}") from None
    return half_turn(arrays, "z") if rub else arrays, _origin(path, told)


def read_origin(path: str | os.PathLike[str]) -> np.ndarray | None:
    """See distwar_gs.formats.table."""
    return _origin(path, _parts(path)[0])


def read_render_mode(path: str | os.PathLike[str]) -> str | None:
    """See distwar_gs.formats.table."""
    mode = _extras(_parts(path)[0]).get(RENDER_MODE)
    return mode if mode in ("mip", "default") else None


def _parts(path: str | os.PathLike[str]) -> tuple[dict[str, Any], bytes]:
    """The JSON and the binary chunk of a file."""
    content = content_of(path)
    try:
        magic, version, size = _HEADER.unpack_from(content)
        if magic != b"glTF" or version != 2:
            raise ValueError("no binary glTF of version 2")
        if size != len(content):
            raise ValueError(f"its header promises {size} bytes, {len(content)} are there")
        length, kind = _CHUNK.unpack_from(content, _HEADER.size)
        start = _HEADER.size + _CHUNK.size
        told = json.loads(content[start : start + length])
        if kind != _JSON or not isinstance(told, dict):
            raise ValueError("its first part is not a JSON object")
        more, kind = _CHUNK.unpack_from(content, start + length)
        if kind != _BINARY:
            raise ValueError("its second part is not binary")
    except (ValueError, struct.error, RecursionError) as error:
        raise _broken(path, error) from None
    start += length + _CHUNK.size
    return told, content[start : start + more]


def _stored(path: str | os.PathLike[str], told: dict[str, Any], binary: bytes) -> dict[str, np.ndarray]:
    """The attributes of the only primitive of Gaussians."""
    found = [
        (index, primitive)
        for index, mesh in enumerate(told.get("meshes", []))
        for primitive in mesh["primitives"]
        if EXTENSION in primitive.get("extensions", {})
    ]
    if len(found) != 1:
        many = f"{len(found)} parts of Gaussians, and one is read" if found else f"no Gaussians ({EXTENSION})"
        raise ModelFileError(f"{path}: holds {many}; export it again as one")
    mesh, primitive = found[0]
    splats = primitive["extensions"][EXTENSION]
    _check_kind(path, splats)
    if any(node.get(key, plain) != plain for node in told.get("nodes", []) for key, plain in _NOT_MOVED.items()):
        raise ModelFileError(f"{path}: a node moves, turns or scales its Gaussians; apply that and export it again")
    if sum(node.get("mesh") == mesh for node in told.get("nodes", [])) > 1:
        raise ModelFileError(f"{path}: shows its Gaussians at several places; export it again as one")
    stored = {name: _values(told, binary, index) for name, index in primitive["attributes"].items()
              if name == "POSITION" or name.startswith(f"{EXTENSION}:")}  # fmt: skip
    if len({len(values) for values in stored.values()}) != 1 or not len(stored["POSITION"]):
        raise ValueError("its attributes have different lengths, or none")
    return stored


def _check_kind(path: str | os.PathLike[str], splats: dict[str, Any]) -> None:
    for extension in splats.get("extensions", {}):
        raise ModelFileError(f"{path}: its Gaussians are compressed or changed by {extension}, which is not read; "
                             "convert it with PlayCanvas' splat-transform")  # fmt: skip
    for key, known in (("kernel", "ellipse"), ("colorSpace", "srgb_rec709_display")):
        if splats[key] != known:
            raise ModelFileError(f"{path}: its {key} is {splats[key]}, and only {known} is read; export it so")


def _values(told: dict[str, Any], binary: bytes, index: int) -> np.ndarray:
    """An accessor, float32 [N] or [N, 3 or 4]; ValueError where its bytes are not there."""
    accessor = told["accessors"][index]
    if "sparse" in accessor:
        raise ValueError("a sparse accessor")
    view, kind = told["bufferViews"][accessor["bufferView"]], _COMPONENTS[accessor["componentType"]]
    if view["buffer"] != 0 or "uri" in told["buffers"][0]:
        raise ValueError("a buffer in another file")
    count, width = int(accessor["count"]), _TYPES[accessor["type"]]
    start, stride = view.get("byteOffset", 0) + accessor.get("byteOffset", 0), view.get("byteStride")
    stride = width * kind.itemsize if stride is None else stride
    if min(count, start, stride) < 0 or start + (count - 1) * stride + width * kind.itemsize > len(binary):
        raise ValueError(f"accessor {index} reaches beyond its {len(binary)} bytes")
    check_growth(count, 0, len(binary))
    values = np.ndarray((count, width), kind, binary, start, (stride, kind.itemsize)).astype(np.float32)
    if accessor.get("normalized"):
        values = np.maximum(values / np.float32(np.iinfo(kind).max), np.float32(-1.0))
    return values[:, 0] if width == 1 else values


def _arrays(stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As in distwar_gs.gaussians.model, in the axes of the file."""
    of = {name: stored[f"{EXTENSION}:{name}"] for name in ("ROTATION", "SCALE", "OPACITY")}
    degrees = [degree for degree in (1, 2, 3) if f"{EXTENSION}:SH_DEGREE_{degree}_COEF_0" in stored]
    names = list(_harmonics((max(degrees, default=0) + 1) ** 2))
    harmonics = np.stack([stored[name] for name in names], axis=1)
    sizes, opacities = of["SCALE"].astype(np.float64), of["OPACITY"].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 and 1 become infinite; what is not valid is left out later
        scales, logits = np.log(sizes), np.log(opacities) - np.log1p(-opacities)
    return {
        "means": stored["POSITION"], "quats": np.roll(of["ROTATION"], 1, axis=1), "scales": scales.astype(np.float32),
        "opacities": logits.astype(np.float32), "sh0": harmonics[:, :1], "shN": harmonics[:, 1:],
    }  # fmt: skip


def _extras(told: dict[str, Any]) -> dict[str, Any]:
    asset = told.get("asset")
    extras = asset.get("extras") if isinstance(asset, dict) else None
    return extras if isinstance(extras, dict) else {}


def _origin(path: str | os.PathLike[str], told: dict[str, Any]) -> np.ndarray | None:
    """What `extras` of the asset tell, float64 [3]."""
    if ORIGIN not in _extras(told):
        return None
    return origin_in(path, _extras(told)[ORIGIN], f"`asset.extras.{ORIGIN}`")


def _broken(path: str | os.PathLike[str], problem: object) -> ModelFileError:
    return ModelFileError(f"{path}: not a readable .glb file ({problem}); export or copy it again")
