"""Which file is the photograph that a dataset names: by its name as it is, or as other programs have changed it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from .errors import DataError
from .imagefile import map_threads, read_size, thumbnail
from .names import fold, is_rooted, looser_stem, name_parts, slashed, split_suffix, stem_of

logger = logging.getLogger(__name__)

_RENAME = "name its files as the photographs are named, or choose another folder with -i/--images"
_THUMBNAIL = 32  # pixels a side
_COMPARED = 64  # photographs of a folder, at most
_NOISE = 0.5  # levels of 255, mean over a thumbnail: what another filter or JPEG changes


class ImageFinder:
    """Finds image files under a folder; each folder is listed once at most."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: dict[Path, _Listing] = {}
        self._places: dict[tuple[str, ...], list[Path]] = {}  # folders to look in, by those that a name has

    def find(self, name: str) -> Path | None:
        """The file that a dataset calls `name`, a path relative to the root, or an absolute one; None if there is none.

        In this order: the name as it is; with Windows' backslashes as slashes; written in another case or Unicode form,
        as disks that ignore it leave it; with another image suffix, or with one where it has none. A leading folder
        called as the root, or `..`, may be left out, and of an absolute path that is not here (a scene that was moved)
        the last parts are looked for. Raises DataError when several files could be meant.
        """
        for written in dict.fromkeys((name, slashed(name))):
            if os.path.isfile(self.root / written):  # pathlib's raises for a name that is too long
                return self.root / written
        *folders, last = PurePosixPath(slashed(name)).parts or ("",)
        key = (*folders,)
        if key not in self._places:
            self._places[key] = list(dict.fromkeys(self._folders_called(folders)))
        return next(filter(None, (self._like(folder, last) for folder in self._places[key])), None)

    def find_all(self, names: Sequence[str]) -> list[Path | None]:
        """The file of each name. One that is called just as one of them is not that of another, which is not there:
        beside a.jpg, a.png is none of its spellings if both are asked for."""
        paths = [self.find(name) for name in names]
        exact = {path for name, path in zip(names, paths, strict=True) if path and self._is_exact(name, path)}
        return [
            None if path in exact and name_parts(name)[-1] != path.name and not self._is_exact(name, path) else path
            for name, path in zip(names, paths, strict=True)
        ]

    def _is_exact(self, name: str, path: Path) -> bool:
        return path in (self.root / name, self.root / slashed(name))

    def names_not_utf8(self) -> bool:
        """Whether a file in the folders looked at has a name that is not UTF-8."""
        names = (name for listing in self._listings.values() for name in (*listing.files, *listing.folders))
        return any(re.search("[\ud800-\udfff]", name) for name in names)

    def _folders_called(self, parts: Sequence[str]) -> Iterator[Path]:
        """The folders that a file whose path has these before its name may be in."""
        as_written = self.root.joinpath(*parts)
        if os.path.isdir(as_written):
            yield as_written
        path = "/".join(parts)
        parts = [part for part in name_parts(path) if part]
        tails = [parts[start:] for start in range(len(parts) + 1)] if is_rooted(path) else [parts]
        if parts and fold(parts[0]) == fold(self.root.name):
            tails.append(parts[1:])
        yield from filter(None, map(self._folder, tails))

    def _folder(self, parts: Sequence[str]) -> Path | None:
        """The folder under the root whose path has these parts, each maybe in another case or Unicode form."""
        folder = self.root
        for part in parts:
            alike = self._listing(folder).folders_like(part)
            if not alike:
                return None
            folder = folder / _only(folder, part, alike)
        return folder

    def _like(self, folder: Path, name: str) -> Path | None:
        alike = self._listing(folder).files_like(name)
        return folder / _only(folder, name, alike) if alike else None

    def _listing(self, folder: Path) -> _Listing:
        if folder not in self._listings:
            self._listings[folder] = _Listing.of(folder)
        return self._listings[folder]


