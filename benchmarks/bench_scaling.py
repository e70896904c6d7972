"""What a training step costs against the work there is: against the number of Gaussians, and against resolution.

    python benchmarks/bench_scaling.py --csv scaling.csv
    python benchmarks/bench_scaling.py --engines fused --millions 0.1 1 10 --megapixels 1 8 --at_millions 2

A made-up scene: Gaussians uniform in a ball that fills the view, as large as the gaps between them, so the more there
are, the fewer pixels one covers; opacities mostly faint, some opaque, as training leaves them; sorted in space as
training keeps them; smooth random photos of a ring of cameras. The steps are the trainer's, without refinements: so
many that warm up, then so many that are timed. Medians, in ms by CUDA events; peak memory is the whole case's, with the
parameters and their moments.

Engines: fused is our rasteriser with its own Adam, fused_dense the same with torch's, composed gsplat's ops around our
blend (on the CPU our own ops), gsplat gsplat's rasteriser throughout; the last two with torch's Adam. `backward and
optimizer` is all that comes after the blend's backward, which in `fused` is one kernel.
"""

import argparse
import gc
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: distwar_gs.system.cores

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measuring import STAGES, machine, markdown, peak_memory_mib, stages_of, write_csv
from distwar_gs.cli import run_cli
from distwar_gs.config import Config, ConfigError, validate, with_values
from distwar_gs.config.schedule import Schedule
from distwar_gs.engines.fused_engine import FusedEngine
from distwar_gs.engines.timing import NoTimer, PartTimer, StepTimer
from distwar_gs.formats.morton import morton_order
from distwar_gs.gaussians.memory import Cap
from distwar_gs.gaussians.model import as_parameters
from distwar_gs.rendering.renderer import render_settings
from distwar_gs.system.devices import resolve_device
from distwar_gs.training.batches import Batch
from distwar_gs.training.sampler import ViewSampler
from distwar_gs.training.state import TrainingState, make_generators
from distwar_gs.training.step import train_step
from distwar_kernels import Cameras

ENGINES = {
    "fused": {"train.rasterizer": "fused", "optim.adam": "lazy"},
    "fused_dense": {"train.rasterizer": "fused", "optim.adam": "dense"},
    "composed": {"train.rasterizer": "gsplat", "reduction.strategy": "sw_t"},
    "gsplat": {"train.rasterizer": "gsplat", "reduction.strategy": "gsplat"},
}
"""The settings that make a trainer use each."""
VIEWS = 8
DISTANCE = 3.0
"""Of the cameras from the centre of the ball, whose radius is 1."""
SH_DEGREE = 3
_EXTENT = 1.0


