"""Tables, summaries and plots of what benchmarks/bench_reduction.py measures."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.measuring import print_table
from benchmarks.plotting import panels, save_plot
from distwar_kernels.reduction import DEFAULT_THRESHOLDS


@dataclass
class Row:
    """One line of the table: a model under a strategy, or a rival."""

    scene: str
    step: int
    gaussians: int
    strategy: str
    kernel_ms: float
    forward_ms: float | None = None
    blend_ms: float | None = None
    backward_ms: float | None = None
    kernel_speedup_over_atomic: float | None = None
    backward_speedup_over_atomic: float | None = None
    kernel_speedup_over_gsplat: float | None = None
    gradients_vs_float64: float | None = None
    gradients_vs_float64_where_decided: float | None = None
    gradients_vs_gsplat: float | None = None
    image_vs_ours: float | None = None

    @property
    def model(self) -> tuple[str, int]:
        """Which model it was measured on."""
        return self.scene, self.step

    @property
    def kind(self) -> str:
        """The strategy without what `auto` made of it."""
        return self.strategy.partition(" (")[0]


def fill_in_speedups(rows: Sequence[Row]) -> None:
    """Compares the rows of one model with its `atomic` and `gsplat`."""
    base = {row.strategy: row for row in rows}
    atomic, stock = base.get("atomic"), base.get("gsplat")
    for row in rows:
        if atomic:
            row.kernel_speedup_over_atomic = atomic.kernel_ms / row.kernel_ms
        if atomic and atomic.backward_ms and row.backward_ms:
            row.backward_speedup_over_atomic = atomic.backward_ms / row.backward_ms
        if stock:
            row.kernel_speedup_over_gsplat = stock.kernel_ms / row.kernel_ms


def read_rows(files: Iterable[Path]) -> list[Row]:
    """The rows of CSV files that `--csv` has written."""
    types: dict[str, Any] = {field.name: field.type for field in fields(Row)}
    rows = []
    for file in files:
        with file.open(newline="", encoding="utf-8") as lines:
            rows += [Row(**{name: _value(line.get(name, ""), kind) for name, kind in types.items()})
                     for line in csv.DictReader(lines)]  # fmt: skip
    return rows


def _value(text: str, kind: Any) -> Any:
    if kind in (str, int):
        return kind(text)
    return float(text) if text else None


def by_model(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each model, in order of appearance."""
    return [[row for row in rows if row.model == model] for model in dict.fromkeys(row.model for row in rows)]


def print_rows(rows: Sequence[Row]) -> None:
    """A table for each model."""
    for mine in by_model(rows):
        print_table(mine)
        print()


def print_summary(rows: Sequence[Row]) -> None:
    """Speed-ups over plain atomics as the DISTWAR paper reports them (2.44x on average, 5.7x at most), and how far
    `auto` is from the best single choice."""
    print("speed-up over atomic: models, average and maximum of the kernel / of the whole backward pass")
    for kind in dict.fromkeys(row.kind for row in rows):
        mine = [row for row in rows if row.kind == kind]
        kernel = _average_and_maximum(row.kernel_speedup_over_atomic for row in mine)
        whole = _average_and_maximum(row.backward_speedup_over_atomic for row in mine)
        print(f"{kind:>16}  {len(mine):>2}  {kernel} / {whole}")
    for mine in by_model(rows):
        _print_auto(mine)


def _average_and_maximum(factors: Iterable[float | None]) -> str:
    known = [factor for factor in factors if factor is not None]
    return f"{fmean(known):.2f}x {max(known):.2f}x" if known else "not measured"


def _print_auto(rows: Sequence[Row]) -> None:
    single = [row for row in rows if row.kind == "atomic" or row.kind.startswith("sw_")]
    best = min(single, key=lambda row: row.kernel_ms)
    for row in rows:
        if row.kind == "auto":
            slower = 100 * (row.kernel_ms / best.kernel_ms - 1)
            print(f"{row.scene}, step {row.step}: {row.strategy} is {slower:+.1f} % from the best, {best.strategy}")


def plot(rows: Sequence[Row], path: Path) -> None:
    """Kernel time against threshold, a panel for each model."""
    models = by_model(rows)
    figure, axes = panels(len(models), size=(4.6, 3.8))
    for axis, mine in zip(axes, models, strict=True):
        _plot_model(axis, mine)
    save_plot(figure, path)


def _plot_model(axis: Any, rows: Sequence[Row]) -> None:
    for strategy in DEFAULT_THRESHOLDS:
        mine = {int(r.strategy.partition("@")[2]): r.kernel_ms for r in rows if r.strategy.startswith(strategy + "@")}
        axis.plot(sorted(mine), [mine[threshold] for threshold in sorted(mine)], marker=".", label=strategy)
    for row in rows:
        if row.strategy in ("atomic", "gsplat"):
            style = {"atomic": "--", "gsplat": ":"}[row.strategy]
            axis.axhline(row.kernel_ms, color="grey", linestyle=style, label=row.strategy)
    title = f"{rows[0].scene}, step {rows[0].step:,}, {rows[0].gaussians:,} Gaussians"
    axis.set(xlabel="balance threshold", ylabel="blend backward kernel, ms", ylim=(0, None))
    axis.set_title(title, fontsize=9)
    axis.legend(fontsize=8)
