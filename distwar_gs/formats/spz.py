"""SPZ, Niantic's format of some 20 bytes and 1 byte a harmonic for each Gaussian: version 3 written, 2 and 3 read.

A gzip stream of a 16-byte header, then the attributes one after another. Layout, constants and rounding are those of
the format's README and of load-spz.cc in nianticlabs/spz. (On PyPI its name leads to another author's source package,
which needs a Rust compiler.) Version 4 is compressed with Zstandard, which Python has from 3.14 on.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from distwar_gs.formats.packing import check_growth, content_of, from_smallest_three, logit, middle_of, smallest_three
from distwar_gs.formats.ply import ModelFileError
from distwar_gs.formats.table import Arrays, Notes
from distwar_gs.formats.turning import half_turn

MAGIC = b"NGSP"
VERSION = 3
FRACTIONAL_BITS = 12
"""The fewest that are written, coordinates to 1/4096 of a unit, up to 2048 units from the origin: unless that is finer
than FINEST, or coarser than COARSEST, of the spread of the Gaussians."""
FINEST, COARSEST = 2.0**-16, 2.0**-10
SH_BUCKETS = (8, 16)
"""Of 256 levels between -1 and 1 those that are used for harmonics of degree 1, and of higher ones: every so many."""

_HEADER = struct.Struct("<4sIIBBBx")
_COLOR_SCALE = 0.15
_ANTIALIASED = 1
_MOST_EXPANSION = 1032  # deflate cannot do more


def write(path: Path, arrays: Arrays, notes: Notes) -> None:
    """An SPZ; see distwar_gs.formats.table."""
    path.write_bytes(encode_spz(arrays, antialiased=notes.antialiased, rub=notes.rub))


def read(path: str | os.PathLike[str], rub: bool) -> tuple[dict[str, np.ndarray], None]:
    """See distwar_gs.formats.table."""
    return read_spz(path, rub=rub)[0], None


def read_render_mode(path: str | os.PathLike[str]) -> str:
    """See distwar_gs.formats.table."""
    return "mip" if read_spz(path)[1] else "default"


def encode_spz(arrays: Arrays, *, antialiased: bool = False, rub: bool = True) -> bytes:
    """The file's content.

    Gaussians beyond `reach` from the origin along an axis, which the format cannot place, are drawn in towards it and
    made smaller by the same factor: from near the origin they look the same.

    Args:
        arrays: as in distwar_gs.gaussians.model, float32, finite, N > 0; the frame of the input, as a PLY holds it.
        antialiased: the flag for models trained with compensated opacities.
        rub: turn the axes from x right, y down, z forward to the format's x right, y up, z back; False: leave them.
    """
    arrays = half_turn(arrays, "x") if rub else arrays
    means, scales, bits = _placed(arrays["means"], arrays["scales"])
    harmonics = arrays["shN"]
    degree = math.isqrt(harmonics.shape[1] + 1) - 1
    parts = (
        _HEADER.pack(MAGIC, VERSION, len(means), degree, bits, _ANTIALIASED * antialiased),
        _fixed_point(means, bits),
        _bytes_of(255.0 / (1.0 + np.exp(-arrays["opacities"].astype(np.float64)))),
        _bytes_of(255.0 * (_COLOR_SCALE * arrays["sh0"][:, 0] + 0.5)),
        _bytes_of(16.0 * (scales + 10.0)),
        _smallest_three(arrays["quats"]),
        _quantized(harmonics),
    )
    return gzip.compress(b"".join(parts), compresslevel=6, mtime=0)


def reach(means: np.ndarray) -> float:
    """How far along an axis an SPZ of these positions [N, 3] reaches: 2048 units; for large scenes farther."""
    return (2**23 - 1) / 2.0 ** _fewest_bits(means)


def is_beyond_reach(means: np.ndarray) -> bool:
    """Whether most Gaussians, not only strays and the sky, lie where an SPZ does not reach."""
    center, spread = middle_of(means)
    return float(np.abs(center).max()) + spread > reach(means)


def read_spz(path: str | os.PathLike[str], *, rub: bool = True) -> tuple[dict[str, np.ndarray], bool]:
    """Arrays as in distwar_gs.gaussians.model, in the frame of a PLY, and whether the model was trained antialiased.

    Args:
        path: the file.
        rub: turn the axes back from the format's; False: leave them.

    Raises: ModelFileError for a missing or broken file, or one of another version.
    """
    content = _decompressed(path)
    _, version, count, degree, bits, flags = _HEADER.unpack_from(content)
    means, alphas, colors, scales, quats, harmonics = _split(content, _sizes(version, count, degree))
    arrays = {
        "means": (_from_fixed_point(means) / 2.0**bits).astype(np.float32),
        "quats": _from_smallest_three(quats) if version == 3 else _from_first_three(quats),
        "scales": scales.reshape(count, 3) / np.float32(16.0) - 10.0,
        "opacities": logit(alphas / 255.0),
        "sh0": ((colors.reshape(count, 1, 3) / 255.0 - 0.5) / _COLOR_SCALE).astype(np.float32),
        "shN": (harmonics.reshape(count, -1, 3).astype(np.float32) - 128.0) / 128.0,
    }
    return half_turn(arrays, "x") if rub else arrays, bool(flags & _ANTIALIASED)


# ----------------------------------------------------------------------------------------------------------- writing


def _placed(means: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Centres and log scales within the format's reach, and as many fractional bits as the farthest leaves."""
    fewest = _fewest_bits(means)
    shrink = np.minimum(1.0, reach(means) / np.maximum(np.abs(means).max(axis=1), 1e-30))[:, None]
    means, scales = means * shrink, scales + np.log(shrink)
    bits = int(np.floor(np.log2((2**23 - 1) / max(np.abs(means).max(), 1e-30))))
    return means, scales, min(max(bits, fewest), 23)