@dataclass(frozen=True)
class Case:
    """How much work."""

    gaussians: int
    megapixels: float

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, 4 to 3."""
        width = round(math.sqrt(self.megapixels * 1e6 * 4 / 3))
        return width, round(0.75 * width)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    engine: str
    gaussians: int
    megapixels: float
    forward_ms: float | None = None
    loss_ms: float | None = None
    blend_backward_ms: float | None = None
    backward_and_optimizer_ms: float | None = None
    step_ms: float | None = None
    peak_allocated_mib: float | None = None
    peak_reserved_mib: float | None = None
    note: str = ""


def main(arguments: Sequence[str]) -> None:
    """Measure every case with every engine; the tables go to the terminal and, with --csv, to a file."""
    args = _parser().parse_args(arguments)
    device = resolve_device(args.device)
    if device.type == "cpu" and any(engine != "composed" for engine in args.engines):
        raise ConfigError(f"--engines {' '.join(args.engines)}: without a CUDA GPU there is only composed")
    by_count = [Case(round(1e6 * millions), args.at_megapixels) for millions in args.millions]
    by_size = [Case(round(1e6 * args.at_millions), megapixels) for megapixels in args.megapixels]
    rows: dict[tuple[Case, str], Row] = {}
    for case in dict.fromkeys(by_count + by_size):
        for engine in args.engines:
            rows[case, engine] = measure(engine, case, device, args.warm_up, args.steps)
            if args.csv:  # after each: nothing measured is lost
                write_csv(args.csv, rows.values(), {"machine": machine(device)})
    print(machine(device))
    for cases in filter(None, (by_count, by_size)):
        print("\n" + _table([rows[case, engine] for case in dict.fromkeys(cases) for engine in args.engines]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=["fused", "composed", "gsplat"])
    counts, sizes = [0.1, 0.3, 1.0, 3.0, 10.0], [0.5, 1.0, 2.0, 4.0, 8.0]
    parser.add_argument("--millions", type=_amount, nargs="*", default=counts, help="Gaussians (default: %(default)s)")
    parser.add_argument("--at_megapixels", type=_amount, default=1.0, help="when --millions vary (default: 1)")
    parser.add_argument("--megapixels", type=_amount, nargs="*", default=sizes, help="photos (default: %(default)s)")
    parser.add_argument("--at_millions", type=_amount, default=1.0, help="when --megapixels vary (default: 1)")
    parser.add_argument("--warm_up", type=_count, default=20, help="steps before those timed (default: %(default)s)")
    parser.add_argument("--steps", type=_count, default=50, help="timed steps (default: %(default)s)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--csv", type=Path, help="also write the table here")
    return parser


def _amount(text: str) -> float:
    if not 1e-6 <= (value := float(text)) <= 1e6:
        raise argparse.ArgumentTypeError(f"{text}: must be between 1e-6 and 1e6")
    return value


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return value


def _table(rows: Sequence[Row]) -> str:
    columns = [name for name in asdict(rows[0]) if any(getattr(row, name) not in (None, "") for row in rows)]
    head = [name.replace("_", " ").replace(" ms", ", ms").replace(" mib", ", MiB") for name in columns]
    return markdown([head, *([_text(getattr(row, name)) for name in columns] for row in rows)])


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if value < 1000 else f"{value:,.0f}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


# ------------------------------------------------------------------------------------------------------ the scene


def make_params(count: int, device: torch.device, *, seed: int = 0, of: int | None = None) -> dict[str, Tensor]:
    """Values for `as_parameters`: the same for the same count and seed, on the same kind of device. `of`: so many are
    in the ball, where these are not all."""
    g = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=g, device=device)

    means = F.normalize(normal(3), dim=1) * torch.rand(count, 1, generator=g, device=device) ** (1 / 3)
    gap = (4 / 3 * math.pi / (of or count)) ** (1 / 3)
    return {
        "means": means[morton_order(means)],
        "quats": normal(4),
        "scales": math.log(0.25 * gap) + 0.5 * normal(3),
        "opacities": (2.0 * normal() - 1.0).clamp_min(-5.0),  # the median is 0.27; what is fainter is pruned
        "sh0": normal(1, 3),
        "shN": 0.1 * normal((SH_DEGREE + 1) ** 2 - 1, 3),
    }


def make_views(width: int, height: int, device: torch.device) -> list[Cameras]:
    """Cameras on a ring around the ball, which they see almost from edge to edge."""
    viewmats = torch.stack([_turned(2 * math.pi * i / VIEWS) for i in range(VIEWS)])
    intrinsics = torch.tensor([width, width, width / 2, height / 2], dtype=torch.float32).repeat(VIEWS, 1)
    return list(Cameras("pinhole", viewmats, intrinsics, width, height).to(device).each())


def _turned(angle: float) -> Tensor:
    """[4, 4] world-to-camera: turned about the y axis, then moved away."""
    sin, cos = math.sin(angle), math.cos(angle)
    return torch.tensor([[cos, 0.0, sin, 0.0], [0.0, 1.0, 0.0, 0.0], [-sin, 0.0, cos, DISTANCE], [0.0, 0.0, 0.0, 1.0]])


def make_photo(width: int, height: int, seed: int) -> Tensor:
    """Smooth random bytes [H, W, 3] on the host: noise of 1/32 the size, interpolated."""
    g = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 3, height // 32 + 2, width // 32 + 2, generator=g)
    smooth = F.interpolate(noise, (height, width), mode="bilinear", align_corners=False)
    return (255.0 * smooth[0]).round().to(torch.uint8).permute(1, 2, 0).contiguous()


# --------------------------------------------------------------------------------------------------- the training


class Training:
    """A trainer's state, for a scene that nobody has photographed."""

    def __init__(self, engine: str, case: Case, device: torch.device) -> None:
        """The scene of this case, and a trainer's engine for it."""
        config = engine_config(engine, device)
        views, background = make_views(*case.size, device), torch.zeros(3, device=device)
        photos = [make_photo(*case.size, seed).to(device) for seed in range(VIEWS)]
        self.batches = [Batch(i, *view, None, background) for i, view in enumerate(zip(views, photos, strict=True))]
        generators = make_generators(0, device)
        self.state = TrainingState(
            config=config, schedule=Schedule(config.train.iterations), device=device, extent=_EXTENT,
            settings=render_settings(config, _EXTENT, device), cap=Cap(config.densification.cap_max),
            generators=generators, sampler=ViewSampler(VIEWS, generators["host"]),
            params=as_parameters(make_params(case.gaussians, device), device),
        )  # fmt: skip

    def step(self, timer: StepTimer) -> None:
        """The trainer's next step."""
        train_step(self.state, self.batches[(self.state.step + 1) % VIEWS], timer)

    def complaint(self) -> str:
        """What is wrong with the times: a view that overflowed the fused engine's buffers was not rendered whole."""
        engine = self.state.engine
        if not isinstance(engine, FusedEngine):
            return ""
        engine.sizes.collect(wait=True)
        cut_short = engine.sizes.overflows
        return f"{cut_short} views cut short" if cut_short else ""


