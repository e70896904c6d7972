"""Short training runs on the demo scene, in this process or through the command line."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distwar_gs.config import Config, config_of, validate

ROOT = Path(__file__).resolve().parents[1]

# On a busy machine OpenMP's threads wait for each other much longer than such small images take.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

DENSE_SCHEDULE = {
    "densification.start": 5, "densification.every": 10, "densification.stop": 38,
    "densification.opacity_reset_every": 25, "densification.grad_threshold": 1e-3, "model.sh_degree_interval": 10,
}  # fmt: skip
"""Every event of a long run within 40 steps: growth after 10, 20, 30 (to about 5300), an opacity reset, all degrees."""


@dataclass(frozen=True)
class FinishedRun:
    """A training run from the command line."""

    folder: Path
    scene: Path
    steps: int
    result: subprocess.CompletedProcess


def run_program(
    program: str, *arguments: object, cwd: Path = ROOT, gpu: bool = False, timeout: float = 300
) -> subprocess.CompletedProcess:
    """`python PROGRAM ARGUMENTS`, a program of the repository, without a GPU unless asked for; output as text."""
    command = [sys.executable, str(ROOT / program), *map(str, arguments)]
    environment = dict(os.environ) if gpu else ENVIRONMENT
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


def demo_config(scene: Path, folder: Path, changes: dict[str, Any] | None = None) -> Config:
    """A quiet run of 10 steps on the CPU, with the changes over it."""
    values = {
        "data.source_path": str(scene), "train.result_dir": str(folder), "train.device": "cpu", "train.iterations": 10,
        "log.quiet": True, "log.tensorboard": False,
    }  # fmt: skip
    return validate(config_of(values | (changes or {})))
