"""Where the time of a whole training goes, at several of its steps, beside other trainers.

    python scripts/bench_training.py --config configs/mipnerf360/garden.yaml --json ours.json --picture training.svg
    python scripts/bench_training.py -s data/bonsai --rasterizer gsplat --at 1000 7000 --beside fused=ours.json

It takes train.py's arguments and trains as train.py does. The steps of a refinement interval that end at a mark (--at)
have, where it is a multiple of the interval, one number of Gaussians. The last 20 of them are timed by CUDA events that
nobody waits for; those before are silent, on the clock from end to end, and give the untimed step. A refinement (by
events) is spread over its interval in both, under `densify`; `other` is what the stages leave of the untimed step: the
photo, launch gaps, Python. Opacity resets and spatial ordering, once in thousands of steps, are in no step.

--json writes, and --beside NAME=FILE reads, a trainer's figures. Stages that are not known, and all after "marks", may
be left out; `other`, where it is not given, is what the stages leave of step_ms:

    {"name": "some trainer", "marks": {"7000": {"stages_ms": {"forward": 1.0, "loss": 0.2, "blend_backward": 0.9,
     "backward_and_optimizer": 1.5, "densify": 0.1}, "step_ms": 4.0, "gaussians": 1000000, "refinement_ms": 9.0}},
     "seconds": 150.0, "psnr": {"7000": 26.1, "30000": 27.3}, "peak_allocated_mib": 4000.0,
     "peak_reserved_mib": 5000.0, "first_step_seconds": 20.0, "machine": "a GPU"}
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: distwar_gs.cores

import torch

from distwar_gs.cli import run_cli, train_config
from distwar_gs.config import Config, ConfigError
from distwar_gs.densification import is_refined
from distwar_gs.metrics import Evaluation
from distwar_gs.monitor import Monitor
from distwar_gs.schedule import Moment
from distwar_gs.timing import PartTimer, StepTimer
from distwar_gs.trainer import Trainer
from scripts.measuring import STAGES, machine, peak_memory_mib, stages_of, synchronize
from scripts.plotting import check_plot
from scripts.training_report import Mark, Report, draw, print_reports, read_report, write_lines, write_report

MARKS = (1000, 7000, 15_000, 30_000)
TIMED = 20


def main(arguments: Sequence[str]) -> int:
    """Train, then print, write and draw what was measured, as far as the training came; train.py's exit code."""
    args, rest = _parser().parse_known_args(arguments)
    check_plot(args.picture, "--picture")
    config = train_config(rest)
    marks = checked_marks(args.at, config)
    beside = [read_report(Path(file), name) for name, file in args.beside]
    trainer = MeasuredTrainer(config, marks)
    try:
        return trainer.run()
    finally:
        if trainer.step:
            _tell([trainer.report(args.name), *beside], args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        epilog="All other arguments are train.py's.",
    )  # fmt: skip
    parser.add_argument("--at", type=int, nargs="+", metavar="STEP", help=f"marks (default: those of {MARKS} it has)")
    parser.add_argument("--name", default="distwar-gs", help="of this training (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured here")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table here, a line a trainer and mark")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw it as this PNG or SVG (needs matplotlib)")
    beside = {"type": _named_file, "nargs": "+", "action": "extend", "metavar": "NAME=FILE"}
    parser.add_argument("--beside", default=[], help="another trainer's figures", **beside)
    return parser


def _named_file(text: str) -> tuple[str, str]:
    name, equals, file = text.partition("=")
    if not (name and equals and file):
        raise argparse.ArgumentTypeError(f"{text}: expected NAME=FILE")
    return name, file


def _tell(reports: Sequence[Report], args: argparse.Namespace) -> None:
    """Files first: nothing that was measured is lost."""
    if args.json:
        write_report(args.json, reports[0])
    if args.csv:
        write_lines(args.csv, reports)
    if reports[0].machine:
        print(reports[0].machine + "\n")
    print_reports(reports)
    if args.picture:
        draw(reports, args.picture)


# ----------------------------------------------------------------------------------------------- which steps


@dataclass(frozen=True)
class Window:
    """The steps that describe a mark: silent ones, on the clock, then timed ones; all in one refinement interval."""

    silent: range
    timed: range

    @classmethod
    def before(cls, mark: int, every: int) -> "Window":
        """The refinement interval of `every` steps that ends at the mark; a short interval gets silent steps before."""
        timed = range(mark - TIMED + 1, mark + 1)
        return cls(range(timed.start - max(every - TIMED, TIMED), timed.start), timed)

    @property
    def steps(self) -> range:
        """All of them."""
        return range(self.silent.start, self.timed.stop)


