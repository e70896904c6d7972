"""The gradient computation of trained models under each reduction strategy and threshold, and under other renderers.

    python benchmarks/bench_reduction.py output/garden output/bonsai --csv reductions.csv --plot reductions.png
    python benchmarks/bench_reduction.py output/garden --iterations 1000,15000,30000 --compare distwar_sw_b_8,faster_gs
    python benchmarks/bench_reduction.py --from reductions.csv other.csv --plot all.png           no GPU needed

For each model, means over views of medians over repetitions: the blend's backward kernel alone (torch's profiler), its
forward kernels, the op's backward (clearing the sums, the kernel, unpacking them), the whole backward pass from the
image to the parameters; speed-ups of the kernel over `atomic` and over gsplat's; the gradients' distance from float64
on the first view, over all pixels and over those where no alpha or transmittance is within rounding of its cut. `auto`
is measured with what it chooses after watching these views. --compare: benchmarks/rivals.py names them and says how
each must be importable.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from benchmarks import reduction_report as report
from benchmarks.measuring import integers, machine, median_kernel_ms, median_ms, reductions, worst_error, write_csv
from benchmarks.plotting import check_plot
from benchmarks.projected import LEAVES, Projected
from benchmarks.reduction_report import Row
from distwar_datasets import View
from distwar_gs.cli import run_cli
from distwar_gs.config import ConfigError
from distwar_gs.gaussians.model import sh_degree_of
from distwar_gs.rendering.renderer import render
from distwar_gs.rendering.views import camera_of
from distwar_gs.viewing.render_args import RenderArgs
from distwar_gs.viewing.trained import TrainedModel
from distwar_kernels import Reduction, tuner_of
from distwar_kernels.blend.blend_reference import blend_gradients_reference, decided_pixels

THRESHOLDS = (0, 1, 2, 4, 6, 8, 10, 12, 16, 20, 24, 28, 31, 32)
KERNELS = r"blend_backward_kernel|blend_transposed_kernel|rasterize_to_pixels_3dgs_bwd"
"""Names of the kernels that turn pixel gradients into Gaussian gradients: ours and gsplat's."""
FORWARD_KERNELS = r"::pack_kernel|blend_forward_kernel|rasterize_to_pixels_3dgs_fwd"
"""Names of those that blend, and of ours that packs the Gaussians before."""
_PASSES_FOR_AUTO = 50


