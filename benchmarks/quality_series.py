"""What one command line of benchmarks/time_to_quality.py asks for: trainings and models of others, measured unless
their rows are in the CSV file already, one after another or each in a process of its own."""

import argparse
import contextlib
import gc
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import machine
from benchmarks.quality_jobs import Job, Named, make_job, scene_of, unique, variant_of
from benchmarks.quality_rows import END, GIVEN, NOT_TIMED, TIMED, Row, append_rows, one_line, read_rows
from benchmarks.quality_runs import Mark, ModelFile, Point, measure, train
from distwar_datasets import DataError
from distwar_gs.checkpoints.checkpoint import CheckpointError
from distwar_gs.config import Config, ConfigError, overlaid, override, with_values
from distwar_gs.formats.ply import ModelFileError
from distwar_gs.system.devices import resolve_device
from distwar_gs.system.errors import TrainingError
from distwar_kernels.errors import KernelError

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "benchmarks/time_to_quality.py"
MARKS = ("10%", "25%", "50%", "75%")
FAILURES = (
    ConfigError, DataError, TrainingError, CheckpointError, ModelFileError, KernelError, OSError,
    torch.OutOfMemoryError,
)  # fmt: skip
"""Errors that cost one training, not those after it."""


@dataclass(frozen=True)
class Child:
    """A training in a process of its own."""

    job: Job
    process: subprocess.Popen
    csv: Path
    log: Path


