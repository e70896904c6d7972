"""What a training step costs through each lens, at equal size, scale and number of Gaussians.

    python benchmarks/bench_lenses.py --csv lenses.csv
    python benchmarks/bench_lenses.py --engine fused --millions 1 --megapixels 2 --lenses pinhole opencv fisheye

The scene, the photos and the steps are those of bench_scaling.py. Every lens has the pinhole's scale in the middle of
the image, so that Gaussians are as large in it; those that can distort do, by a few pixels. One training goes through
all lenses in turn, several rounds of so many steps that warm up and so many that are timed: what the machine does
meanwhile meets all of them. Medians over all rounds, in ms by CUDA events, and the step's time against the pinhole's.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.bench_scaling import DISTANCE, ENGINES, Case, Training, whole_step_ms
from benchmarks.measuring import STAGES, machine, markdown, stages_of, write_csv
from distwar_gs.cli import run_cli
from distwar_gs.config import ConfigError
from distwar_gs.engines.fused_engine import FusedEngine
from distwar_gs.engines.timing import NoTimer, PartTimer
from distwar_gs.system.devices import resolve_device
from distwar_kernels import MODELS, Cameras

Times = dict[str, float]
_RADIAL, _OTHERS = (0.02, -0.01, 0.0, 0.0, 0.0, 0.0), (0.001, -0.001, 0.001, 0.0, -0.001, 0.0)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    lens: str
    engine: str
    gaussians: int
    megapixels: float
    forward_ms: float
    blend_backward_ms: float
    backward_and_optimizer_ms: float
    step_ms: float
    of_pinhole: float
    """The step's time, pinhole's 1."""


def main(arguments: Sequence[str]) -> None:
    """Measure every lens; the table goes to the terminal and, with --csv, to a file."""
    args = _parser().parse_args(arguments)
    device = resolve_device(args.device)
    engine = args.engine or ("composed" if device.type == "cpu" else "fused")
    if device.type == "cpu" and engine != "composed" or engine == "gsplat":
        raise ConfigError(f"--engine {engine}: on the CPU there is only composed, and gsplat has the pinhole only")
    case = Case(round(1e6 * args.millions), args.megapixels)
    training = Training(engine, case, device)
    times = measure(training, args.lenses, device, args)
    if training.complaint():
        print(training.complaint())
    rows = [Row(lens, engine, case.gaussians, case.megapixels, **numbers) for lens, numbers in times.items()]
    if args.csv:
        write_csv(args.csv, rows, {"machine": machine(device)})
    head = ["lens", "forward, ms", "blend backward, ms", "backward and optimizer, ms", "step, ms", "of pinhole"]
    print(machine(device) + "\n")
    print(
        markdown([head, *([row.lens, *(f"{number:.3f}" for number in list(vars(row).values())[4:])] for row in rows)])
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lenses", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--engine", choices=ENGINES, help="default: fused, on the CPU composed")
    parser.add_argument("--millions", type=float, default=1.0, help="Gaussians (default: %(default)s)")
    parser.add_argument("--megapixels", type=float, default=1.0, help="photos (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--warm_up", type=int, default=10, help="steps of each round (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=30, help="timed steps of each round (default: %(default)s)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--csv", type=Path, help="also write the table here")
    return parser


def through(lens: str, camera: Cameras) -> Cameras:
    """A pinhole camera's view through another lens, as large in the middle."""
    fx, fy, cx, cy = camera.intrinsics[0].tolist()
    numbers: Mapping[str, tuple[float, ...]] = {
        "pinhole": (),
        "opencv": (*_RADIAL, *_OTHERS, 1.0, 4.0),
        "fisheye": (*_RADIAL, *_OTHERS, 1.0, 1.5, 1.0),
        "unified": (0.6, 1.1, 2.0),
        "equirectangular": (),
        "orthographic": (),
    }
    if lens == "orthographic":
        fx, fy = fx / DISTANCE, fy / DISTANCE
    intrinsics = camera.intrinsics.new_tensor([[fx, fy, cx, cy, *numbers[lens]]])
    return camera._replace(model=lens, intrinsics=intrinsics)


def measure(
    training: Training, lenses: Sequence[str], device: torch.device, args: argparse.Namespace
) -> dict[str, Times]:
    """Medians by lens, the pinhole's among them."""
    plain = training.batches
    names = list(dict.fromkeys(["pinhole", *lenses]))
    cases = {lens: [batch._replace(camera=through(lens, batch.camera)) for batch in plain] for lens in names}
    steps: dict[str, list[Times]] = {lens: [] for lens in names}
    for _ in range(args.rounds):
        for lens in names:
            training.batches = cases[lens]
            steps[lens] += _timed(training, device, args.warm_up, args.steps)
    kept = ("forward_ms", "blend_backward_ms", "backward_and_optimizer_ms", "step_ms")
    medians = {lens: {name: median(one[name] for one in steps[lens]) for name in kept} for lens in names}
    pinhole = medians["pinhole"]["step_ms"]
    return {lens: numbers | {"of_pinhole": numbers["step_ms"] / pinhole} for lens, numbers in medians.items()}


def _timed(training: Training, device: torch.device, warm_up: int, steps: int) -> list[Times]:
    """Milliseconds of each step, read at the end, so that no step waits for the one before."""
    for _ in range(warm_up):
        training.step(NoTimer())
    timers = []
    for _ in range(steps):
        timers.append(PartTimer(device))
        training.step(timers[-1])
    fused = isinstance(training.state.engine, FusedEngine)
    result = []
    for parts in (timer.milliseconds() for timer in timers):
        stages = stages_of(parts, fused)
        result.append({f"{stage}_ms": stages[stage] for stage in STAGES} | {"step_ms": whole_step_ms(parts, stages)})
    return result


if __name__ == "__main__":
    run_cli(main)
