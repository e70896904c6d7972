"""Views per second of a training by several ranks, where the time of a step goes, and how much of it is communication.

    torchrun --nproc_per_node 2 benchmarks/bench_ranks.py --millions 10 --megapixels 1 4 --csv ranks.csv
    torchrun --nproc_per_node 2 benchmarks/bench_ranks.py -s data/garden -r 4 --model output/garden/point_cloud.ply
    torchrun --nproc_per_node 2 benchmarks/bench_ranks.py --millions 10 --megapixels 8 --split tiles
    python benchmarks/bench_ranks.py --millions 10 --megapixels 1 4        # the baseline: the same by one process

The made scene is that of bench_scaling.py; each rank makes its own part of it, so its size is bounded by the memory of
all. A scene folder is trained on as train.py does, from a model if one is given, without refinements. Steps that warm
up, then steps that are timed. Views per second are by the clock of the first rank, the rest in ms: the medians of a
rank's steps by CUDA events, the mean over the ranks. Communication is what a step spends in its exchanges; waiting for
a slower rank is in it. Each row is printed as CSV; --csv appends them to a file.
"""

import argparse
import csv
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: distwar_gs.system.cores

import torch

from benchmarks.bench_scaling import SH_DEGREE, VIEWS, Case, make_params, make_photo, make_views
from benchmarks.measuring import machine, peak_memory_mib, synchronize
from distwar_gs.cli import run_cli
from distwar_gs.config import Config, config_of, validate, with_values
from distwar_gs.config.schedule import Schedule
from distwar_gs.engines.communication import Communication
from distwar_gs.engines.timing import NoTimer, PartTimer, StepTimer
from distwar_gs.gaussians.memory import Cap
from distwar_gs.gaussians.model import as_parameters
from distwar_gs.rendering.renderer import load_kernels, render_settings
from distwar_gs.system.devices import resolve_device
from distwar_gs.system.parallel import Ranks, join
from distwar_gs.training.batches import Batch
from distwar_gs.training.sampler import ViewSampler
from distwar_gs.training.split import showing
from distwar_gs.training.state import TrainingState, make_generators
from distwar_gs.training.step import train_step
from distwar_gs.training.together import own_config
from distwar_gs.training.trainer import Trainer

PARTS = ("forward", "loss", "blend_backward", "exchange", "backward", "optimizer")
Step = Callable[[StepTimer], None]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    scene: str
    ranks: int
    split: str
    """What they share out (train.split)."""
    gaussians: int
    """Of all ranks."""
    megapixels: float
    views_per_second: float
    step_ms: float
    """By the clock: of as many views as ranks, or of one whose tiles they share out."""
    forward_ms: float
    """With the way of the splats to their views."""
    loss_ms: float
    blend_backward_ms: float
    exchange_ms: float
    """The way back."""
    backward_ms: float
    optimizer_ms: float
    communication_ms: float
    """Both ways."""
    communication_share: float
    """Of the step."""
    peak_allocated_mib: float
    """Of the fullest rank; 0 on a CPU."""
    skipped: int
    """Views that outgrew their buffers."""
    machine: str


