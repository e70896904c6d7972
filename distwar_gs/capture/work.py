"""A structure-from-motion run that can be interrupted: its folder, what decides its result, which stages are done."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pycolmap

from distwar_datasets.errors import DataError
from distwar_gs.system.files import replacing
from distwar_gs.system.progress import progress

AUTO = "auto"
"""As Settings.camera: the lens model that the photos call for (intrinsics.py)."""


@dataclass(frozen=True)
class Settings:
    """All that decides the result; a run continues only one with the same."""

    photos: str
    """The folder or video."""
    matching: str
    """Which photos are compared: exhaustive (all pairs) or sequential (neighbours by name)."""
    camera: str
    """COLMAP's camera model, before undistortion; AUTO: few parameters, and more where they lower the error."""
    max_size: int
    """Longest side, in pixels, at which features are looked for; larger photos are reduced for that."""
    max_features: int
    """At most so many per photo."""
    frames: int
    """Taken from a video; 0: a folder of photos."""
    number: int
    """Of photos or frames."""
    mapper: str = "incremental"
    """One photo after the other (incremental), or all at once (global)."""
    rig: str = ""
    """Which photos were taken together (rigs.py): "", folders, or what a file of COLMAP's says."""


@dataclass
class Work:
    """A run: its folder, its settings, and which stages are done (OUT/sfm/state.json)."""

    out: Path
    settings: Settings
    threads: int = -1
    """CPU threads; -1: all."""
    say: Callable[[str], None] = print
    """Gets each line of progress."""
    done: dict[str, float] = field(default_factory=dict)
    """Stages and the seconds they took."""
    notes: dict[str, Any] = field(default_factory=dict)
    """For the report: what JSON can hold."""

    @classmethod
    def begun(cls, out: Path, settings: Settings, threads: int, say: Callable[[str], None] = print) -> Work:
        """A new run, or the one that `out` holds. DataError if that one had other settings, or is something else."""
        work = cls(out, settings, threads, say)
        if work._state.is_file():
            saved = _read_state(work._state)
            _check_equal(out, saved["settings"], settings)
            work.done, work.notes = saved["done"], saved["notes"]
            say(f"{out}: going on after {', '.join(work.done) or 'the start'}")
        elif out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DataError(f"{out}: exists and was not begun by this program; choose another folder, or empty it")
        work.save()
        return work

    @property
    def folder(self) -> Path:
        """Intermediate files."""
        return self.out / "sfm"

    @property
    def database(self) -> Path:
        """COLMAP's: cameras, features, matches."""
        return self.folder / "database.db"

    @property
    def model(self) -> Path:
        """Cameras and points, of the photos as they were taken."""
        return self.folder / "model"

    @property
    def source(self) -> Path:
        """The user's photos, or the frames of the video."""
        return self.folder / "frames" if self.settings.frames else Path(self.settings.photos)

    @property
    def images(self) -> Path:
        """Where COLMAP reads the photos, under names that it can handle (staging.py)."""
        return self.folder / "photos"

    def once(self, name: str, stage: Callable[[Work], None]) -> None:
        """Run a stage unless it is done. DataError when COLMAP fails."""
        if name in self.done:
            return
        start = time.monotonic()
        self.say(f"{name} ...")
        try:
            stage(self)
        except (RuntimeError, ValueError) as error:  # what pycolmap raises
            if isinstance(error, DataError):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(f"COLMAP failed while it did {name}: {reason}") from error
        self.done[name] = round(time.monotonic() - start, 1)
        self.save()
        self.say(f"{name}: {self.done[name]:.0f} s")

    def call(
        self, function: Callable, *args: object, count: Callable[[], int], total: int, unit: str, **kwargs: object
    ) -> Any:
        """One long call that takes a `cancellation_token`, on a thread of its own, while a bar shows `count()`.

        Ctrl-C cancels it. Returns what it returns.
        """
        token = pycolmap.CancellationToken()
        with ThreadPoolExecutor(1) as pool, progress(total=total, unit=unit, desc=unit + "s") as bar:
            future = pool.submit(function, *args, cancellation_token=token, **kwargs)
            try:
                while wait([future], timeout=0.5).not_done:
                    bar.update(min(count(), total) - bar.n)
            except KeyboardInterrupt:
                token.cancel()
                raise
            result = future.result()
            bar.update(total - bar.n)
        return result

    def watched(self) -> pycolmap.Database:
        """The database, to look into while COLMAP writes it: opened before COLMAP does, since two that open it at once
        can lock each other out.

        Through pycolmap: a second copy of SQLite in one process, as Python's, undoes the first one's locks
        (sqlite.org/howtocorrupt.html, 2.2.1).
        """
        return pycolmap.Database.open(self.database)

    def save(self) -> None:
        """Write OUT/sfm/state.json."""
        with replacing(self._state) as temporary:
            state = {"settings": asdict(self.settings), "done": self.done, "notes": self.notes}
            temporary.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")

    @property
    def _state(self) -> Path:
        return self.folder / "state.json"


def _read_state(file: Path) -> dict[str, dict]:
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        sound = all(isinstance(state[part], dict) for part in ("settings", "done", "notes"))
    except (ValueError, TypeError, LookupError, RecursionError):
        sound = False
    if not sound:
        raise DataError(f"{file}: is damaged; delete {file.parents[1]} and begin again, or choose another folder")
    return state


def _check_equal(out: Path, saved: dict[str, object], asked: Settings) -> None:
    earlier = {field.name: field.default for field in fields(Settings)}  # of settings that there were not yet
    for name, now in asdict(asked).items():
        if saved.get(name, earlier[name]) != now:
            remedy = "repeat it with the same, or choose another folder"
            raise DataError(f"{out}: was begun with {name} {saved.get(name)}, not {now}; {remedy}")
