"""Times the blend op alone, forward and backward, under each reduction strategy.

    python scripts/bench_blend.py                                              a synthetic scene
    python scripts/bench_blend.py --model output/garden --source_path data/360_v2/garden --thresholds 0,8,16
    python scripts/bench_blend.py --device cpu --gaussians 20000 --width 640 --height 480 --check

A pair is a Gaussian that contributes to a pixel; pairs/s compares scenes and machines. Times are medians. On CUDA
they are the GPU's own: work is queued behind a pause, so that gaps between launches do not count.
"""

import argparse
import csv
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from distwar_gs.cli import RenderArgs, run_cli
from distwar_gs.devices import resolve_device
from distwar_gs.model import sh_degree_of
from distwar_gs.renderer import RenderSettings, Splats, project, view_colors
from distwar_gs.trained import TrainedModel
from distwar_gs.views import Cameras
from distwar_kernels import Reduction, atomic_traffic, rasterize_to_pixels
from distwar_kernels.blend.blend_reference import blend_reference
from distwar_kernels.constants import TILE_SIZE

Results = dict[str, Tensor]
LEAVES = ("means2d", "conics", "colors", "opacities")
_PAUSE_CYCLES = 4_000_000  # about 2 ms: longer than the host needs to queue one repetition


@dataclass(frozen=True)
class Projected:
    """One view of a scene, ready to blend; shapes as in ``rasterize_to_pixels`` with one camera."""

    means2d: Tensor
    conics: Tensor
    colors: Tensor
    opacities: Tensor
    isect_offsets: Tensor
    flatten_ids: Tensor
    width: int
    height: int

    def leaves(self) -> list[Tensor]:
        """Fresh leaves of the graph, in the order of LEAVES."""
        return [getattr(self, name).detach().clone().requires_grad_() for name in LEAVES]

    def upstream(self) -> tuple[Tensor, Tensor]:
        """Random dL/d(image) and dL/d(alpha), the same on every call."""
        g = torch.Generator().manual_seed(0)
        shape = (1, self.height, self.width)
        return tuple(torch.randn(*shape, k, generator=g).to(self.means2d) for k in (self.colors.shape[-1], 1))


@dataclass
class Row:
    """One line of the table; errors are relative L2."""

    strategy: str
    forward_ms: float
    backward_ms: float
    forward_gpairs_per_s: float
    backward_gpairs_per_s: float
    image_vs_gsplat: float | None = None
    gradients_vs_gsplat: float | None = None
    image_vs_float64: float | None = None
    gradients_vs_float64: float | None = None