def _fewest_bits(means: np.ndarray) -> int:
    """FRACTIONAL_BITS, where they are between FINEST and COARSEST of the median distance from the median position."""
    _, spread = middle_of(means)
    coarsest, finest = (math.ceil(-math.log2(share * spread)) for share in (COARSEST, FINEST))
    return min(max(min(max(FRACTIONAL_BITS, coarsest), finest), 0), 23)


def _fixed_point(means: np.ndarray, bits: int) -> bytes:
    """24-bit signed integers, little-endian."""
    fixed = np.round(means * 2.0**bits).astype("<i4")
    return fixed.reshape(-1, 1).view(np.uint8)[:, :3].tobytes()


def _bytes_of(values: np.ndarray) -> bytes:
    return np.clip(np.round(values), 0, 255).astype(np.uint8).tobytes()


def _smallest_three(quats: np.ndarray) -> bytes:
    """Which of x, y, z, w is largest in 2 bits, then the others, each a sign and 9 bits of what sqrt(1/2) is all of."""
    largest, others = smallest_three(np.roll(quats, -1, axis=1))
    fields = (others < 0).astype(np.uint32) << 9 | (511 * np.sqrt(2.0) * np.abs(others) + 0.5).astype(np.uint32)
    packed = largest.astype(np.uint32) << 30 | fields[:, 0] << 20 | fields[:, 1] << 10 | fields[:, 2]
    return packed.astype("<u4").tobytes()


def _quantized(harmonics: np.ndarray) -> bytes:
    """Bytes about 128, rounded to the centres of buckets, of which 0 is one: so they compress."""
    buckets = np.where(np.arange(harmonics.shape[1]) < 3, *SH_BUCKETS)[:, None]
    return _bytes_of(np.round(128.0 * harmonics / buckets) * buckets + 128.0)


# ----------------------------------------------------------------------------------------------------------- reading


def _decompressed(path: str | os.PathLike[str]) -> bytes:
    """Header and attributes, no more than the header allows, which is checked first."""
    packed = content_of(path)
    if packed[:4] == MAGIC:
        raise ModelFileError(f"{path}: SPZ of version 4 is not read; save it as version 3, or give the model as PLY")
    stream = zlib.decompressobj(wbits=31)
    try:
        header = stream.decompress(packed, _HEADER.size)
        size = _HEADER.size + sum(_checked_sizes(header, len(packed)))
        content = header + stream.decompress(stream.unconsumed_tail, size - len(header))
    except (zlib.error, ValueError, struct.error) as error:
        raise _broken(path, error) from None
    if len(content) < size:
        raise _broken(path, f"its header promises {size} bytes, {len(content)} are there")
    return content


def _broken(path: str | os.PathLike[str], problem: object) -> ModelFileError:
    return ModelFileError(f"{path}: not a readable SPZ file ({problem}); export or copy it again")


def _checked_sizes(header: bytes, packed: int) -> list[int]:
    """Bytes of each attribute; ValueError where the header cannot be true."""
    magic, version, count, degree, bits, _ = _HEADER.unpack(header)
    if magic != MAGIC or version not in (2, 3):
        raise ValueError("no SPZ of version 2 or 3" if magic == MAGIC else "not SPZ within its gzip")
    if degree > 3 or bits > 23:
        raise ValueError(f"degree {degree} of harmonics, {bits} fractional bits")
    sizes = _sizes(version, count, degree)
    if count == 0 or sum(sizes) > _MOST_EXPANSION * packed:
        raise ValueError(f"its header promises {count} Gaussians")
    check_growth(count, degree, packed)
    return sizes


def _sizes(version: int, count: int, degree: int) -> list[int]:
    """Bytes of positions, alphas, colours, scales, rotations and harmonics."""
    return [count * each for each in (9, 1, 3, 3, version + 1, 3 * ((degree + 1) ** 2 - 1))]


def _split(content: bytes, sizes: list[int]) -> list[np.ndarray]:
    flat = np.frombuffer(content, np.uint8, offset=_HEADER.size)
    return np.split(flat, np.cumsum(sizes))[: len(sizes)]


def _from_fixed_point(packed: np.ndarray) -> np.ndarray:
    """Float64 [N, 3]; the sign is in the highest of the three bytes."""
    words = np.zeros((len(packed) // 3, 4), np.uint8)
    words[:, 1:] = packed.reshape(-1, 3)
    return (words.view("<i4")[:, 0] >> 8).astype(np.float64).reshape(-1, 3)


def _from_smallest_three(packed: np.ndarray) -> np.ndarray:
    words = packed.view("<u4")
    fields = np.stack([words >> shift & 1023 for shift in (20, 10, 0)], axis=1)
    others = np.where(fields & 512, -1.0, 1.0) * (fields & 511) / (511 * np.sqrt(2.0))
    return np.roll(from_smallest_three((words >> 30).astype(np.int64), others), 1, axis=1)


def _from_first_three(packed: np.ndarray) -> np.ndarray:
    """Version 2: x, y and z as bytes, w is what is left."""
    xyz = packed.reshape(-1, 3) / 127.5 - 1.0
    w = np.sqrt(np.maximum(0.0, 1.0 - np.square(xyz).sum(axis=1, keepdims=True)))
    return np.concatenate([w, xyz], axis=1).astype(np.float32)
