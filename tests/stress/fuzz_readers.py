"""Feeds broken files to every reader of the programs and counts what comes of it.

    python tests/stress/fuzz_readers.py --minutes 20 [--reader NAME] [--seed S] [--keep DIR]

A reader may succeed, or raise its own error with one line that names a file. Anything else is a crash: another
exception, more than 10 seconds, more memory than the input deserves, or a dead process. The input of each kind of
crash is kept. Readers run in processes of their own, one after the other, each for its share of the time; the same seed
makes the same inputs. Needs Hypothesis: pip install -r tests/requirements.txt -c constraints.txt
"""

import argparse
import contextlib
import faulthandler
import logging
import multiprocessing
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TextIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from distwar_gs.cli import run_cli
from distwar_gs.system.terminal import one_line
from stress.fuzz_inputs import READERS, Reader, cases

HANG_SECONDS = 10.0
BATCH = 200
"""Executions between two reports of a worker."""


@dataclass
class Tally:
    """What came of a reader's executions."""

    read: int = 0
    refused: int = 0
    messages: set[str] = field(default_factory=set)
    """The errors' messages without what varies: names of files, numbers, quoted values."""
    crashes: Counter = field(default_factory=Counter)
    """How often each kind happened."""

    @property
    def executions(self) -> int:
        """All of them."""
        return self.read + self.refused + self.crashes.total()

    def add(self, other: "Tally") -> None:
        """Count what another worker counted."""
        self.read, self.refused = self.read + other.read, self.refused + other.refused
        self.messages |= other.messages
        self.crashes += other.crashes


def main(arguments: Sequence[str]) -> int:
    """Fuzz for the time given; a table to the terminal. Exit code 1 if anything crashed."""
    args = _parser().parse_args(arguments)
    readers = [READERS[args.reader]] if args.reader else list(READERS.values())
    tallies = {}
    for reader in readers:
        tallies[reader.name] = fuzz(reader, args.seed, 60.0 * args.minutes / len(readers), keep=args.keep)
        for crash, count in tallies[reader.name].crashes.most_common():
            print(f"{reader.name}: {count} x {crash}", file=sys.stderr)
    print(table(tallies))
    return 1 if any(tally.crashes for tally in tallies.values()) else 0


def fuzz(
    reader: Reader, first_seed: int, seconds: float = 1e9, executions: int = sys.maxsize, keep: Path | None = None
) -> Tally:
    """Break the reader's input until the time or the executions are used up; a dead worker is replaced.

    keep: folder for the input of every new kind of crash.
    """
    tally, deadline, batch = Tally(), time.monotonic() + seconds, 0
    while time.monotonic() < deadline and tally.executions < executions:
        with tempfile.TemporaryDirectory(prefix=f"fuzz-{reader.name}-") as scratch:
            job = _Job(reader, Path(scratch), first_seed + batch, deadline, executions - tally.executions, keep)
            batch += _watch(job, tally)
    return tally


def table(tallies: dict[str, Tally]) -> str:
    """A row for each reader, as docs/bad_inputs.md shows it."""
    rows = [
        f"| {name} | {tally.executions:,} | {tally.read:,} | {tally.refused:,} | {len(tally.messages)} | "
        f"{tally.crashes.total()} |"
        for name, tally in tallies.items()
    ]
    head = "| reader | executions | read | refused | distinct messages | crashes |\n|---|---|---|---|---|---|\n"
    return head + "\n".join(rows)


# -------------------------------------------------------------------------------------------------- the two processes


@dataclass(frozen=True)
class _Job:
    """What a worker is to do, and where."""

    reader: Reader
    scratch: Path
    seed: int
    deadline: float
    executions: int
    keep: Path | None

    @property
    def input(self) -> Path:
        """The folder that is read."""
        return self.scratch / "input"

    def keep_input(self, crash: str) -> None:
        """A copy of the input for those who mend the reader."""
        if self.keep:
            folder = self.keep / f"{self.reader.name}-{re.sub(r'[^A-Za-z]+', '-', crash)[:60]}"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(self.input, folder)
            (folder / "crash.txt").write_text(crash + "\n", encoding="utf-8", errors="backslashreplace")