def main(arguments: Sequence[str]) -> None:
    """Time every strategy asked for; the table goes to the terminal and, with --csv, to a file."""
    args = _parser().parse_args(arguments)
    device = resolve_device(args.device)
    print(_machine(device))
    scene = _model_scene(args) if args.model else _synthetic_scene(args, device)
    pairs = atomic_traffic(
        scene.means2d, scene.conics, scene.opacities, scene.width, scene.height, scene.isect_offsets, scene.flatten_ids
    ).pairs
    print(
        f"{scene.means2d.shape[1]:,} Gaussians, {scene.width}x{scene.height} pixels, {len(scene.flatten_ids):,} tile"
        f" entries, {pairs:,} pairs ({pairs / (scene.width * scene.height):.1f} a pixel)"
    )
    reductions = list(_reductions(args, device))
    rows = [_time(scene, reduction, pairs, args.repeats) for reduction in reductions]
    _compare(rows, scene, reductions, with_float64=args.check)
    _print_table(rows)
    if args.csv:
        _write_csv(args.csv, rows, device, scene, pairs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--strategies", default="gsplat,atomic,sw_s,sw_b", help="CUDA only (default: %(default)s)")
    parser.add_argument("--thresholds", default="8", help="balance thresholds of sw_s and sw_b (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=20, help="timed repetitions (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="compare with the float64 reference (small scenes)")
    parser.add_argument("--csv", type=Path, help="also write the table here")
    trained = parser.add_argument_group("a trained scene")
    trained.add_argument("--model", help="a PLY of Gaussians or a run folder")
    trained.add_argument("-s", "--source_path", help="its dataset, if it is not where the run found it")
    trained.add_argument("-i", "--images")
    trained.add_argument("-r", "--resolution", type=int)
    trained.add_argument("--view", type=int, default=0, help="which of all views (default: %(default)s)")
    synthetic = parser.add_argument_group("a synthetic scene")
    synthetic.add_argument("--gaussians", type=int, default=100_000)
    synthetic.add_argument("--width", type=int, default=1280)
    synthetic.add_argument("--height", type=int, default=720)
    synthetic.add_argument("--seed", type=int, default=0)
    return parser


def _machine(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{_processor()}, "
    threads = "" if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return f"{name}{threads}; torch {torch.__version__}, Python {platform.python_version()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _reductions(args: argparse.Namespace, device: torch.device) -> Iterator[Reduction]:
    """On the CPU all strategies are one."""
    if device.type == "cpu":
        yield Reduction()
        return
    for strategy in args.strategies.split(","):
        thresholds = args.thresholds.split(",") if strategy in ("sw_s", "sw_b") else ["8"]
        yield from (Reduction(strategy, int(threshold)) for threshold in thresholds)


# ------------------------------------------------------------------------------------------------------ the scene


def _synthetic_scene(args: argparse.Namespace, device: torch.device) -> Projected:
    """Gaussians of mixed sizes over the whole image and a range of depths, some tens of them to a pixel."""
    g = torch.Generator().manual_seed(args.seed)
    n, width, height = args.gaussians, args.width, args.height
    focal = 0.8 * width
    depths = 1 + 9 * torch.rand(n, 1, generator=g)
    pixels = (torch.rand(n, 2, generator=g) - 0.5) * torch.tensor([width, height])
    spacing = (width * height / max(n, 1)) ** 0.5  # pixels
    params = {
        "means": torch.cat([pixels / focal * depths, depths], dim=-1),
        "quats": torch.randn(n, 4, generator=g),
        "scales": torch.log(spacing / focal * depths) + 0.7 * torch.randn(n, 3, generator=g),
        "opacities": 1.5 * torch.randn(n, generator=g),
        "sh0": torch.randn(n, 1, 3, generator=g),
        "shN": torch.zeros(n, 0, 3),
    }
    K = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    params = {name: tensor.to(device) for name, tensor in params.items()}
    viewmats = torch.eye(4, device=device)[None]
    settings = RenderSettings(near_plane=0.01, far_plane=1e10)
    splats = project(params, viewmats, K.to(device)[None], width, height, settings)
    return _projected(params, splats, viewmats, width, height)


def _model_scene(args: argparse.Namespace) -> Projected:
    """One view of a trained model."""
    model = TrainedModel.load(
        RenderArgs(
            model=Path(args.model), source_path=args.source_path, images=args.images, resolution=args.resolution,
            device=args.device,
        )
    )  # fmt: skip
    view = (model.scene.train + model.scene.test)[args.view]
    viewmats = Cameras.of((view,), model.device).viewmats
    return _projected(model.params, model.project(view), viewmats, view.width, view.height)


@torch.no_grad()
def _projected(params: dict[str, Tensor], splats: Splats, viewmats: Tensor, width: int, height: int) -> Projected:
    return Projected(
        splats.means2d, splats.conics, view_colors(params, viewmats, splats.radii, sh_degree_of(params)),
        splats.opacities, splats.isect_offsets, splats.flatten_ids, width, height,
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------- the timing


def _blend(scene: Projected, leaves: list[Tensor], reduction: Reduction) -> tuple[Tensor, Tensor]:
    return rasterize_to_pixels(
        *leaves, scene.width, scene.height, TILE_SIZE, scene.isect_offsets, scene.flatten_ids, reduction=reduction
    )


def _time(scene: Projected, reduction: Reduction, pairs: int, repeats: int) -> Row:
    leaves, upstream = scene.leaves(), scene.upstream()
    outputs = _blend(scene, leaves, reduction)  # builds the kernels, if need be

    def backward() -> None:
        torch.autograd.grad(outputs, leaves, upstream, retain_graph=True)

    device = scene.means2d.device
    forward_s = _median_seconds(torch.no_grad()(lambda: _blend(scene, leaves, reduction)), device, repeats)
    backward_s = _median_seconds(backward, device, repeats)
    return Row(
        _label(reduction, device), 1e3 * forward_s, 1e3 * backward_s, pairs / forward_s / 1e9, pairs / backward_s / 1e9
    )


def _label(reduction: Reduction, device: torch.device) -> str:
    if device.type == "cpu":
        return "cpu"
    return reduction.strategy + (f"@{reduction.balance_threshold}" if reduction.strategy.startswith("sw") else "")


def _median_seconds(work: Callable[[], None], device: torch.device, repeats: int) -> float:
    timer = _cuda_seconds if device.type == "cuda" else _cpu_seconds
    timer(work)
    timer(work)
    return median(timer(work) for _ in range(repeats))


def _cpu_seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _cuda_seconds(work: Callable[[], None]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(_PAUSE_CYCLES)
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


# ---------------------------------------------------------------------------------------------------- the results


def _results(scene: Projected, reduction: Reduction) -> Results:
    leaves = scene.leaves()
    outputs = _blend(scene, leaves, reduction)
    gradients = torch.autograd.grad(outputs, leaves, scene.upstream())
    return dict(zip(("image", *LEAVES), (outputs[0].detach(), *gradients), strict=True))


def _float64_results(scene: Projected) -> Results:
    """The definition of the op, on the numbers the kernels were given."""
    leaves = [leaf.detach().cpu().double()[0].requires_grad_() for leaf in scene.leaves()]
    ids = (scene.isect_offsets.cpu(), scene.flatten_ids.cpu())
    outputs = blend_reference(*leaves, scene.width, scene.height, *ids)
    gradients = torch.autograd.grad(outputs, leaves, [v.cpu().double() for v in scene.upstream()])
    return dict(zip(("image", *LEAVES), (outputs[0].detach(), *(g[None] for g in gradients)), strict=True))


def _compare(rows: list[Row], scene: Projected, reductions: list[Reduction], *, with_float64: bool) -> None:
    """Fills in the errors against gsplat, when it is among the strategies, and against the reference."""
    stock = next((r for r in reductions if r.strategy == "gsplat"), None)
    if stock is None and not with_float64:
        return
    stock_results = _results(scene, stock) if stock else None
    exact_results = _float64_results(scene) if with_float64 else None
    for row, reduction in zip(rows, reductions, strict=True):
        results = _results(scene, reduction)
        if stock_results:
            row.image_vs_gsplat, row.gradients_vs_gsplat = _errors(results, stock_results)
        if exact_results:
            row.image_vs_float64, row.gradients_vs_float64 = _errors(results, exact_results)


def _errors(results: Results, expected: Results) -> tuple[float, float]:
    """Relative L2 of the image, and of the gradient that is furthest off."""
    errors = {name: _relative_l2(results[name], value) for name, value in expected.items()}
    return errors["image"], max(errors[name] for name in LEAVES)


def _relative_l2(actual: Tensor, expected: Tensor) -> float:
    actual, expected = actual.cpu().double(), expected.cpu().double()
    return ((actual - expected).norm() / expected.norm().clamp_min(1e-300)).item()


def _print_table(rows: list[Row]) -> None:
    columns = [name for name in asdict(rows[0]) if any(getattr(row, name) is not None for row in rows)]
    print("  ".join(f"{name:>{_width(name)}}" for name in columns))
    for row in rows:
        print("  ".join(f"{_text(name, getattr(row, name)):>{_width(name)}}" for name in columns))


def _width(column: str) -> int:
    return max(10, len(column))


def _text(column: str, value: str | float | None) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:.1e}" if "_vs_" in column else f"{value:.3f}"


def _write_csv(path: Path, rows: list[Row], device: torch.device, scene: Projected, pairs: int) -> None:
    """The table, each line with what it was measured on."""
    common = {
        "machine": _machine(device),
        "gaussians": scene.means2d.shape[1],
        "width": scene.width,
        "height": scene.height,
        "tile_entries": len(scene.flatten_ids),
        "pairs": pairs,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*common, *asdict(rows[0])])
        writer.writeheader()
        writer.writerows(common | asdict(row) for row in rows)


if __name__ == "__main__":
    run_cli(main)
