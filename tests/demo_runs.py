"""Short training runs on the demo scene, in this process or through the command line."""

import logging
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distwar_gs.config import Config, config_of, validate

ROOT = Path(__file__).resolve().parents[1]

# On a busy machine OpenMP's threads wait for each other much longer than such small images take.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
CAN_FORK = sys.platform == "linux" and not torch.cuda.is_available()  # CUDA does not survive a fork

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
    process = start_program(program, *arguments, cwd=cwd, gpu=gpu, fresh=fresh)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def start_program(
    program: str, *arguments: object, cwd: Path = ROOT, gpu: bool = False, fresh: bool = False,
    environment: Mapping[str, str] | None = None, prepare: Callable[[], object] | None = None,
) -> "subprocess.Popen[str] | Forked":  # fmt: skip
    """As `run_program`, but it goes on meanwhile. `environment` is over the usual one; `prepare` is called in the
    process before the program is."""
    command = [sys.executable, str(ROOT / program), *map(str, arguments)]
    around = {**(os.environ if gpu else ENVIRONMENT), **(environment or {})}
    if fresh or gpu or not CAN_FORK:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=cwd, env=around, text=True, preexec_fn=prepare, **pipes)

    def run() -> None:
        os.chdir(cwd)
        sys.argv = command[1:]
        sys.path.insert(0, str(Path(command[1]).parent))
        if prepare:
            prepare()
        runpy.run_path(command[1], run_name="__main__")

    return Forked(command, run, around)


class Forked:
    """A process that is forked from this one and calls a function as a new Python would call it, as far as its
    surroundings go. It is a process for signals, limits, permissions and exit codes, and has what tests ask of a
    subprocess.Popen."""

    def __init__(self, args: Sequence[str], function: Callable[[], object], environment: Mapping[str, str]) -> None:
        """Starts it; `args` are only told."""
        self.args = list(args)
        pipes = [os.pipe(), os.pipe()]
        self._process = multiprocessing.get_context("fork").Process(
            target=_become, args=(function, environment, *(theirs for _, theirs in pipes))
        )
        self._process.start()
        self._said = ["", ""]
        self._readers = [threading.Thread(target=self._read, args=(index, pipes[index][0])) for index in (0, 1)]
        for (_, theirs), reader in zip(pipes, self._readers, strict=True):
            os.close(theirs)
            reader.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None: it runs; negative: minus the number of the signal that has ended it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The `returncode` of this moment."""
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        """Until it has ended. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Until it has ended; what it wrote to stdout and stderr. Raises subprocess.TimeoutExpired."""
        self.wait(timeout)
        for reader in self._readers:
            reader.join(timeout)
        return self._said[0], self._said[1]

    def send_signal(self, number: int) -> None:
        """To the process, if it has not ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """If it has not ended."""
        self._process.kill()

    def _read(self, index: int, pipe: int) -> None:
        with open(pipe, errors="replace") as stream:
            self._said[index] = stream.read()


def _become(function: Callable[[], object], environment: Mapping[str, str], out: int, err: int) -> None:
    """In a forked child: the surroundings of a new Python, then the function."""
    for number, pipe in ((1, out), (2, err)):
        os.dup2(pipe, number)
        os.close(pipe)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    warnings.showwarning = lambda *parts, file=None, line=None: print(warnings.formatwarning(*parts), file=sys.stderr)
    warnings.resetwarnings()
    for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind)
    torch.set_num_threads(1)
    function()


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
