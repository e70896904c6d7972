"""Bars with the time that is left, for what takes long: on stderr, where that is a terminal, unless a program is told
to be quiet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

_told: set[str] = set()


def quieten() -> None:
    """No bars in this process from here on: what --quiet asks for."""
    _told.add("quiet")


def progress(items: Iterable | None = None, **options: Any) -> tqdm:
    """A bar over the items, or one to `update` and `close`; options as tqdm takes them (total, desc, unit)."""
    return tqdm(items, disable=True if _told else None, **options)  # None: not where stderr is no terminal
