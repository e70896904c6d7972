"""What picture a second buys: scenes x variants x seeds, each training measured at several times.

    python benchmarks/time_to_quality.py --scene data/bonsai --variant adc mcmc --csv docs/results/DATE_bonsai.csv
    python benchmarks/time_to_quality.py --scene data/fox garden=configs/mipnerf360/garden.yaml
        "lego=data/lego:data.background=white" --seeds 0 1 2 --at 5s 10s 50% --csv all.csv --picture all.png
        --variant adc "few:densification.strategy=mcmc,densification.cap_max=180000" "short:train.seconds=20"
    python benchmarks/time_to_quality.py --scene data/bonsai --ply fastgs:bonsai:134:runs/fastgs_bonsai --csv all.csv
    python benchmarks/time_to_quality.py --report

A scene is a folder or a YAML file, with settings after a colon if need be; a variant is the name of a strategy, or a
name of your own and after a colon settings, a YAML file, or both. The held-out views are measured at the marks and
after the last step, by the protocol of train.py and render.py. Rows are appended to the CSV file as each training ends,
and what is there already is not run again. Seconds are wall-clock of the training loop: loading, measuring and saving
are not in them. One training runs after another, in this process; --fresh gives each a process of its own, --parallel
runs several at once, whose rows are marked as not timed.

--ply measures a model of any trainer over the same views, as render.py does; its seconds are taken on trust. PATH is a
file of Gaussians, or the output folder of a trainer that writes point_cloud/iteration_N/point_cloud.ply. Give several
with one name for several seeds.

--report writes docs/leaderboard.md from all such files in docs/results/.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: distwar_gs.system.cores

from benchmarks.leaderboard import draw, write_page
from benchmarks.measuring import markdown
from benchmarks.plotting import check_plot
from benchmarks.quality_rows import summaries, table
from benchmarks.quality_runs import Mark, ModelFile
from benchmarks.quality_series import MARKS, ROOT, Series
from distwar_gs.cli import run_cli


def main(arguments: Sequence[str]) -> int:
    """Train and measure what is not in the CSV file yet, print and draw all that is; 1 if a training has failed."""
    args = _parser().parse_args(arguments)
    check_plot(args.picture, "--picture")
    if args.report:
        write_page(args.page, args.results, args.picture, args.baseline)
        return 0
    series = Series.of(args)
    failed = series.run()
    if rows := series.rows():
        print("\n" + markdown(table(summaries(rows))))
        print("\nmean (largest minus smallest; standard deviation) over the seeds")
        if args.picture:
            draw(rows, args.picture)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    several: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    add = parser.add_argument
    add("--scene", **several, metavar="[NAME=]PATH[:SETTINGS]", help="a folder or a YAML file")
    add("--variant", **several, metavar="NAME[:SETTINGS]", help="a strategy, or settings with a name")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="(default: 0 1 2)")
    add("--set", **several, metavar="SECTION.KEY=VALUE", help="for all trainings, under what scenes and variants set")
    add("--at", type=_of(Mark.of), nargs="*", metavar="MARK", help="shares, steps or times: 25%% 7000 20s (default: "
        + " ".join(MARKS).replace("%", "%%") + ")")  # fmt: skip
    add("--csv", type=Path, metavar="FILE", help="the rows")
    add("--picture", type=Path, metavar="FILE", help="quality against seconds as PNG or SVG (needs matplotlib)")
    add("--ply", **several, type=_of(ModelFile.of), metavar="NAME:SCENE:SECONDS:PATH[:ITERATION]", help="a model")
    add("--flip", action="store_true", help="measure FLIP after the last step (needs flip-evaluator)")
    add("--keep", type=Path, metavar="DIR", help="keep models and logs of the trainings, each in a folder of DIR")
    add("--fresh", action="store_true", help="each training in a process of its own, as a user has it")
    add("--parallel", type=int, default=1, metavar="N", help="trainings at once, not timed")
    add("--untimed", action="store_true", help="mark the rows as not timed: other programs share the machine")
    add("--device", choices=("auto", "cuda", "cpu"), default="auto", help="(default: auto)")
    add("--commit", help="of the code, where git does not know (default: what git says)")
    add("--card", help="that --ply were trained on, if it is not this machine's")
    add("--report", action="store_true", help="write the leaderboard instead of measuring")
    add("--results", type=Path, default=ROOT / "docs/results", metavar="DIR", help="its rows (default: docs/results)")
    add(
        "--page", type=Path, default=ROOT / "docs/leaderboard.md", metavar="FILE", help="(default: docs/leaderboard.md)"
    )
    add("--baseline", default="adc", metavar="VARIANT", help="what others are compared with there (default: adc)")
    return parser


def _of(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """A type for argparse whose message is that of the ValueError."""

    def convert(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


if __name__ == "__main__":
    run_cli(main)