def main(arguments: Sequence[str]) -> None:
    """Measure every case; a row for each."""
    args = _parser().parse_args(arguments)
    ranks = join(args.device)
    device = resolve_device(args.device)
    if args.source_path:
        with tempfile.TemporaryDirectory() as folder:
            _tell(args.csv, ranks, of_folder(args, ranks, ranks.told(folder)))
    else:
        for millions in args.millions:
            for megapixels in args.megapixels:
                case = Case(round(1e6 * millions), megapixels)
                row = of_made_scene(case, ranks, device, args.warm_up, args.steps, args.split)
                _tell(args.csv, ranks, row)
    ranks.leave()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, nargs="+", default=[1.0], help="of made scenes (default: 1)")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1.0], help="photos of made scenes (default: 1)")
    parser.add_argument("-s", "--source_path", help="train on the photos of this folder instead")
    parser.add_argument("-r", "--resolution", type=int, default=-1, help="of its photos, as for train.py")
    parser.add_argument("--model", help="Gaussians to begin with there (default: the scene's points)")
    parser.add_argument("--split", default="views", choices=("views", "tiles"), help="what ranks share out at a step")
    parser.add_argument("--warm_up", type=int, default=20, help="steps before those timed (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="timed steps (default: %(default)s)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--csv", type=Path, help="also append the rows here")
    return parser


def _tell(path: Path | None, ranks: Ranks, row: Row) -> None:
    if not ranks.leads:
        return
    names, values = [field.name for field in fields(Row)], asdict(row)
    is_new = path is not None and not path.exists()
    for file in (sys.stdout, *([path.open("a", newline="")] if path else [])):
        writer = csv.DictWriter(file, names)
        if file is sys.stdout or is_new:
            writer.writeheader()
        writer.writerow(values)
        file.flush()


# ------------------------------------------------------------------------------------------------ what is trained


def of_made_scene(
    case: Case, ranks: Ranks, device: torch.device, warm_up: int, steps: int, split: str = "views"
) -> Row:
    """The row of a scene that nobody has photographed."""
    config = own_config(validate(config_of({"densification.strategy": "adc", "train.split": split})), ranks)
    state = made_state(case, config, ranks, device)
    load_kernels(state.settings, device)
    views, background = make_views(*case.size, device), torch.zeros(3, device=device)
    photos = [make_photo(*case.size, seed).to(device) for seed in range(VIEWS)]

    def step(timer: StepTimer) -> None:
        first = state.step + state.views
        shown = [(first + rank) % VIEWS for rank in range(state.views)]
        own = shown[ranks.rank if state.views > 1 else 0]
        batch = Batch(own, views[own], photos[own], None, background)
        if state.views > 1:
            batch = batch._replace(views=tuple(shown), together=tuple(views[view] for view in shown))
        train_step(state, batch, timer)

    return _measured("made", case.megapixels, state, step, warm_up, steps)


def made_state(case: Case, config: Config, ranks: Ranks, device: torch.device) -> TrainingState:
    """A training of this rank's part of the Gaussians."""
    count = case.gaussians // ranks.count + (ranks.rank < case.gaussians % ranks.count)
    generators, shown = make_generators(0, device), showing(config, ranks)
    params = as_parameters(make_params(count, device, seed=ranks.rank, of=case.gaussians), device)
    return TrainingState(
        config=with_values(config, {"model.sh_degree": SH_DEGREE}), device=device, extent=1.0, ranks=ranks,
        schedule=Schedule(config.train.iterations, views=shown.count), settings=render_settings(config, 1.0, device),
        cap=Cap(0), generators=generators, sampler=ViewSampler(VIEWS, generators["host"], shown), params=params,
    )  # fmt: skip


def of_folder(args: argparse.Namespace, ranks: Ranks, folder: str) -> Row:
    """The row of a scene's photos; a run folder comes and goes."""
    values = {
        "data.source_path": args.source_path, "data.resolution": args.resolution, "train.result_dir": folder,
        "train.device": args.device, "train.split": args.split, "model.init_ply": args.model,
        "densification.start": 10**6,
        "densification.stop": 10**6, "log.tensorboard": False, "log.report": False,
    }  # fmt: skip
    run = Trainer(validate(config_of(values)))
    state, batches = run.state, run.batches

    def step(timer: StepTimer) -> None:
        train_step(state, batches.next(), timer)
        batches.made()

    view = run.scene.train[0]
    megapixels = round(view.width * view.height / 1e6, 3)
    return _measured(run.scene.source.name, megapixels, state, step, args.warm_up, args.steps)


# ------------------------------------------------------------------------------------------------ measuring


def _measured(scene: str, megapixels: float, state: TrainingState, step: Step, warm_up: int, steps: int) -> Row:
    ranks, device, count = state.ranks, state.device, state.count
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(warm_up):
        step(NoTimer())
    seconds = _seconds(step, steps, ranks, device)
    communication = Communication(ranks, device)
    timers = []
    for _ in range(steps):
        communication.begin()
        timers.append(PartTimer(device))
        step(timers[-1])
        communication.end()
    parts = [timer.milliseconds() for timer in timers]
    medians = {part: median(one.get(part, 0.0) for one in parts) for part in PARTS}
    talked = median(communication.milliseconds)
    every = ranks.gathered(medians | {"communication": talked})
    means: dict[str, Any] = {f"{part}_ms": round(sum(one[part] for one in every) / len(every), 4) for part in every[0]}
    whole = sum(means[f"{part}_ms"] for part in PARTS)  # of the steps that were timed part by part
    measured: dict[str, Any] = {
        "views_per_second": round(state.views * steps / seconds, 2), "step_ms": round(1e3 * seconds / steps, 4),
        "communication_share": round(means["communication_ms"] / whole, 4),
        "peak_allocated_mib": max(ranks.numbers(int((peak_memory_mib(device)[0] or 0) * 10))) / 10,
        "skipped": ranks.total(state.engine.skipped), "machine": machine(device),
    }  # fmt: skip
    split = state.config.train.split if ranks.count > 1 else ""
    return Row(scene=scene, ranks=ranks.count, split=split, gaussians=count, megapixels=megapixels, **means, **measured)


def _seconds(step: Step, steps: int, ranks: Ranks, device: torch.device) -> float:
    synchronize(device)
    ranks.numbers(0)
    begin = time.perf_counter()
    for _ in range(steps):
        step(NoTimer())
    synchronize(device)
    ranks.numbers(0)
    return time.perf_counter() - begin


if __name__ == "__main__":
    run_cli(main)
