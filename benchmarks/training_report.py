"""Tables, files and the picture of what benchmarks/bench_training.py measures, of ours and of other trainers."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measuring import STAGES, markdown, write_csv
from benchmarks.plotting import panels, save_plot
from distwar_gs.config import ConfigError

ALL_STAGES = (*STAGES, "densify", "other")


@dataclass(frozen=True)
class Mark:
    """A step of training: where its time goes."""

    stages_ms: dict[str, float]
    """Of `ALL_STAGES`; `other` is what is left of the step."""
    step_ms: float
    """Untimed steps, by the clock."""
    gaussians: int
    refinement_ms: float | None = None
    """One round of adding and removing Gaussians, if there is any about this step."""

    @classmethod
    def of(cls, stages_ms: Mapping[str, float], step_ms: float, *rest: Any) -> "Mark":
        """With `other` filled in, unless it is known."""
        other = step_ms - sum(stages_ms.values())
        return cls({"other": other, **stages_ms}, step_ms, *rest)


@dataclass(frozen=True)
class Report:
    """One training, ours or another trainer's."""

    name: str
    marks: dict[int, Mark]
    seconds: float | None = None
    """The training loop, without evaluating and saving."""
    psnr: dict[int, float] = field(default_factory=dict)
    """Of the held-out views, dB, by step."""
    peak_allocated_mib: float | None = None
    peak_reserved_mib: float | None = None
    first_step_seconds: float | None = None
    """From the start of the process to the end of the first step."""
    machine: str = ""


# --------------------------------------------------------------------------------------------------------- files


def write_report(path: Path, report: Report) -> None:
    """As JSON, which `read_report` takes back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")


def read_report(path: Path, name: str | None = None) -> Report:
    """The report in a file, under another name if one is given.

    Raises ConfigError for a file that is not one.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        marks = {int(step): _mark(**mark) for step, mark in values.pop("marks").items()}
        psnr = {int(step): float(psnr) for step, psnr in values.pop("psnr", {}).items()}
        return Report(**{**values, "name": name or values["name"], "marks": marks, "psnr": psnr})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"{path}: not the report of a training ({error}); --help of benchmarks/bench_training.py shows one"
        ) from error


def _mark(stages_ms: dict[str, float], step_ms: float, gaussians: int, refinement_ms: float | None = None) -> Mark:
    unknown = [stage for stage in stages_ms if stage not in ALL_STAGES]
    if unknown:
        raise ValueError(f"stage {unknown[0]!r} is none of {', '.join(ALL_STAGES)}")
    numbers = {stage: float(ms) for stage, ms in stages_ms.items()}
    return Mark.of(numbers, float(step_ms), int(gaussians), refinement_ms)


@dataclass(frozen=True)
class Line:
    """One line of the CSV file."""

    trainer: str
    step: int
    gaussians: int
    step_ms: float
    forward_ms: float | None
    loss_ms: float | None
    blend_backward_ms: float | None
    backward_and_optimizer_ms: float | None
    densify_ms: float | None
    other_ms: float
    refinement_ms: float | None
    machine: str


def write_lines(path: Path, reports: Sequence[Report]) -> None:
    """A line of the CSV file for each trainer and mark."""
    lines = [
        Line(
            report.name, step, mark.gaussians, mark.step_ms, refinement_ms=mark.refinement_ms, machine=report.machine,
            **dict[str, Any]({f"{stage}_ms": mark.stages_ms.get(stage) for stage in ALL_STAGES}),
        )
        for report in reports
        for step, mark in report.marks.items()
    ]  # fmt: skip
    if lines:
        write_csv(path, lines, {})


# -------------------------------------------------------------------------------------------------------- tables


def print_reports(reports: Sequence[Report]) -> None:
    """A table for each mark, a column of milliseconds and one of shares for each trainer; then the whole runs."""
    for step in all_steps(reports):
        print(markdown(_stage_lines(step, [report for report in reports if step in report.marks])) + "\n")
    print(markdown(_run_lines(reports)))


def all_steps(reports: Sequence[Report]) -> list[int]:
    """Every step that any of them has."""
    return sorted({step for report in reports for step in report.marks})


def _stage_lines(step: int, reports: Sequence[Report]) -> list[list[str]]:
    marks = [report.marks[step] for report in reports]
    head = [f"step {step:,}", *(text for report in reports for text in (f"{report.name}, ms", "share"))]
    whole = ["whole step, untimed", *(text for mark in marks for text in (f"{mark.step_ms:.3f}", "100 %"))]
    refinement = ["one refinement", *(text for mark in marks for text in (_number(mark.refinement_ms, 3), ""))]
    count = ["Gaussians", *(text for mark in marks for text in (f"{mark.gaussians:,}", ""))]
    return [head, *(_stage_line(stage, marks) for stage in ALL_STAGES), whole, refinement, count]


def _stage_line(stage: str, marks: Sequence[Mark]) -> list[str]:
    cells = [stage.replace("_", " ")]
    for mark in marks:
        ms = mark.stages_ms.get(stage)
        cells += ["", ""] if ms is None else [f"{ms:.3f}", f"{100 * ms / mark.step_ms:.1f} %"]
    return cells


def _psnr_at(step: int, report: Report) -> str:
    return _number(report.psnr.get(step), 2)


def _run_lines(reports: Sequence[Report]) -> list[list[str]]:
    """A line a trainer; PSNR at every step that any of them was measured at."""
    steps = sorted({step for report in reports for step in report.psnr})
    columns: dict[str, Callable[[Report], str]] = {
        "trainer": lambda report: report.name,
        "training loop, s": lambda report: _number(report.seconds, 1),
        **{f"PSNR at {step:,}": partial(_psnr_at, step) for step in steps},
        "peak allocated, MiB": lambda report: _number(report.peak_allocated_mib, 0),
        "peak reserved, MiB": lambda report: _number(report.peak_reserved_mib, 0),
        "start to first step, s": lambda report: _number(report.first_step_seconds, 1),
    }
    return [list(columns), *([text(report) for text in columns.values()] for report in reports)]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


# ------------------------------------------------------------------------------------------------------- picture


def draw(reports: Sequence[Report], path: Path) -> None:
    """A bar for each mark and trainer, as long as a step, in the colours of its stages."""
    bars = [(step, report) for step in all_steps(reports) for report in reports if step in report.marks]
    figure, (axis,) = panels(1, size=(8.0, 1.2 + 0.4 * len(bars)))
    _draw_stages(axis, [report.marks[step] for step, report in bars])
    axis.set_yticks(range(len(bars)), [f"{report.name}, step {step:,}" for step, report in bars])
    axis.invert_yaxis()
    axis.set(xlabel="ms a step")
    axis.margins(x=0.1)
    axis.legend(fontsize=8, ncols=len(ALL_STAGES), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    save_plot(figure, path)


def _draw_stages(axis: Any, marks: Sequence[Mark]) -> None:
    left = [0.0] * len(marks)
    for stage in ALL_STAGES:
        widths = [max(mark.stages_ms.get(stage, 0.0), 0.0) for mark in marks]  # `other` may be noise below 0
        axis.barh(range(len(marks)), widths, left=left, label=stage.replace("_", " "))
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for row, (end, mark) in enumerate(zip(left, marks, strict=True)):
        axis.annotate(f" {mark.step_ms:.2f}", (end, row), va="center", fontsize=8)
