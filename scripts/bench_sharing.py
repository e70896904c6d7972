"""Measures what trainings on the CPU cost each other that share its cores.

    python scripts/make_demo_scene.py data/demo
    python scripts/bench_sharing.py

Runs `train.py` once, and several at once, each on all cores, under two ways in which OpenMP's threads may wait for each
other: asleep, as the program lets them (`distwar_gs.cores`), and spinning, as OpenMP does unless it is told otherwise
(GOMP_SPINCOUNT of libgomp's own default). `loop` is the training time that metrics.json has, the longest of those at
once; `all` is from the first start to the last end.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from distwar_gs.cli import run_cli
from distwar_gs.config import ConfigError
from scripts.measuring import machine, print_table, write_csv

ROOT = Path(__file__).resolve().parents[1]
WAYS = {"asleep": {}, "spinning": {"GOMP_SPINCOUNT": "300000"}}
"""Of waiting: the variables that say so."""
_OPENMP = ("OMP_", "GOMP_", "KMP_")


@dataclass(frozen=True)
class Row:
    """Medians over the repetitions."""

    waiting: str
    at_once: int
    loop_s: float
    steps_per_second: float
    """Of each training."""
    all_s: float


def main(arguments: Sequence[str]) -> None:
    """Measure, print, write."""
    args = _parser().parse_args(arguments)
    if not args.scene.is_dir():
        raise ConfigError(f"{args.scene}: no such folder; make it with python scripts/make_demo_scene.py {args.scene}")
    rows = []
    for at_once in args.at_once:
        for way in WAYS:
            times = [train(args.scene, way, at_once, args.steps) for _ in range(args.repeats)]
            loop, everything = (median(column) for column in zip(*times, strict=True))
            rows.append(Row(way, at_once, loop, args.steps / loop, everything))
    print(f"{machine(torch.device('cpu'))}; {args.steps} steps, medians of {args.repeats}\n")
    print_table(rows)
    if args.csv:
        write_csv(args.csv, rows, {"machine": machine(torch.device("cpu")), "steps": args.steps})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", type=Path, default=Path("data/demo"), help="to train on (default: %(default)s)")
    parser.add_argument("--at_once", type=_count, nargs="+", default=[1, 2], help="trainings (default: 1 2)")
    parser.add_argument("--steps", type=_count, default=100, help="of each (default: %(default)s)")
    parser.add_argument("--repeats", type=_count, default=3, help="of each measurement (default: %(default)s)")
    parser.add_argument("--csv", type=Path, help="also write the table here")
    return parser


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return value


def environment(way: str) -> dict[str, str]:
    """This one's, with OpenMP as it is by itself but for the way of waiting, and without a GPU."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OPENMP)}
    return kept | {"CUDA_VISIBLE_DEVICES": ""} | WAYS[way]


def train(scene: Path, way: str, at_once: int, steps: int) -> tuple[float, float]:
    """Seconds of the longest training loop of those at once, and from the first start to the last end."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(folder) / str(number) for number in range(at_once)]
        start = time.perf_counter()
        processes = [_started(scene, run, way, steps) for run in runs]
        try:
            codes = [process.wait() for process in processes]
        finally:  # none goes on when this program is stopped
            for process in processes:
                process.kill()
        seconds = time.perf_counter() - start
        if any(codes):
            raise OSError(f"train.py ended with code {max(codes)}")
        loops = [json.loads((run / "metrics.json").read_text())[-1]["train_seconds"] for run in runs]
        return max(loops), seconds


def _started(scene: Path, run: Path, way: str, steps: int) -> subprocess.Popen:
    flags = ["--device", "cpu", "--quiet", "--sh_degree", "1", "--iterations", str(steps)]
    command = [sys.executable, ROOT / "train.py", "-s", scene, "-m", run, *flags, "--set", "log.tensorboard=false"]
    return subprocess.Popen(list(map(str, command)), env=environment(way), stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    run_cli(main)
