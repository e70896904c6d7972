"""Kills trainings at random moments, resumes them, and checks that nothing was lost but the time.

    python tests/stress/kill_runs.py [--kills 100]

A tiny made scene is trained once without interruption, on the CPU. Then the same training runs again and again, each
session of it with --resume auto and ended by SIGKILL:

    anywhere     at a random moment of the whole length of a run
    beginning    at a random moment of what precedes the first step: imports, reading the scene, the checkpoint
    writing      a random moment after a checkpoint's temporary file has appeared

After every kill what lies in the run folder must be whole, every session must go on from the newest checkpoint, and a
run that has ended must have the parameters, moments, metrics and PLYs of the uninterrupted one to the last bit. Every
session writes to a terminal of its own, because a progress bar tells each step that was done. Unix only.
"""

import argparse
import fcntl
import json
import os
import pty
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partialmethod
from pathlib import Path
from statistics import fmean
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from tqdm import tqdm

import train
from distwar_gs.checkpoints.checkpoint import CLOCK, FOLDER, CheckpointError, load_checkpoint
from distwar_gs.checkpoints.resume import find_checkpoint
from distwar_gs.cli import run_cli
from distwar_gs.config import load_config
from distwar_gs.formats.export import load_ply
from distwar_gs.training import trainer  # noqa: F401  (so that forked sessions need not)

ROOT = Path(__file__).resolve().parents[2]
SCENE = ("--views", "10", "--width", "48", "--height", "36")
SETTINGS = (
    "model.init=random", "model.init_points=800", "model.sh_degree_interval=20", "data.background=random",
    "densification.start=5", "densification.every=10", "densification.stop=100", "densification.cap_max=1200",
    "densification.grad_threshold=1e-4", "densification.opacity_reset_every=45", "densification.order_every=25",
    "log.every=10",
)  # fmt: skip
"""Every event of a long run within 120 steps: refinements, opacity resets, spatial orders, all degrees."""
# One thread: faster for small images, and on a busy machine. The bar is drawn at every step.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TQDM_MININTERVAL": "0", "TQDM_MINITERS": "1"}
COLD_SHARE = 0.15
"""Of the sessions that begin with a new Python; the others are forked, since importing takes longer than training."""
KINDS = ("anywhere", "beginning", "writing")
WEIGHTS = (2, 1, 1)
BAR = re.compile(rb"\| (\d+)/\d+ \[")
AFTER_TEMPORARY_S = 0.02
"""Writing a checkpoint of this scene and pointing `latest` at it takes about as long."""


class LossError(RuntimeError):
    """Something was lost or is not as it should be."""


@dataclass(frozen=True)
class Kill:
    """One session that was killed."""

    kind: str
    seconds: float
    """After the session began."""
    stage: str
    """What it was doing, see `_stage`."""
    step: int | None
    """The last step it showed; None: no bar yet."""
    saved: int
    """The step of the newest checkpoint after it."""

    @property
    def lost(self) -> int:
        """Steps done and not saved."""
        return 0 if self.step is None else max(0, self.step - self.saved)


@dataclass
class Tally:
    """What has happened so far."""

    kills: list[Kill] = field(default_factory=list)
    sessions: int = 0
    cold: int = 0
    runs: int = 0


# ------------------------------------------------------------------------------------------------------- a session


class Session:
    """train.py in a process of its own, on a terminal of its own."""

    def __init__(self, arguments: Sequence[str], cold: bool) -> None:
        """Starts it: as a new Python if `cold`, else as a child that has imported everything already."""
        self.began, self.cold = time.monotonic(), cold
        self._number, self._terminal = pty.fork()
        if self._number == 0:
            _become_training(list(arguments), cold)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        self._code: int | None = None
        self._output = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        if self._code is None:
            number, status = os.waitpid(self._number, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if number else None
        return self._code is None

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self._number, signal.SIGKILL)

    def wait(self) -> int:
        """The exit code, when all output has come; negative: minus the number of a signal."""
        while self.running:
            time.sleep(0.001)
        self._reader.join()
        return self._code

    @property
    def step(self) -> int | None:
        """The last step on the bar."""
        steps = BAR.findall(self._output)
        return int(steps[-1]) if steps else None

    @property
    def said(self) -> str:
        """All it has printed."""
        return self._output.decode(errors="replace")

    def _read(self) -> None:
        while True:
            try:
                self._output += os.read(self._terminal, 65536)
            except OSError:  # how Linux tells that nobody has the other end any more
                os.close(self._terminal)
                return


def _become_training(arguments: list[str], cold: bool) -> NoReturn:
    """In a forked child: go on as train.py, and end as it does."""
    os.environ |= ENVIRONMENT
    if cold:
        os.execv(sys.executable, [sys.executable, str(ROOT / "train.py"), *arguments])
    tqdm.__init__ = partialmethod(tqdm.__init__, mininterval=0.0, miniters=1)  # too late for the environment
    try:
        run_cli(train.main, arguments)
    except SystemExit as ended:
        sys.stderr.flush()
        os._exit(ended.code)
    finally:
        os._exit(70)  # a traceback, but never back into the parent's work


