"""The rows of benchmarks/time_to_quality.py: a CSV file that grows, and what several seeds say together."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from distwar_gs.config import ConfigError
from distwar_gs.system.files import replacing

TIMED, NOT_TIMED, GIVEN = "loop", "not timed", "given"
"""Where seconds come from: our training loop; the same, but other programs shared the machine; whoever gave the PLY."""

END = "end"
"""The mark after the last step."""

ENOUGH = 3
"""Seeds, from which on a difference can count."""


# ------------------------------------------------------------------------------------------------------- the file


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model, measured: a training at one of its marks, or a PLY."""

    date: str
    commit: str
    """The code that trained and measured; of a PLY, that measured."""
    card: str
    torch: str
    cuda: str
    scene: str
    variant: str
    """Name of the settings, or of a rival."""
    seed: int
    """Of a PLY: the number of those that have its name, its scene and its step, from 0."""
    at: str
    """The mark: 25%, 7000, 20s, end; of a PLY "step 7000", where its folder or the command line tells."""
    step: int
    seconds: float | None
    """Wall-clock of the training loop, without measuring and saving."""
    timing: str
    """TIMED, NOT_TIMED or GIVEN."""
    psnr: float
    """dB."""
    ssim: float
    lpips: float | None
    flip: float | None
    gaussians: int
    views: int
    resolution: str
    peak_mib: float | None
    """The most GPU memory that tensors took."""
    config: str
    """Digest of all settings that the result depends on, but the seed; empty for a PLY."""
    settings: str
    """Those that were set, key=value; of a PLY its path."""
    command: str
    """Without the seeds."""
    protocol: str
    """What the data decide; `distwar_gs.evaluation.metrics.MEASURES` has the rest."""


