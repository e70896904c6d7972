"""Reading PLY files that others wrote: a header is believed only as far as the length of its file bears it out.

Point clouds and Gaussians are both tables of plain columns; this reads such a table, whatever else the file holds
(faces of a mesh, cameras, empty elements), text or binary, of either byte order. Sizes are checked before memory is
taken for what a header promises, and elements that nobody asks for are passed over. Layout: Greg Turk, "The PLY Polygon
File Format" (1994), and the names of types that later writers use.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .regular import check_regular

LONGEST_HEADER = 2**16
"""Bytes; that of 62 columns takes 1.5 KiB."""

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
_REMARKS = ("comment", "obj_info")


class PlyError(ValueError):
    """A file that is no PLY, or a broken one; the message says what is wrong, without the file's name."""


@dataclass
class Element:
    """What a header says of one table."""

    name: str
    count: int
    columns: dict[str, str] = field(default_factory=dict)
    """Type of each column, as numpy writes it, by name; of a list, that of its items."""
    lists: dict[str, str] = field(default_factory=dict)
    """Type of the number of items of each column that is a list, by name."""

    @property
    def names(self) -> tuple[str, ...]:
        """The columns in the file's order."""
        return tuple(self.columns)

    def least_bytes(self, text: bool) -> int:
        """What its rows take at least; in a text file each number takes a digit and a separator."""
        kinds = [self.lists.get(name, kind) for name, kind in self.columns.items()]
        return self.count * sum(2 if text else np.dtype(kind).itemsize for kind in kinds)

    def dtype(self, order: str) -> np.dtype:
        """One row in a binary file of the byte order, "<" or ">"; for elements without lists."""
        return np.dtype([(name, (order or "<") + kind) for name, kind in self.columns.items()])


