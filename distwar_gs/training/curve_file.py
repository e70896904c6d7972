"""curves.jsonl of a run: what its curves show, for report.html. A line for each step that was published or measured:

{"step": 100, "train/loss": 0.1007, "gaussians/count": 3000.0, ...}
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distwar_gs.system.files import read_bounded, replacing
from distwar_gs.system.terminal import reason_of

NAME = "curves.jsonl"

_LONGEST = 2**28  # bytes; a line has some 700

log = logging.getLogger(__name__)


class CurveFile:
    """The curves of a run over all its sessions, in memory and in the file. A file that cannot be written costs the
    earlier part of the curves if the run is resumed, no more."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Goes on with what earlier sessions left, up to the step before the first one of this session."""
        self.rows = [row for row in read_rows(folder) if row["step"] < first_step]
        """As in the file, in order."""
        self._told = False
        self.move(folder)

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """One more line."""
        row = {"step": step, **scalars}
        self.rows.append(row)
        self._write(lambda: self._append(row))

    def rewind(self, step: int) -> None:
        """The run is back at an earlier step: later lines are taken out."""
        self.rows = [row for row in self.rows if row["step"] <= step]
        self._write(self._save)

    def move(self, folder: Path) -> None:
        """Goes on in another folder, or in the same that was made again, with all lines."""
        self._path = folder / NAME
        self._write(self._save)

    def _save(self) -> None:
        if self.rows or self._path.exists():
            with replacing(self._path) as temporary:
                temporary.write_text("".join(map(_line, self.rows)), encoding="utf-8")

    def _append(self, row: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(row))

    def _write(self, save: Any) -> None:
        try:
            save()
        except OSError as error:
            if not self._told:
                self._told = True
                log.warning("%s: cannot be written (%s); the run goes on without it", self._path, reason_of(error))


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's curves.jsonl, in order; what is no such line, as the half of one that a crash left, is left
    out."""
    try:
        text = read_bounded(folder / NAME, _LONGEST).decode("utf-8", "replace")
    except OSError:
        return []
    rows = (_row(line) for line in text.splitlines())
    return [row for row in rows if row is not None]


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    numbers = isinstance(row, dict) and all(isinstance(value, int | float) for value in row.values())
    return row if numbers and isinstance(row.get("step"), int) else None


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"
