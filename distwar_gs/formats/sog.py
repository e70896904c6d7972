"""SOG, PlayCanvas' format of some 10 bytes for each Gaussian: a zip (`.sog`), or, only read, a folder with meta.json.

Each attribute is a lossless picture (WebP) of which a pixel belongs to a Gaussian, and meta.json says what its bytes
stand for. Version 2 has codebooks of 256 numbers, and a palette of harmonics ("The SOG Format", PlayCanvas' user
manual); version 1, which has no number, spreads bytes evenly between two bounds instead (playcanvas/sogs,
sogs_compression.py). The numbers are in the axes of a PLY, as splat-transform takes them, whatever the manual says.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from distwar_gs.formats.packing import check_growth, from_smallest_three, logit
from distwar_gs.formats.ply import ModelFileError
from distwar_gs.formats.sog_encoder import HARMONICS, PALETTE_COLUMNS, PALETTE_ROWS, encode_sog
from distwar_gs.formats.table import SOG_META, Arrays, Notes

_LONGEST_META = 2**22  # bytes; three codebooks take 2**14
_FORMATS = ("WEBP", "PNG")
_BROKEN = (ValueError, LookupError, TypeError, AttributeError, OverflowError, EOFError, RuntimeError, OSError,
           zipfile.BadZipFile, zlib.error, Image.DecompressionBombError)  # fmt: skip
"""What a damaged zip, JSON or picture raises."""


def write(path: Path, arrays: Arrays, notes: Notes) -> None:
    """A .sog file; see distwar_gs.formats.table."""
    path.write_bytes(encode_sog(arrays, antialiased=notes.antialiased))


def read(path: str | os.PathLike[str], rub: bool) -> tuple[dict[str, np.ndarray], None]:
    """See distwar_gs.formats.table."""
    return read_sog(path)[0], None


def read_render_mode(path: str | os.PathLike[str]) -> str:
    """See distwar_gs.formats.table."""
    return "mip" if is_antialiased_sog(path) else "default"


def read_sog(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], bool]:
    """Arrays as in distwar_gs.gaussians.model, in the frame of a PLY, and whether the model was trained antialiased.

    Rotations of an unknown kind become zeros.

    Args:
        path: a bundle, a meta.json with its pictures beside it, or the folder of these.

    Raises: ModelFileError for what is missing or broken, of another version, or promises far more than its bytes hold.
    """
    files = _open(path)
    try:
        meta = _Meta.of(files)
        check_growth(meta.count, meta.bands, files.size)
        return _arrays(meta), meta.antialiased
    except _BROKEN as error:
        raise _unreadable(path, error) from None


def is_antialiased_sog(path: str | os.PathLike[str]) -> bool:
    """Whether the model was trained antialiased; reads meta.json only. Raises ModelFileError as `read_sog`."""
    files = _open(path)
    try:
        return _Meta.of(files).antialiased
    except _BROKEN as error:
        raise _unreadable(path, error) from None


# ------------------------------------------------------------------------------------------------------------- files


@dataclass(frozen=True)
class _Folder:
    """The files beside a meta.json."""

    place: Path

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.place.iterdir() if path.is_file())

    def read(self, name: str, most: int) -> bytes:
        """A file of at most so many bytes. Raises ValueError for a name that leads elsewhere, and for a larger one."""
        parts = PurePosixPath(name).parts
        path = self.place.joinpath(*parts)
        if not parts or ".." in parts or PurePosixPath(name).is_absolute() or not path.is_file():
            raise ValueError(f"{name!r} is no file beside {SOG_META}")
        _check_size(name, path.stat().st_size, most)
        return path.read_bytes()


@dataclass(frozen=True)
class _Bundle:
    """The files of a zip."""

    path: Path

    @property
    def size(self) -> int:
        """Bytes of the zip."""
        return self.path.stat().st_size

    def read(self, name: str, most: int) -> bytes:
        """As `_Folder.read`. Names are those at the root of the zip, or in the folder that meta.json is in."""
        with zipfile.ZipFile(self.path) as archive:
            metas = [other for other in archive.namelist() if PurePosixPath(other).name == SOG_META]
            root = PurePosixPath(min(metas, key=len, default=SOG_META)).parent
            entry = archive.getinfo(str(root / name))
            _check_size(name, entry.file_size, most)
            with archive.open(entry) as file:
                return file.read(most)


def _open(path: str | os.PathLike[str]) -> _Folder | _Bundle:
    path = Path(path)
    if path.is_dir():
        return _Folder(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file; give a run folder of train.py or a model's file")
    return _Folder(path.parent) if path.name.lower() == SOG_META else _Bundle(path)


def _check_size(name: str, size: int, most: int) -> None:
    if size > most:
        raise ValueError(f"{name} has {size:,} bytes, more than what it stands for")


def _unreadable(path: str | os.PathLike[str], error: Exception) -> ModelFileError:
    problem = f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
    problem = problem.replace("\n", " ")
    return ModelFileError(f"{path}: not a readable SOG file ({problem}); export or copy it again")


# -------------------------------------------------------------------------------------------------------------- meta


@dataclass(frozen=True)
class _Meta:
    """meta.json, and the pictures that it names."""

    files: _Folder | _Bundle
    content: Mapping[str, Any]
    version: int
    count: int
    bands: int
    antialiased: bool

    @classmethod
    def of(cls, files: _Folder | _Bundle) -> _Meta:
        content = json.loads(files.read(SOG_META, _LONGEST_META))
        if not isinstance(content, dict):
            raise ValueError(f"{SOG_META} is no table of values")
        version = content.get("version", 1)
        if version not in (1, 2):
            raise ValueError(f"version {version!r}; 1 and 2 are read")
        count = content["count"] if "count" in content else content["means"]["shape"][0]
        if type(count) is not int or count < 1:
            raise ValueError(f"{count!r} Gaussians")
        antialiased = content.get("antialias") is True or content.get("model") == "antialiased"
        return cls(files, content, version, count, _bands(files, content), antialiased)

    def bounds(self, section: str) -> tuple[np.ndarray, np.ndarray]:
        """`mins` and `maxs`, float64 [n] each."""
        low, high = (np.array(self.content[section][key], np.float64) for key in ("mins", "maxs"))
        if low.shape != high.shape or not np.isfinite([low, high]).all():
            raise ValueError(f"bounds of {section}")
        return low, high

    def codebook(self, section: str) -> np.ndarray:
        """float32 [256]. Early writers left the first number out, which follows from its neighbours."""
        numbers = list(self.content[section]["codebook"])
        if numbers[:1] == [None]:
            numbers[0] = numbers[1] + (numbers[1] - numbers[-1]) / 255.0
        book = np.array(numbers, np.float64)
        if book.shape != (256,) or np.isnan(book).any():
            raise ValueError(f"codebook of {section}: not 256 numbers")
        return book.astype(np.float32)

    def decoded(self, section: str, codes: np.ndarray) -> np.ndarray:
        """float32 numbers that bytes [..., channels] stand for."""
        if self.version == 2:
            return self.codebook(section)[codes]
        low, high = self.bounds(section)
        return (low + (high - low) * (codes / 255.0)).astype(np.float32)

    def pixels(self, section: str, index: int, mode: str) -> np.ndarray:
        """uint8 [count, channels] of the picture `files[index]`; mode: RGB or RGBA."""
        name = self.content[section]["files"][index]
        picture = _picture(self.files, name, most_pixels=4 * self.count + 2**20)
        if picture.width * picture.height < self.count:
            raise ValueError(f"{name} has {picture.width}x{picture.height} pixels for {self.count:,} Gaussians")
        return np.asarray(picture.convert(mode)).reshape(-1, len(mode))[: self.count]


def _picture(files: _Folder | _Bundle, name: str, most_pixels: int) -> Image.Image:
    """A picture of at most so many pixels, not yet decoded."""
    picture = Image.open(io.BytesIO(files.read(name, 4 * most_pixels + 2**20)), formats=_FORMATS)
    if picture.width * picture.height > most_pixels:
        raise ValueError(f"{name} has {picture.width}x{picture.height} pixels, far more than Gaussians")
    return picture


def _palette(files: _Folder | _Bundle, name: str) -> Image.Image:
    return _picture(files, name, PALETTE_COLUMNS * HARMONICS[3] * PALETTE_ROWS)


def _bands(files: _Folder | _Bundle, content: Mapping[str, Any]) -> int:
    """The degree of the harmonics: as stated, or by the width of the palette (version 1)."""
    section = content.get("shN")
    if not section:
        return 0
    if "bands" in section:
        bands = section["bands"]
    else:
        width = _palette(files, section["files"][0]).width
        bands = {PALETTE_COLUMNS * count: degree for degree, count in HARMONICS.items()}.get(width)
    if bands not in HARMONICS:
        raise ValueError(f"{bands!r} bands of harmonics")
    return bands


# ------------------------------------------------------------------------------------------------------------ arrays


def _arrays(meta: _Meta) -> dict[str, np.ndarray]:
    sh0 = meta.pixels("sh0", 0, "RGBA")
    colors = meta.decoded("sh0", sh0 if meta.version == 1 else sh0[:, :3])
    return {
        "means": _means(meta),
        "quats": _quats(meta.pixels("quats", 0, "RGBA")),
        "scales": meta.decoded("scales", meta.pixels("scales", 0, "RGB")),
        "opacities": colors[:, 3].copy() if meta.version == 1 else logit(sh0[:, 3] / 255.0),
        "sh0": np.ascontiguousarray(colors[:, None, :3]),
        "shN": _harmonics(meta),
    }


def _means(meta: _Meta) -> np.ndarray:
    """float32 [N, 3]: 16 bits between bounds, of which the logarithm was taken on both sides of 0."""
    low, high = meta.bounds("means")
    codes = meta.pixels("means", 0, "RGB").astype(np.float64) + 256.0 * meta.pixels("means", 1, "RGB")
    logarithms = low + (high - low) * (codes / 65535.0)
    with np.errstate(over="ignore"):  # what is beyond float32 is left out later
        return (np.sign(logarithms) * np.expm1(np.abs(logarithms))).astype(np.float32)


def _quats(pixels: np.ndarray) -> np.ndarray:
    """float32 [N, 4], wxyz; alpha 252 to 255 says which component is the largest, and left out."""
    largest = pixels[:, 3].astype(np.int64) - 252
    others = (pixels[:, :3] / 255.0 - 0.5) * np.sqrt(2.0)
    quats = from_smallest_three(np.maximum(largest, 0), others)
    quats[largest < 0] = 0.0
    return quats


def _harmonics(meta: _Meta) -> np.ndarray:
    """float32 [N, K, 3] from a palette of 64 entries a row; entries that are not there are zeros."""
    count = HARMONICS[meta.bands]
    if count == 0:
        return np.empty((meta.count, 0, 3), np.float32)
    section = meta.content["shN"]
    palette = _palette(meta.files, section["files"][0])
    if palette.width != PALETTE_COLUMNS * count:
        raise ValueError(f"{section['files'][0]} is {palette.width} pixels wide, not {PALETTE_COLUMNS * count}")
    entries = meta.decoded("shN", np.asarray(palette.convert("RGB"))).reshape(-1, count, 3)
    entries = entries[: section.get("count", len(entries))]
    labels = meta.pixels("shN", 1, "RGB").astype(np.int64) @ [1, 256, 0]
    entries = np.concatenate([entries, np.zeros((1, count, 3), np.float32)])
    return entries[np.minimum(labels, len(entries) - 1)]
