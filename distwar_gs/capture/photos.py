"""The photos of a folder, and why the other files in it are none."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from datasets.errors import DataError, printable
from datasets.imagefile import Progress, map_threads
from distwar_gs.capture.decoding import NotAPhotoError, decoded, open_photo
from distwar_gs.capture.video import VIDEO_SUFFIXES

LEAST_PHOTOS = 3
LEAST_SIDE = 64
"""Pixels; features need more around them than smaller photos have."""
LEAST_LOOKALIKE = 2.5
"""Mean difference, of 255, of two pictures below which they are one: another format or size changes less, another
view changes more."""
_SKIPPED_FOLDERS = ("__MACOSX", "@eaDir")  # of zip files made on macOS, and of Synology's thumbnails
_THUMBNAIL = 64


@dataclass(frozen=True)
class LeftOut:
    """A file that has no part in the scene."""

    name: str
    """Its path within the folder, or that of a folder of them, with a / at the end."""
    reason: str
    """What is wrong, what was tried, and what can be done."""

    def __str__(self) -> str:
        return f"left out: {printable(self.name)}: {self.reason}"


@dataclass(frozen=True, eq=False)
class _Picture:
    """What is compared to find duplicates."""

    name: str
    size: tuple[int, int]
    """(width, height), upright."""
    format: str
    pixels: bytes
    """Digest."""
    small: np.ndarray
    """Grey and upright, int16 [_THUMBNAIL, _THUMBNAIL]."""


def find_photos(folder: Path, out: Path | None = None) -> tuple[list[str], list[LeftOut]]:
    """Photos under `folder` by their headers, as relative paths in the order of their parts; and the other files.

    Files in `out`, where a scene is made, are passed over. Raises DataError for a folder that cannot be read.
    """
    names, left_out = [], []
    for name in sorted(_files(folder, out, left_out), key=lambda name: PurePosixPath(name).parts):
        try:
            if not (folder / name).is_file():
                raise NotAPhotoError("not a regular file")
            open_photo(folder / name).close()
            names.append(name)
        except NotAPhotoError as error:
            film = PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES
            left_out.append(LeftOut(name, "a video: give it instead of the folder" if film else str(error)))
    return names, left_out


def check_enough(folder: Path, names: Sequence[str], left_out: Sequence[LeftOut]) -> None:
    """Raise DataError, with what was left out, if there are fewer than LEAST_PHOTOS."""
    if len(names) < LEAST_PHOTOS:
        shown = "; ".join(f"{each.name}: {each.reason}" for each in left_out[:5])
        more = f"; and {len(left_out) - 5} more" if len(left_out) > 5 else ""
        others = f"; left out: {shown}{more}" if left_out else ""
        raise DataError(f"{folder}: {len(names)} usable photos, at least {LEAST_PHOTOS} are needed{others}")


def check_photos(
    folder: Path, names: Sequence[str], progress: Progress | None = None
) -> tuple[list[str], list[LeftOut]]:
    """Those of the photos that decode to the end, are large enough, and are no duplicates; and the others, in order.

    Duplicates: files of equal pixels, and one picture in two formats or sizes under one name (IMG_1.HEIC and IMG_1.JPG,
    images/a.jpg and images_2/a.jpg). The largest is kept, among equals the one with the shortest name, as of copies.
    """
    found = map_threads(lambda name: _picture(folder, name), names, progress=progress)
    pictures = [each for each in found if isinstance(each, _Picture)]
    left_out = [each for each in found if isinstance(each, LeftOut)]
    left_out += _duplicates(pictures, lambda each: each.pixels, lambda one, other: True)
    gone = {each.name for each in left_out}
    left_out += _duplicates(
        [each for each in pictures if each.name not in gone],
        lambda each: PurePosixPath(each.name).stem.lower(), _same_picture,
    )  # fmt: skip
    gone = {each.name for each in left_out}
    order = {name: index for index, name in enumerate(names)}
    return [name for name in names if name not in gone], sorted(left_out, key=lambda each: order[each.name])


def _files(folder: Path, out: Path | None, left_out: list[LeftOut]) -> Iterator[str]:
    """Relative paths of all files, but of those in hidden folders and in `out`."""
    absent = out.resolve() if out else None
    for place, folders, files in os.walk(folder, onerror=_raise):
        within = Path(place).relative_to(folder)
        hidden = [name for name in folders if name.startswith(".") or name in _SKIPPED_FOLDERS]
        for name in sorted(hidden):
            count = sum(len(files) for _, _, files in os.walk(Path(place) / name))
            left_out.append(LeftOut((within / name).as_posix() + "/", f"a hidden folder, with {count} files"))
        linked = [name for name in folders if name not in hidden and (Path(place) / name).is_symlink()]
        for name in sorted(linked):
            left_out.append(LeftOut((within / name).as_posix() + "/", "a link to a folder, which is not followed"))
        folders[:] = sorted(
            name for name in folders if name not in hidden + linked and (Path(place) / name).resolve() != absent
        )  # fmt: skip
        for name in files:
            if name.startswith("."):
                left_out.append(LeftOut((within / name).as_posix(), "a hidden file"))
            else:
                yield (within / name).as_posix()


def _raise(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _picture(folder: Path, name: str) -> _Picture | LeftOut:
    try:
        with open_photo(folder / name) as header:
            kind = header.format or ""
        image = decoded(folder / name)
    except NotAPhotoError as error:
        return LeftOut(name, str(error))
    if min(image.size) < LEAST_SIDE:
        return LeftOut(name, f"too small ({image.width}x{image.height}, each side needs at least {LEAST_SIDE} pixels)")
    digest = hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).digest()
    upright = ImageOps.exif_transpose(image)
    grey = upright.convert("RGB").convert("L").resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    return _Picture(name, upright.size, kind, digest, np.asarray(grey).astype(np.int16))


def _duplicates(
    pictures: Iterable[_Picture], key: Callable[[_Picture], object], same: Callable[[_Picture, _Picture], bool]
) -> list[LeftOut]:
    """Pictures that equal one of those with the same key that is to be kept rather."""
    groups: dict[object, list[_Picture]] = defaultdict(list)
    for picture in pictures:
        groups[key(picture)].append(picture)
    found = []
    for group in groups.values():
        kept: list[_Picture] = []
        for picture in sorted(group, key=lambda each: (-each.size[0] * each.size[1], len(each.name))):
            if twin := next((each for each in kept if same(each, picture)), None):
                found.append(LeftOut(picture.name, f"a duplicate of {printable(twin.name)}"))
            else:
                kept.append(picture)
    return found


def _same_picture(one: _Picture, other: _Picture) -> bool:
    """Whether two pictures of one name are one, converted or resized: the two of a stereo pair have equal format and
    size, and may look very much alike."""
    if (one.size, one.format) == (other.size, other.format):
        return False
    shapes = one.size[0] * other.size[1], one.size[1] * other.size[0]
    alike = float(np.abs(one.small - other.small).mean()) < LEAST_LOOKALIKE
    return alike and abs(shapes[0] - shapes[1]) <= 0.02 * max(shapes)
