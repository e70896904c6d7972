"""What a step of MCMC costs, by the kind of Adam: lazy, where prices are paid in closed form, or dense.

    python benchmarks/bench_mcmc.py --csv mcmc.csv
    python benchmarks/bench_mcmc.py --kinds mcmc_lazy --millions 0.3 1 3 --steps 200

The scene is that of bench_scaling.py, at bonsai's size. The steps are the trainer's without refinements, but with
noise. `steps_ms` is the wall-clock time of many steps over their number; the parts are medians of steps that are timed
one by one with CUDA events, which costs some time itself. `default_lazy` is a step of adaptive density control, which
has neither prices nor noise. On the CPU there is only mcmc_composed, whose Adam is dense.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.nn import Parameter

from benchmarks import bench_scaling
from benchmarks.measuring import STAGES, machine, print_table, stages_of, synchronize, write_csv
from distwar_gs.cli import run_cli
from distwar_gs.config import ConfigError, config_of
from distwar_gs.engines.base import ComposedEngine
from distwar_gs.engines.fused_engine import FusedEngine
from distwar_gs.engines.timing import NoTimer, PartTimer, StepTimer
from distwar_gs.strategies.mcmc import Mcmc
from distwar_gs.system.devices import resolve_device

KINDS = {
    "mcmc_lazy": "fused",
    "mcmc_dense": "fused_dense",
    "mcmc_composed": "composed",
    "default_lazy": "fused",
}
"""Which of bench_scaling's engines each uses."""
_EXTENT = 1.0


@dataclass(frozen=True)
class Size(bench_scaling.Case):
    """So many Gaussians, and pictures of exactly this size."""

    pixels: tuple[int, int] = (799, 532)

    @property
    def size(self) -> tuple[int, int]:
        """See Case."""
        return self.pixels


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    kind: str
    gaussians: int
    steps_ms: float
    forward_ms: float
    loss_ms: float
    blend_backward_ms: float
    backward_and_optimizer_ms: float
    noise_ms: float | None
    note: str = ""


class TimedMcmc(Mcmc):
    """MCMC whose noise is a part of the step of its own."""

    timer: StepTimer = NoTimer()
    """Of the step."""

    def perturb(self, step: int, params: dict[str, Parameter], means_lr: float, generator: torch.Generator) -> None:
        """See Mcmc."""
        super().perturb(step, params, means_lr, generator)
        self.timer.mark("noise")


class Training(bench_scaling.Training):
    """A scene that nobody has photographed, trained by MCMC."""

    def __init__(self, kind: str, size: Size, device: torch.device) -> None:
        """The scene and the engine of this kind."""
        super().__init__(KINDS[kind], size, device)
        self.strategy: TimedMcmc | None = None
        if kind.startswith("mcmc"):
            config = config_of({"densification.strategy": "mcmc"}).densification
            assert isinstance(self.state.engine, ComposedEngine | FusedEngine)
            self.strategy = self.state.strategy = self.state.engine.strategy = TimedMcmc(_EXTENT, config)

    def step(self, timer: StepTimer) -> None:
        """The trainer's next step."""
        if self.strategy:
            self.strategy.timer = timer
        super().step(timer)


def main(arguments: Sequence[str]) -> None:
    """Measure every kind at every size; the table goes to the terminal and, with --csv, to a file."""
    args = _parser().parse_args(arguments)
    device = resolve_device(args.device)
    if device.type == "cpu" and args.kinds != ["mcmc_composed"]:
        raise ConfigError(f"--kinds {' '.join(args.kinds)}: without a CUDA GPU there is only mcmc_composed")
    rows = [
        measure(kind, Size(round(1e6 * millions), 0.0, args.size), device, args.warm_up, args.steps)
        for millions in args.millions
        for kind in args.kinds
    ]
    print(machine(device))
    print_table(rows)
    if args.csv:
        write_csv(args.csv, rows, {"machine": machine(device), "size": "{}x{}".format(*args.size)})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["mcmc_lazy", "mcmc_dense", "default_lazy"])
    parser.add_argument("--millions", type=float, nargs="+", default=[1.0], help="Gaussians (default: %(default)s)")
    parser.add_argument("--size", type=_size, default=(799, 532), help="WxH pixels (default: 799x532)")
    parser.add_argument("--warm_up", type=int, default=50, help="steps before those timed (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="timed steps (default: %(default)s)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--csv", type=Path, help="also write the table here")
    return parser


def _size(text: str) -> tuple[int, int]:
    width, height = (int(number) for number in text.split("x"))
    return width, height


def measure(kind: str, size: Size, device: torch.device, warm_up: int, steps: int) -> Row:
    """A row: first all steps at once, then as many one by one."""
    training = Training(kind, size, device)
    for _ in range(warm_up):
        training.step(NoTimer())
    synchronize(device)
    begin = time.perf_counter()
    for _ in range(steps):
        training.step(NoTimer())
    synchronize(device)
    steps_ms = 1e3 * (time.perf_counter() - begin) / steps
    parts = _parts(training, device, steps)
    return Row(kind, size.gaussians, steps_ms, **parts, note=training.complaint())


def _parts(training: Training, device: torch.device, steps: int) -> dict[str, Any]:
    """Medians. The timers are read at the end, so that no step waits for the one before."""
    timers = []
    for _ in range(steps):
        timers.append(PartTimer(device))
        training.step(timers[-1])
    parts = [timer.milliseconds() for timer in timers]
    stages = [stages_of(one, isinstance(training.state.engine, FusedEngine)) for one in parts]
    medians: dict[str, float | None] = {f"{stage}_ms": median(one[stage] for one in stages) for stage in STAGES}
    return medians | {"noise_ms": median(one["noise"] for one in parts) if training.strategy else None}


if __name__ == "__main__":
    run_cli(main)
