"""Merges the models of two runs into one, in the frame of the first.

    python scripts/merge.py output/front output/back house.ply
    python train.py -s data/house -m output/house --init_ply house.ply      # to train on from it, with all photos

Where the runs have photos in common (by their names) the second is brought into the frame of the first by these; else
their frames are taken for one, as those of two parts of one structure from motion are. Of each model those Gaussians
are kept that are nearer to a camera of its own run than to the cameras of the other: where both saw the same, it is not
there twice. --keep all keeps everything.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

if __name__ == "__main__":  # the packages lie beside this folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distwar_gs.cli import run_cli
from distwar_gs.formats.table import WRITTEN_SUFFIXES, listed, written_format
from distwar_gs.system.errors import ConfigError
from distwar_gs.system.interruption import undisturbed
from distwar_gs.system.terminal import log_to_terminal, printable


def main(argv: Sequence[str]) -> None:
    """Read both, bring them into one frame, choose, write; say what came of it."""
    args = _parser().parse_args(argv)
    with undisturbed():
        import torch

        from distwar_gs.formats import merging
        from distwar_gs.formats.export import find_ply, save_model
        from distwar_gs.formats.sky import read_sky, save_sky
    log_to_terminal()
    _check(args)
    modes = {run: _render_mode(run) for run in (args.first, args.second)}
    if len(set(modes.values())) > 1:
        raise ConfigError(f"one of {args.first} and {args.second} was trained with --antialiased: train both alike")
    poses = [merging.read_poses(run) for run in (args.first, args.second)]
    (first, origin), (second, _) = (_gaussians(run) for run in (args.first, args.second))
    frame, common = merging.frame_between(*poses)
    second = frame.gaussians(second)
    centers = [np.stack([center for center, _ in one.values()]) for one in poses]
    centers[1] = frame.points(centers[1])
    if args.keep == "nearest":
        own = merging.own_rows(first["means"], centers[0], centers[1], True)
        others = merging.own_rows(second["means"], centers[1], centers[0], False)
        kept = [
            {name: array[rows] for name, array in arrays.items()} for arrays, rows in ((first, own), (second, others))
        ]
    else:
        kept = [first, second]
    merged = merging.joined(*kept)
    merged["means"] = (merged["means"] - origin).astype(np.float32)
    params = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in merged.items()}
    save_model(args.out, params, antialiased=modes[args.first] == "mip", origin=origin)
    save_sky(args.out, read_sky(find_ply(args.first)))  # whose frame and light are kept
    moved = "in one frame already" if frame is merging.IDENTITY else f"scaled by {frame.scale:.6g}, turned and shifted"
    print(printable(f"{args.second}: {moved} ({common} photos in common)"))
    print(printable(f"{args.out}: {len(kept[0]['means']):,} of {len(first['means']):,} Gaussians of {args.first}, "
                    f"{len(kept[1]['means']):,} of {len(second['means']):,} of {args.second}"))  # fmt: skip


def _gaussians(run: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Of a run's newest model, means in the frame of the input as float64; and the origin of its file."""
    from distwar_gs.formats.export import find_ply, load_exactly

    params, origin = load_exactly(find_ply(run))
    arrays = {name: tensor.numpy() for name, tensor in params.items()}
    return {**arrays, "means": arrays["means"].astype(np.float64) + origin}, origin


def _render_mode(run: Path) -> str | None:
    from distwar_gs.formats.export import find_ply, read_render_mode

    return read_render_mode(find_ply(run))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("first", type=Path, metavar="A", help="run folder, whose frame is kept")
    parser.add_argument("second", type=Path, metavar="B", help="run folder")
    parser.add_argument("out", type=Path, metavar="OUT", help=f"file to write: {', '.join(WRITTEN_SUFFIXES)}")
    parser.add_argument("--keep", choices=("nearest", "all"), default="nearest", help="Gaussians nearer to cameras of "
                        "their own run, or all (default: %(default)s)")  # fmt: skip
    return parser


def _check(args: argparse.Namespace) -> None:
    if written_format(args.out) is None:
        raise ConfigError(f"{args.out}: no format to write; let the name end in {listed(WRITTEN_SUFFIXES, 'or')}")
    for run in (args.first, args.second):
        if not run.is_dir():
            raise ConfigError(f"{run}: is not a run folder of train.py")


def run() -> NoReturn:
    """The program, as it is installed."""
    run_cli(main)


if __name__ == "__main__":
    run()
