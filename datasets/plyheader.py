"""The header of a PLY file, looked at before plyfile reads the rows."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

from .regular import check_regular

_LONGEST = 2**20  # bytes of a header; that of Gaussians at degree 3 has 1600


def check_ply_header(path: str | os.PathLike[str]) -> None:
    """Raise ValueError, without the file's name, for a header that plyfile would die of.

    An element without properties has rows of no bytes, by which numpy's memory map divides: the process is killed. A
    count beyond the bytes of the file would allocate memory for rows that cannot be there.
    """
    check_regular(Path(path))
    with Path(path).open("rb") as file:
        header, end, _ = file.read(_LONGEST).partition(b"end_header")
    lines = [line.split() for line in header.decode("ascii", "replace").splitlines()] if end else []
    elements = [line for line in lines if line[:1] in (["element"], ["property"])]
    for line, following in pairwise([*elements, ["element"]]):
        if line[0] == "element" and following[0] == "element":
            raise ValueError(f"element {line[1] if line[1:] else ''} has no properties")
        if line[0] == "element" and len(line) == 3 and line[2].isdecimal():
            _check_count(path, int(line[2][:30]))


def _check_count(path: str | os.PathLike[str], count: int) -> None:
    size = os.path.getsize(path)
    if count > size:
        raise ValueError(f"{count} rows in a file of {size} bytes; it is cut short")
