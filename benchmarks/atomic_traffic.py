"""What the gradient step sends to the atomic units: DISTWAR's two observations, counted on a trained model.

    python benchmarks/atomic_traffic.py output/garden --views 6 --plot docs/pictures/garden_traffic.png

Observation 1: all active lanes of a warp add to one address (in blending by construction: a warp visits one Gaussian at
a time). Observation 2: warps differ widely in how many lanes are active. The table says what each strategy and balance
threshold makes of that; the plots (with matplotlib installed) show both observations and the atomics. On a GPU the
backward kernel counts for itself, without one the CPU backend counts what it would do.
"""

import argparse
import operator
import sys
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.plotting import check_plot, panels, save_plot
from distwar_gs.cli import run_cli
from distwar_gs.rendering.renderer import splat_traffic
from distwar_gs.viewing.render_args import RenderArgs
from distwar_gs.viewing.trained import TrainedModel
from distwar_kernels import AtomicTraffic, Reduction
from distwar_kernels.constants import WARP_SIZE

THRESHOLDS = (1, 2, 4, 8, 12, 16, 24, 32)
GROUPS = ((1, 4), (5, 8), (9, 16), (17, 31), (32, 32))
"""Ranges of active lanes in the printed histogram."""


def main(arguments: Sequence[str]) -> None:
    """Count, print, plot."""
    args = _parser().parse_args(arguments)
    check_plot(args.plot)
    model = TrainedModel.load(RenderArgs(model=args.model, source_path=args.source_path, device=args.device))
    traffic, views = count(model, args.views)
    _print_lanes(traffic, views)
    _print_atomics(traffic, views)
    if args.plot:
        _plot(traffic, views, args.plot)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="a run folder or a PLY")
    parser.add_argument("-s", "--source_path", help="its dataset, if it is not where the run found it")
    parser.add_argument("--views", type=int, default=6, help="spread over all views (default: %(default)s)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--plot", type=Path, help="write both plots to this PNG")
    return parser


def count(model: TrainedModel, views: int) -> tuple[AtomicTraffic, int]:
    """The traffic summed over up to `views` views spread over the scene, and how many they were."""
    chosen = model.spread_views(views)
    counts = (splat_traffic(model.project(view), view.width, view.height) for view in chosen)
    return reduce(operator.add, counts), len(chosen)


def _print_lanes(traffic: AtomicTraffic, views: int) -> None:
    print(
        f"{views} views, per view: {traffic.visits / views:,.0f} visits of {traffic.mean_lanes:.1f} active lanes,"
        f" {traffic.pairs / views:,.0f} pairs, "
        f"{int(traffic.visits_by_lanes[0]) / views:,.0f} list entries without active lanes"
    )
    print(f"active lanes share one address in {traffic.one_address_share:.1%} of the visits")
    for low, high in GROUPS:
        share = int(traffic.visits_by_lanes[low : high + 1].sum()) / max(traffic.visits, 1)
        print(f"{low:>3} to {high:>2} active lanes: {100 * share:5.1f} % of the visits")


def _print_atomics(traffic: AtomicTraffic, views: int) -> None:
    plain = traffic.atomics(Reduction("atomic"))
    print(f"{'strategy':>22}  {'atomics a view':>15}  {'of atomic':>9}")
    print(f"{'atomic':>22}  {plain / views:15,.0f}  {1:9.1%}")
    for threshold in THRESHOLDS:
        atomics = traffic.atomics(Reduction("sw_b", threshold))
        print(f"{f'sw_s, sw_b, sw_t at {threshold}':>22}  {atomics / views:15,.0f}  {atomics / max(plain, 1):9.1%}")


def _plot(traffic: AtomicTraffic, views: int, path: Path) -> None:
    figure, axes = panels(3, size=(4.7, 4))
    _plot_addresses(axes[0], traffic)
    _plot_lanes(axes[1], traffic)
    _plot_atomics(axes[2], traffic, views)
    save_plot(figure, path)


def _plot_addresses(axis: Any, traffic: AtomicTraffic) -> None:
    """Observation 1: how many visits with n active lanes have one address."""
    visits, shared = traffic.visits_by_lanes[1:], traffic.counts[2, 1:]
    share = np.where(visits > 0, 100 * shared.numpy() / np.maximum(visits.numpy(), 1), np.nan)
    axis.bar(np.arange(1, WARP_SIZE + 1), share)
    title = f"Observation 1: lanes share the address\n({traffic.one_address_share:.1%} of all visits)"
    axis.set(xlabel="active lanes of a warp", ylabel="visits with one address, %", ylim=(0, 105), title=title)


def _plot_lanes(axis: Any, traffic: AtomicTraffic) -> None:
    """Observation 2: how widely warps differ in their active lanes."""
    share = 100 * traffic.visits_by_lanes[1:].numpy() / max(traffic.visits, 1)
    axis.bar(np.arange(1, WARP_SIZE + 1), share)
    title = f"Observation 2: warps differ in active lanes\n({traffic.mean_lanes:.1f} on average)"
    axis.set(xlabel="active lanes of a warp", ylabel="share of visits, %", title=title)


def _plot_atomics(axis: Any, traffic: AtomicTraffic, views: int) -> None:
    """What each strategy leaves for the L2."""
    thresholds = np.arange(WARP_SIZE + 1)
    for strategy in ("sw_s", "sw_b"):
        atomics = [traffic.atomics(Reduction(strategy, int(t))) / views / 1e6 for t in thresholds]
        axis.plot(thresholds, atomics, label=strategy, linestyle="-" if strategy == "sw_s" else "--")
    axis.axhline(traffic.atomics(Reduction("atomic")) / views / 1e6, color="grey", linestyle=":", label="atomic")
    axis.set(xlabel="balance threshold", ylabel="atomics a view, millions", title="What is left for the L2", ylim=0)
    axis.legend()


if __name__ == "__main__":
    run_cli(main)
