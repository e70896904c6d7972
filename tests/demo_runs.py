"""Short training runs on the demo scene, in this process or through the command line."""

import logging
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

from distwar_gs.config import Config, config_of, validate

ROOT = Path(__file__).resolve().parents[1]

# On a busy machine OpenMP's threads wait for each other much longer than such small images take.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
_CAN_FORK = sys.platform == "linux" and not torch.cuda.is_available()  # CUDA does not survive a fork

DENSE_SCHEDULE = {
    "densification.strategy": "adc", "densification.start": 5, "densification.every": 10, "densification.stop": 38,
    "densification.opacity_reset_every": 25, "densification.grad_threshold": 1e-3, "model.sh_degree_interval": 10,
}  # fmt: skip
"""Every event of a long run within 40 steps: growth after 10, 20, 30 (to about 5300), an opacity reset, all degrees; of
adc, of which nothing else follows the length of the run."""


@dataclass(frozen=True)
class FinishedRun:
    """A training run from the command line that has ended well."""

    folder: Path
    scene: Path
    steps: int
    stdout: str
    stderr: str


def run_program(
    program: str, *arguments: object, cwd: Path = ROOT, gpu: bool = False, timeout: float = 300, fresh: bool = False
) -> subprocess.CompletedProcess:
    """`python PROGRAM ARGUMENTS`, a program of the repository, without a GPU unless asked for; output as text.

    In a process of its own, which is forked from this one: it runs the same file, but need not import what is imported
    here already. `fresh` starts a new Python, as a user does.
    """
    command = [sys.executable, str(ROOT / program), *map(str, arguments)]
    if fresh or gpu or not _CAN_FORK:
        environment = dict(os.environ) if gpu else ENVIRONMENT
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = multiprocessing.get_context("fork").Process(target=_become, args=(command[1:], cwd, out, err))
        child.start()
        child.join(timeout)
        if child.exitcode is None:
            child.kill()
            child.join()
            raise subprocess.TimeoutExpired(command, timeout)
        out.seek(0), err.seek(0)
        return subprocess.CompletedProcess(command, child.exitcode, out.read(), err.read())


def _become(command: list[str], cwd: Path, out: TextIO, err: TextIO) -> None:
    """In a forked child: run a program with its arguments as a new Python would, as far as its surroundings go."""
    for number, file in ((1, out), (2, err)):
        os.dup2(file.fileno(), number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    warnings.showwarning = lambda *parts, file=None, line=None: print(warnings.formatwarning(*parts), file=sys.stderr)
    warnings.resetwarnings()
    for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind)
    torch.set_num_threads(1)
    sys.argv = command
    sys.path.insert(0, str(Path(command[0]).parent))
    runpy.run_path(command[0], run_name="__main__")


@contextmanager
def one_thread() -> Iterator[None]:
    """For runs in this process that several tests share; tests of their own take the fixture `in_process`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def demo_config(scene: Path, folder: Path, changes: dict[str, Any] | None = None) -> Config:
    """A quiet run of 10 steps on the CPU, with the changes over it."""
    values = {
        "data.source_path": str(scene), "train.result_dir": str(folder), "train.device": "cpu", "train.iterations": 10,
        "log.quiet": True, "log.tensorboard": False, "log.report": False,
    }  # fmt: skip
    return validate(config_of(values | (changes or {})))
