"""Reading PLY files that others wrote: a header is believed only as far as the length of its file bears it out.

plyfile parses them; before it may, the header is checked here, so that a broken or malicious one ends in one line that
says what is wrong with it, before memory is taken for what it promises.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import plyfile

from distwar_gs.files import check_regular

LONGEST_HEADER = 2**16
"""Bytes; that of 62 columns takes 1.5 KiB."""

_BYTES = {
    "char": 1, "int8": 1, "uchar": 1, "uint8": 1, "short": 2, "int16": 2, "ushort": 2, "uint16": 2,
    "int": 4, "int32": 4, "uint": 4, "uint32": 4, "float": 4, "float32": 4, "double": 8, "float64": 8,
}  # fmt: skip


class ModelFileError(ValueError):
    """A model file that cannot be used; the message names the file, what is wrong and the remedy."""


@dataclass
class _Element:
    """What a header says of one table."""

    name: str
    count: int
    columns: dict[str, str] = field(default_factory=dict)
    """Type of each column, by name."""

    def least_bytes(self, text: bool) -> int:
        """What its rows take at least; in a text file each number takes a digit and a separator."""
        return self.count * sum(2 if text else _BYTES[kind] for kind in self.columns.values())


def read_ply(path: str | os.PathLike[str]) -> plyfile.PlyData:
    """A PLY file of plain columns: text or binary, of either byte order.

    Raises: ModelFileError for a missing file, one that is no PLY, and one whose header does not fit what follows.
    """
    try:
        _check_header(path)
        return plyfile.PlyData.read(os.fspath(path))
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file; give a run folder of train.py or a .ply file") from None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror}); give another file") from None
    except (plyfile.PlyParseError, ValueError) as error:
        problem = str(error).replace("\n", " ")
        raise ModelFileError(f"{path}: not a readable PLY file ({problem}); export or copy it again") from None


def element(path: str | os.PathLike[str], ply: plyfile.PlyData, name: str) -> np.ndarray:
    """The rows of an element, a structured array [N]; ModelFileError if there is none of that name, or it is empty."""
    if name not in ply:
        raise ModelFileError(f"{path}: has no `{name}` element, so it holds no 3D Gaussians; give another file")
    if len(ply[name]) == 0:
        raise ModelFileError(f"{path}: its `{name}` element has no rows: no 3D Gaussians; give another file")
    return ply[name].data


def columns(path: str | os.PathLike[str], table: np.ndarray, names: Sequence[str], kind: str = "f") -> np.ndarray:
    """The named columns side by side, [N, len(names)]: float32, or uint32 if `kind`, numpy's letter, is "u".

    Raises: ModelFileError for a column that is missing or of another kind.
    """
    for name in names:
        if name not in table.dtype.names:
            raise ModelFileError(
                f"{path}: column {name} is missing; expected the PLY of a 3D Gaussian Splatting trainer, "
                "not a point cloud or a mesh"
            )
        if table.dtype[name].kind != kind:
            expected = "floating point" if kind == "f" else "unsigned integers"
            raise ModelFileError(
                f"{path}: column {name} is of type {table.dtype[name].name}, not {expected}; export it again, as the "
                "3DGS reference does"
            )
    result = np.empty((len(table), len(names)), np.float32 if kind == "f" else np.uint32)
    for index, name in enumerate(names):
        result[:, index] = table[name]
    return result


def _check_header(path: str | os.PathLike[str]) -> None:
    """ValueError where the header is broken, or promises more than the file holds."""
    check_regular(path)
    with Path(path).open("rb") as file:
        start, size = file.read(LONGEST_HEADER), os.fstat(file.fileno()).st_size
    newline = b"\r\n" if start[3:5] == b"\r\n" else start[3:4]
    header, end, _ = start.partition(newline + b"end_header" + newline)
    if not header.startswith((b"ply\r", b"ply\n")) or not end:
        raise ValueError("no header from `ply` to `end_header` at its beginning")
    lines = [line.split() for line in header.decode("ascii").splitlines()]
    text = ["format", "ascii"] in (line[:2] for line in lines)
    elements = _elements(lines)
    promised, held = sum(element.least_bytes(text) for element in elements), size - len(header) - len(end)
    # The separator after the last number of a text file may be missing.
    if promised > held + text:
        counts = ", ".join(f"{element.count} rows of `{element.name}`" for element in elements)
        raise ValueError(f"its header promises {counts}: at least {promised} bytes, but {held} follow")


def _elements(lines: list[list[str]]) -> list[_Element]:
    """The tables that the lines of a header describe."""
    elements: list[_Element] = []
    for words in lines:
        if words[:1] == ["element"]:
            elements.append(_element(words))
        elif words[:1] == ["property"]:
            _add_column(elements, words)
    names = [element.name for element in elements]
    if len(set(names)) < len(names):
        raise ValueError(f"two elements of one name among {', '.join(names)}")
    empty = next((element.name for element in elements if not element.columns), None)
    if empty is not None:  # numpy's memory map divides by the bytes of a row, which ends the process
        raise ValueError(f"element {empty} has no columns")
    return elements


def _element(words: list[str]) -> _Element:
    if len(words) != 3 or not words[2].isdecimal():
        raise ValueError(f"`{' '.join(words)}` is no element with a count")
    return _Element(words[1], int(words[2]))


def _add_column(elements: list[_Element], words: list[str]) -> None:
    line = f"`{' '.join(words)}`"
    if words[1:2] == ["list"]:
        raise ValueError(f"{line}: lists are for meshes, not for Gaussians")
    if len(words) != 3 or words[1] not in _BYTES or not elements:
        raise ValueError(f"{line} is no column of a table")
    if words[2] in elements[-1].columns:
        raise ValueError(f"column {words[2]} comes twice")
    elements[-1].columns[words[2]] = words[1]