# --------------------------------------------------------------------------------------------------------- a kill


def kill_somewhere(session: Session, kind: str, folder: Path, plan: "Plan") -> bool:
    """Kill it as `kind` says; False if it ended before."""
    if kind == "writing":
        _wait(session, plan.random.uniform(0.0, plan.length / 3))
        while session.running and not _temporaries(folder / FOLDER):
            pass  # no pause: the file is there for some hundredths of a second
        _wait(session, session.seconds + plan.random.uniform(0.0, AFTER_TEMPORARY_S))
    else:
        _wait(session, plan.random.uniform(0.0, plan.beginning if kind == "beginning" else plan.length))
    if not session.running:
        return False
    session.kill()
    return True


def _wait(session: Session, moment: float) -> None:
    """Until so many seconds after it began, or its end."""
    while session.running and session.seconds < moment:
        time.sleep(0.001)


def _temporaries(folder: Path) -> list[str]:
    return [path.name for path in folder.glob(".*.tmp")]


def _stage(session: Session, folder: Path) -> str:
    """What the session was doing, from what it has left and said."""
    if _temporaries(folder / FOLDER):
        return "writing a checkpoint"
    if any(_temporaries(place) for place in (folder, *folder.glob("point_cloud/*"))):
        return "writing another file"
    if session.step is not None:
        return "training, measuring"
    return "loading" if "training and" in session.said else "starting"


# ------------------------------------------------------------------------------------------------------- what is whole


def check_whole(folder: Path) -> int:
    """Every file of a run that was just killed can be read; returns the step it would go on from (0: the beginning).

    Raises LossError naming the file that cannot.
    """
    for path in folder.glob(f"{FOLDER}/step_*.pt"):
        load_checkpoint(path, "cpu")
    for path in folder.glob("config.yaml"):
        load_config(path)
    for path in (*folder.glob("metrics.json"), *folder.glob("cameras.json")):
        json.loads(path.read_text())
    for path in folder.glob("point_cloud/*/point_cloud.ply"):
        load_ply(path)
    newest = find_checkpoint(folder, "auto")
    return load_checkpoint(newest, "cpu").step if newest else 0


def check_kill(kill: Kill, before: int, session: Session, every: int) -> None:
    """Raises LossError if a session went on from elsewhere than the newest checkpoint, or has lost one it had made."""
    resumed = re.search(r"resuming from .*: step (\d+),", session.said)
    if resumed and int(resumed[1]) != before or kill.step is not None and before and not resumed:
        raise LossError(f"went on from {resumed and resumed[1]}, not {before}")
    told = [int(step) for step in re.findall(r"saved \S*step_(\d+)\.pt", session.said)]
    if kill.saved < max(told, default=before):
        raise LossError(f"step {max(told)} was saved, {kill.saved} is found")
    if kill.lost > every:
        raise LossError(f"{kill.lost} steps lost, though there is a checkpoint every {every}")


def check_same(folder: Path, reference: Path) -> None:
    """Raises LossError unless a run that has ended has left what the uninterrupted one has: to the last bit."""
    ours, theirs = (load_checkpoint(find_checkpoint(run, "auto"), "cpu") for run in (folder, reference))
    if ours.step != theirs.step:
        raise LossError("the step differs from the uninterrupted run's")
    for name, part in theirs.parts.items():
        if name != CLOCK and not _equal(ours.parts.get(name), part):
            raise LossError(f"{name} differ from the uninterrupted run's")
    models = [path.relative_to(reference) for path in reference.glob("point_cloud/*/*")]
    for name in models:
        if (folder / name).read_bytes() != (reference / name).read_bytes():
            raise LossError(f"{name} differs from the uninterrupted run's")
    if _measurements(folder) != _measurements(reference):
        raise LossError("metrics.json differs from the uninterrupted run's")
    if left := [path for path in folder.rglob("*") if path.suffix in (".tmp", ".damaged")]:
        raise LossError(f"left over: {left}")


def _equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return a == b


def _measurements(folder: Path) -> list[object]:
    return [(record["step"], record["per_view"]) for record in json.loads((folder / "metrics.json").read_text())]


# ------------------------------------------------------------------------------------------------------------ the runs


