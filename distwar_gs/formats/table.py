"""The formats of files with Gaussians, a row each: how their names end, what they cannot hold, whose functions read and
write them. Whoever asks for a suffix, or for what a format can do, asks this table; importing it loads no format."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from distwar_gs.formats.tour import Tour

HARMONICS, ORIGIN, RENDER_MODE, FAR = "harmonics", "origin", "render mode", "far positions"
"""What a format may lack: harmonics above degree 0; a place for the origin of its positions; one for whether the model
was trained antialiased; positions far from the origin of the axes, in multiples of how widely they spread."""

SOG_META = "meta.json"
"""The file of a SOG that is a folder: it names the others."""


@dataclass(frozen=True)
class Notes:
    """What is written beside the numbers of the Gaussians."""

    antialiased: bool = False
    origin: np.ndarray | None = None
    """Float64 [3], what the positions are relative to in the frame of the input; None: that is their frame."""
    rub: bool = True
    """Of a format with axes of its own, whether to turn the Gaussians to these."""
    title: str = ""
    """Of a page, the name of its window."""
    tour: Tour | None = None
    """Of a page, how it shows the model; None: as fits any model."""


@dataclass(frozen=True)
class Format:
    """A row of FORMATS."""

    suffix: str
    """How the names of its files end, in lower case. The longest suffix that fits decides."""
    module: str
    """Of distwar_gs.formats, with these functions, on arrays as in distwar_gs.gaussians.model, in the frame of a PLY:

    - `read(path, rub)`: the arrays, not yet checked, and the origin that the file tells or None;
    - `read_origin(path)` and `read_render_mode(path)` ("mip", "default" or None), unless the format lacks these;
    - `write(path, arrays, notes)`, if `is_written`: to a path that nobody else reads yet;
    - `is_beyond_reach(means)`, if it lacks FAR: whether most Gaussians would be.
    """
    lacks: frozenset[str] = frozenset()
    """Of HARMONICS, ORIGIN, RENDER_MODE and FAR."""
    is_read: bool = True
    """False: files of this name are read as those with the shorter suffix, whose reader looks at what they hold; where
    there is none, they are not read at all."""
    is_written: bool = True
    axes: str = ""
    """How the axes that the format prescribes relate to those of a PLY, in words; "": they are the same."""

    def functions(self) -> Any:
        """The module, loaded now."""
        return importlib.import_module(f"distwar_gs.formats.{self.module}")

    def is_beyond_reach(self, means: np.ndarray) -> bool:
        """Whether most Gaussians at positions [N, 3] are where the format cannot hold them."""
        return FAR in self.lacks and self.functions().is_beyond_reach(means)


PLY = Format(".ply", "inria_ply")
SOG = Format(".sog", "sog", lacks=frozenset((ORIGIN,)))
FORMATS = (
    PLY,
    Format(".compressed.ply", "compressed_ply", is_read=False),
    Format(".splat", "splat", lacks=frozenset((HARMONICS, ORIGIN, RENDER_MODE))),
    Format(".spz", "spz", lacks=frozenset((ORIGIN, FAR)), axes="x right, y up, z back"),
    SOG,
    Format(".glb", "gltf", axes="x left, y up, z forward"),
    Format(".html", "html_page", is_read=False),
)

MODEL_SUFFIXES = tuple(row.suffix for row in FORMATS if row.is_read)
"""How the names of files with Gaussians end; .compressed.ply is among them."""
WRITTEN_SUFFIXES = tuple(row.suffix for row in FORMATS if row.is_written)
"""How the names of those end that can be written."""

_CONVERTIBLE = {".ksplat": ".ksplat", ".lcc": ".lcc", ".lcc2": ".lcc2", "lod-meta.json": "streamed SOG"}
"""Formats that splat-transform reads and we do not, by how the names of their files end."""


def read_format(path: str | os.PathLike[str]) -> Format:
    """As what a file is read: as its suffix says, a folder or its meta.json as SOG, all else as PLY."""
    path = Path(path)
    by_suffix = next((row for row in FORMATS if row.is_read and row.suffix == path.suffix.lower()), PLY)
    is_folder = path.name.lower() == SOG_META or path.is_dir()
    return SOG if by_suffix is PLY and is_folder else by_suffix


def written_format(path: str | os.PathLike[str]) -> Format | None:
    """As what a file of this name is written; None if its name ends like those of no format that can be written."""
    name = Path(path).name.lower()
    rows = [row for row in FORMATS if row.is_written and name.endswith(row.suffix)]
    return max(rows, key=lambda row: len(row.suffix), default=None)


def listed(suffixes: tuple[str, ...], word: str) -> str:
    """`.a, .b and .c`, with this word before the last."""
    return ", ".join(suffixes[:-1]) + f" {word} {suffixes[-1]}"


def is_model_file(path: Path) -> bool:
    """Whether a file of Gaussians is meant, by its name, or a folder that is a SOG, and not a run folder."""
    if path.suffix.lower() in MODEL_SUFFIXES or path.name.lower() == SOG_META:
        return True
    return (path / SOG_META).is_file() and not (path / "config.yaml").exists()


def unread_model(path: Path) -> str | None:
    """What to say of a file that is neither read as Gaussians nor a run folder; None for others."""
    name, kinds = path.name.lower(), listed(MODEL_SUFFIXES, "and")
    kind = next((kind for ending, kind in _CONVERTIBLE.items() if name.endswith(ending)), None)
    if kind is not None and not path.is_dir():
        return (
            f"{path}: {kind} is not read, {kinds} are; convert it with PlayCanvas' splat-transform "
            f"(npx @playcanvas/splat-transform {path.name} {path.stem}.ply)"
        )
    if is_model_file(path) or not path.is_file():
        return None
    return f"{path}: is no run folder, and of files {kinds} are read; convert it to one of them"


Arrays = Mapping[str, "np.ndarray"]
"""Gaussians as NumPy arrays, by the names of distwar_gs.gaussians.model."""
