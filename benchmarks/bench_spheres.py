"""Times the backward pass of the sphere op under each reduction strategy: warps whose lanes add to many addresses.

    python benchmarks/bench_spheres.py
    python benchmarks/bench_spheres.py --spheres 20000 --radius 0.2 --thresholds 1,4,8,16

Spheres of mixed sizes fill the view of one camera. The smaller they are, the fewer lanes of a warp meet the same one:
`sw_s` still groups those that do, `sw_b` reduces only warps whose lanes all do. Times are medians.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.measuring import integers, machine, median_kernel_ms, print_table, reductions, write_csv
from distwar_gs.cli import run_cli
from distwar_gs.config import ConfigError
from distwar_kernels import Cameras, Reduction, render_spheres, sphere_traffic

KERNEL = "spheres_backward_kernel"
Scene = dict[str, Any]


@dataclass
class Row:
    """One line of the table."""

    strategy: str
    kernel_ms: float
    speedup_over_atomic: float
    atomics_millions: float


def main(arguments: Sequence[str]) -> None:
    """Count and time; the table goes to the terminal and, with --csv, to a file."""
    args = _parser().parse_args(arguments)
    if not torch.cuda.is_available():
        raise ConfigError("torch sees no CUDA GPU: reductions differ only there")
    scene = _scene(args)
    traffic = sphere_traffic(**scene)
    print(machine(torch.device("cuda")))
    print(
        f"{args.spheres:,} spheres, {args.width}x{args.height} pixels: {traffic.visits:,} visits of"
        f" {traffic.mean_lanes:.1f} active lanes, {traffic.one_address_share:.1%} of them to one address"
    )
    chosen = reductions(("atomic", "sw_s", "sw_b"), args.thresholds)
    times = {reduction: median_kernel_ms(_backward(scene, reduction), KERNEL, args.repeats) for reduction in chosen}
    atomic = times[chosen[0]]
    rows = [Row(str(r), ms, atomic / ms, traffic.atomics(r) / 1e6) for r, ms in times.items()]
    print_table(rows)
    if args.csv:
        size = {"spheres": args.spheres, "radius": args.radius, "one_address": traffic.one_address_share}
        write_csv(args.csv, rows, {"machine": machine(torch.device("cuda")), **size})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--spheres", type=int, default=200_000)
    parser.add_argument("--radius", type=float, default=0.06, help="of the largest, at depths 2 to 6")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument(
        "--thresholds", type=integers, default=(1, 4, 8, 16), help="of sw_s and sw_b (default: 1,4,8,16)"
    )
    parser.add_argument("--repeats", type=int, default=20, help="timed repetitions (default: %(default)s)")
    parser.add_argument("--csv", type=Path, help="also write the table here")
    return parser


def _scene(args: argparse.Namespace) -> Scene:
    """Arguments of render_spheres, on the GPU."""
    g = torch.Generator().manual_seed(0)
    n, size = args.spheres, torch.tensor([args.width, args.height])
    z = 2.0 + 4.0 * torch.rand(1, n, 1, generator=g)
    focal = 0.9 * args.width
    intrinsics = torch.tensor([[focal, focal, args.width / 2, args.height / 2]])
    scene = {
        "centers": torch.cat([(torch.rand(1, n, 2, generator=g) - 0.5) * size / focal * z, z], dim=-1),
        "radii": args.radius * (0.1 + 0.9 * torch.rand(1, n, generator=g) ** 2),
        "colors": torch.rand(1, n, 3, generator=g),
        "opacities": 0.1 + 0.8 * torch.rand(1, n, generator=g),
        "cameras": Cameras("pinhole", torch.eye(4)[None], intrinsics, args.width, args.height),
    }
    return {name: value.to("cuda") for name, value in scene.items()}


def _backward(scene: Scene, reduction: Reduction) -> Callable[[], object]:
    leaves = {name: scene[name].clone().requires_grad_() for name in ("centers", "radii", "colors", "opacities")}
    image, _ = render_spheres(**(scene | leaves), reduction=reduction)
    upstream = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(image)
    return lambda: torch.autograd.grad(image, list(leaves.values()), upstream, retain_graph=True)


if __name__ == "__main__":
    run_cli(main)
