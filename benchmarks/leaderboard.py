"""docs/leaderboard.md and its picture, from the rows of benchmarks/time_to_quality.py."""

import os
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import markdown
from benchmarks.plotting import panels, save_plot
from benchmarks.quality_rows import (
    ENOUGH,
    GIVEN,
    NOT_TIMED,
    NUMBERS,
    Row,
    Stat,
    Summary,
    cells,
    counts,
    finals,
    is_rows,
    measured_columns,
    place_of,
    read_rows,
    run_of,
    summaries,
)
from distwar_gs.evaluation.flip import PROTOCOL as FLIP_PROTOCOL
from distwar_gs.evaluation.lpips import PROTOCOL as LPIPS_PROTOCOL
from distwar_gs.evaluation.metrics import MEASURES
from distwar_gs.system.files import replacing

INTRODUCTION = """\
# Leaderboard: the picture that a second buys

Written by `python benchmarks/time_to_quality.py --report` from the CSV files in [{results}]({results}/), which have
every single run. A number is the mean over the seeds; in brackets the largest minus the smallest, and the standard
deviation. Variants are compared on one scene, at one size, on one card, by one protocol. A variant has the same
settings for every scene.

**When a gain counts.** Where the means are farther apart than the seeds of either variant are (the largest minus the
smallest), with at least {enough} seeds each. Anything less may be chance. A gain that counts stays if it is worth its
code.

**Seconds** are wall-clock of the training loop; loading, measuring and saving are not in them. Those of other trainers'
models, marked *, are what their own clocks said. –: not timed, or not measured.

**A new record.** With three seeds, from a commit without changes (a + marks one that has some):
`python benchmarks/time_to_quality.py --scene SCENE --variant NAME --csv docs/results/DATE_NAME.csv`, then `--report`.
Other trainers' models join with `--ply NAME:SCENE:SECONDS:PATH`.

{measures}
"""


def write_page(page: Path, results: Path, picture: Path | None, baseline: str) -> None:
    """The leaderboard, from all CSV files of rows in a folder; `baseline`: the variant to compare with.

    Raises ConfigError for a file of rows that is damaged.
    """
    rows = [row for file in sorted(results.glob("*.csv")) if is_rows(file) for row in read_rows(file)]
    if picture:
        draw(rows, picture)
    shown = _relative(picture, page) if picture and picture.exists() else None
    text = page_text(rows, _relative(results, page), shown, baseline)
    with replacing(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"{page}: {len({run_of(row) for row in rows})} records of {len(rows)} rows")


def _relative(path: Path, page: Path) -> str:
    return Path(os.path.relpath(path, page.parent)).as_posix()


def page_text(rows: Sequence[Row], results: str, picture: str | None, baseline: str) -> str:
    """The page as Markdown; scenes by name, the best picture first, records numbered through."""
    parts = [INTRODUCTION.format(results=results, enough=ENOUGH, measures=_measures(rows))]
    if picture:
        parts.append(f"![PSNR against seconds]({picture})\n")
    last = finals(summaries(rows))
    places = sorted({place_of(one.first) for one in last})
    records = [one for place in places for one in _by_quality(last, place)]
    for place in places:
        here = {number: one for number, one in enumerate(records, start=1) if place_of(one.first) == place}
        parts.append(_section(here, baseline))
    parts.append(_sources(records) if records else "There are no rows yet.\n")
    return "\n".join(parts)


def _measures(rows: Sequence[Row]) -> str:
    """As `metrics.json` says it; LPIPS and FLIP where a row has them."""
    ways = {name.upper(): text for name, text in MEASURES.items() if name in ("psnr", "ssim")}
    optional = {"flip": FLIP_PROTOCOL, "lpips": LPIPS_PROTOCOL}
    ways |= {name.upper(): way for name, way in optional.items() if any(getattr(row, name) is not None for row in rows)}
    parts = [f"**How it is measured.** {_capital(MEASURES['rounding'])}."]
    return textwrap.fill(" ".join([*parts, *(f"{name}: {text}." for name, text in ways.items())]), 120)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _by_quality(last: Iterable[Summary], place: tuple[str, ...]) -> list[Summary]:
    here = [one for one in last if place_of(one.first) == place]
    return sorted(here, key=lambda one: (-one.known("psnr").mean, one.first.variant, one.first.commit))


# --------------------------------------------------------------------------------------------------------- a scene