@dataclass(frozen=True)
class Ply:
    """A PLY file whose header is read, and whose rows are read when they are asked for."""

    path: Path
    comments: tuple[str, ...]
    """Wherever in the header they are, `obj_info` too: other programs move them."""
    elements: dict[str, Element]
    """By name, in the file's order."""
    order: str
    """Byte order, "<" or ">"; "" for text."""
    body: int
    """Where the first row begins, in bytes."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Ply:
        """Read and check the header. Raises PlyError where it is broken or promises more than the file holds, and
        OSError for what is no file, or cannot be read."""
        path = Path(path)
        check_regular(path)
        with path.open("rb") as file:
            start, size = file.read(LONGEST_HEADER), os.fstat(file.fileno()).st_size
        newline = b"\r\n" if start[3:5] == b"\r\n" else start[3:4]
        header, end, _ = start.partition(newline + b"end_header" + newline)
        if not header.startswith((b"ply\r", b"ply\n")) or not end:
            raise PlyError("no header from `ply` to `end_header` at its beginning")
        lines = header.decode("utf-8", "replace").split(newline.decode())[1:]
        ply = cls(path, _comments(lines), _elements(lines), _order(lines), len(header) + len(end))
        ply._check_length(size)
        return ply

    def __contains__(self, name: str) -> bool:
        return name in self.elements

    def table(self, name: str) -> np.ndarray:
        """The rows of an element, a structured array [count] in the file's types.

        Raises PlyError for rows that are cut short or no numbers, and for an element with lists; KeyError if there is
        no such element.
        """
        element = self.elements[name]
        if element.lists:
            raise PlyError(f"`{next(iter(element.lists))}` of `{name}` is a list: lists are for meshes")
        if element.count == 0 or not element.columns:  # numpy's memory map divides by the bytes of a row
            return np.zeros(element.count, element.dtype(self.order))
        with self.path.open("rb") as file:
            file.seek(self.body)
            return self._text_rows(file, element) if not self.order else self._binary_rows(file, element)

    def _check_length(self, size: int) -> None:
        text, held = not self.order, size - self.body
        promised = sum(element.least_bytes(text) for element in self.elements.values())
        # The separator after the last number of a text file may be missing.
        if promised > held + text:
            counts = ", ".join(f"{element.count} rows of `{element.name}`" for element in self.elements.values())
            raise PlyError(f"its header promises {counts}: at least {promised} bytes, but {held} follow")

    def _before(self, element: Element) -> list[Element]:
        """The elements whose rows come before those of `element`."""
        return list(self.elements.values())[: list(self.elements).index(element.name)]

    def _binary_rows(self, file: BinaryIO, element: Element) -> np.ndarray:
        for other in self._before(element):
            self._skip(file, other)
        offset, dtype = file.tell(), element.dtype(self.order)
        if offset + element.count * dtype.itemsize > os.fstat(file.fileno()).st_size:
            raise PlyError(f"the rows of `{element.name}` are cut short")
        return np.memmap(file, dtype, "r", offset, (element.count,))

    def _skip(self, file: BinaryIO, element: Element) -> None:
        """Pass over the rows of an element; where it has lists, one after the other."""
        if not element.lists:
            file.seek(element.count * element.dtype(self.order).itemsize, os.SEEK_CUR)
            return
        for _ in range(element.count):
            for name, kind in element.columns.items():
                items = self._list_length(file, element.lists[name]) if name in element.lists else 1
                file.seek(items * np.dtype(kind).itemsize, os.SEEK_CUR)

    def _list_length(self, file: BinaryIO, kind: str) -> int:
        dtype = np.dtype(self.order + kind)
        content = file.read(dtype.itemsize)
        if len(content) < dtype.itemsize:
            raise PlyError("a list is cut short")
        return max(0, int(np.frombuffer(content, dtype)[0]))

    def _text_rows(self, file: BinaryIO, element: Element) -> np.ndarray:
        lines = io.TextIOWrapper(file, encoding="latin-1")  # also takes CR and CR LF for ends of lines
        for _ in range(sum(other.count for other in self._before(element))):
            next(lines, "")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of empty lines, which do not count
                numbers = np.loadtxt(lines, np.float64, comments=None, max_rows=element.count, ndmin=2)
        except ValueError as error:
            raise PlyError(f"malformed input in the rows of `{element.name}`: {error}") from None
        if numbers.shape != (element.count, len(element.columns)):
            expected = f"{element.count} rows of {len(element.columns)} numbers"
            raise PlyError(f"`{element.name}` has {len(numbers)} rows of {numbers.shape[1]} numbers, not {expected}")
        table = np.empty(element.count, element.dtype("<"))
        for index, name in enumerate(element.columns):
            table[name] = _as_kind(numbers[:, index], table.dtype[name])
        return table


def find_names(names: Sequence[str], wanted: Sequence[str]) -> list[str] | None:
    """The columns that are called so, whatever their case, in the order of `wanted`; None unless all are there."""
    there = {name.lower(): name for name in reversed(names)}
    found = [name if name in names else there.get(name) for name in wanted]
    return found if None not in found else None


def _as_kind(numbers: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Numbers of a text file in the column's type; integers are kept within what that holds."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return numbers.astype(dtype)
    bounds = np.iinfo(dtype)
    return np.clip(np.nan_to_num(numbers), bounds.min, bounds.max).astype(dtype)


def _comments(lines: Sequence[str]) -> tuple[str, ...]:
    return tuple(line.partition(" ")[2] for line in lines if line.split(" ")[0] in _REMARKS)


def _order(lines: Sequence[str]) -> str:
    words = next((line.split() for line in lines if line.split()[:1] == ["format"]), [])
    if len(words) != 3 or words[1] not in _ORDERS or words[2] != "1.0":
        raise PlyError(f"`{' '.join(words) or 'no format line'}`: PLY is read in format {', '.join(_ORDERS)}, 1.0")
    return _ORDERS[words[1]]


def _elements(lines: Sequence[str]) -> dict[str, Element]:
    """The tables that the lines of a header describe."""
    elements: list[Element] = []
    for line in lines:
        words = line.split()
        if words[:1] == ["element"]:
            elements.append(_element(words))
        elif words[:1] == ["property"]:
            _add_column(elements, words)
        elif words and words[0] not in (*_REMARKS, "format"):
            raise PlyError(f"`{line}` is no line of a header")
    names = [element.name for element in elements]
    if len(set(names)) < len(names):
        raise PlyError(f"two elements of one name among {', '.join(names)}")
    bare = next((element.name for element in elements if not element.columns and element.count), None)
    if bare is not None:
        raise PlyError(f"element {bare} has no columns")
    return {element.name: element for element in elements}


def _element(words: list[str]) -> Element:
    if len(words) != 3 or not words[2].isdecimal() or not words[2].isascii():
        raise PlyError(f"`{' '.join(words)}` is no element with a count")
    return Element(words[1], int(words[2][:30]))


def _add_column(elements: list[Element], words: list[str]) -> None:
    line, is_list = f"`{' '.join(words)}`", words[1:2] == ["list"]
    kinds, expected = words[2:4] if is_list else words[1:2], 5 if is_list else 3
    if len(words) != expected or not all(kind in _TYPES for kind in kinds) or not elements:
        raise PlyError(f"{line} is no column of a table")
    if is_list and _TYPES[kinds[0]][0] == "f":
        raise PlyError(f"{line}: the length of a list is no whole number")
    element, name = elements[-1], words[-1]
    if name in element.columns:
        raise PlyError(f"column {name} comes twice")
    element.columns[name] = _TYPES[kinds[-1]]
    if is_list:
        element.lists[name] = _TYPES[kinds[0]]
