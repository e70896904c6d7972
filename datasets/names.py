"""Names of photographs, as datasets give them, and names of files made from them that no two photographs share."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".webp", ".avif", ".heic", ".heif"}
)
"""How the names of image files end, in lower case. Whether one can be decoded is `datasets.imagefile`'s to say."""

LONGEST = 200
"""Bytes of a part of a new file's path. Disks allow 255, of which temporary names and further suffixes take some."""

_DIGEST = 12  # hexadecimal digits
_OF_OTHER_PROGRAMS = re.compile(r"(.+)\.(?=[A-Za-z0-9]*[A-Za-z])[A-Za-z0-9]{1,5}")  # a.CR2, but not frame.0001
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def name_parts(name: str) -> list[str]:
    """The parts of an image's name, none of which leads up or to a root: they are part of the paths of new files."""
    parts: list[str] = []
    for part in PurePosixPath(slashed(name)).parts:
        if part == "..":
            del parts[-1:]
        elif not part.startswith("/") and not part.endswith(":"):
            parts.append(part)
    return parts or [""]


def slashed(path: str) -> str:
    """A path that Windows may have written, with forward slashes."""
    return path.replace("\\", "/")


def is_rooted(path: str) -> bool:
    """Whether a path with forward slashes starts at a root, this system's or Windows'."""
    return path.startswith("/") or re.match(r"[A-Za-z]:", path) is not None


def split_suffix(name: str) -> tuple[str, str]:
    """(name without its image suffix, the suffix); ("frame.0001", "") for "frame.0001", whose end is a number."""
    stem, dot, end = name.rpartition(".")
    known = stem and not stem.endswith("/") and f".{end.lower()}" in SUFFIXES
    return (stem, dot + end) if known else (name, "")


def stem_of(name: str) -> str:
    """`name` without its image suffix, if it has one."""
    return split_suffix(name)[0]


def looser_stem(name: str) -> str | None:
    """`name` without an end that other programs may have given it, as raw photographs have (a.CR2); None without."""
    match = _OF_OTHER_PROGRAMS.fullmatch(name)
    return match[1] if match else None


def fold(name: str) -> str:
    """What is equal for two names that some disk takes for one.

    Such disks ignore case, do not tell composed letters from decomposed ones (NFC and NFD), and drop spaces and dots at
    the end of a name.
    """
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
    return "/".join(part.rstrip(" .") or part for part in folded.split("/"))


def unique_name(name: str, taken: Iterable[str]) -> str:
    """`name`, or with the first number that makes it differ from all that are `taken`: left/a-2.png."""
    taken, (stem, suffix), number, result = set(taken), split_suffix(name), 1, name
    while result in taken:
        number += 1
        result = f"{stem}-{number}{suffix}"
    return result


def unique_stems(names: Sequence[str], suffixes: Sequence[str], *, shorten: bool = False) -> list[str]:
    """A relative path for each of `names` to which any of `suffixes` can be added: no two paths are the same file.

    That holds on every disk (`fold`), also where two names are equal, for names of any length, and for a name that is
    a folder of another. Most names stay as they are; one that would meet another, is longer than LONGEST, or holds
    control characters, gets a digest.

    names: with forward slashes, as `name_parts` leaves them.
    shorten: leave out a name's image suffix where that does not make two names equal.
    """
    seen: Counter[str] = Counter()
    told_apart = []
    for name in names:
        told_apart.append((name, seen[name]))
        seen[name] += 1
    rounds = [0 if shorten else 1] * len(names)
    while True:
        stems = [_candidate(name, copy, tried) for (name, copy), tried in zip(told_apart, rounds, strict=True)]
        meeting = _meeting(stems, suffixes)
        if not meeting:
            return stems
        for index in meeting:
            rounds[index] += 1


def portable(part: str) -> str:
    """A part of a path that every disk can hold: with a digest where `part` has control characters or is too long."""
    plain = _CONTROL.sub("_", part)
    if plain == part and len(part.encode()) <= LONGEST:
        return part
    digest = _digest(part)
    start = plain.encode()[: LONGEST - 1 - _DIGEST].decode(errors="ignore")
    return f"{start}-{digest}"


def _candidate(name: str, copy: int, tried: int) -> str:
    """The path to try for the `copy`-th view of a name: shortened, whole, then with digests."""
    stem = stem_of(name) if tried == 0 else name
    digest = _digest(name, copy, tried) if tried > 1 else ""
    *folders, last = (portable(part) for part in stem.split("/"))
    return "/".join([*folders, portable(f"{last}-{digest}") if digest else last])


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:_DIGEST]


def _meeting(stems: Sequence[str], suffixes: Sequence[str]) -> list[int]:
    """The indices of paths that would be one file with another's, or a folder of another's."""
    files = [{fold(stem + suffix) for suffix in suffixes} for stem in stems]
    folders = {fold(parent.as_posix()) for stem in stems for parent in PurePosixPath(stem).parents}
    count = Counter(file for paths in files for file in paths)
    return [index for index, paths in enumerate(files) if any(count[path] > 1 or path in folders for path in paths)]