def engine_config(engine: str, device: torch.device) -> Config:
    """The configuration with which a trainer uses this engine."""
    rasterizer = {} if device.type == "cuda" else {"train.rasterizer": "auto"}
    return validate(with_values(Config(), ENGINES[engine] | rasterizer))


def measure(engine: str, case: Case, device: torch.device, warm_up: int, steps: int) -> Row:
    """A case's row; one that says so if the memory is not enough."""
    _begin_afresh(device)
    row: dict[str, Any] = {"engine": engine, "gaussians": case.gaussians, "megapixels": case.megapixels}
    try:
        training = Training(engine, case, device)
        times, note = _step_times(training, device, warm_up, steps), training.complaint()
    except torch.OutOfMemoryError:
        return Row(**row, note="out of memory")
    allocated, reserved = peak_memory_mib(device)
    return Row(**row, **times, peak_allocated_mib=allocated, peak_reserved_mib=reserved, note=note)


def _begin_afresh(device: torch.device) -> None:
    """Without the memory, and the peak, of the case before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.init()  # before it there is no peak to reset
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _step_times(training: Training, device: torch.device, warm_up: int, steps: int) -> Mapping[str, Any]:
    """Medians. The timers are read at the end, so that no step waits for the one before."""
    for _ in range(warm_up):
        training.step(NoTimer())
    timers = []
    for _ in range(steps):
        timers.append(PartTimer(device))
        training.step(timers[-1])
    parts = [timer.milliseconds() for timer in timers]
    stages = [stages_of(one, isinstance(training.state.engine, FusedEngine)) for one in parts]
    medians = {f"{stage}_ms": median(one[stage] for one in stages) for stage in STAGES}
    return medians | {"step_ms": median(map(whole_step_ms, parts, stages))}


def whole_step_ms(parts: Mapping[str, float], stages: Mapping[str, float]) -> float:
    """All stages, and what densification counts by itself."""
    return sum(stages.values()) + parts.get("densify", 0.0)


if __name__ == "__main__":
    run_cli(main)
