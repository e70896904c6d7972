"""Which views are for testing, by the names of images that a list has.

A name may lack its folders or its extension where it is clear all the same.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import DataError, printable
from .name_lists import ROLES, NameLists, read_list
from .names import fold, looser_stem, name_parts, stem_of
from .pairing import as_written

logger = logging.getLogger(__name__)

NO_LIST = "none"
"""In the place of a file: no list, also none that comes with the dataset."""


@dataclass(frozen=True)
class Split:
    """Which images are for what, by the names of their views."""

    train: frozenset[str]
    test: frozenset[str]
    rule: str
    """Where it comes from, for the metrics' protocol."""


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
    places = (as_written(folder, str(file)) for folder in (Path(), source))
    path = next((path for path in places if os.path.isfile(path)), None)
    if path is None:
        raise DataError(f"{file}: no such list of test images, nor is it in {source}; correct data.test_list")
    lists = read_list(path, source)
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
        test, rule = everything - found["train"], f"{rule}, the others held out"
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
            for read in (_same, stem_of, _folded, _loosest):
                names = self._matches("/".join(name_parts(spelling)), read)
                if len(names) == 1:
                    return names[0]
                if names and read is not _loosest:
                    raise DataError(
                        f"{lists.path}: {_short(text)} could be {' or '.join(names[:3])}; write its folder and "
                        f"extension too, or give another list with --test_list ({NO_LIST}: no list)"
                    )
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
                path = read(name)
                whole[path].append(name)
                for end in _ends(path):
                    ends[end].append(name)
            self._tables[read] = dict(whole), dict(ends)
        return self._tables[read]


def _ends(path: str) -> Iterator[str]:
    """a/b/c: b/c, c."""
    while "/" in path:
        path = path.partition("/")[2]
        yield path


def _same(path: str) -> str:
    return path


def _folded(path: str) -> str:
    return fold(stem_of(path))


def _loosest(path: str) -> str:
    """Also without an end that is no photograph's that we read, as raw ones have; it may be part of a name."""
    return fold(looser_stem(stem_of(path)) or stem_of(path))


def _spellings(text: str) -> Iterable[str]:
    """What a line may name: all of it, or its first cell where more stands in it; without quotes."""
    text = text.strip().rstrip(",;")
    cells = [text, *(text.partition(mark)[0] for mark in "\t;, " if mark in text), text.rpartition(" ")[0] or text]
    return dict.fromkeys(cell.strip().strip("\"'") for cell in cells)


def _short(text: str) -> str:
    return printable(text if len(text) <= 80 else f"{text[:77]}...")
