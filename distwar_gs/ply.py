"""Tables of Gaussians in PLY files, which datasets.ply reads: what is wrong with one, said in one line."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from datasets.ply import Ply, PlyError


class ModelFileError(ValueError):
    """A model file that cannot be used; the message names the file, what is wrong and the remedy."""


def read_ply(path: str | os.PathLike[str]) -> Ply:
    """A PLY file of plain columns: text or binary, of either byte order; its rows are read by `element`.

    Raises: ModelFileError for a missing file, one that is no PLY, and one whose header does not fit what follows.
    """
    try:
        return Ply.open(path)
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file; give a run folder of train.py or a .ply file") from None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror}); give another file") from None
    except PlyError as error:
        raise _unreadable(path, error) from None


def element(path: str | os.PathLike[str], ply: Ply, name: str) -> np.ndarray:
    """The rows of an element, a structured array [N]; ModelFileError if there is none of that name, it is empty, or
    its rows are no numbers."""
    if name not in ply:
        raise ModelFileError(f"{path}: has no `{name}` element, so it holds no 3D Gaussians; give another file")
    if ply.elements[name].count == 0:
        raise ModelFileError(f"{path}: its `{name}` element has no rows: no 3D Gaussians; give another file")
    try:
        return ply.table(name)
    except PlyError as error:
        raise _unreadable(path, error) from None


def columns(
    path: str | os.PathLike[str],
    table: np.ndarray,
    names: Sequence[str],
    kind: str = "f",
    precision: type[np.floating] = np.float32,
) -> np.ndarray:
    """The named columns side by side, [N, len(names)]: of `precision`, or uint32 if `kind`, numpy's letter, is "u".

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
    result = np.empty((len(table), len(names)), precision if kind == "f" else np.uint32)
    with np.errstate(over="ignore"):  # a double beyond float32 is infinite, and left out as such
        for index, name in enumerate(names):
            result[:, index] = table[name]
    return result


def _unreadable(path: str | os.PathLike[str], error: PlyError) -> ModelFileError:
    problem = str(error).replace("\n", " ")
    return ModelFileError(f"{path}: not a readable PLY file ({problem}); export or copy it again")