def _watch(job: _Job, tally: Tally) -> int:
    """Run a worker, add up its reports; one that dies is a crash. Returns how many seeds it has used."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    worker = multiprocessing.get_context("fork").Process(target=_work, args=(job, theirs))
    worker.start()
    theirs.close()
    used = 0
    with contextlib.suppress(EOFError):
        while True:
            used += 1
            tally.add(ours.recv())
    worker.join()
    if worker.exitcode != 0:
        crash = f"dead process, exit code {worker.exitcode}: {_last_words(job.scratch / 'stderr')}"
        tally.crashes[crash] += 1
        job.keep_input(crash)
    return used


def _work(job: _Job, report: Connection) -> None:
    """Batch after batch, with a report after each."""
    torch.set_num_threads(1)
    logging.disable()
    warnings.simplefilter("ignore")
    paths = job.reader.prepare(job.input)
    whole = [path.read_bytes() for path in paths]
    done, batch = 0, 0
    with (job.scratch / "stderr").open("w") as stderr, _limits(job.reader.memory, stderr):
        while time.monotonic() < job.deadline and done < job.executions:
            tally = Tally()
            _run_batch(job, paths, whole, job.seed + batch, min(BATCH, job.executions - done), tally, stderr)
            report.send(tally)
            done, batch = done + tally.executions, batch + 1


def _run_batch(job: _Job, paths: list[Path], whole: list[bytes], number: int, count: int, tally: Tally, stderr) -> None:
    """`count` executions from one seed."""

    @seed(number)
    @settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=HealthCheck
    )
    @given(cases(job.reader, whole))
    def execute(case: tuple[int, bytes]) -> None:
        if time.monotonic() > job.deadline:
            return
        index, content = case
        paths[index].write_bytes(content)
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True, file=stderr)
        crash = _read(job.reader, job.input, paths[index], tally)
        faulthandler.cancel_dump_traceback_later()
        if crash:
            new = crash not in tally.crashes
            tally.crashes[crash] += 1
            if new:
                job.keep_input(crash)
        paths[index].write_bytes(whole[index])
        shutil.rmtree(job.input / ".distwar_cache", ignore_errors=True)

    execute()


def _read(reader: Reader, folder: Path, path: Path, tally: Tally) -> str | None:
    """One execution: counted, or the words for its crash."""
    try:
        reader.read(folder, path)
    except reader.errors as error:
        fault = _fault(reader, error, folder)
        if fault:
            return fault
        tally.refused += 1
        tally.messages.add(_general(str(error), folder))
        return None
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        own = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename][-1]
        words = f"{type(error).__name__} in {Path(frame.filename).name}:{frame.name} under {Path(own.filename).name}"
        return f"{words}:{own.name}: {_general(str(error), folder)[:150]}"
    tally.read += 1
    return None


def _fault(reader: Reader, error: BaseException, folder: Path) -> str | None:
    """What is wrong with an error that the reader may raise."""
    words = _general(str(error), folder)[:150]
    if not str(error).strip() or (reader.names_file and str(folder) not in one_line(str(error))):
        return f"message names no file: {words!r}"
    return f"memory used up: {words}" if isinstance(error.__cause__ or error.__context__, MemoryError) else None


def _general(message: str, folder: Path) -> str:
    """A message without what varies from input to input."""
    message = one_line(message).replace(str(folder), "DIR")
    message = re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", message)
    return re.sub(r"-?(\d[\d.,]*(e[-+]?\d+)?|\bnan\b|\binf\b)", "N", message)


@contextlib.contextmanager
def _limits(memory: int, stderr: TextIO) -> Iterator[None]:
    """Allocations beyond `memory` fail in this process, and a signal that kills it leaves a trace in `stderr`."""
    data = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (data + memory, resource.RLIM_INFINITY))
    faulthandler.enable(file=stderr)
    yield
    faulthandler.disable()


def _last_words(log: Path) -> str:
    """The fault and the innermost Python frame, from a faulthandler log."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    frames = [re.sub(r'File ".*/|"|, line \d+', "", line) for line in lines if line.startswith("File")]
    return " ".join([*lines[:1], *frames[:2]])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0, metavar="M", help="for all readers together")
    parser.add_argument("--reader", choices=READERS, help="this one only")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the first inputs; each batch counts it up")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where inputs that crash go")
    return parser


if __name__ == "__main__":
    run_cli(main)