def main(arguments: Sequence[str]) -> None:
    """Measure (or read what was measured), print, write, draw."""
    args = _parser().parse_args(arguments)
    check_plot(args.plot)
    rows = report.read_rows(args.source) if args.source else _measure(args)
    report.print_rows(rows)
    report.print_summary(rows)
    if args.plot:
        report.plot(rows, args.plot)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", type=Path, help="run folders or PLYs")
    parser.add_argument("--from", dest="source", nargs="+", type=Path, metavar="CSV", help="what was measured before")
    parser.add_argument("-s", "--source_path", help="the dataset, if it is not where the run found it")
    parser.add_argument("--iterations", type=integers, default=(None,), help="saved steps of a run (default: newest)")
    parser.add_argument("--strategies", default="atomic,sw_s,sw_b,sw_t", help="of ours (default: %(default)s)")
    parser.add_argument("--thresholds", type=integers, default=THRESHOLDS, help="of sw_s, sw_b and sw_t")
    parser.add_argument("--views", type=int, default=6, help="spread over all views (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=20, help="timed repetitions (default: %(default)s)")
    parser.add_argument("--no_gsplat", action="store_true", help="leave gsplat's own backward out")
    parser.add_argument("--no_check", action="store_true", help="leave the float64 reference out (seconds a model)")
    parser.add_argument("--compare", default="", metavar="RIVAL,...", help="other renderers, see benchmarks/rivals.py")
    parser.add_argument("--csv", type=Path, help="also write the table here")
    parser.add_argument("--plot", type=Path, help="draw time against threshold as this PNG (needs matplotlib)")
    return parser


# --------------------------------------------------------------------------------------------------- our kernels


def _measure(args: argparse.Namespace) -> list[Row]:
    if not args.models:
        raise ConfigError("no model to measure: give run folders or PLYs, or --from a CSV")
    if not torch.cuda.is_available():
        raise ConfigError(
            "torch sees no CUDA GPU: reductions differ only there (benchmarks/bench_blend.py times the CPU)"
        )
    rows: list[Row] = []
    for path in args.models:
        for iteration in args.iterations:
            rows += _measure_model(path, iteration, args)
            if args.csv:  # after each model: nothing measured is lost
                write_csv(args.csv, rows, {"machine": machine(torch.device("cuda"))})
    return rows


def _measure_model(path: Path, iteration: int | None, args: argparse.Namespace) -> list[Row]:
    model = TrainedModel.load(RenderArgs(model=path, iteration=iteration, source_path=args.source_path, device="cuda"))
    views = model.spread_views(args.views)
    scenes = [_projected(model, view) for view in views]
    exact = None if args.no_check else Exact.of(scenes[0])
    stock = None if args.no_gsplat else scenes[0].gradients(Reduction("gsplat"))
    row_of = partial(_row, model, views, scenes, repeats=args.repeats, exact=exact, stock=stock)
    strategies = [*args.strategies.split(","), *([] if args.no_gsplat else ["gsplat"])]
    rows = [row_of(reduction, str(reduction)) for reduction in reductions(strategies, args.thresholds)]
    chosen = _choice_of_auto(scenes)
    rows.append(row_of(chosen, f"auto ({chosen})"))
    rows += _rival_rows(rows[0], model, args)
    report.fill_in_speedups(rows)
    return rows


def _projected(model: TrainedModel, view: View) -> Projected:
    return Projected.of(model.params, model.project(view), camera_of(view, model.device))


def _choice_of_auto(scenes: Sequence[Projected]) -> Reduction:
    """What `auto` settles on while these views come again and again."""
    tuner = tuner_of(scenes[0].means2d.device)
    tuner.reset()
    for index in range(_PASSES_FOR_AUTO):
        scenes[index % len(scenes)].gradients(Reduction("auto"))
        torch.cuda.synchronize()
        if tuner.rounds:
            break
    return tuner.reduction


def _row(
    model: TrainedModel, views: Sequence[View], scenes: Sequence[Projected], reduction: Reduction, name: str, *,
    repeats: int, exact: "Exact | None", stock: list[Tensor] | None,
) -> Row:  # fmt: skip
    blends = [_blend_backward(scene, reduction) for scene in scenes]
    gradients = scenes[0].gradients(reduction)
    return Row(
        scene=(model.config.data.source_path or "").rstrip("/").rpartition("/")[2],
        step=model.step,
        gaussians=len(model.params["means"]),
        strategy=name,
        kernel_ms=fmean(median_kernel_ms(blend, KERNELS, repeats) for blend in blends),
        forward_ms=fmean(median_kernel_ms(_blend_forward(s, reduction), FORWARD_KERNELS, repeats) for s in scenes),
        blend_ms=fmean(median_ms(blend, model.device, repeats) for blend in blends),
        backward_ms=fmean(median_ms(_whole_backward(model, v, reduction), model.device, repeats) for v in views),
        gradients_vs_float64=worst_error(gradients, exact.gradients) if exact else None,
        gradients_vs_float64_where_decided=exact.error_where_decided(scenes[0], reduction) if exact else None,
        gradients_vs_gsplat=worst_error(gradients, stock) if stock else None,
    )


def _blend_backward(scene: Projected, reduction: Reduction) -> Callable[[], object]:
    leaves, upstream = scene.leaves(), scene.upstream
    outputs = scene.blend(leaves, reduction)
    return lambda: torch.autograd.grad(outputs, leaves, upstream, retain_graph=True)


def _blend_forward(scene: Projected, reduction: Reduction) -> Callable[[], object]:
    leaves = scene.leaves()
    return lambda: scene.blend(leaves, reduction)


def _whole_backward(model: TrainedModel, view: View, reduction: Reduction) -> Callable[[], object]:
    """From the gradient of the image to those of the parameters: blend, harmonics, projection, activations."""
    params = {name: value.detach().clone().requires_grad_() for name, value in model.params.items()}
    settings = replace(model.settings, reduction=reduction, rasterizer="composed")  # gsplat's around every blend
    rendering = render(
        params, camera_of(view, model.device), settings, sh_degree=sh_degree_of(params), background=model.background
    )
    upstream = torch.randn(rendering.colors.shape, generator=torch.Generator().manual_seed(0)).to(rendering.colors)
    leaves = list(params.values())
    return lambda: torch.autograd.grad(rendering.colors, leaves, upstream, retain_graph=True, allow_unused=True)


@dataclass(frozen=True)
class Exact:
    """A view's gradients by the op's definition in float64, on the float32 numbers that the kernels are given."""

    gradients: list[Tensor]
    decided: Tensor
    """[1, H, W, 1] 1.0 where rounding decides nothing, else 0.0."""
    gradients_where_decided: list[Tensor]
    """The same with dL/d(image) and dL/d(alpha) zero elsewhere."""

    @classmethod
    def of(cls, scene: Projected) -> "Exact":
        """Walks all tiles three times in PyTorch: seconds."""
        splats = tuple(getattr(scene, name)[0].double() for name in LEAVES)
        lists = (scene.isect_offsets, scene.flatten_ids)
        decided = decided_pixels(splats, *lists, scene.width, scene.height)[..., None].float()
        print(f"rounding decides something at {100 * (1 - decided.mean()):.2f} % of the first view's pixels")
        upstream = [v.double() for v in scene.upstream]
        everywhere = blend_gradients_reference(splats, *lists, *upstream)
        where_decided = blend_gradients_reference(splats, *lists, *(v * decided for v in upstream))
        return cls([v[None] for v in everywhere], decided, [v[None] for v in where_decided])

    def error_where_decided(self, scene: Projected, reduction: Reduction) -> float:
        """The kernels' distance from `gradients_where_decided`."""
        return worst_error(scene.gradients(reduction, self.decided), self.gradients_where_decided)


# ------------------------------------------------------------------------------------------------------- rivals


def _rival_rows(ours: Row, model: TrainedModel, args: argparse.Namespace) -> list[Row]:
    """Each rival in a process of its own: some read their settings from the environment, once."""
    rows = []
    for name in filter(None, args.compare.split(",")):
        command = [sys.executable, str(Path(__file__).with_name("rivals.py")), name, str(model.ply)]
        command += ["-s", model.config.data.source_path, "--views", str(args.views), "--repeats", str(args.repeats)]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            complaint = (finished.stderr.strip().splitlines() or ["no message"])[-1]
            print(f"{name} was not measured: {complaint}")
            continue
        rows.append(Row(ours.scene, ours.step, ours.gaussians, name, **json.loads(finished.stdout.splitlines()[-1])))
    return rows


if __name__ == "__main__":
    run_cli(main)
