"""Writes a trained model in the formats of viewers, or one of those formats as PLY.

    python scripts/convert.py output/garden garden.spz garden.splat garden.compressed.ply
    python scripts/convert.py capture.spz capture.ply

docs/formats.md says what each format keeps, its frame, its precision and who reads it.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distwar_gs.cli import run_cli
from distwar_gs.export import find_ply, load_model, read_render_mode, save_model
from distwar_gs.model import parameter_count, sh_degree_of
from distwar_gs.terminal import log_to_terminal, printable


def main(argv: Sequence[str]) -> None:
    """Read once, write every format asked for, and say in one line each what came of it."""
    args = _parser().parse_args(argv)
    log_to_terminal()
    source, rub = find_ply(args.model, args.iteration), args.spz_frame == "rub"
    params = load_model(source, rub=rub)
    antialiased = read_render_mode(source) == "mip"
    print(printable(f"{source}: {_contents(params)}{', antialiased' if antialiased else ''}"))
    for target in args.out:
        save_model(target, params, antialiased=antialiased, rub=rub)
        print(printable(_result(target, params, rub)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, metavar="MODEL", help="a run folder, or a .ply, .splat or .spz file")
    parser.add_argument("out", type=Path, nargs="+", metavar="OUT", help="NAME.ply, .compressed.ply, .splat or .spz")
    parser.add_argument("--iteration", type=int, metavar="N", help="which saved model of a run (default: newest)")
    parser.add_argument("--spz_frame", choices=("rub", "input"), default="rub",
                        help="axes of SPZ files: x right, y up, z back, as the format prescribes, or those of the PLY, "
                        "as splat-transform 3.2 takes them (default: %(default)s)")  # fmt: skip
    return parser


def _contents(params: Mapping[str, Tensor]) -> str:
    return f"{len(params['means']):,} Gaussians, harmonics of degree {sh_degree_of(params)}"


def _result(target: Path, params: Mapping[str, Tensor], rub: bool) -> str:
    """The file, its size, also beside that of a PLY, and what the format leaves out or turns."""
    notes = {".splat": ", without harmonics", ".spz": ", turned to x right, y up, z back" if rub else ""}
    size = target.stat().st_size
    ply = 4 * (parameter_count(params) + 3 * len(params["means"]))  # which has normals, too
    smaller = f", {ply / size:.1f} times smaller than a PLY" if size < 0.9 * ply else ""
    return f"{target}: {size / 1e6:.2f} MB{smaller}{notes.get(target.suffix.lower(), '')}"


if __name__ == "__main__":
    run_cli(main)
