"""Makes of a scene one whose light changes from photo to photo, to test what is learned of photos with.

    python scripts/disturb_photos.py SCENE OUT --exposure 1 --white_balance 0.2 --vignette 0.3 --seed 0
    python train.py -s OUT --appearance exposure

Photos to train on get an exposure, a white balance and a vignette of their own, drawn at random and applied in linear
light. Test photos keep their pixels: they show the true colours. Names, cameras and points are the same, and OUT holds
a copy of everything in SCENE but folders of smaller photos (images_N). OUT/disturbed.json has what was drawn. The same
arguments give the same photos.
"""

import argparse
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image

if __name__ == "__main__":  # the packages lie beside this folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distwar_datasets import DataError, View, load_scene
from distwar_datasets.names import name_parts
from distwar_datasets.pixels.cache import FOLDER_NAME
from distwar_datasets.pixels.imagefile import decode_image, map_threads
from distwar_gs.capture.new_scene import check_new_scene
from distwar_gs.cli import run_cli
from distwar_gs.system.terminal import log_to_terminal, printable

RECORD = "disturbed.json"
CHANNELS = ("red", "green", "blue")
QUALITY: dict[str, dict[str, Any]] = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}
"""Options of formats that lose something otherwise."""


@dataclass(frozen=True)
class Light:
    """What is done to the light of one photo."""

    stops: float
    """Exposure: the light is multiplied by 2 to the power of it."""
    gains: tuple[float, float, float]
    """White balance: factors of red, green and blue."""
    vignette: float
    """Share of the light that the corners lose; with the square of the distance from the middle, the others less."""

    def factors(self, height: int, width: int) -> np.ndarray:
        """Of the light of each pixel, [H, W, 3]."""
        y, x = ((np.arange(size) + 0.5) / size * 2.0 - 1.0 for size in (height, width))
        squares = (x**2 + y[:, None] ** 2) / 2.0
        falloff = 1.0 - self.vignette * squares
        return 2.0**self.stops * falloff[..., None] * np.array(self.gains)


def draw_lights(
    names: Sequence[str], exposure: float, white_balance: float, vignette: float, seed: int, one_lens: bool = False
) -> list[Light]:
    """A light for each photo: stops within +-`exposure`, gains of red and blue by up to the share `white_balance`
    up or down, a vignette of up to `vignette`; all uniform. Their order is that of the names. `one_lens`: the whole
    vignette for all."""
    generator = np.random.default_rng(seed)
    lights = []
    for _ in names:
        stops, red, blue = generator.uniform(-1.0, 1.0, 3)
        gains = ((1.0 + white_balance) ** red, 1.0, (1.0 + white_balance) ** blue)
        lights.append(Light(exposure * stops, gains, vignette * (generator.uniform() if not one_lens else 1.0)))
    return lights


def disturbed(pixels: np.ndarray, light: Light) -> np.ndarray:
    """uint8 [H, W, 3 or 4] in another light; what grows too bright is cut off at white, alpha stays."""
    linear = to_linear(pixels[..., :3] / 255.0) * light.factors(*pixels.shape[:2])
    colors = np.rint(255.0 * to_srgb(np.minimum(linear, 1.0))).astype(np.uint8)
    return np.concatenate([colors, pixels[..., 3:]], axis=-1)


def to_linear(srgb: np.ndarray) -> np.ndarray:
    """Light of sRGB values (IEC 61966-2-1), both in [0, 1]."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """The inverse of `to_linear`."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)


# ------------------------------------------------------------------------------------------------------ the scene