@dataclass(frozen=True)
class _Listing:
    """The names in a folder, sorted, and by what two of them have in common."""

    files: Sequence[str]
    folders: Sequence[str]
    by_name: Mapping[str, list[str]]
    """Files by folded name."""
    by_stem: Mapping[str, list[str]]
    """Images by folded name without suffix."""

    @classmethod
    def of(cls, folder: Path) -> _Listing:
        """A listing of a folder, empty if it is none."""
        with_kinds = sorted((e.name, e.is_dir()) for e in os.scandir(folder)) if os.path.isdir(folder) else []
        files = [name for name, is_folder in with_kinds if not is_folder]
        images = [name for name in files if split_suffix(name)[1]]
        folders = [name for name, is_folder in with_kinds if is_folder]
        return cls(files, folders, _grouped(files, files), _grouped(images, map(stem_of, images)))

    def files_like(self, name: str) -> list[str]:
        """The files called `name`, or failing that called so but for the suffix, as exactly as there are any."""
        alike = self.by_name.get(fold(name), [])
        if alike:
            return [name] if name in alike else alike
        for stem in filter(None, (stem_of(name), looser_stem(name))):
            alike = self.by_stem.get(fold(stem), [])
            if alike:
                return [file for file in alike if stem_of(file) == stem] or alike
        return []

    def folders_like(self, name: str) -> list[str]:
        """The folders called `name`, up to case and Unicode form unless there is one called just so."""
        return [name] if name in self.folders else [folder for folder in self.folders if fold(folder) == fold(name)]


