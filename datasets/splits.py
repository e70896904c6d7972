"""Which images are for testing: lists of names that come with a dataset, or that the user gives.

What is read, beside the model and in the folders above it up to the dataset's, or in its folder `splits`:

- text files with a name a line: `test.txt` (3DGS and hierarchical-3d-gaussians, scene/dataset_readers.py, in sparse/0),
  `train_list.txt` and `test_list.txt` (nerfbaselines), `val.txt`, `test_images.txt`, ...
- JSON: ScanNet++'s `train_test_lists.json` (`train`, `test`), `split.json`, `dataset.json` of Nerfies (`train_ids`,
  `val_ids`), ...
- tables: the `.tsv` of Photo Tourism (columns `filename` and `split`), or the same as `.csv`
- a transforms file: nerfstudio's `train_filenames`, `val_filenames` and `test_filenames`, ScanNet++'s `test_frames`, a
  key `split` in its frames

A name may lack its folders or its extension where it is clear all the same.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import DataError
from .textfiles import read_json, text_lines

logger = logging.getLogger(__name__)

ROLES = ("train", "test", "val")
NO_LIST = "none"
"""In the place of a file: no list, also none that comes with the dataset."""

_WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test", "val": "val", "valid": "val",
          "validation": "val", "eval": "val", "evaluation": "val"}  # fmt: skip
_NOUNS = r"(?:lists?|images?|names?|files?|filenames?|views?|frames?|cams?|cameras?|ids?|split|set)"
_ROLE = re.compile(rf"(?:{_NOUNS}[-_ .]?)?({'|'.join(_WORDS)})(?:[-_ .]?{_NOUNS})*", re.IGNORECASE)
_JSON = re.compile(r"(?:(?:train|test|val)[-_]?){2,}(?:lists?)?|.*splits?(?:[-_]lists?)?|dataset", re.IGNORECASE)
_PHOTO = re.compile(
    r"(?:png|jpe?g|jpe|jfif|tiff?|bmp|webp|gif|avif|heic|heif|jxl|jp2|exr|dng|arw|cr[23]|nef|orf|raf|rw2|raw|p[gp]m)",
    re.IGNORECASE,
)
_LARGEST = 2**28  # bytes; a list of a million long names has 2**27


@dataclass(frozen=True)
class NameLists:
    """Names of images by what they are for, as a file or several files of one folder list them."""

    origin: str
    """The file or files, and the key, in words: the metrics' protocol names it."""
    path: Path
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    val: tuple[str, ...] = ()


@dataclass(frozen=True)
class Split:
    """Which images are for what, by the names of their views."""

    train: frozenset[str]
    test: frozenset[str]
    rule: str
    """Where it comes from, for the metrics' protocol."""


# ------------------------------------------------------------------------------------------------- finding lists


def given_lists(source: Path, model: Path) -> list[NameLists]:
    """The lists of names that lie beside the model (a folder, or a transforms file) or above it, the nearest first.

    source: the dataset's folder. A file that cannot be read is left out with a warning.
    """
    nearest = model if model.is_dir() else model.parent
    folders = [nearest, *(folder for folder in nearest.parents if source in (folder, *folder.parents)), source]
    folders += [source / "splits", source / "split"]
    if source.name == "nerfstudio":  # ScanNet++ has its list beside the folder of its transforms.json
        folders.append(source.parent)
    found = []
    for folder in dict.fromkeys(folders):
        if folder.is_dir():
            found += _lists_of(folder, source)
    return found


def _lists_of(folder: Path, source: Path) -> list[NameLists]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _READERS)
    texts: dict[str, Path] = {}
    for path in sorted(files, key=lambda path: (len(path.name), path.name)):
        role = _role(path.stem)
        if role and path.suffix.lower() == ".txt":
            texts.setdefault(role, path)
    others = [path for path in files if path.suffix.lower() != ".txt" and _may_list(path)]
    return list(filter(None, [_quietly(_text_lists, texts, source), *(_quietly(_read, p, source) for p in others)]))