@dataclass(frozen=True)
class Plan:
    """What all sessions share."""

    folder: Path
    """Where the scene and the runs are."""
    steps: int
    every: int
    """Steps between two checkpoints."""
    random: random.Random
    beginning: float = 0.0
    """Seconds before the first step, in the uninterrupted run."""
    length: float = 0.0
    """Seconds of the uninterrupted run."""

    def session(self, run: str, cold: bool) -> Session:
        """One more of a run."""
        third = self.steps // 3
        numbers = {
            "iterations": [self.steps], "test_iterations": [third, 2 * third], "save_iterations": [self.steps // 2],
        }  # fmt: skip
        flags = [word for name, values in numbers.items() for word in (f"--{name}", *map(str, values))]
        settings = ("--set", f"train.checkpoint_every={self.every}", *SETTINGS)
        places = ("-s", str(self.folder / "scene"), "-m", str(self.folder / run))
        arguments = [*places, "--device", "cpu", "--resume", "auto", *flags, *settings]
        return Session(arguments, cold)


def uninterrupted(plan: Plan) -> Plan:
    """Trains once, as a reference; returns the plan with its times."""
    session = plan.session("uninterrupted", cold=False)
    while session.running and session.step is None:
        time.sleep(0.001)
    beginning = session.seconds
    _ended_well(session)
    return replace(plan, beginning=beginning, length=session.seconds)


def kill_all(plan: Plan, count: int) -> Tally:
    """Run after run, each killed until it ends, `count` kills in all (the last run ends without)."""
    tally = Tally()
    while len(tally.kills) < count:
        run = plan.folder / f"run_{tally.runs}"
        while not _one_session(plan, run, tally, count):
            pass
        check_same(run, plan.folder / "uninterrupted")
        shutil.rmtree(run)
        tally.runs += 1
        print(f"run {tally.runs} is as the uninterrupted one, after {len(tally.kills)} kills", flush=True)
    return tally


def _one_session(plan: Plan, run: Path, tally: Tally, count: int) -> bool:
    """One session, to its kill or its end; whether it ended by itself."""
    before = check_whole(run)
    session = plan.session(run.name, cold=plan.random.random() < COLD_SHARE)
    tally.sessions += 1
    tally.cold += session.cold
    kind = plan.random.choices(KINDS, WEIGHTS)[0]
    if len(tally.kills) == count or not kill_somewhere(session, kind, run, plan):
        _ended_well(session)
        return True
    seconds = session.seconds
    if session.wait() != -signal.SIGKILL:  # it was just about to end
        _ended_well(session)
        return True
    kill = Kill(kind, seconds, _stage(session, run), session.step, check_whole(run))
    check_kill(kill, before, session, plan.every)
    tally.kills.append(kill)
    return False


def _ended_well(session: Session) -> None:
    if session.wait() != 0 or "Traceback" in session.said:
        raise LossError(f"exit code {session.wait()}: {session.said[-2000:]}")


# ---------------------------------------------------------------------------------------------------------- the report


def report(tally: Tally, plan: Plan) -> str:
    """What was killed where, as Markdown."""
    rows = [("killed while", "kills", "steps lost, mean", "most")]
    stages = Counter(kill.stage for kill in tally.kills)
    for stage, count in sorted(stages.items()):
        rows.append((stage, str(count), *_lost([kill for kill in tally.kills if kill.stage == stage])))
    rows.append(("all", str(len(tally.kills)), *_lost(tally.kills)))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---|---|---|---|")
    moments = sorted(kill.seconds for kill in tally.kills)
    return "\n".join(lines) + (
        f"\n\n{tally.runs} runs of {plan.steps} steps, a checkpoint every {plan.every}, in {tally.sessions} sessions, "
        f"{tally.cold} of them with a Python of their own.\nThe uninterrupted run took {plan.length:.1f} s, "
        f"{plan.beginning:.1f} s of them before its first step; the kills came {moments[0]:.2f} to {moments[-1]:.1f} s "
        "after a session's begin.\nAfter every kill all files could be read. Every run ended with exit code 0 and, to "
        "the last bit, with the\nparameters, moments, random numbers, metrics and PLYs of the uninterrupted one.\n"
    )


def _lost(kills: Sequence[Kill]) -> tuple[str, str]:
    return f"{fmean(kill.lost for kill in kills):.1f}", str(max(kill.lost for kill in kills))


def main(arguments: Sequence[str]) -> int:
    """Make the scene, train without and with kills, print the table; exit code 1 for a failure."""
    args = _parser().parse_args(arguments)
    torch.set_num_threads(1)  # a process that OpenMP has begun threads in must not be forked
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = [sys.executable, str(ROOT / "scripts/make_demo_scene.py"), str(folder / "scene"), *SCENE]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
        plan = uninterrupted(Plan(folder, args.steps, args.every, random.Random(args.seed)))
        print(f"the uninterrupted run took {plan.length:.1f} s", flush=True)
        try:
            tally = kill_all(plan, args.kills)
        except (LossError, CheckpointError) as failure:
            print(f"FAILED: {failure}")
            return 1
    print("\n" + report(tally, plan))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="how many sessions to kill (default: 100)")
    parser.add_argument("--steps", type=int, default=120, help="length of a run (default: 120)")
    parser.add_argument("--every", type=int, default=7, help="steps between two checkpoints (default: 7)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments to kill at (default: 0)")
    return parser


if __name__ == "__main__":
    run_cli(main)
