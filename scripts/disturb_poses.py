"""Makes of a scene one whose camera poses are off, to test what is learned of poses with.

    python scripts/disturb_poses.py SCENE OUT --degrees 1 --percent 1 --seed 0
    python train.py -s OUT --refine_poses

Each camera is turned about its own centre by --degrees, about an axis drawn at random, and shifted by --percent of the
scene's extent, in a direction drawn at random; test photos' cameras, too, as in a capture whose poses are off (with
--keep_test they stay). OUT has the photos as they are trained with (undistorted where they had to be) in images/, the
disturbed cameras with the same points as a COLMAP text model in sparse/0, the names of test photos in test.txt, and in
disturbed.json what was drawn. Masks are not copied. The same arguments give the same poses.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

if __name__ == "__main__":  # the packages lie beside this folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distwar_datasets import DataError, View, load_scene
from distwar_datasets.names import name_parts
from distwar_gs.capture.new_scene import check_new_scene
from distwar_gs.cli import run_cli
from distwar_gs.formats.sparse_model import save_colmap_text
from distwar_gs.system.terminal import log_to_terminal, printable

RECORD = "disturbed.json"


def draw_motion(generator: np.random.Generator, degrees: float, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """A turn by so many degrees, a rotation [3, 3], and a shift [3] of this length, both in the world's frame."""
    axis, direction = (vector / np.linalg.norm(vector) for vector in generator.normal(size=(2, 3)))
    x, y, z = axis
    cross, angle = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]), np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * (cross @ cross), distance * direction


def disturbed(view: View, turn: np.ndarray, shift: np.ndarray) -> View:
    """The view of a camera that is turned about its centre, and shifted."""
    viewmat = np.eye(4)
    viewmat[:3, :3] = view.viewmat[:3, :3] @ turn.T
    viewmat[:3, 3] = -viewmat[:3, :3] @ (view.center + shift)
    return replace(view, viewmat=viewmat)


def main(argv: Sequence[str]) -> None:
    """Write the scene with disturbed poses, and say what came of it."""
    args = _parser().parse_args(argv)
    log_to_terminal()
    _check(args)
    scene = load_scene(args.scene, images=args.images, resolution=args.resolution, masks=None,
                       test_every=args.test_every, normalise=False)  # fmt: skip
    tested = {view.name for view in scene.test}
    views = sorted((*scene.train, *scene.test), key=lambda view: view.name)
    moved, record = _disturb_all(views, tested if args.keep_test else set(), args, scene.extent)
    with tempfile.TemporaryDirectory(dir=args.out.parent, prefix=".disturb-") as folder:
        made = Path(folder) / "scene"
        for view in views:
            photo = made / "images" / Path(*name_parts(view.name))
            photo.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(view.image_path, photo)
        save_colmap_text(made / "sparse" / "0", moved, scene.points, scene.normalisation)
        (made / "test.txt").write_text("".join(f"{name}\n" for name in sorted(tested)), encoding="utf-8")
        (made / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        os.replace(made, args.out)
    print(printable(f"{args.out}: {len(record['poses'])} of {len(views)} poses disturbed"))


def _disturb_all(
    views: Sequence[View], kept: set[str], args: argparse.Namespace, extent: float
) -> tuple[list[View], dict[str, Any]]:
    """All views, disturbed but for those of these names; and what was drawn."""
    generator, moved, poses = np.random.default_rng(args.seed), [], {}
    for view in views:
        turn, shift = draw_motion(generator, args.degrees, args.percent / 100.0 * extent)
        moved.append(view if view.name in kept else disturbed(view, turn, shift))
        if view.name not in kept:
            poses[view.name] = {"turn": turn.tolist(), "shift": shift.tolist()}
    asked = {name: getattr(args, name) for name in ("degrees", "percent", "seed", "keep_test", "test_every")}
    return moved, {"asked": asked, "extent": extent, "poses": poses}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scene", type=Path, metavar="SCENE", help="folder of a scene")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the new one, which must not be there yet")
    parser.add_argument("--degrees", type=float, default=1.0, metavar="D",
                        help="how far each camera is turned (default: %(default)s)")  # fmt: skip
    parser.add_argument("--percent", type=float, default=1.0, metavar="P", help="how far each camera is shifted, in "
                        "per cent of the scene's extent (default: %(default)s)")  # fmt: skip
    parser.add_argument("--keep_test", action="store_true", help="leave the cameras of test photos where they are")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: %(default)s)")
    parser.add_argument("-i", "--images", default="images", metavar="NAME", help="sub-folder with the photos, as for "
                        "train.py (default: %(default)s)")  # fmt: skip
    parser.add_argument("-r", "--resolution", type=int, default=1, metavar="N",
                        help="size of the photos, as for train.py (default: %(default)s)")  # fmt: skip
    parser.add_argument("--test_every", type=int, default=8, metavar="N", help="every N-th photo is a test photo, "
                        "where the scene does not say which are (default: %(default)s)")  # fmt: skip
    return parser


def _check(args: argparse.Namespace) -> None:
    for name, high in (("degrees", 180.0), ("percent", 100.0)):
        if not 0.0 <= getattr(args, name) <= high:
            raise DataError(f"--{name} is {getattr(args, name):g}: it must be between 0 and {high:g}")
    if args.seed < 0:
        raise DataError(f"--seed is {args.seed}: it must be at least 0")
    if args.test_every < 2:
        raise DataError(f"--test_every is {args.test_every}: it must be at least 2")
    if not (args.resolution == -1 or args.resolution >= 1):
        raise DataError(f"--resolution is {args.resolution}: it must be -1 or a positive number")
    if not args.scene.is_dir():
        raise DataError(f"{args.scene}: is not the folder of a scene")
    check_new_scene(args.out, args.scene)


def run() -> NoReturn:
    """The program, as it is installed."""
    run_cli(main)


if __name__ == "__main__":
    run()