def _role(text: str) -> str | None:
    match = _ROLE.fullmatch(text)
    return _WORDS[match[1].lower()] if match else None


def _may_list(path: Path) -> bool:
    return path.suffix.lower() != ".json" or bool(_JSON.fullmatch(path.stem))


def _quietly(read: Callable[[Any, Path], NameLists | None], what: Any, source: Path) -> NameLists | None:
    try:
        return read(what, source)
    except DataError as error:
        logger.warning("%s; it is not used as a list of test images", error)
        return None


def _text_lists(texts: Mapping[str, Path], source: Path) -> NameLists | None:
    """The lists of text files, by role."""
    names = {role: _text_names(path) for role, path in texts.items()}
    for role in names:
        if not names[role]:
            logger.warning("%s: lists no image, and is not used", texts[role])
    used = [role for role in ROLES if names.get(role)]
    if not used:
        return None
    origin = " and ".join(_relative(texts[role], source) for role in used if role != "val" or "test" not in used)
    return NameLists(origin, texts[used[0]], **{role: names[role] for role in used})


def _relative(path: Path, source: Path) -> str:
    return path.relative_to(source).as_posix() if path.is_relative_to(source) else path.name


def _text_names(path: Path) -> tuple[str, ...]:
    _check_size(path)
    return tuple(text for _, text in text_lines(path))


def _check_size(path: Path) -> None:
    if not path.is_file() or path.stat().st_size > _LARGEST:
        raise DataError(f"{path}: not a file of at most {_LARGEST >> 20} MiB; a list has the name of an image a line")


def _read(path: Path, source: Path) -> NameLists | None:
    return _READERS[path.suffix.lower()](path, source)


def _json_lists(path: Path, source: Path) -> NameLists | None:
    """A JSON file of lists by role, or a transforms file."""
    _check_size(path)
    meta, origin = read_json(path), _relative(path, source)
    if isinstance(meta, list):
        meta = {"test": meta}
    if not isinstance(meta, dict):
        return None
    if frames := _strings(path, meta, "frames"):
        return transforms_lists(path, meta) or NameLists(origin, path, test=frames)
    names: dict[str, tuple[str, ...]] = {}
    for key, listed in meta.items():
        if (role := _role(str(key))) and isinstance(listed, list) and listed:
            if not all(isinstance(name, str) for name in listed):
                raise DataError(f"{path}: `{key}` lists numbers or other things, not names of images")
            names.setdefault(role, tuple(listed))
    return NameLists(origin, path, **names) if names else None


def _table_lists(path: Path, source: Path) -> NameLists | None:
    """A table with a header: columns of file names and of what each is for."""
    _check_size(path)
    rows = (text for _, text in text_lines(path))
    header = next(rows, "")
    separator = next((mark for mark in "\t;," if mark in header), None)
    columns = [name.strip(' "').lower() for name in header.split(separator)]
    name = _column(columns, ("filename", "file_name", "image_name", "image", "name", "file", "file_path"))
    role = _column(columns, ("split", "set", "subset", "partition"))
    if name is None or role is None:
        return None
    names = defaultdict(list)
    for row in rows:
        cells = [cell.strip(' "') for cell in row.split(separator)]
        if len(cells) > max(name, role) and cells[name] and (what := _role(cells[role])):
            names[what].append(cells[name])
    return NameLists(_relative(path, source), path, **{k: tuple(v) for k, v in names.items()}) if names else None


def _column(columns: Sequence[str], wanted: Sequence[str]) -> int | None:
    return next((columns.index(name) for name in wanted if name in columns), None)


_READERS: dict[str, Callable[[Path, Path], NameLists | None]] = {
    ".txt": lambda path, source: _text_lists({"test": path}, source),
    ".json": _json_lists,
    ".tsv": _table_lists,
    ".csv": _table_lists,
}


