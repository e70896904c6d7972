"""The kinds of scenes, a row each: how one is recognised, and what reads it. The first row that recognises a folder has
its cameras."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..build import RawScene
from ..errors import DataError
from ..name_lists import NameLists, given_lists, lists_of_transforms
from ..pixels.prepare import ImageOptions
from .colmap import MODEL_PLACES, OTHER_PLACES, find_model, read_colmap, scene_of
from .transforms import HELD_FILES, SHARED_FILE, TRAIN_FILE, read_transforms

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reader:
    """A row of READERS."""

    kind: str
    """transforms: `read` takes a transforms file; colmap: it takes the folder of a COLMAP model."""
    places: tuple[str, ...]
    """Where its cameras are in the folder of a scene, in this order."""
    find: Callable[[Path, tuple[str, ...]], Path | None]
    """In a folder, the first of these places that has cameras; None: it is no scene of this kind."""
    read: Callable[[Path, Path, ImageOptions], RawScene]
    """What is in the folder of a scene, with the cameras at a place. Raises DataError naming file and remedy."""
    lists: Callable[[Path], list[NameLists]] | None = None
    """What unused cameras of this kind in a folder say of which images are for testing; None: they are passed over."""
    scene_of: Callable[[Path, Path, ImageOptions], tuple[Path, Path]] = lambda folder, place, options: (folder, place)
    """The folder of the scene whose cameras were found at a place in a folder, and that place: mostly these two."""
    words: str = "{}"
    """How messages call its cameras, after their place."""

    def found_in(self, folder: Path) -> Path | None:
        """The place of its cameras in a folder; None: it is no scene of this kind."""
        return self.find(folder, self.places)

    def called(self, folder: Path, place: Path) -> str:
        """What messages call the cameras at a place."""
        return self.words.format(place.relative_to(folder))


@dataclass(frozen=True)
class Cameras:
    """What was found: who reads the cameras, the folder of the scene, and their file or folder."""

    reader: Reader
    folder: Path
    place: Path


def find_cameras(source: Path, options: ImageOptions) -> Cameras:
    """The cameras of a dataset: of a transforms file itself, or of the first row that recognises the folder.

    Raises DataError where there are none.
    """
    if source.suffix == ".json" and source.is_file():
        return Cameras(TRANSFORMS, source.parent, source)
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; give the folder that holds the dataset with -s/--source_path")
    for reader in READERS:
        place = reader.found_in(source)
        if place:
            return Cameras(reader, *reader.scene_of(source, place, options))
    there = ", ".join(sorted(path.name for path in source.iterdir())[:10]) or "nothing"
    files, folders = (
        ", ".join(place for row in READERS if row.kind == kind for place in row.places if place != ".")
        for kind in ("transforms", "colmap")
    )
    raise DataError(
        f"{source}: no dataset found; looked for {files} and for a COLMAP model (images.bin or images.txt) in "
        f"{folders}, and in it; the folder holds {there}"
    )


def others_beside(cameras: Cameras) -> list[tuple[Reader, Path]]:
    """The cameras of another kind in the folder of the scene, which are not used."""
    rows = [row for row in READERS if row.kind != cameras.reader.kind and row.lists]
    return [(row, place) for row in rows if (place := row.found_in(cameras.folder))]


def lists_of_others(cameras: Cameras) -> list[NameLists]:
    """What cameras of another kind, or the files beside them, say of which images are for testing."""
    rows = [row for row in READERS if row.kind != cameras.reader.kind]
    return [found for row in rows if row.lists for found in row.lists(cameras.folder)]


def _first_file(folder: Path, places: tuple[str, ...]) -> Path | None:
    return next((folder / place for place in places if (folder / place).is_file()), None)


def _read_transforms(folder: Path, place: Path, options: ImageOptions) -> RawScene:
    return read_transforms(place, options)


def _lists_of_model(folder: Path) -> list[NameLists]:
    model = find_model(folder)
    return given_lists(folder, model) if model else []


def _lists_of_transforms(folder: Path) -> list[NameLists]:
    try:
        lists = lists_of_transforms([folder / name for name in (SHARED_FILE, *HELD_FILES)])
    except DataError as error:
        logger.warning("%s; it is not used", error)
        return []
    return [lists] if lists else []


TRANSFORMS = Reader("transforms", (SHARED_FILE,), _first_file, _read_transforms, _lists_of_transforms)
READERS = (
    Reader("transforms", (TRAIN_FILE,), _first_file, _read_transforms),
    Reader("colmap", MODEL_PLACES, find_model, read_colmap, _lists_of_model, scene_of, "the COLMAP model {}"),
    TRANSFORMS,
    Reader("colmap", OTHER_PLACES, find_model, read_colmap, None, scene_of, "the COLMAP model {}"),
)
