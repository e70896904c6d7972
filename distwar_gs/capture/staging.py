"""Photos under names that COLMAP can handle, and the names that they have in the scene.

COLMAP takes a backslash for a slash, its list of pairs has no room for spaces, and its Python module none for names
that are not UTF-8. So it sees 000000.jpg, 000001.png, ...: links to the photos, and lossless copies of those that it
cannot decode. The scene gets the names of the photos again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from unicodedata import category

from distwar_datasets.pixels.imagefile import Progress, map_threads
from distwar_gs.capture.decoding import PHOTO_SUFFIXES, READ_BY_COLMAP, decoded, open_photo, write_png
from distwar_gs.capture.photos import LeftOut
from distwar_gs.system.files import replacing

LONGEST = 255
"""Bytes of a file's name, on the disks in use."""
_FITTING = {
    ".jpg": {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"}, ".png": {".png"}, ".tif": {".tif", ".tiff"}, ".bmp": {".bmp"},
}  # fmt: skip
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of pairs, separators of lines


@dataclass(frozen=True)
class Staged:
    """A photo, under its three names."""

    name: str
    """The user's: path within the folder."""
    staged: str
    """COLMAP's: file in OUT/sfm/photos."""
    scene: str
    """The scene's: path within OUT/images."""
    converted: bool
    """Whether COLMAP cannot read it, so that `staged` is a copy as PNG and `scene` a JPEG."""


def stage(
    folder: Path, names: Sequence[str], target: Path, progress: Progress | None = None, stems: Sequence[str] = ()
) -> list[Staged]:
    """Make `target`, a folder of links to photos and of copies; the photos in the order of `names`. `stems`: what
    COLMAP is to call them, without suffix; none: numbers."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    suffixes = [_suffix_for_colmap(folder / name) for name in names]
    stems = stems or [f"{index:06d}" for index in range(len(names))]
    staged = [f"{stem}{suffix or '.png'}" for stem, suffix in zip(stems, suffixes, strict=True)]
    for folder_of_rig in {(target / each).parent for each in staged}:
        folder_of_rig.mkdir(parents=True, exist_ok=True)
    scene = scene_names(names, [suffix or ".jpg" for suffix in suffixes])
    photos = [Staged(*each) for each in zip(names, staged, scene, map(lambda each: not each, suffixes), strict=True)]
    map_threads(lambda photo: _put(folder / photo.name, target / photo.staged, photo.converted), photos, 0, progress)
    return photos


def save_stage(file: Path, photos: Sequence[Staged], left_out: Sequence[LeftOut]) -> None:
    """Record what has been staged."""
    content = {"photos": [asdict(each) for each in photos], "left_out": [asdict(each) for each in left_out]}
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load_stage(file: Path) -> tuple[list[Staged], list[LeftOut]]:
    """What `save_stage` has recorded."""
    content = json.loads(file.read_text(encoding="utf-8"))
    return [Staged(**each) for each in content["photos"]], [LeftOut(**each) for each in content["left_out"]]


def scene_names(names: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    """A path of its own for each photo: the user's, with a suffix that fits the content, and changed no further than
    it must be.

    Backslashes become slashes, and control characters underscores; bytes that are not UTF-8 are read as Western
    European, which they mostly are.
    """
    wanted = [list(_wanted(name, suffix, len(names))) for name, suffix in zip(names, suffixes, strict=True)]
    order = sorted(range(len(names)), key=lambda index: wanted[index][0] != names[index])  # what can stay comes first
    taken: dict[str, int] = {}
    for index in order:
        taken[next(each for each in wanted[index] if each not in taken)] = index
    return sorted(taken, key=lambda name: taken[name])


def _wanted(name: str, suffix: str, count: int) -> Iterator[str]:
    """Names in the scene for a photo, the best first."""
    path = _sound(name)
    known = path.suffix.lower()
    bare = path.with_suffix("") if known in PHOTO_SUFFIXES else path
    options = [path] if known in _FITTING[suffix] else []
    options += [bare.with_name(bare.name + suffix), path.with_name(path.name + suffix)]
    options += [bare.with_name(f"{_cut(bare.name)}_{number}{suffix}") for number in range(2, count + 2)]
    return (each.as_posix() for each in options if len(os.fsencode(each.name)) <= LONGEST)


def _sound(name: str) -> PurePosixPath:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        name = os.fsencode(name).decode("cp1252", errors="replace")
    name = "".join("_" if category(each) in _UNPRINTABLE else each for each in name.replace("\\", "/"))
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")]
    return PurePosixPath(*parts) if parts else PurePosixPath("photo")


def _cut(stem: str) -> str:
    """Short enough for a number and a suffix behind it."""
    return os.fsencode(stem)[: LONGEST - 20].decode("utf-8", errors="ignore")


def _suffix_for_colmap(path: Path) -> str | None:
    """The suffix under which COLMAP reads the file, or None if it cannot."""
    with open_photo(path) as image:
        return READ_BY_COLMAP.get(image.format or "")


def _put(source: Path, target: Path, convert: bool) -> None:
    if convert:
        write_png(decoded(source), target)
        return
    try:
        target.symlink_to(source.resolve())
    except (OSError, NotImplementedError):  # no links on this disk, or no right to make them
        shutil.copyfile(source, target)
