"""The sections of report.html, each HTML made of what was gathered. All that is not ours is escaped."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

from distwar_gs.config import as_values, field_docs
from distwar_gs.config.yaml_files import chosen_values
from distwar_gs.viewing.report.charts import bars, line_chart, number, shares
from distwar_gs.viewing.report.gathered import LARGEST_MODEL, Gathered
from distwar_gs.viewing.report.pictures import BRIGHTEST, Picture

_WITHIN = ("iteration", "blend_backward")
"""Parts of a step that are sums of others, or within another."""


def headline(run: Gathered) -> str:
    """The numbers that one asks for first."""
    cells = [("Gaussians", f"{run.gaussians:,}"), ("steps", f"{run.step:,}"), ("training", _duration(run.seconds))]
    if run.evaluation:
        measured = {
            "PSNR": f"{run.evaluation.psnr:.2f} dB", "SSIM": f"{run.evaluation.ssim:.4f}",
            "LPIPS": _optional(run.evaluation.lpips), "FLIP": _optional(run.evaluation.flip),
        }  # fmt: skip
        cells = [(name, text) for name, text in measured.items() if text] + cells
    peak = max((row[name] for row in run.curves for name in _MEMORY if name in row), default=0.0)
    cells += [("memory, at most", f"{peak / 1024:.2f} GiB")] if peak else []
    return "".join(f'<div class="number"><b>{_text(text)}</b>{_text(name)}</div>' for name, text in cells)


_MEMORY = ("memory/peak_mib", "memory/resident_mib")


def model(run: Gathered) -> str:
    """The model, which a click starts; or why it is not here."""
    poster = f'<img src="{run.poster}" alt="the first training view, rendered">'
    if not run.model:
        return (
            f'<div class="poster">{poster}</div><p class="note">With {run.gaussians:,} Gaussians the model is too '
            f"large for this page, which takes {LARGEST_MODEL:,}. <code>python scripts/convert.py RUN model.html"
            "</code> writes it as a page of its own.</p>"
        )
    return (
        f'<div class="poster" id="model">{poster}<button onclick="startModel()">&#9654; turn the model</button></div>'
        '<p class="note">Drag to turn, scroll to come nearer; a button in its corner shows the keys.</p>'
    )


def pictures(run: Gathered) -> str:
    """Photo, render and error of the worst views and of a sample."""
    whose = "test views" if run.evaluation else "training views (no view is held out)"
    parts = [_pictures("The worst test views", run.worst), _pictures(f"A sample of the {whose}", run.sample)]
    scale = f"Error: the mean over the channels; black is 0, white is {BRIGHTEST:g} of a range of 1, or more."
    return "".join(parts) + f'<p class="note">{scale}</p>'


def per_view(run: Gathered) -> str:
    """PSNR of every test view, as bars and as a table."""
    if not run.evaluation:
        return '<p class="note">No view is held out.</p>'
    views = run.evaluation.views
    rows = [
        (view.name, f"{view.psnr:.2f}", f"{view.ssim:.4f}", _optional(view.lpips), _optional(view.flip))
        for view in views
    ]
    table = _table(("view", "PSNR, dB", "SSIM", "LPIPS", "FLIP"), rows)
    return bars([(view.name, view.psnr) for view in views], "dB") + _folded(f"{len(views)} views in numbers", table)


def curves(run: Gathered) -> str:
    """What the run published."""
    charts = {
        "Loss": line_chart(_series(run, lambda name: name in ("train/loss", "train/l1")), logarithmic=True),
        "PSNR, dB": line_chart(_series(run, lambda name: name in ("train/psnr", "eval/psnr")), dots=("eval/psnr",)),
        "Gaussians": line_chart(_series(run, lambda name: name == "gaussians/count"), from_zero=True),
        "Milliseconds per step": line_chart(_series(run, lambda name: name == "time/iteration_ms"), from_zero=True),
        "Memory, MiB": line_chart(_series(run, lambda name: name.startswith("memory/")), from_zero=True),
        "Atomic additions per view": line_chart(
            _series(run, lambda name: name.startswith("reduction/atomics/")), logarithmic=True
        ),
        "Learning rates": line_chart(_series(run, lambda name: name.startswith("lr/")), logarithmic=True),
    }
    drawn = [f"<figure><figcaption>{name}</figcaption>{chart}</figure>" for name, chart in charts.items() if chart]
    if drawn:
        return f'<div class="charts">{"".join(drawn)}</div>'
    return '<p class="note">The run was shorter than log.every, the steps between two points.</p>'


def time_spent(run: Gathered) -> str:
    """The parts of a step, averaged over the steps that were timed."""
    parts = _parts(run)
    if not parts:
        return '<p class="note">No step was timed: the run was shorter than log.every.</p>'
    total = sum(parts.values())
    rows = [(name, f"{ms:.3f}", f"{100 * ms / total:.1f} %") for name, ms in parts.items()]
    blend = _mean(run, "time/blend_backward_ms")
    rows += [("of backward: the blend", f"{blend:.3f}", f"{100 * blend / total:.1f} %")] if blend else []
    note = f'<p class="note">{_text(run.device)}. Timed on the steps that were logged, where the host waits.</p>'
    return shares(parts) + _table(("part of a step", "ms", "share"), rows) + note


def reduction(run: Gathered) -> str:
    """What each way to reduce would send to the atomic units, and what was measured if the run chose itself."""
    if not run.atomics:
        return '<p class="note">gsplat rasterises: its warps are not counted.</p>'
    used, *_ = run.atomics
    atomic = next((count for one, count in run.atomics.items() if one.strategy == "atomic"), 0.0)
    rows = [
        (f"{one}{', used' if one == used else ''}", number(count), f"{atomic / count:.2f}x" if count else "")
        for one, count in sorted(run.atomics.items(), key=lambda item: -item[1])
    ]
    rounds = "".join(f"<li>{_text(str(outcome))}</li>" for outcome in run.tuning)
    rounds = f"<p>Measured by <code>auto</code> as training went:</p><ul>{rounds}</ul>" if rounds else ""
    note = '<p class="note">Atomic additions of the backward pass of a view; strategy@threshold.</p>'
    return _table(("a warp reduces by", "atomics per view", "fewer"), rows) + note + rounds


def warnings(run: Gathered) -> str:
    """That train.log has."""
    if not run.warnings:
        return '<p class="note">None.</p>'
    return f'<ul class="warnings">{"".join(f"<li>{_text(one)}</li>" for one in run.warnings)}</ul>'


def settings(run: Gathered) -> str:
    """What was chosen, then all."""
    values, chosen, docs = as_values(run.config), chosen_values(run.config), field_docs()
    rows = [(key, values[key], docs[key]) for key in chosen]
    everything = [(key, value, docs[key]) for key, value in values.items()]
    return _table(("setting", "value", "meaning"), rows) + _folded(
        "All settings", _table(("setting", "value", "meaning"), everything)
    )


def protocol(run: Gathered) -> str:
    """How the numbers were measured."""
    if not run.evaluation:
        return '<p class="note">Nothing was measured: no view is held out.</p>'
    return _table(("", "protocol"), list(run.evaluation.protocol.items()))


def files(run: Gathered) -> str:
    """What the run has written."""
    return _table(("file", "MB"), [(name, f"{size / 1e6:.2f}") for name, size in run.files.items()])


# ------------------------------------------------------------------------------------------------------------ inside


def _pictures(title: str, views: Sequence[Picture]) -> str:
    if not views:
        return ""
    rows = "".join(
        f'<div class="views"><p>{_text(view.name)}<br>{view.psnr:.2f} dB</p><img src="{view.photo}" alt="photo">'
        f'<img src="{view.render}" alt="render"><img src="{view.error}" alt="error"></div>'
        for view in views
    )
    head = '<div class="views head"><p></p><p>photo</p><p>render</p><p>error</p></div>'
    return f"<h3>{_text(title)}</h3>{head}{rows}"


def _series(run: Gathered, wanted: Callable[[str], bool]) -> dict[str, list[tuple[float, float]]]:
    names = dict.fromkeys(name for row in run.curves for name in row if wanted(name))
    return {name: [(row["step"], row[name]) for row in run.curves if name in row] for name in names}


def _parts(run: Gathered) -> dict[str, float]:
    """Mean milliseconds of each part of a step, the longest first."""
    keys = dict.fromkeys(key for row in run.curves for key in row if key.startswith("time/") and key.endswith("_ms"))
    names = {key: key.removeprefix("time/").removesuffix("_ms") for key in keys}
    means = {name: _mean(run, key) for key, name in names.items() if name not in _WITHIN}
    return dict(sorted(((name, ms) for name, ms in means.items() if ms > 0), key=lambda item: -item[1]))


def _mean(run: Gathered, name: str) -> float:
    values = [row[name] for row in run.curves if name in row]
    return fmean(values) if values else 0.0


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    top = "".join(f"<th>{_text(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="{head[0]}"><tr>{top}</tr>{body}</table>'


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{_text(title)}</summary>{content}</details>"


def _text(value: object) -> str:
    return html.escape(str(value))


def _optional(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{seconds:.1f} s" if seconds < 120 else f"{minutes} min {seconds - 60 * minutes:.0f} s"


SECTIONS: Mapping[str, Callable[[Gathered], str]] = {
    "The model": model,
    "Pictures": pictures,
    "Each test view": per_view,
    "Curves": curves,
    "Where the time went": time_spent,
    "Reduction": reduction,
    "Warnings": warnings,
    "Settings": settings,
    "Protocol": protocol,
    "Files": files,
}
"""In the order of the page, by their titles."""
