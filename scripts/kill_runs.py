"""Kills trainings at random moments, resumes them, and checks that nothing was lost but the time.

    python scripts/kill_runs.py [--kills 100] [--out docs/results/DATE_kills.md]

A tiny made scene is trained once without interruption, on the CPU. Then the same training runs again and again, each
session of it with --resume auto and ended by SIGKILL:

    anywhere     at a random moment of the whole length of a run
    beginning    at a random moment of what precedes the first step: imports, reading the scene, the checkpoint
    writing      a random moment after a checkpoint's temporary file has appeared

After every kill what lies in the run folder must be whole, at the start of every session the newest checkpoint must be
found, and when a run has ended it must have the parameters, moments, metrics and PLY of the uninterrupted one to the last
bit. Every run writes to a terminal of its own, because a progress bar tells each step that was done. Unix only.
"""

import argparse
import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from distwar_gs.checkpoint import FOLDER, LATEST, load_checkpoint
from distwar_gs.cli import run_cli
from distwar_gs.config import load_config
from distwar_gs.export import load_ply

ROOT = Path(__file__).resolve().parents[1]
SCENE = ("--views", "10", "--width", "48", "--height", "36")
SETTINGS = (
    "densification.start=15", "densification.every=20", "densification.stop=300", "densification.cap_max=3600",
    "densification.grad_threshold=1e-3", "densification.opacity_reset_every=90", "densification.order_every=50",
    "model.sh_degree_interval=60", "data.background=random", "log.tensorboard=false", "log.every=10",
)  # fmt: skip
"""Every event of a long run within 300 steps: refinements, opacity resets, spatial orders, all degrees."""
# One thread: small images are faster so, and a loaded machine does not matter. The bar is drawn at every step.
ENVIRONMENT = {
    **os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TQDM_MININTERVAL": "0", "TQDM_MINITERS": "1",
    "COLUMNS": "200",
}  # fmt: skip
KINDS = ("anywhere", "beginning", "writing")
WEIGHTS = (2, 1, 1)
BAR = re.compile(rb"\| (\d+)/\d+ \[")
AFTER_TEMPORARY_S = 0.03
"""Writing a checkpoint of this scene and pointing `latest` at it takes about as long."""


class Failure(RuntimeError):
    """Something was lost or is not as it should be."""


@dataclass(frozen=True)
class Kill:
    """One session that was killed."""

    kind: str
    seconds: float
    """After the session began."""
    stage: str
    """Where it was, from what it left: "imports", "loading", "training", "writing a checkpoint", "results"."""
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
    runs: int = 0


# ------------------------------------------------------------------------------------------------------- a session


class Session:
    """train.py in a process of its own, on a terminal of its own."""

    def __init__(self, arguments: Sequence[str]) -> None:
        """Starts it."""
        self.began = time.monotonic()
        self._terminal, other = pty.openpty()
        command = [sys.executable, str(ROOT / "train.py"), *arguments]
        self._process = subprocess.Popen(command, stdin=other, stdout=other, stderr=other, env=ENVIRONMENT)
        os.close(other)
        self._output = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    def kill(self) -> None:
        """SIGKILL."""
        self._process.send_signal(signal.SIGKILL)

    def wait(self) -> int:
        """The exit code, when all output has come; negative: minus the number of a signal."""
        code = self._process.wait()
        self._reader.join()
        os.close(self._terminal)
        return code

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
                piece = os.read(self._terminal, 65536)
            except OSError:  # how Linux tells that nobody has the other end any more
                return
            if not piece:
                return
            self._output += piece


# --------------------------------------------------------------------------------------------------------- a kill


def kill_somewhere(session: Session, kind: str, folder: Path, beginning: float, length: float) -> bool:
    """Kill it as `kind` says; False if it ended before that."""
    if kind == "writing":
        reached = _until(session, lambda: bool(_temporaries(folder)), patience=0.0)
        moment = session.seconds + random.uniform(0.0, AFTER_TEMPORARY_S)
    else:
        reached, moment = True, random.uniform(0.0, beginning if kind == "beginning" else length)
    if reached:
        reached = not _until(session, lambda: session.seconds >= moment, patience=0.001) or session.running
    if not session.running:
        return False
    session.kill()
    return True
