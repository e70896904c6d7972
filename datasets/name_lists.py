"""Lists of images by what they are for, as they come with datasets, or as users give them.

What is read, beside the model and in the folders above it up to the dataset's, or in its folder `splits`:

- text files with a name a line: `test.txt` (3DGS and hierarchical-3d-gaussians, scene/dataset_readers.py, in sparse/0),
  `train_list.txt` and `test_list.txt` (nerfbaselines), `val.txt`, `test_images.txt`, ...
- JSON: ScanNet++'s `train_test_lists.json` (`train`, `test`), `split.json`, `dataset.json` of Nerfies (`train_ids`,
  `val_ids`), ...
- tables: the `.tsv` of Photo Tourism (columns `filename` and `split`), or the same as `.csv`
- a transforms file: nerfstudio's `train_filenames`, `val_filenames` and `test_filenames`, ScanNet++'s `test_frames`, a
  key `split` in its frames
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import DataError
from .textfiles import read_json, text_lines

logger = logging.getLogger(__name__)

ROLES = ("train", "test", "val")

_WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test", "val": "val", "valid": "val",
          "validation": "val", "eval": "val", "evaluation": "val"}  # fmt: skip
_NOUNS = r"(?:lists?|images?|names?|files?|filenames?|views?|frames?|cams?|cameras?|ids?|split|set)"
_ROLE = re.compile(rf"(?:{_NOUNS}[-_ .]?)?({'|'.join(_WORDS)})(?:[-_ .]?{_NOUNS})*", re.IGNORECASE)
_JSON = re.compile(r"(?:(?:train|test|val)[-_]?){2,}(?:lists?)?|.*splits?(?:[-_]lists?)?|dataset", re.IGNORECASE)
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

    def renamed(self, names: Mapping[str, str]) -> NameLists:
        """The same with other names for those in `names`."""
        roles = {role: tuple(names.get(name, name) for name in getattr(self, role)) for role in ROLES}
        return replace(self, **roles)


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
    """Whether a JSON file or a table is worth opening; tables may be of anything."""
    if path.suffix.lower() == ".json":
        return bool(_JSON.fullmatch(path.stem))
    return path.is_file() and path.stat().st_size <= _LARGEST


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


def lists_of_transforms(paths: Sequence[Path]) -> NameLists | None:
    """What transforms files that are not the source of the cameras say of which images are for testing.

    paths: the main file, then those of test views alone. Raises DataError for what cannot be read.
    """
    main, *held = [path if path.is_file() else None for path in paths]
    lists = transforms_lists(main, _meta(main)) if main else None
    return lists or next((_json_lists(path, path.parent) for path in held if path), None)


def _meta(path: Path) -> Mapping[str, Any]:
    meta = read_json(path)
    return meta if isinstance(meta, dict) else {}


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


def read_list(path: Path, source: Path) -> NameLists | None:
    """The lists in a file that the user names; of a text file without roles, test images. None where it has no name.

    Raises DataError for a file that cannot be read.
    """
    read = _READERS.get(path.suffix.lower(), _READERS[".txt"])
    lists = read(path, source)
    return _READERS[".txt"](path, source) if lists is None and read is _table_lists else lists