def transforms_lists(path: Path, meta: Mapping[str, Any]) -> NameLists | None:
    """What a transforms file says of which images are for testing; None if nothing.

    Raises DataError for lists that are none.
    """
    names = {role: _strings(path, meta, f"{role}_filenames") for role in ROLES}
    key = next((f"{role}_filenames" for role in ("test", "val", "train") if names[role]), "")
    for role in ("test", "val"):
        frames = _strings(path, {"": held_frames(meta, role)}, "")
        if not key and frames:
            names, key = {"train": (), "test": (), "val": (), role: frames}, f"{role}_frames"
    if not key and (names := _split_of_frames(meta)):
        key = "`split` of the frames"
    return NameLists(f"{key} of {path.name}", path, **names) if key else None


def held_frames(meta: Mapping[str, Any], role: str = "test") -> list[Any]:
    """The frames of a key beside `frames` that has those for testing (ScanNet++'s test_frames)."""
    frames = meta.get(f"{role}_frames")
    return frames if isinstance(frames, list) else []


def _strings(path: Path, meta: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The names of a list, whose items may be frames."""
    listed = meta.get(key) or []
    if not isinstance(listed, list):
        raise DataError(f"{path}: `{key}` is a {type(listed).__name__}, not a list of files; export it again")
    return tuple(str(item.get("file_path", "")) if isinstance(item, dict) else str(item) for item in listed)


def _split_of_frames(meta: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Names by the `split` (or `is_test`) that their frames have; nothing unless some are for testing."""
    names = defaultdict(list)
    frames = meta.get("frames")
    for frame in frames if isinstance(frames, list) else []:
        if isinstance(frame, dict) and isinstance(frame.get("file_path"), str):
            role = _role(str(frame.get("split", ""))) or ("test" if frame.get("is_test") is True else None)
            names[role or "train"].append(frame["file_path"])
    return {role: tuple(listed) for role, listed in names.items()} if names.keys() & {"test", "val"} else {}


# -------------------------------------------------------------------------------------------------- using lists


def chosen_split(given: Sequence[NameLists], names: Sequence[str]) -> Split | None:
    """The split of the first of the lists that name any image for testing; the others are said where they disagree.

    names: those of the views. Raises DataError for a name that could be several images.
    """
    index, split = _Names(names), None
    for lists in given:
        if split is None:
            split = _resolved(lists, index)
        else:
            _report_difference(lists, index, split)
    return split


def _report_difference(lists: NameLists, index: _Names, used: Split) -> None:
    try:
        other = _resolved(lists, index, quiet=True)
    except DataError:
        return
    if other and other.test != used.test:
        logger.warning(
            "%s says that other images (%d) are for testing than %s (%d), which is used; choose with --test_list FILE",
            other.rule, len(other.test), used.rule, len(used.test),
        )  # fmt: skip


def named_split(file: Path, source: Path, names: Sequence[str]) -> Split:
    """The split of a list that the user names: text, JSON or a table; a text file lists test images.

    A relative path starts at the working directory, or else in `source`. Raises DataError for a file that is not there
    or lists none of the images.
    """
    path = next((path for path in (file, source / file) if path.is_file()), None)
    if path is None:
        raise DataError(f"{file}: no such list of test images, nor is it in {source}; correct data.test_list")
    lists = _READERS.get(path.suffix.lower(), _READERS[".txt"])(path, source)
    if lists is None:
        raise DataError(f"{path}: lists no image; write the name of a test image into each line")
    split = _resolved(replace(lists, origin=f"{path.name} (data.test_list)"), _Names(names))
    if split is None:
        example = next(iter(names), "")
        raise DataError(f"{path}: none of its names is for testing and an image of {source}, such as {example}")
    return split


def _resolved(lists: NameLists, index: _Names, quiet: bool = False) -> Split | None:
    """The lists as views; None where no view would be tested."""
    found = {role: index.find_all(getattr(lists, role), lists, quiet) for role in ROLES}
    test, others = (found["test"], found["val"]) if found["test"] else (found["val"], set())
    everything = set(index.names)
    rule = lists.origin
    if not test and found["train"]:
        test, rule = everything - found["train"], f"images that are not in {rule}"
    if not test:
        return None
    train = (found["train"] or everything - others) - test
    if not quiet:
        _report(lists, train, test, everything, both=len(found["train"] & test))
    return Split(frozenset(train), frozenset(test), rule)


def _report(lists: NameLists, train: set[str], test: set[str], everything: set[str], both: int) -> None:
    left_out = len(everything - train - test)
    logger.info(
        "%s: %d images are for training and %d for testing%s%s; test_every is not used", lists.origin, len(train),
        len(test),
        f" ({both} of them listed as both)" if both else "", f", {left_out} are left out" if left_out else "",
    )  # fmt: skip


class _Names:
    """The names of all views, to be found by what a list calls them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(dict.fromkeys(names))
        self._tables: dict[Callable[[str], str], tuple[dict[str, list[str]], dict[str, list[str]]]] = {}

    def find_all(self, listed: Sequence[str], lists: NameLists, quiet: bool) -> set[str]:
        """The views that are listed; a warning for names that are none."""
        found, unknown = set(), []
        for text in listed:
            if name := self._find(text, lists):
                found.add(name)
            else:
                unknown.append(text)
        if unknown and not quiet:
            logger.warning(
                "%s: %d of %d names are no image of this scene: %s", lists.origin, len(unknown), len(listed),
                ", ".join(map(_short, unknown[:5])) + (", ..." if len(unknown) > 5 else ""),
            )  # fmt: skip
        return found

    def _find(self, text: str, lists: NameLists) -> str | None:
        for spelling in _spellings(text):
            for read in (_same, _bare, _loose):
                if names := self._matches(_path(spelling), read):
                    if len(names) > 1:
                        raise DataError(
                            f"{lists.path}: {_short(text)} could be {' or '.join(names[:3])}; write its folder and "
                            f"extension too, or give another list with --test_list ({NO_LIST}: no list)"
                        )
                    return names[0]
        return None

    def _matches(self, path: str, read: Callable[[str], str]) -> list[str]:
        """Views of that path, else those whose path ends with it, else those with which it ends, the longest."""
        whole, ends = self._table(read)
        for key in dict.fromkeys((read(path), path)):
            if names := whole.get(key) or ends.get(key):
                return names
        return next((whole[end] for end in _ends(read(path)) if end in whole), [])

    def _table(self, read: Callable[[str], str]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Views by their path, and by what it ends with, as `read` reads them; made when first asked for."""
        if read not in self._tables:
            whole, ends = defaultdict(list), defaultdict(list)
            for name in self.names:
                path = read(_path(name))
                whole[path].append(name)
                for end in _ends(path):
                    ends[end].append(name)
            self._tables[read] = dict(whole), dict(ends)
        return self._tables[read]


def _path(name: str) -> str:
    """With forward slashes, and nothing that leads nowhere or to a root."""
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", ".", ".."))


def _ends(path: str) -> Iterator[str]:
    """a/b/c: b/c, c."""
    while "/" in path:
        path = path.partition("/")[2]
        yield path


def _same(path: str) -> str:
    return path


def _bare(path: str) -> str:
    """Without the extension of a photograph; other dots belong to the name."""
    stem, _, suffix = path.rpartition(".")
    return stem if stem and not stem.endswith("/") and _PHOTO.fullmatch(suffix) else path


def _loose(path: str) -> str:
    return unicodedata.normalize("NFC", _bare(path)).casefold()


def _spellings(text: str) -> Iterable[str]:
    """What a line may name: all of it, or its first cell where more stands in it; without quotes."""
    text = text.strip().rstrip(",;")
    cells = [text, *(text.partition(mark)[0] for mark in "\t;, " if mark in text), text.rpartition(" ")[0] or text]
    return dict.fromkeys(cell.strip().strip("\"'") for cell in cells)


def _short(text: str) -> str:
    text = text if len(text) <= 80 else f"{text[:77]}..."
    return text if text.isprintable() else ascii(text)
