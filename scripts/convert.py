"""Writes a trained model in the formats of viewers, or one of those formats as PLY.

    python scripts/convert.py output/garden garden.spz garden.splat garden.compressed.ply
    python scripts/convert.py capture.spz capture.ply
    python scripts/convert.py capture.sog capture.ply
    python scripts/convert.py output/survey survey.ply --export_origin input
    python scripts/convert.py output/garden garden.html      # a page to send, which shows it in a browser

docs/formats.md says what each format keeps, its frame, its precision and who reads it.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
from torch import Tensor

if __name__ == "__main__":  # the packages lie beside this folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distwar_gs.cli import run_cli
from distwar_gs.formats.export import find_ply, load_exactly, read_render_mode, save_model
from distwar_gs.formats.origins import grid, placed, words
from distwar_gs.formats.sky import read_sky, save_sky, sky_of, with_sky
from distwar_gs.formats.table import HARMONICS, MODEL_SUFFIXES, WRITTEN_SUFFIXES, listed, written_format
from distwar_gs.gaussians.model import parameter_count, sh_degree_of
from distwar_gs.system.errors import ConfigError
from distwar_gs.system.progress import progress, quieten
from distwar_gs.system.terminal import log_to_terminal, printable
from distwar_gs.viewing.tours import tour_of_model


def main(argv: Sequence[str]) -> None:
    """Read once, write every format asked for, and say in one line each what came of it."""
    args = _parser().parse_args(argv)
    log_to_terminal()
    if args.quiet:
        quieten()
    source, rub = find_ply(args.model, args.iteration), args.spz_frame == "rub"
    tour = tour_of_model(source)
    (params, origin), sky = load_exactly(source, rub=rub), read_sky(source)
    if args.bake_sky:
        params, sky = _baked(source, params, sky), None
    antialiased = read_render_mode(source) == "mip"
    print(printable(f"{source}: {_contents(params)}{', antialiased' if antialiased else ''}{_relative_to(origin)}"))
    targets = progress(args.out, desc="formats", unit="file")
    for target in targets:
        moved_params, new_origin = placed(params, origin, args.export_origin, written_format(target))
        shown = tour and tour.moved(-new_origin)
        save_model(target, moved_params, antialiased=antialiased, rub=rub, origin=new_origin, tour=shown)
        save_sky(target, sky)
        moved = "" if np.array_equal(new_origin, origin) else _relative_to(new_origin) or _coarseness(moved_params)
        beside = f", its sky in {sky_of(target).name} (--bake_sky for other viewers)" if sky is not None else ""
        targets.write(printable(_result(target, params, rub) + moved + beside))  # above the bar


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help=f"a run folder, or a {', '.join(MODEL_SUFFIXES)} file"
    )
    parser.add_argument("out", type=Path, nargs="+", metavar="OUT", help=f"NAME{listed(WRITTEN_SUFFIXES, 'or')}")
    parser.add_argument("--iteration", type=int, metavar="N", help="which saved model of a run (default: newest)")
    parser.add_argument("--spz_frame", choices=("rub", "input"), default="rub",
                        help="axes of SPZ and glTF files: those that the format prescribes (SPZ x right, y up, z back; "
                        "glTF x left, y up, z forward), or those of the PLY, as splat-transform 3.2 takes SPZ "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--export_origin", choices=("auto", "input", "local"), default="auto",
                        help="what positions are relative to: the origin of the input's frame (input), a round place "
                        "amidst the Gaussians (local), or what they are relative to already, unless the format cannot "
                        "hold them so (default: %(default)s)")  # fmt: skip
    parser.add_argument("--bake_sky", action="store_true", help="make the sky that was learned Gaussians, far around "
                        "all others, which any viewer shows (docs/sky.md)")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


def _baked(source: Path, params: dict[str, Tensor], sky: Tensor | None) -> dict[str, Tensor]:
    """The Gaussians and the sky's. ConfigError where there is no sky."""
    if sky is None:
        raise ConfigError(
            f"{sky_of(source)}: is not there, so --bake_sky has no sky to bake; train with --learned_background, or "
            "leave --bake_sky out"
        )
    return with_sky(params, sky)


def _relative_to(origin: np.ndarray) -> str:
    return f", relative to the origin ({words(origin, ', ')})" if origin.any() else ""


def _coarseness(params: Mapping[str, Tensor]) -> str:
    """What float32 makes of positions to which an origin was added."""
    return f", positions on a grid of {grid(params['means'].median(dim=0).values.numpy()):g} units"


def _contents(params: Mapping[str, Tensor]) -> str:
    return f"{len(params['means']):,} Gaussians, harmonics of degree {sh_degree_of(params)}"


def _result(target: Path, params: Mapping[str, Tensor], rub: bool) -> str:
    """The file, its size, also beside that of a PLY, and what the format leaves out or turns."""
    row = written_format(target)
    notes = ", without harmonics" if row and HARMONICS in row.lacks else ""
    notes += f", turned to {row.axes}" if row and row.axes and rub else ""
    size = target.stat().st_size
    ply = 4 * (parameter_count(params) + 3 * len(params["means"]))  # which has normals, too
    smaller = f", {ply / size:.1f} times smaller than a PLY" if size < 0.9 * ply else ""
    return f"{target}: {size / 1e6:.2f} MB{smaller}{notes}"


def run() -> NoReturn:
    """The program, as it is installed."""
    run_cli(main)


if __name__ == "__main__":
    run()
