"""Photos or a video in, a scene to train on out: structure from motion by COLMAP, through pycolmap.

    python scripts/photos_to_scene.py PHOTOS OUT
    python train.py -s OUT

PHOTOS is a folder (its sub-folders are searched too) or a video. OUT/images gets undistorted photos, OUT/sparse/0 their
cameras and points. OUT/sfm keeps the work: started again after an interruption, it goes on in the stage it was in.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

if __name__ == "__main__":  # the packages lie beside this folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distwar_gs.capture.features import EXHAUSTIVE_UP_TO
from distwar_gs.capture.structure_from_motion import make_scene, settings_for
from distwar_gs.capture.video import FRAMES_PER_SECOND, MOST_FRAMES
from distwar_gs.capture.work import AUTO
from distwar_gs.cli import run_cli
from distwar_gs.system.progress import quieten


def main(arguments: Sequence[str]) -> None:
    """Make the scene, and say what came of it."""
    args = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C; COLMAP's own handler can hang
    if args.quiet:
        quieten()
    settings = settings_for(
        args.photos, args.out, matching=args.matching, camera=args.camera, max_size=args.max_size,
        max_features=args.max_features, frames=args.frames, mapper=args.mapper, rig=args.rig,
    )  # fmt: skip
    print(make_scene(args.out, settings, args.threads, partial(print, flush=True)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="a folder of photos, or a video")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the scene")
    parser.add_argument("--matching", choices=("auto", "exhaustive", "sequential"), default="auto",
                        help=f"compare all pairs, or neighbours by name; auto: all pairs of up to {EXHAUSTIVE_UP_TO} "
                        "photos, neighbours in a video or among more")  # fmt: skip
    parser.add_argument("--camera", default=AUTO,
                        help=f"COLMAP camera model of the lens; {AUTO}: one focal length and one radial term, more "
                        "where they lower the error (default: %(default)s)")  # fmt: skip
    parser.add_argument("--mapper", choices=("incremental", "global"), default="incremental",
                        help="place one photo after the other, or all at once (faster for hundreds of photos, and less "
                        "particular about what it places; default: %(default)s)")  # fmt: skip
    parser.add_argument("--rig", metavar="folders|FILE", help="cameras mounted together: each folder of PHOTOS is one, "
                        "with equal names for photos of one moment; or as COLMAP's JSON of rigs says")  # fmt: skip
    parser.add_argument("--max_size", type=int, default=1600,
                        help="longest side at which features are looked for (default: %(default)s)")  # fmt: skip
    parser.add_argument("--max_features", type=int, default=8192, help="per photo (default: %(default)s)")
    parser.add_argument("--frames", type=int, help="of a video: the sharpest of each of so many equal spans "
                        f"(default: {FRAMES_PER_SECOND:g} a second, at most {MOST_FRAMES})")  # fmt: skip
    parser.add_argument("--threads", type=int, default=-1, help="CPU threads (default: all)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


def run() -> NoReturn:
    """The program, as it is installed."""
    run_cli(main)


if __name__ == "__main__":
    run()