def checked_marks(wanted: Sequence[int] | None, config: Config) -> list[int]:
    """The marks in order, or those of `MARKS` that the training has.

    Raises ConfigError for those it has not, and for those whose window the steps before them leave no room for.
    """
    if config.train.resume:
        raise ConfigError("--resume: only a whole training can be measured; leave it out and choose another -m")
    if config.train.seconds is not None:
        raise ConfigError("--seconds: marks are steps, so the length must be given in steps, too; give --iterations")
    last, length = config.train.iterations, len(Window.before(0, config.densification.every).steps)
    marks = sorted(set(wanted or (mark for mark in MARKS if length < mark <= last)))
    for before, mark in zip([1, *marks], marks, strict=False):  # the first step warms up
        if mark > last:
            raise ConfigError(f"--at {mark}: the training ends at --iterations {last}")
        if mark - length < before:
            raise ConfigError(f"--at {mark}: measuring takes {length} steps, and they would begin before {before + 1}")
    return marks


# --------------------------------------------------------------------------------------------- the training


class WindowMonitor(Monitor):
    """Times the steps of windows without waiting for them, and publishes nothing there."""

    def __init__(
        self, folder: Path, config: Config, device: torch.device, elapsed: float, windows: Sequence[Window]
    ) -> None:
        """For a run from its first step."""
        super().__init__(folder, config, device, 1, elapsed)
        self._watched = {step for window in windows for step in window.steps}
        # The refinement that a step made due is the next one's first part (Trainer.train_step).
        self.refining = {step for step in self._watched if is_refined(Moment.of_step(step - 1), config.densification)}
        self._timed = self.refining.union(*(window.timed for window in windows))
        self.timers: dict[int, PartTimer] = {}

    def is_published(self, step: int) -> bool:
        """Not in a window, where its wait for the device would be measured."""
        return step not in self._watched and super().is_published(step)

    def timer(self, step: int) -> StepTimer:
        """Kept for the end of the run if the step is one to time."""
        if step not in self._timed:
            return super().timer(step)
        return self.timers.setdefault(step, PartTimer(self._device))


class MeasuredTrainer(Trainer):
    """A trainer that notes what a `Report` needs."""

    def __init__(self, config: Config, marks: Sequence[int]) -> None:
        """To be measured at these steps (from `checked_marks`)."""
        super().__init__(config)
        self._windows = {mark: Window.before(mark, config.densification.every) for mark in marks}
        self._edges = {edge for window in self._windows.values() for edge in (window.silent.start, window.silent.stop)}
        self._clock: dict[int, float] = {}  # seconds of training before a step
        self._counts: dict[int, int] = {}
        self._psnr: dict[int, float] = {}
        self._first_step_seconds: float | None = None

    def make_monitor(self) -> Monitor:
        """See Trainer."""
        return WindowMonitor(self.folder, self.config, self.device, self._elapsed, list(self._windows.values()))

    def train_step(self, step: int) -> None:
        """See Trainer. Waits for the device at both ends of the silent steps, and after the first step."""
        if step in self._edges:
            synchronize(self.device)
            self._clock[step] = self.monitor.elapsed()
        super().train_step(step)
        if step == self._first_step:
            synchronize(self.device)
            self._first_step_seconds = round(_age_of_process(), 2)
        if step in self._windows:
            self._counts[step] = len(self.params["means"])

    def evaluate(self) -> Evaluation | None:
        """See Trainer."""
        evaluation = super().evaluate()
        if evaluation:
            self._psnr[self.step] = round(evaluation.psnr, 3)
        return evaluation

    def report(self, name: str) -> Report:
        """After (or out of) `run`: what was measured until then."""
        synchronize(self.device)
        marks = {mark: self._mark(mark) for mark in self._counts}
        return Report(
            name, marks, round(self.monitor.elapsed(), 2), self._psnr, *peak_memory_mib(self.device),
            self._first_step_seconds, machine(self.device),
        )  # fmt: skip

    def _mark(self, mark: int) -> Mark:
        window, every = self._windows[mark], self.config.densification.every
        timed = [self._parts(step) for step in window.timed]
        stages = [stages_of(parts, self.settings.rasterizer == "fused") for parts in timed]
        means = {stage: fmean(one[stage] for one in stages) for stage in STAGES}
        usual = [self._parts(step)["densify"] for step in window.timed if step not in self.monitor.refining] or [0.0]
        refinements = {step: self._parts(step)["densify"] for step in window.steps if step in self.monitor.refining}
        refinement = fmean(refinements.values()) if refinements else None
        share = (refinement or 0.0) / every
        silent_ms = 1e3 * (self._clock[window.silent.stop] - self._clock[window.silent.start])
        silent_ms -= sum(refinements.get(step, 0.0) for step in window.silent)
        step_ms = silent_ms / len(window.silent) + share
        return Mark.of(means | {"densify": fmean(usual) + share}, step_ms, self._counts[mark], refinement)

    def _parts(self, step: int) -> dict[str, float]:
        return self.monitor.timers[step].milliseconds()


def _age_of_process() -> float:
    """Seconds since the operating system started it (proc(5): field 22 of stat, in ticks since boot)."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    run_cli(main)
