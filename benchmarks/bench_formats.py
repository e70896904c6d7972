"""What each format of Gaussians costs: size, time to write and read, and what it changes in pictures.

    python benchmarks/bench_formats.py output/garden
    python benchmarks/bench_formats.py capture.ply -s data/garden --views 20 --csv formats.csv

The model is written in every format that we write, read again, and rendered from views of its scene beside the model as
it was: PSNR between the two, not with photos. A page (.html) holds a SOG and is not read.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torch import Tensor

from benchmarks.measuring import machine, print_table, write_csv
from distwar_datasets import View
from distwar_gs.cli import run_cli
from distwar_gs.evaluation.metrics import PSNR_LIMIT, psnr, to_8bit
from distwar_gs.formats.export import load_exactly, load_model, save_model
from distwar_gs.formats.table import FORMATS, Format, read_format
from distwar_gs.gaussians.model import sh_degree_of
from distwar_gs.viewing.render_args import RenderArgs
from distwar_gs.viewing.tours import tour_of_run
from distwar_gs.viewing.trained import TrainedModel


@dataclass
class Row:
    """A format. What does not apply is None."""

    format: str
    mb: float
    bytes_per_gaussian: float
    times_smaller: float
    """Than the PLY."""
    write_s: float
    read_s: float | None = None
    psnr: float | None = None
    """dB, the mean over the views; 100 where the pictures are equal."""
    psnr_least: float | None = None


def main(arguments: Sequence[str]) -> None:
    """Write, read, render, print."""
    args = _parser().parse_args(arguments)
    given = RenderArgs(model=args.model, source_path=args.source_path, iteration=args.iteration, device=args.device)
    model = TrainedModel.load(given)
    views = model.spread_views(args.views)
    print(f"{model.ply}: {len(model.params['means']):,} Gaussians, harmonics of degree {sh_degree_of(model.params)}; "
          f"{len(views)} views of {model.scene.source}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(model, views, Path(folder))
    print_table(rows)
    if args.csv:
        common = {"machine": machine(model.device), "model": str(args.model), "gaussians": len(model.params["means"]),
                  "sh_degree": sh_degree_of(model.params), "views": len(views)}  # fmt: skip
        write_csv(args.csv, rows, common)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="a run folder, or a file of Gaussians with -s")
    parser.add_argument("-s", "--source_path", help="the scene, if it is not where the run found it")
    parser.add_argument("--iteration", type=int, metavar="N", help="which saved model of a run (default: newest)")
    parser.add_argument("--views", type=int, default=8, help="spread over all views (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="that renders (default: %(default)s)")
    parser.add_argument("--csv", type=Path, help="also write the table here")
    return parser


def measure(model: TrainedModel, views: Sequence[View], folder: Path) -> list[Row]:
    """A row for each format that is written."""
    params, origin = load_exactly(model.ply)
    params = {name: tensor.float() for name, tensor in params.items()}
    tour = tour_of_run(model.run_folder)
    before = [to_8bit(model.render(view).colors[0]) for view in views]

    def write(path: Path) -> None:
        antialiased = model.settings.antialiased
        save_model(path, params, antialiased=antialiased, origin=origin, tour=tour and tour.moved(-origin))

    rows = [_measured(row, model, views, before, write, folder / f"model{row.suffix}") for row in FORMATS]
    return [_rounded(replace(row, times_smaller=rows[0].mb / row.mb)) for row in rows]


def _measured(
    row: Format, model: TrainedModel, views: Sequence[View], before: Sequence[Tensor], write: Callable[[Path], None],
    path: Path,
) -> Row:  # fmt: skip
    begin = time.perf_counter()
    write(path)
    wrote = time.perf_counter()
    size, count = path.stat().st_size, len(model.params["means"])
    result = Row(row.suffix, size / 1e6, size / count, 1.0, wrote - begin)
    if not path.name.endswith(read_format(path).suffix):
        return result
    begin = time.perf_counter()
    params = load_model(path, model.scene.normalisation)
    result = replace(result, read_s=time.perf_counter() - begin)
    found = [_psnr(image, other) for image, other in zip(before, _pictures(model, params, views), strict=True)]
    return replace(result, psnr=fmean(found), psnr_least=min(found))


def _rounded(row: Row) -> Row:
    values: dict[str, Any] = {
        name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(row).items()
    }
    return Row(**values)


def _pictures(model: TrainedModel, params: Mapping[str, Tensor], views: Sequence[View]) -> list[Tensor]:
    other = replace(model, params={name: tensor.to(model.device) for name, tensor in params.items()})
    return [to_8bit(other.render(view).colors[0]) for view in views]


def _psnr(image: Tensor, other: Tensor) -> float:
    return min(float(psnr(image.double() / 255, other.double() / 255)), PSNR_LIMIT)


if __name__ == "__main__":
    run_cli(main)
