"""Times the blend op alone, forward and backward, on a synthetic scene.

    python scripts/bench_blend.py
    python scripts/bench_blend.py --device cpu --gaussians 20000 --width 640 --height 480 --check

A pair is a Gaussian that contributes to a pixel; pairs/s compares scenes and machines. Times are medians, on CUDA the
GPU's own. scripts/bench_reduction.py measures the reduction strategies on trained models.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: distwar_gs.cores

import torch

from distwar_gs.cli import run_cli
from distwar_gs.devices import resolve_device
from distwar_gs.renderer import RenderSettings, project
from distwar_kernels import Cameras, Reduction
from distwar_kernels.blend.blend_reference import blend_reference
from scripts.measuring import integers, machine, median_ms, print_table, reductions, relative_l2, worst_error, write_csv
from scripts.projected import Projected


@dataclass
class Row:
    """One line of the table; errors are relative L2."""

    strategy: str
    forward_ms: float
    backward_ms: float
    forward_gpairs_per_s: float
    backward_gpairs_per_s: float
    image_vs_float64: float | None = None
    gradients_vs_float64: float | None = None


def main(arguments: Sequence[str]) -> None:
    """Time every strategy asked for; the table goes to the terminal and, with --csv, to a file."""
    args = _parser().parse_args(arguments)
    device = resolve_device(args.device)
    scene = _synthetic_scene(args, device)
    pairs = scene.traffic().pairs
    print(machine(device))
    print(
        f"{scene.means2d.shape[1]:,} Gaussians, {scene.width}x{scene.height} pixels, {len(scene.flatten_ids):,} tile"
        f" entries, {pairs:,} pairs ({pairs / (scene.width * scene.height):.1f} a pixel)"
    )
    # On the CPU all strategies are one.
    chosen = [Reduction()] if device.type == "cpu" else reductions(args.strategies.split(","), args.thresholds)
    rows = [_time(scene, reduction, pairs, args.repeats) for reduction in chosen]
    if args.check:
        _check(rows, scene, chosen)
    print_table(rows)
    if args.csv:
        size = {"gaussians": args.gaussians, "width": args.width, "height": args.height, "pairs": pairs}
        write_csv(args.csv, rows, {"machine": machine(device), **size})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--strategies", default="gsplat,atomic,sw_s,sw_b,sw_t", help="CUDA only (default: %(default)s)")
    parser.add_argument("--thresholds", type=integers, default=(8,), help="of sw_s, sw_b, sw_t (default: 8)")
    parser.add_argument("--repeats", type=int, default=20, help="timed repetitions (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="compare with the float64 reference (small scenes)")
    parser.add_argument("--csv", type=Path, help="also write the table here")
    parser.add_argument("--gaussians", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--seed", type=int, default=0)
    return parser


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
    intrinsics = torch.tensor([[focal, focal, width / 2, height / 2]])
    params = {name: tensor.to(device) for name, tensor in params.items()}
    camera = Cameras("pinhole", torch.eye(4)[None], intrinsics, width, height).to(device)
    return Projected.of(params, project(params, camera, RenderSettings(near_plane=0.01, far_plane=1e10)), camera)


def _time(scene: Projected, reduction: Reduction, pairs: int, repeats: int) -> Row:
    leaves, upstream, device = scene.leaves(), scene.upstream, scene.means2d.device
    outputs = scene.blend(leaves, reduction)  # builds the kernels, if need be

    def backward() -> None:
        torch.autograd.grad(outputs, leaves, upstream, retain_graph=True)

    forward_ms = median_ms(torch.no_grad()(lambda: scene.blend(leaves, reduction)), device, repeats)
    backward_ms = median_ms(backward, device, repeats)
    name = "cpu" if device.type == "cpu" else str(reduction)
    return Row(name, forward_ms, backward_ms, pairs / forward_ms / 1e6, pairs / backward_ms / 1e6)


def _check(rows: list[Row], scene: Projected, chosen: list[Reduction]) -> None:
    """Fills in the errors against the op's definition, on the numbers the kernels were given."""
    leaves = [leaf.detach().cpu().double()[0].requires_grad_() for leaf in scene.leaves()]
    lists = (scene.isect_offsets.cpu(), scene.flatten_ids.cpu())
    exact = blend_reference(*leaves, scene.width, scene.height, *lists)
    gradients = torch.autograd.grad(exact, leaves, [v.cpu().double() for v in scene.upstream])
    for row, reduction in zip(rows, chosen, strict=True):
        image = scene.blend(scene.leaves(), reduction)[0]
        row.image_vs_float64 = relative_l2(image.detach().cpu(), exact[0])
        row.gradients_vs_float64 = worst_error((v.cpu()[0] for v in scene.gradients(reduction)), gradients)


if __name__ == "__main__":
    run_cli(main)