def _section(records: dict[int, Summary], baseline: str) -> str:
    first, columns = next(iter(records.values())).first, measured_columns(records.values())
    base = _baseline(records.values(), baseline)
    against = [f"{title} against {baseline}" for title in ("PSNR", "SSIM")] if base else []
    lines = [["variant", "seeds", *(NUMBERS[name][0] for name in columns), *against, "record"]]
    for number, one in records.items():
        gains = [gain(one, base, name) for name in ("psnr", "ssim")] if base else []
        lines.append([f"`{one.first.variant}`", *_starred(one, columns), *gains, str(number)])
    place = f"{first.scene}, {first.resolution}, {first.card}"
    heading = f"## {place}\n\n" + textwrap.fill(f"{first.views} held-out views; {first.protocol}.", 120) + "\n"
    return f"{heading}\n{markdown(lines)}\n"


def _starred(one: Summary, columns: Sequence[str]) -> list[str]:
    texts = cells(one, columns)
    return [*texts[:-1], texts[-1] + "*"] if one.first.timing == GIVEN and columns[-1] == "seconds" else texts


def _baseline(records: Iterable[Summary], name: str) -> Summary | None:
    """The newest of that name."""
    named = [one for one in records if one.first.variant == name]
    return max(named, key=lambda one: one.first.date, default=None)


def gain(one: Summary, base: Summary, name: str) -> str:
    """What a variant gains over another in a number of `NUMBERS`, and whether that counts."""
    if one is base:
        return ""
    mine, theirs = one.known(name), base.known(name)
    return f"{mine.mean - theirs.mean:+{NUMBERS[name][1]}}, {_verdict(mine, theirs)}"


def _verdict(mine: Stat, theirs: Stat) -> str:
    decided = counts(mine, theirs)
    if decided is None:
        return f"needs {ENOUGH} seeds"
    if not decided:
        return "within the spread"
    return "**counts**" if mine.mean > theirs.mean else "counts"


# --------------------------------------------------------------------------------------------------------- the records


def _sources(records: Sequence[Summary]) -> str:
    return "\n".join(["## Records\n", *(_source(number, one) for number, one in enumerate(records, start=1))])


def _source(number: int, one: Summary) -> str:
    first = one.first
    dates = " to ".join(dict.fromkeys((min(row.date for row in one.rows), max(row.date for row in one.rows))))
    cuda = f", CUDA {first.cuda}" if first.cuda else ""
    seeds = f"seeds {', '.join(map(str, one.seeds))}"
    commits = ", ".join(dict.fromkeys(row.commit for row in one.rows))
    where = f"commit {commits}, {first.card}, torch {first.torch}{cuda}, {dates}"
    return f"{number}. `{first.variant}` on {first.scene}, {seeds}: {where}\n\n{_commands(one)}"


def _commands(one: Summary) -> str:
    """As a block of code in an item of a list."""
    with_seeds = "" if not one.first.config else " --seeds " + " ".join(map(str, one.seeds))  # a PLY has none
    lines = dict.fromkeys(row.command + with_seeds for row in one.rows)
    return "".join(f"       {line}\n" for line in lines)


# --------------------------------------------------------------------------------------------------------- the picture


def draw(rows: Sequence[Row], path: Path) -> None:
    """PSNR against seconds: a panel for each scene and card, a line for each variant, a bar from its worst seed to its
    best at each mark. Without times, nothing."""
    timed = summaries(row for row in rows if row.timing != NOT_TIMED)
    places = list(dict.fromkeys(place_of(one.first) for one in timed))
    if not places:
        print("no picture: none of the rows is timed")
        return
    colors = {name: f"C{index}" for index, name in enumerate(dict.fromkeys(one.first.variant for one in timed))}
    figure, axes = panels(len(places), size=(6.0, 4.5))
    for axis, place in zip(axes, places, strict=True):
        here = [one for one in timed if place_of(one.first) == place]
        for run in dict.fromkeys(run_of(one.first) for one in here):
            _draw_run(axis, [one for one in here if run_of(one.first) == run], colors)
        first = here[0].first
        axis.set(title=f"{first.scene}, {first.resolution}\n{first.card}", xlabel="seconds", ylabel="PSNR, dB")
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("{x:g}")
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=8, loc="lower right")
    save_plot(figure, path)


def _draw_run(axis: Any, marks: Sequence[Summary], colors: dict[str, str]) -> None:
    stats = sorted(((one.known("seconds"), one.known("psnr")) for one in marks), key=lambda pair: pair[0].mean)
    seconds, psnr = ([stat.mean for stat in column] for column in zip(*stats, strict=True))
    bars = [[quality.mean - quality.low for _, quality in stats], [quality.high - quality.mean for _, quality in stats]]
    name, count = marks[-1].first.variant, f"{marks[-1].known('gaussians').mean:,.0f} Gaussians"
    axis.errorbar(
        seconds, psnr, yerr=bars, marker="o", markersize=4, capsize=3, color=colors[name], label=f"{name}, {count}"
    )