def pair_images(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """The file of each name, as `ImageFinder` finds it; no file is that of two names.

    Raises DataError naming the first five that are absent, or a file that could be either of two.
    """
    finder, names = ImageFinder(folder), list(dict.fromkeys(names))
    return all_found(finder, names, finder.find_all(names))


def all_found(finder: ImageFinder, names: Sequence[str], paths: Sequence[Path | None]) -> dict[str, Path]:
    """The files that `finder` found, by name. Raises DataError as `pair_images`."""
    folder = finder.root
    remedy = "copy them there, or choose the folder that has them with -i/--images"
    if finder.names_not_utf8():
        remedy = "the folder has files whose names are not UTF-8, rename those (convmv does), or " + remedy
    absent = [name for name, path in zip(names, paths, strict=True) if path is None]
    check_present(folder, absent, len(names), remedy)
    check_owners(folder, names, paths)
    return {name: path for name, path in zip(names, paths, strict=True) if path is not None}


def check_owners(folder: Path, names: Sequence[str], paths: Sequence[Path | None]) -> None:
    """Raise DataError where two names, and not two spellings of one path, lead to one file."""
    owners: dict[Path, str] = {}
    for name, path in zip(names, paths, strict=True):
        other = owners.setdefault(path, name) if path else name
        if path and name_parts(other) != name_parts(name):
            raise DataError(f"{folder}: {path.name} could be image {other} or {name}; keep both, under these names")


def check_present(folder: Path, missing: Sequence[str], total: int, remedy: str = "copy them there") -> None:
    """Raise DataError naming the first five of `missing`, if any, and the remedy."""
    if missing:
        shown = ", ".join(sorted(missing)[:5]) + (", ..." if len(missing) > 5 else "")
        raise DataError(f"{folder}: {len(missing)} of {total} images are missing: {shown}; {remedy}")


def pair_by_order(folder: Path, originals: Mapping[str, Path], full: Path) -> dict[str, Path]:
    """The smaller copy, in `folder`, of each photograph in `full`, where copies have other names but the same order.

    So LLFF's files are (images/IMG_4026.JPG is images_4/image000.png), and so gsplat pairs them
    (examples/datasets/colmap.py). Whether it is so here is looked at: each copy must resemble its photograph more than
    any other one. Raises DataError, saying why, where the two folders do not belong together.

    originals: by name, the photographs of which copies are wanted.
    """
    copies, photos = image_files(folder), image_files(full)
    differ = f"{folder}: its names differ from those of {full}, and "
    if len(copies) != len(photos):
        raise DataError(f"{differ}it holds {len(copies)} images, not {len(photos)}; {_RENAME}")
    rank = {os.path.normpath(photo): index for index, photo in enumerate(photos)}
    places = [rank.get(os.path.normpath(path)) for path in originals.values()]
    if None in places:
        raise DataError(f"{differ}not all photographs are in {full}; {_RENAME}")
    pairs = {name: copies[place] for name, place in zip(originals, places, strict=True) if place is not None}
    for name, copy in pairs.items():
        if not same_shape(read_size(originals[name]), read_size(copy)):
            raise DataError(f"{differ}{copy.name} has another shape than {originals[name].name}; {_RENAME}")
    _check_pictures(differ, [originals[name] for name in pairs], list(pairs.values()), copies)
    logger.info("%s: its names differ from those of %s; paired in their order, and alike", folder, full)
    return pairs


def pair_names_by_order(folder: Path, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Path]:
    """The image, in `folder`, of each name where only their order is the same, and the photographs are not there.

    sizes: by name, (width, height) of the camera. Raises DataError, saying why, where the order does not tell.
    """
    names, copies = sorted(sizes), image_files(folder)
    differ = f"{folder}: its names differ from the model's, and "
    if len(names) != len(copies):
        raise DataError(f"{differ}it holds {len(copies)} images, not {len(names)}; {_RENAME}")
    if names != sorted(names, key=lambda name: _by_numbers(name.casefold())):
        raise DataError(f"{differ}those sort otherwise by their numbers; {_RENAME}")
    for name, copy in zip(names, copies, strict=True):
        if not same_shape(sizes[name], read_size(copy)):
            raise DataError(f"{differ}{copy.name} has another shape than the camera of {name}; {_RENAME}")
    logger.warning("%s: its names differ from the model's; paired in their order", folder)
    return dict(zip(names, copies, strict=True))


def relative_name(name: str, image: Path, root: Path) -> str:
    """What to call the photograph that a dataset calls `name`, with slashes: the path of its file relative to `root`
    if an absolute one was given."""
    if is_rooted(slashed(name)):
        with contextlib.suppress(ValueError):
            return image.absolute().relative_to(root.absolute()).as_posix()
    return "/".join(name_parts(name))


def image_files(folder: Path) -> list[Path]:
    """All images under a folder, in the order of their relative paths; hidden files are none."""
    found = []
    for place, _, files in os.walk(folder):
        relative = Path(place).relative_to(folder)
        found += [(relative / name).as_posix() for name in files if split_suffix(name)[1] and not name.startswith(".")]
    return [folder / name for name in sorted(found)]


def same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether (width, height) of one image, made as wide as the other, has its height.

    Up to 1 % for cameras calibrated at a slightly cropped size, and a pixel for the rounding of downscaled folders.
    """
    return abs(size[1] * other[0] / size[0] - other[1]) <= 0.01 * other[1] + 1


def as_written(source: Path, name: str) -> Path:
    """The file or folder `name`, an absolute path or one relative to `source`: as it is, or with slashes where only its
    backslashes, Windows', keep it from being found."""
    other = source / slashed(name)
    return other if os.path.exists(other) and not os.path.exists(source / name) else source / name


def _check_pictures(differ: str, photos: Sequence[Path], own: Sequence[Path], copies: Sequence[Path]) -> None:
    """Raise DataError unless each photograph is nearest to its own copy among all `copies`."""
    some = range(0, len(photos), max(1, len(photos) // _COMPARED))
    large = map_threads(lambda index: thumbnail(photos[index], _THUMBNAIL), some)
    small = np.stack(map_threads(lambda path: thumbnail(path, _THUMBNAIL), copies))
    for index, picture in zip(some, large, strict=True):
        distances = np.abs(small - picture).mean(axis=(1, 2))
        if distances[copies.index(own[index])] > 1.5 * distances.min() + _NOISE:
            raise DataError(f"{differ}{own[index].name} does not show what {photos[index].name} shows; {_RENAME}")


def _by_numbers(name: str) -> list[tuple[bool, int, str]]:
    """A key that sorts img2 before img10."""
    parts = re.split(r"(\d+)", name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _grouped(names: Collection[str], keys: Iterable[str]) -> dict[str, list[str]]:
    groups = defaultdict(list)
    for name, key in zip(names, keys, strict=True):
        groups[fold(key)].append(name)
    return dict(groups)


def _only(folder: Path, name: str, alike: Sequence[str]) -> str:
    if len(alike) > 1:
        raise DataError(f"{folder}: both {' and '.join(alike)} could be image {name}; keep one of them")
    return alike[0]