def main(argv: Sequence[str]) -> None:
    """Copy the scene, disturb the photos to train on, and say what came of it."""
    args = _parser().parse_args(argv)
    log_to_terminal()
    _check(args)
    root = _root_of(args.scene)
    scene = load_scene(args.scene, images=args.images, resolution=1, test_every=args.test_every)
    views = sorted(scene.train, key=lambda view: view.name)
    photos = {view.name: _photo_of(root, args.images, view) for view in views}
    lights = draw_lights(list(photos), args.exposure, args.white_balance, args.vignette, args.seed, args.one_lens)
    drawn = dict(zip(photos, lights, strict=True))
    with tempfile.TemporaryDirectory(dir=args.out.parent, prefix=".disturb-") as folder:
        made = Path(folder) / "scene"
        shutil.copytree(root, made, ignore=_left_out)
        _disturb_all(made, {photos[name]: light for name, light in drawn.items()})
        _write_record(made / RECORD, args, drawn)
        os.replace(made, args.out)
    print(printable(f"{args.out}: {len(views)} photos disturbed, {len(scene.test)} test photos as they were"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scene", type=Path, metavar="SCENE", help="folder of a scene")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the new one, which must not be there yet")
    parser.add_argument("--exposure", type=float, default=1.0, metavar="STOPS",
                        help="up to so many stops brighter or darker (default: %(default)s)")  # fmt: skip
    parser.add_argument("--white_balance", type=float, default=0.2, metavar="SHARE",
                        help="red and blue up to this share stronger or weaker (default: %(default)s)")  # fmt: skip
    parser.add_argument("--vignette", type=float, default=0.3, metavar="SHARE",
                        help="corners darker by up to this share (default: %(default)s)")  # fmt: skip
    parser.add_argument("--one_lens", action="store_true", help="all photos get the whole vignette, as of one camera")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: %(default)s)")
    parser.add_argument("-i", "--images", default="images", metavar="NAME", help="sub-folder with the photos, as for "
                        "train.py (default: %(default)s)")  # fmt: skip
    parser.add_argument("--test_every", type=int, default=8, metavar="N", help="every N-th photo is a test photo, "
                        "where the scene does not say which are (default: %(default)s)")  # fmt: skip
    return parser


def _check(args: argparse.Namespace) -> None:
    ranges = {"exposure": (0.0, 8.0), "white_balance": (0.0, 4.0), "vignette": (0.0, 1.0)}
    for name, (low, high) in ranges.items():
        if not low <= getattr(args, name) <= high:
            raise DataError(f"--{name} is {getattr(args, name):g}: it must be between {low:g} and {high:g}")
    if args.seed < 0:
        raise DataError(f"--seed is {args.seed}: it must be at least 0")
    if args.test_every < 2:
        raise DataError(f"--test_every is {args.test_every}: it must be at least 2")
    check_new_scene(args.out, args.scene)


def _root_of(scene: Path) -> Path:
    if not scene.is_dir():
        raise DataError(f"{scene}: is not the folder of a scene")
    return scene.resolve()


def _left_out(folder: str, names: list[str]) -> list[str]:
    """Smaller copies of the photos, whose light would be the old one, and caches of them."""
    smaller = [name for name in names if name.startswith("images_") and name.removeprefix("images_").isdecimal()]
    return smaller + [name for name in names if name.startswith(".")]


def _photo_of(root: Path, images: str, view: View) -> Path:
    """The file of a view's photo as it was taken, relative to the scene's folder: photos of lenses that distort come
    from a cache of undistorted ones."""
    named = Path(*name_parts(view.name))
    for photo in (view.image_path.resolve(), root / images / named, root / named):
        if photo.is_file() and photo.is_relative_to(root) and FOLDER_NAME not in photo.parts:
            return photo.relative_to(root)
    raise DataError(f"{view.image_path}: the photo of {view.name} is not in {root}; copy the photos into one folder")


def _disturb_all(folder: Path, lights: Mapping[Path, Light]) -> None:
    map_threads(lambda photo: _disturb(folder / photo, lights[photo]), list(lights))


def _disturb(path: Path, light: Light) -> None:
    """Writes a photo anew, in the format of its name, with little or no loss."""
    kind = Image.registered_extensions().get(path.suffix.lower(), "PNG")
    if kind not in Image.SAVE:
        raise DataError(f"{path}: Pillow does not write {kind}; convert the photos to PNG or JPEG first")
    content = io.BytesIO()
    Image.fromarray(disturbed(decode_image(path), light)).save(content, format=kind, **QUALITY.get(kind, {}))
    path.write_bytes(content.getbuffer())


def _write_record(path: Path, args: argparse.Namespace, lights: Mapping[str, Light]) -> None:
    names = ("exposure", "white_balance", "vignette", "one_lens", "seed", "test_every")
    asked = {name: getattr(args, name) for name in names}
    photos = {name: asdict(light) for name, light in lights.items()}
    path.write_text(json.dumps({"asked": asked, "photos": photos}, indent=2) + "\n", encoding="utf-8")


def run() -> NoReturn:
    """The program, as it is installed."""
    run_cli(main)


if __name__ == "__main__":
    run()