_CONVERSIONS: dict[Any, Callable[[str], Any]] = {
    str: str,
    int: int,
    float: float,
    float | None: lambda text: float(text) if text else None,
}


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, none if there is no file. Raises ConfigError for a file of something else."""
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [_row(line) for line in csv.DictReader(file, strict=True)]
    except (ValueError, LookupError, TypeError, csv.Error) as error:
        raise ConfigError(f"{path}: has other rows than time_to_quality.py writes ({error}); choose another") from error


def _row(line: dict[str, str]) -> Row:
    names = [spec.name for spec in fields(Row)]
    if list(line) != names or None in line.values():
        raise ValueError(f"columns: {', '.join(map(str, line))}")
    return Row(**{spec.name: _CONVERSIONS[spec.type](line[spec.name]) for spec in fields(Row)})


def is_rows(path: Path) -> bool:
    """Whether a CSV file has the columns of `Row`."""
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), None) == [spec.name for spec in fields(Row)]


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Adds rows at the end; the file has all of them or none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if not path.exists():
        writer.writerow([spec.name for spec in fields(Row)])
    writer.writerows(astuple(row) for row in rows)
    before = path.read_bytes() if path.exists() else b""
    with replacing(path) as temporary:
        temporary.write_bytes(before + text.getvalue().encode())


# ------------------------------------------------------------------------------------------------- several seeds


@dataclass(frozen=True)
class Stat:
    """One number over the seeds."""

    count: int
    mean: float
    low: float
    high: float
    deviation: float | None
    """Standard deviation of the sample; None for one seed."""

    @classmethod
    def of(cls, values: Sequence[float]) -> "Stat | None":
        """None without values."""
        if not values:
            return None
        deviation = stdev(values) if len(values) > 1 else None
        return cls(len(values), fmean(values), min(values), max(values), deviation)

    @property
    def spread(self) -> float:
        """The largest minus the smallest."""
        return self.high - self.low


@dataclass(frozen=True)
class Summary:
    """The seeds of one variant on one scene at one mark."""

    rows: tuple[Row, ...]

    @property
    def first(self) -> Row:
        """For what all rows have in common: scene, variant, mark, commit, card."""
        return self.rows[0]

    @property
    def seeds(self) -> list[int]:
        """In order."""
        return sorted(row.seed for row in self.rows)

    def stat(self, name: str) -> Stat | None:
        """Of a number of the rows, over those that have it; of seconds, over those that are timed."""
        rows = self.rows if name != "seconds" else [row for row in self.rows if row.timing != NOT_TIMED]
        return Stat.of([value for row in rows if (value := getattr(row, name)) is not None])

    def known(self, name: str) -> Stat:
        """As `stat`, of a number that some row has. Raises ValueError if none has it."""
        if (stat := self.stat(name)) is None:
            raise ValueError(f"{self.first.scene}, {self.first.variant}: no row has {name}")
        return stat


def place_of(row: Row) -> tuple[str, ...]:
    """What must be the same for two variants to be compared."""
    return (row.scene, row.resolution, row.card, row.protocol)


def run_of(row: Row) -> tuple[str, ...]:
    """What the seeds of one variant have in common; not the commit that measured the models of another trainer."""
    return (*place_of(row), row.variant, row.config, row.commit if row.config else "")


def summaries(rows: Iterable[Row]) -> list[Summary]:
    """One for each scene, variant and mark, in the order of scenes and variants as they first come, then of steps.

    Rows of one seed that were measured twice count once, those that are timed first.
    """
    groups: dict[tuple, dict[int, Row]] = {}
    places: dict[tuple, int] = {}
    runs: dict[tuple, int] = {}
    for row in rows:
        places.setdefault(place_of(row), len(places))
        runs.setdefault(run_of(row), len(runs))
        seeds = groups.setdefault((*run_of(row), row.at), {})
        if row.seed not in seeds or seeds[row.seed].timing == NOT_TIMED:
            seeds[row.seed] = row
    made = [Summary(tuple(seeds.values())) for seeds in groups.values()]
    return sorted(made, key=lambda one: (places[place_of(one.first)], runs[run_of(one.first)], one.known("step").mean))


def finals(all_summaries: Iterable[Summary]) -> list[Summary]:
    """Of each variant on each scene the last mark."""
    last = {run_of(one.first): one for one in all_summaries}  # in the order of steps
    return list(last.values())


def counts(one: Stat, other: Stat) -> bool | None:
    """Whether a difference is outside the seeds' spread: the means are farther apart than the seeds of either are. None
    with fewer than `ENOUGH` seeds of one of them."""
    if min(one.count, other.count) < ENOUGH:
        return None
    return abs(one.mean - other.mean) > max(one.spread, other.spread)


# -------------------------------------------------------------------------------------------------------- the table

NUMBERS: dict[str, tuple[str, str]] = {
    "psnr": ("PSNR, dB", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "flip": ("FLIP", ".4f"),
    "lpips": ("LPIPS", ".4f"),
    "gaussians": ("Gaussians", ",.0f"),
    "seconds": ("seconds", ".2f"),
}
"""Title and format of the columns."""


def measured_columns(those: Iterable[Summary]) -> list[str]:
    """The names of `NUMBERS` that any of them has."""
    those = list(those)
    return [name for name in NUMBERS if any(one.stat(name) for one in those)]


def cell(stat: Stat | None, form: str) -> str:
    """The mean; of several seeds, in brackets, the largest minus the smallest and the standard deviation."""
    if stat is None:
        return "–"
    if stat.deviation is None:
        return format(stat.mean, form)
    return f"{stat.mean:{form}} ({stat.spread:{form}}; {stat.deviation:{form}})"


def table(those: Sequence[Summary]) -> list[list[str]]:
    """Lines of cells, the first its head."""
    columns = measured_columns(those)
    head = ["scene", "variant", "at", "seeds", *(NUMBERS[name][0] for name in columns)]
    return [head, *([one.first.scene, one.first.variant, one.first.at, *cells(one, columns)] for one in those)]


def cells(one: Summary, columns: Sequence[str]) -> list[str]:
    """The count of seeds, and those columns."""
    return [str(len(one.rows)), *(cell(one.stat(name), NUMBERS[name][1]) for name in columns)]


def one_line(row: Row) -> str:
    """PSNR 32.10 dB, SSIM 0.9440, 918,000 Gaussians, 27.6 s."""
    seconds = "" if row.seconds is None else f", {row.seconds:.1f} s{'' if row.timing != NOT_TIMED else ' (not timed)'}"
    return f"PSNR {row.psnr:.2f} dB, SSIM {row.ssim:.4f}, {row.gaussians:,} Gaussians{seconds}"