class Series:
    """All that a command line asks for."""

    def __init__(
        self, args: argparse.Namespace, scenes: Sequence[Named], jobs: Sequence[Job], common: dict[str, Any]
    ) -> None:
        """Of these trainings, and of the --ply of the arguments; see `of`."""
        self._args, self._scenes, self.jobs, self._settings = args, {one.name: one for one in scenes}, jobs, common
        self._marks = args.at if args.at is not None else [Mark.of(text) for text in MARKS]
        self._device = resolve_device(args.device)
        self._commit = args.commit or commit_of(ROOT)

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Series":
        """Raises ConfigError for whatever cannot be run, before anything is."""
        if not args.csv:
            raise ConfigError("--csv FILE is needed: rows are kept as each training ends")
        scenes = unique([scene_of(text) for text in args.scene], "--scene")
        variants = unique([variant_of(text) for text in args.variant], "--variant")
        if not scenes or not (variants or args.ply):
            raise ConfigError("nothing to do: give --scene, and --variant or --ply (--help shows examples)")
        common: dict[str, Any] = {"log.flip": args.flip, "train.device": args.device}
        for assignment in args.set:
            common = overlaid(common, override(assignment))
        jobs = [
            make_job(scene, variant, seed, common)
            for seed in dict.fromkeys(args.seeds)
            for scene in scenes
            for variant in variants
        ]
        series = cls(args, scenes, jobs, common)
        series._check()
        return series

    def _check(self) -> None:
        for ply in self._args.ply:
            if ply.scene not in self._scenes:
                raise ConfigError(f"--ply {ply.text}: no --scene of the name {ply.scene}")
            if not ply.path.exists():
                raise ConfigError(f"--ply {ply.text}: {ply.path}: no such file or folder")
        if self._args.parallel < 1:
            raise ConfigError(f"--parallel {self._args.parallel}: must be at least 1")
        if self._args.parallel > 1:
            self._check_parallel()
        for row in self.rows():
            for job in self.jobs:
                if (row.scene, row.variant) == (job.scene.name, job.variant.name) and row.config != job.digest:
                    raise ConfigError(
                        f"{self._args.csv} has {row.variant} on {row.scene} with other settings ({row.settings}); "
                        "give the variant another name, or choose another --csv"
                    )

    def _check_parallel(self) -> None:
        """What time decides is not the same where trainings share a machine."""
        for job in self.jobs:
            if job.config.train.seconds is not None:
                raise ConfigError(
                    f"--parallel: {job.variant.name} trains for so many seconds, of which others would take"
                )
        if any(mark.kind == "s" for mark in self._marks):
            raise ConfigError("--parallel: marks in seconds mean nothing there; give --at shares or steps")

    def rows(self) -> list[Row]:
        """Of the CSV file."""
        return read_rows(self._args.csv)

    def run(self) -> int:
        """Trains and measures what is not there yet; how many failed."""
        if not self._args.commit and self._commit == UNKNOWN:
            print("git does not know the commit of this code: --commit writes it into the rows")
        todo = self._todo()
        apart = self._args.fresh or self._args.parallel > 1
        failed = self._run_apart(todo) if apart else sum(not self._run_here(job) for job in todo)
        return failed + sum(not self._measure(ply) for ply in self._args.ply)

    def _todo(self) -> list[Job]:
        """Says what is there already."""
        timed = self._args.parallel == 1 and not self._args.untimed
        ends = {job.name: self._ends_of(job, timed) for job in self.jobs}
        found = [row for rows in ends.values() for row in rows]
        if found:
            others = sorted({row.commit for row in found} - {self._commit})
            whose = f", of commit {', '.join(others)}; another --csv has them trained anew" if others else ""
            print(f"{sum(map(bool, ends.values()))} of {len(ends)} trainings are in {self._args.csv} already{whose}")
        return [job for job in self.jobs if not ends[job.name]]

    def _ends_of(self, job: Job, timed: bool) -> list[Row]:
        """The rows of a training that is done, as far as its times are wanted."""
        wanted = (job.scene.name, job.variant.name, job.seed, END)
        rows = [row for row in self.rows() if (row.scene, row.variant, row.seed, row.at) == wanted]
        return [row for row in rows if row.timing == TIMED or not timed]

    # ------------------------------------------------------------------------------------------- one after another

    def _run_here(self, job: Job) -> bool:
        print(f"{job.name}: ", end="", flush=True)
        try:
            with self._folder(job) as folder:
                points = train(_in_folder(job.config, folder), self._marks, keeps_model=bool(self._args.keep))
        except FAILURES as error:
            print(f"failed: {error}")
            return False
        finally:
            gc.collect()
        self._append([self._row(job, point) for point in points])
        return True

    @contextlib.contextmanager
    def _folder(self, job: Job) -> Iterator[Path]:
        if self._args.keep:
            yield self._args.keep / job.name
            return
        with tempfile.TemporaryDirectory(prefix="time_to_quality_") as folder:
            yield Path(folder)

    def _append(self, rows: Sequence[Row]) -> None:
        append_rows(self._args.csv, rows)
        print(one_line(rows[-1]), flush=True)

    def _row(self, job: Job, point: Point) -> Row:
        timing = NOT_TIMED if self._args.untimed else TIMED
        run = (("--scene", job.scene.text), ("--variant", job.variant.text))
        return Row(
            scene=job.scene.name, variant=job.variant.name, seed=job.seed, timing=timing, config=job.digest,
            settings=job.settings, command=self._command(*run), **self._common(), **vars(point),
        )  # fmt: skip

    def _common(self) -> dict[str, Any]:
        return {
            "date": date.today().isoformat(), "commit": self._commit, "card": card(self._device),
            "torch": torch.__version__, "cuda": torch.version.cuda or "",
        }  # fmt: skip

    def _command(self, *parts: tuple[str, str]) -> str:
        """What makes such rows, without seeds and places of files."""
        words = ["python", "benchmarks/time_to_quality.py", *(word for part in parts for word in part)]
        return shlex.join([*words, *self._for_all()])

    def _for_all(self) -> list[str]:
        """The arguments that are the same for every training, and part of its result."""
        words = ["--set", *self._args.set] if self._args.set else []
        words += ["--at", *(mark.text for mark in self._marks)] if self._args.at is not None else []
        words += ["--flip"] if self._args.flip else []
        return words + (["--device", self._args.device] if self._args.device != "auto" else [])

    # ------------------------------------------------------------------------------------- in processes of their own

    def _run_apart(self, jobs: Sequence[Job]) -> int:
        """As many at once as asked for; how many failed."""
        waiting, failed = list(jobs), 0
        running: list[Child] = []
        with tempfile.TemporaryDirectory(prefix="time_to_quality_") as folder:
            try:
                while waiting or running:
                    while waiting and len(running) < self._args.parallel:
                        running.append(self._start(waiting.pop(0), Path(folder)))
                    time.sleep(0.05)
                    ended = [child for child in running if child.process.poll() is not None]
                    running = [child for child in running if child not in ended]
                    failed += sum(not self._take(child) for child in ended)
            finally:
                for child in running:
                    child.process.terminate()
                for child in running:
                    child.process.wait()
        return failed

    def _start(self, job: Job, folder: Path) -> "Child":
        csv, log = folder / f"{job.name}.csv", folder / f"{job.name}.log"
        words = ["--scene", job.scene.text, "--variant", job.variant.text, "--seeds", str(job.seed), *self._for_all()]
        words += ["--csv", str(csv), "--commit", self._commit]
        words += ["--untimed"] if self._args.untimed or self._args.parallel > 1 else []
        words += ["--keep", str(self._args.keep)] if self._args.keep else []
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen([sys.executable, str(PROGRAM), *words], stdout=output, stderr=output)
        return Child(job, process, csv, log)

    def _take(self, child: "Child") -> bool:
        print(f"{child.job.name}: ", end="", flush=True)
        rows = read_rows(child.csv)
        if child.process.returncode == 0 and rows:
            self._append(rows)
            return True
        lines = [line for line in child.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        said = next((line for line in reversed(lines) if "failed: " in line or "error: " in line), (lines or [""])[-1])
        print(f"failed: ended with {child.process.returncode}: {said}")
        return False

    # ------------------------------------------------------------------------------------------------ other's models

    def _measure(self, ply: ModelFile) -> bool:
        """Unless it is in the CSV file already; False if it cannot be measured."""
        scene, origin = (
            self._scenes[ply.scene],
            f"ply {ply.path}" + ("" if ply.iteration is None else f":{ply.iteration}"),
        )
        there = [row for row in self.rows() if (row.scene, row.variant) == (ply.scene, ply.variant)]
        if any(row.settings == origin for row in there):
            return True
        print(f"{ply.variant} on {ply.scene}, {ply.path}: ", end="", flush=True)
        try:
            config = make_job(scene, Named("", "", {}), 0, self._settings).config
            point = measure(ply, config)
        except FAILURES as error:
            print(f"failed: {error}")
            return False
        common = self._common() | ({"card": self._args.card} if self._args.card else {})
        row = Row(
            scene=ply.scene, variant=ply.variant, seed=sum(row.at == point.at for row in there),
            timing=NOT_TIMED if ply.seconds is None else GIVEN, config="", settings=origin,
            command=self._command(("--scene", scene.text), ("--ply", ply.text)), **common, **vars(point),
        )  # fmt: skip
        self._append([row])
        return True


def _in_folder(config: Config, folder: Path) -> Config:
    return with_values(config, {"train.result_dir": str(folder)})


# ------------------------------------------------------------------------------------------------- where and what

UNKNOWN = "unknown"


def commit_of(folder: Path) -> str:
    """The commit of the code in a folder, with a + where files of it are changed (those of docs/ not counted)."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short=10", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
    return commit + ("+" if changed else "")


def card(device: torch.device) -> str:
    """The GPU's name, or the processor's and its threads."""
    return machine(device).partition(";")[0]
