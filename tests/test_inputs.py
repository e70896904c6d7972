"""What a capture may look like: every row is a scene that trains, or ends in one line that says what to do.

Rows of the table in docs/inputs.md, which `pytest tests/test_inputs.py --write-inputs --scenes DIR` writes; a test
fails when the table says anything that did not happen here. `--scenes` names a folder with real scenes (bonsai, fox,
garden, lego); without it their rows are skipped.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from captures import MODELS, NAMES, SIZE, SPOTS, Capture, add_points, camera, save_8bit, spot_center
from PIL import Image
from plyfile import PlyData, PlyElement
from scene_files import look_at, ring

import train
from distwar_datasets.pixels.images import ImageStore
from distwar_datasets.pixels.lens_masks import kept_places
from distwar_gs.cli import run_cli, train_config
from distwar_gs.rendering.views import open_scene

pytestmark = pytest.mark.usefixtures("in_process")

DOCS = Path(__file__).parents[1] / "docs/inputs.md"
SETTINGS = ("--device", "cpu", "--iterations", "1", "--set", "log.tensorboard=false", "model.init_points=300")
TOLERANCE = 0.3
BOX = Image.Resampling.BOX


@dataclass(frozen=True)
class Row:
    """One input: what it is, how to make it, what must come of it."""

    format: str
    model: str
    oddity: str
    make: Callable[[Path], list[str] | None]
    """Writes the scene into a folder; further arguments of train.py, if any."""
    refused: str = ""
    """Words of the message; "": it trains."""
    note: str = ""
    """Words of the run's log."""
    needs: str = ""
    """A package that need not be installed."""
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Where the spots' origin is in the scene's world."""
    real: str = ""
    """Name of the scene among the real ones, which are not made."""

    @property
    def is_reported(self) -> bool:
        """Whether the run writes its report, which takes half of a row's time: it shows the files' names."""
        return "name" in self.oddity or self.format not in {other.format for other in ROWS[: ROWS.index(self)]}

    @property
    def id(self) -> str:
        """For pytest."""
        return f"{self.format}-{self.model}-{self.oddity}".replace(" ", "_")


ROWS: list[Row] = []
RESULTS: dict[str, str] = {}
"""Result by row id, as they happen."""


def row(format: str, model: str, oddity: str, **expected: str) -> Callable:
    """Registers the decorated maker as a row."""

    def register(make: Callable[[Path], list[str] | None]) -> Callable:
        ROWS.append(Row(format, model, oddity, make, **expected))
        return make

    return register


# ------------------------------------------------------------------------------------------------- COLMAP: cameras


def plain(folder: Path, capture: Capture | None = None, **how: object) -> Capture:
    """A COLMAP scene with its images."""
    capture = capture or Capture()
    capture.write_colmap(folder, **how)
    capture.write_images(folder / "images")
    return capture


def with_camera(model: str, params: tuple[float, ...] | None = None, size: tuple[int, int] = SIZE) -> Callable:
    """Writes a scene all of whose photographs one camera took."""
    return lambda folder: plain(folder, Capture(cameras=[camera(model, params, size)])) and None


for model in MODELS:
    wide = model == "EQUIRECTANGULAR"
    oddity = "panorama" if wide else "off-centre principal point" + (", distorted" if "PINHOLE" not in model else "")
    row("COLMAP", model, oddity)(with_camera(model, size=(96, 48) if wide else SIZE))

row("COLMAP", "PINHOLE", "non-square pixels")(with_camera("PINHOLE", (80, 120, 30, 40)))
row("COLMAP", "OPENCV", "coefficients all 0: used as it is", note="images: images")(
    with_camera("OPENCV", (90, 94, 46, 35, 0, 0, 0, 0))
)
row("COLMAP", "OPENCV_FISHEYE", "fisheye of more than 180 degrees", note="through OPENCV_FISHEYE lenses")(
    with_camera("OPENCV_FISHEYE", (30, 30, 48, 32, 0, 0, 0, 0))
)
row("COLMAP", "SIMPLE_RADIAL", "distortion that folds before the border", note="what is outside of the image circle")(
    with_camera("SIMPLE_RADIAL", (60, 48, 32, -0.5))
)
row("COLMAP", "SIMPLE_RADIAL", "distortion that folds near the middle", refused="folds before the border")(
    with_camera("SIMPLE_RADIAL", (60, 48, 32, -5.0))
)


def undistorted(setting: str, *lens: object) -> Callable[[Path], list[str]]:
    """A scene of one camera, and the setting of data.undistort."""
    return lambda folder: with_camera(*lens)(folder) or ["--set", f"data.undistort={setting}"]


for model in ("OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE"):
    row("COLMAP", model, "data.undistort=always", note=f"undistorted from {model}")(undistorted("always", model))
row("COLMAP", "EQUIRECTANGULAR", "data.undistort=always", refused="set data.undistort=auto to train on its photos")(
    undistorted("always", "EQUIRECTANGULAR", None, (96, 48))
)
row("COLMAP", "OPENCV_FISHEYE", "more than 180 degrees, data.undistort=always", refused="sees too wide an angle")(
    undistorted("always", "OPENCV_FISHEYE", (30, 30, 48, 32, 0, 0, 0, 0))
)
row("COLMAP", "RAD_TAN_THIN_PRISM_FISHEYE", "data.undistort=never", refused="use data.undistort=auto to train on und")(
    undistorted("never", "RAD_TAN_THIN_PRISM_FISHEYE")
)
row("COLMAP", "PINHOLE", "focal length 0", refused="camera 1 is not usable")(
    lambda folder: (
        (
            plain(folder).cameras[0].params.__setitem__(0, 0.0)
            or Capture(cameras=[camera("PINHOLE", (0, 94, 46, 35))]).write_colmap(folder)
        )
        and None
    )
)


@row("COLMAP", "PINHOLE, OPENCV, OPENCV_FISHEYE", "three cameras of three sizes")
def three_cameras(folder):
    one, two = camera("PINHOLE"), camera("OPENCV", size=(90, 70), number=2)
    plain(folder, Capture(cameras=[one, two, camera("OPENCV_FISHEYE", size=(100, 72), number=3)]))


# ------------------------------------------------------------------------------------------- far from the origin

UTM, ECEF = (452310.7, 5411950.2, 263.4), (4177000.25, -862000.75, 4729000.5)


def far_away(offset: tuple[float, float, float]) -> Capture:
    """The capture with its poses about that place; its photographs are those of the one about the origin."""
    move = np.eye(4)
    move[:3, 3] = np.negative(offset)
    return Capture(poses=[pose @ move for pose in ring(6)])


@row("COLMAP", "PINHOLE", "UTM coordinates", note="are relative to (452311, 541195", offset=UTM)
def utm(folder):
    model = far_away(UTM).reconstruction(points=0)
    for point in Capture().reconstruction().points3D.values():
        model.add_point3D(point.xyz + UTM, pycolmap.Track(), point.color)
    (folder / "sparse/0").mkdir(parents=True)
    model.write_text(folder / "sparse/0")
    Capture().write_images(folder / "images")


@row(
    "COLMAP",
    "PINHOLE",
    "UTM coordinates, --export_origin input",
    note="32-bit numbers are multiples of 0.5",
    offset=UTM,
)
def utm_as_it_is(folder):
    utm(folder)
    return ["--export_origin", "input"]


@row(
    "nerfstudio",
    "OPENCV",
    "positions from the centre of the earth, no points",
    note="relative to (4177000",
    offset=ECEF,
)
def ecef(folder):
    Capture(cameras=[camera("OPENCV")], poses=far_away(ECEF).poses).write_transforms(folder)
    Capture(cameras=[camera("OPENCV")]).write_images(folder / "images")


@row("Blender", "camera_angle_x", "UTM coordinates", note="random points before the cameras", offset=UTM)
def blender_in_utm(folder):
    capture = Capture(cameras=[camera("SIMPLE_PINHOLE", (90, 48, 32))], poses=far_away(UTM).poses)
    capture.write_transforms(folder, {"camera_angle_x": 2 * np.arctan(48 / 90)})
    (folder / "transforms.json").rename(folder / "transforms_train.json")
    Capture(cameras=[camera("SIMPLE_PINHOLE", (90, 48, 32))]).write_images(folder / "images")


# -------------------------------------------------------------------------------------------------- COLMAP: models


@row("COLMAP", "PINHOLE", "text")
def text(folder):
    plain(folder, text=True)


@row("COLMAP", "PINHOLE", "binary of COLMAP 3.x, without rigs and frames")
def old_binary(folder):
    plain(folder)
    for name in ("rigs.bin", "frames.bin"):
        (folder / "sparse/0" / name).unlink()


@row("COLMAP", "PINHOLE", "text of COLMAP 3.x, without rigs and frames")
def old_text(folder):
    plain(folder, text=True)
    for name in ("rigs.txt", "frames.txt"):
        (folder / "sparse/0" / name).unlink()


@row("COLMAP", "PINHOLE, OPENCV", "rig of two cameras, COLMAP 4.x binary")
def rig(folder, text=False):
    cameras = [camera("PINHOLE"), camera("OPENCV", number=2)]
    ahead = ring(3)
    sensor = np.eye(4)
    sensor[:3, :3], sensor[:3, 3] = (
        look_at((0.1, 0.02, 0.0), (0.0, 3.0, 0.0))[:3, :3].T @ look_at((0, 0, 0), (0, 1, 0))[:3, :3],
        (-0.2, 0.03, 0.01),
    )
    poses = [pose for first in ahead for pose in (first, sensor @ first)]
    capture = Capture(cameras=cameras, poses=poses)
    capture.write_images(folder / "images")
    model = pycolmap.Reconstruction()
    for one in cameras:
        model.add_camera(one)
    pair = pycolmap.Rig(rig_id=1)
    pair.add_ref_sensor(cameras[0].sensor_id)
    pair.add_sensor(cameras[1].sensor_id, pycolmap.Rigid3d(sensor[:3]))
    model.add_rig(pair)
    for number, pose in enumerate(ahead):
        frame = pycolmap.Frame(frame_id=number + 1, rig_id=1, rig_from_world=pycolmap.Rigid3d(pose[:3]))
        images = [
            pycolmap.Image(
                name=NAMES[2 * number + i], camera_id=i + 1, image_id=2 * number + i + 1, frame_id=number + 1
            )
            for i in (0, 1)
        ]
        for image in images:
            frame.add_data_id(image.data_id)
        model.add_frame(frame)
        for image in images:
            model.add_image(image)
        model.register_frame(number + 1)
    add_points(model, 30)
    (folder / "sparse/0").mkdir(parents=True)
    (model.write_text if text else model.write_binary)(folder / "sparse/0")


@row("COLMAP", "PINHOLE, OPENCV", "rig of two cameras, COLMAP 4.x text")
def rig_text(folder):
    rig(folder, text=True)


def with_blank(line: str) -> str:
    """COLMAP's own layout of an image without 2D points."""
    return line + "\n"


def text_model(
    folder: Path,
    names: Sequence[str] = NAMES,
    layout: Callable[[str], str] = with_blank,
    model: str = "PINHOLE",
    points: int = 30,
) -> Path:
    """A text model of COLMAP 3.x, each image written by `layout` from its line; the folder of the model."""
    capture = Capture(names=names, cameras=[camera(model)])
    capture.write_colmap(folder, text=True, points=points)
    store_all(capture, folder / "images")
    place = folder / "sparse/0"
    for name in ("rigs.txt", "frames.txt"):
        (place / name).unlink()
    lines = [line for line in (place / "images.txt").read_text().splitlines() if line and line[0] != "#"]
    (place / "images.txt").write_text("".join(layout(line) + "\n" for line in lines))
    return place


def rewritten(place: Path, change: Callable[[bytes], bytes]) -> None:
    """All text files of a folder, changed."""
    for path in place.glob("*.txt"):
        path.write_bytes(change(path.read_bytes()))


@row("COLMAP", "PINHOLE", "text, one line per image")
def one_line_per_image(folder):
    text_model(folder, layout=str)


@row("COLMAP", "PINHOLE", "text, 2D points of some images only")
def points_of_some(folder):
    text_model(folder, layout=lambda line: line + ("\n3.5 4.5 -1 1 2 7" * (line[0] in "135")))


@row("COLMAP", "PINHOLE", "text, names with spaces")
def names_with_spaces(folder):
    text_model(folder, [f"day 1/shot  {i}.png" for i in range(6)])


@row("COLMAP", "PINHOLE", "text, names with spaces in quotes, one line per image")
def names_in_quotes(folder):
    text_model(folder, [f"shot {i}.png" for i in range(6)], lambda line: line.replace("shot", '"shot') + '"')


@row("COLMAP", "PINHOLE", "text, tabs between values and in names")
def tabs(folder):
    text_model(folder, [f"a\t{i}.png" for i in range(6)])
    rewritten(folder / "sparse/0", lambda content: content.replace(b" ", b"\t"))


@row("COLMAP", "PINHOLE", "text, names that are not ASCII")
def names_not_ascii(folder):
    text_model(folder, [f"Brücke {letter}.png" for letter in "äöüßéø"])


@row("COLMAP", "PINHOLE", "text with CR LF line ends")
def windows_text(folder):
    rewritten(text_model(folder), lambda content: content.replace(b"\n", b"\r\n"))


@row("COLMAP", "PINHOLE", "text with byte order marks")
def marked_text(folder):
    rewritten(text_model(folder), lambda content: b"\xef\xbb\xbf" + content)


@row(
    "COLMAP",
    "PINHOLE",
    "text in UTF-16",
    refused="cameras.txt: is UTF-16 or UTF-32 text, or no text",
)
def utf16_text(folder):
    rewritten(text_model(folder), lambda content: content.decode().encode("utf-16"))


def quaternions(change: Callable[[float], float]) -> Callable[[str], str]:
    """A layout that changes the four numbers of the quaternion."""

    def layout(line: str) -> str:
        number, *values = line.split(" ")
        return " ".join([number, *(repr(change(float(value))) for value in values[:4]), *values[4:]]) + "\n"

    return layout


@row("COLMAP", "PINHOLE", "text, quaternions three times too long", note="6 of 6 images are not of length 1 (a.png: 3)")
def long_quaternions(folder):
    text_model(folder, layout=quaternions(lambda value: 3 * value))


@row(
    "COLMAP",
    "PINHOLE",
    "text, quaternions of three digits",
    note="few digits: the nearest",
)
def rounded_quaternions(folder):
    text_model(folder, layout=quaternions(lambda value: round(value, 3)))


@row("COLMAP", "PINHOLE", "text, a quaternion of zeros", refused="image a.png has no pose: its quaternion is 0")
def zero_quaternion(folder):
    text_model(folder, layout=quaternions(lambda value: 0.0))


@row("COLMAP", "PINHOLE", "text, a decimal comma", refused="line 1: not a readable COLMAP model")
def decimal_comma(folder):
    text_model(folder, layout=lambda line: line.replace(".", ",", 1))


@row("COLMAP", "PINHOLE", "test.txt in sparse/0", note="4 training and 2 test views (sparse/0/test.txt)")
def list_in_the_model(folder):
    plain(folder)
    (folder / "sparse/0/test.txt").write_text("b.png\ne.png\n")


@row(
    "COLMAP", "PINHOLE", "train_list.txt and test_list.txt, names without extension",
    note="3 training and 2 test views (train_list.txt and test_list.txt)",
)  # fmt: skip
def list_txt(folder):
    plain(folder)
    (folder / "train_list.txt").write_text("a\nc\nd\n")
    (folder / "test_list.txt").write_text("b\ne\n")


@row("COLMAP", "PINHOLE", "train_test_lists.json", note="4 training and 2 test views (train_test_lists.json)")
def lists_json(folder):
    plain(folder)
    lists = {"train": [*"acdf"], "test": [*"be"]}
    (folder / "train_test_lists.json").write_text(json.dumps({**lists, "has_masks": False}))


@row("COLMAP", "PINHOLE", "a table of splits (.tsv)", note="4 training and 2 test views (scene.tsv)")
def split_table(folder):
    plain(folder)
    rows = [f"{name}\t{i}\t{'test' if name[0] in 'be' else 'train'}\tscene" for i, name in enumerate(NAMES)]
    (folder / "scene.tsv").write_text("\n".join(["filename\tid\tsplit\tdataset", *rows]))


@row("COLMAP", "PINHOLE", "test.txt, --test_every 3", note="test_every 3 has no effect, since it is given")
def list_and_every(folder):
    plain(folder)
    (folder / "test.txt").write_text("b.png\ne.png\n")
    return ["--test_every", "3"]


@row("COLMAP", "PINHOLE", "test.txt, --test_list none", note="5 training and 1 test views (every 8th image by name")
def no_list(folder):
    plain(folder)
    (folder / "test.txt").write_text("b.png\ne.png\n")
    return ["--test_list", "none"]


@row("COLMAP", "PINHOLE", "test.txt, --no_eval", note="6 training and 0 test views (none)")
def list_and_no_eval(folder):
    plain(folder)
    (folder / "test.txt").write_text("b.png\ne.png\n")
    return ["--no_eval"]


@row("COLMAP", "PINHOLE", "--test_list FILE", note="4 training and 2 test views (mine.txt (data.test_list))")
def own_list(folder):
    plain(folder)
    (folder / "test.txt").write_text("a.png\n")
    (folder / "mine.txt").write_text("images/b.png\nimages/e.png\nimages/x.png\n")
    return ["--test_list", str(folder / "mine.txt")]


@row(
    "COLMAP",
    "PINHOLE",
    "test.txt with a name of two images",
    refused="0.png could be left/0.png or right/0.png",
)
def ambiguous_list(folder):
    plain(folder, Capture(names=[f"{side}/{i}.png" for i in range(3) for side in ("left", "right")]))
    (folder / "test.txt").write_text("0.png\n")


@row("COLMAP", "PINHOLE", "test.txt that names no image", note="2 of 2 names are no image of this scene: some, notes")
def notes(folder):
    plain(folder)
    (folder / "test.txt").write_text("some\nnotes\n")


@row("COLMAP", "PINHOLE", "model in sparse")
def in_sparse(folder):
    plain(folder, place="sparse")


@row("COLMAP", "PINHOLE", "model in colmap/sparse/0")
def in_colmap(folder):
    plain(folder, place="colmap/sparse/0")


@row("COLMAP", "PINHOLE", "two models, sparse/0 and sparse/1", note="also holds the models 1; only model 0 is used")
def two_models(folder):
    plain(folder)
    shutil.copytree(folder / "sparse/0", folder / "sparse/1")


@row("COLMAP", "PINHOLE", "text model whole, binary one incomplete")
def half_binary(folder):
    plain(folder, text=True)
    Capture().write_colmap(folder)
    (folder / "sparse/0/points3D.bin").unlink()


@row("COLMAP", "PINHOLE", "no points: random ones before the cameras", note="random points before the cameras")
def no_points(folder):
    plain(folder, points=0)


POINTS = [*((axis, "f4") for axis in "xyz"), *((color, "u1") for color in ("red", "green", "blue"))]


@row("COLMAP", "PINHOLE", "points3D.bin missing, points3D.ply there", note="they are read from ")
def points_in_a_ply(folder):
    plain(folder)
    (folder / "sparse/0/points3D.bin").unlink()
    write_ply(folder / "sparse/0/points3D.ply", POINTS)


@row("COLMAP", "PINHOLE", "text model without points, points3D.ply there", note="they are read from ")
def points_in_a_ply_beside_text(folder):
    plain(folder, points=0, text=True)
    write_ply(folder / "sparse/0/points3D.ply", POINTS)


@row("COLMAP", "PINHOLE", "points3D.ply of other points than the model's", note="start from them with --init_ply ")
def other_points_in_a_ply(folder):
    plain(folder)
    write_ply(folder / "sparse/0/points3D.ply", POINTS)


@row("COLMAP", "PINHOLE", "--init_ply with a scan", note="starting from the 40 points of ")
def init_ply(folder):
    plain(folder)
    write_ply(folder / "scan.ply", [*POINTS[:3], *((color, "u2") for color in "rgb")])
    return ["--init_ply", str(folder / "scan.ply")]


@row("COLMAP", "PINHOLE", "--init_ply with Gaussians", note="starting from the 40 Gaussians of ")
def init_gaussians(folder):
    plain(folder)
    names = ("opacity", "scale_0", "scale_1", "rot_0", "rot_1", "rot_2", "rot_3", "f_dc_0", "f_dc_1", "f_dc_2")
    write_ply(folder / "surfels.ply", [*POINTS[:3], *((name, "f8") for name in names)])
    return ["--init_ply", str(folder / "surfels.ply")]


@row("COLMAP", "PINHOLE", "an image without a pose")
def without_pose(folder):
    capture = plain(folder)
    model = capture.reconstruction()
    model.deregister_frame(3)
    model.write_binary(folder / "sparse/0")


@row(
    "COLMAP", "PINHOLE", "no image has a pose", refused="the model has no image with a pose; run COLMAP's mapper again"
)
def no_pose(folder):
    plain(folder)
    Capture(names=(), poses=()).write_colmap(folder)


@row("COLMAP", "PINHOLE", "points3D.bin missing", refused="points3D.bin missing; copy the whole model")
def missing_points(folder):
    plain(folder)
    (folder / "sparse/0/points3D.bin").unlink()


@row("COLMAP", "PINHOLE", "images.bin cut short", refused="images.bin: is cut short; copy it again")
def cut_short(folder):
    plain(folder)
    path = folder / "sparse/0/images.bin"
    path.write_bytes(path.read_bytes()[:-9])


@row("no dataset", "", "images only", refused="no dataset found; looked for transforms_train.json, transforms.json and")
def images_only(folder):
    Capture().write_images(folder / "images")


# -------------------------------------------------------------------------------------------------- COLMAP: images


def stored(folder: Path, suffix: str, save: Callable[[np.ndarray, Path], None]) -> None:
    """A COLMAP scene whose images are stored by `save` under another suffix."""
    capture = Capture()
    capture.write_colmap(folder)
    capture.write_images(folder / "images", suffix, save)


@row("COLMAP", "PINHOLE", "a.png in the model, a.JPG on disk")
def other_suffix(folder):
    stored(folder, ".JPG", save_8bit)


@row("COLMAP", "PINHOLE", "sub-folders with equal names, upper-case suffixes")
def sub_folders(folder):
    plain(folder, Capture(names=[f"{side}/{i}.PNG" for i in range(3) for side in ("left", "right")]))


@row("COLMAP", "PINHOLE", "names with backslashes (Windows)")
def backslashes(folder):
    plain(folder, Capture(names=[f"day\\{i}.png" for i in range(6)]))


@row("COLMAP", "PINHOLE", "-r 2 with images_2 of another suffix", note="images: images_2")
def images_2(folder):
    capture = plain(folder)
    shutil.rmtree(folder / "images")
    capture.write_images(folder / "images_2", ".jpg", save_8bit, divide=2)
    return ["-r", "2"]


@row("COLMAP", "OPENCV", "-r 2 with images_2 of distorted images", note="images_2 through OPENCV lenses")
def distorted_images_2(folder):
    capture = Capture(cameras=[camera("OPENCV")])
    capture.write_colmap(folder)
    capture.write_images(folder / "images_2", divide=2)
    return ["-r", "2"]


@row("COLMAP", "OPENCV", "-r 2 without images_2", note="through OPENCV lenses resized to 1/2 (Lanczos)")
def resized(folder):
    plain(folder, Capture(cameras=[camera("OPENCV")]))
    return ["-r", "2"]


@row("COLMAP", "PINHOLE", "-r 3", note="images resized to 1/3 (Lanczos)")
def divided_by_3(folder):
    plain(folder)
    return ["--data_factor", "3"]


@row("COLMAP", "PINHOLE", "-r 3 with images_3", note="images: images_3")
def images_3(folder):
    plain(folder).write_images(folder / "images_3", divide=3)
    return ["-r", "3"]


@row("COLMAP", "PINHOLE", "-r 8 of small photos", refused="divides a.png, 96 pixels wide, to 12 pixels; divide by 6 at")
def too_narrow(folder):
    plain(folder)
    return ["-r", "8"]


@row("COLMAP", "PINHOLE", "-r 70 (a width)", note="resized to 70 px wide (Lanczos)")
def width_70(folder):
    plain(folder)
    return ["-r", "70"]


@row("COLMAP", "PINHOLE", "images in another folder, -i photos")
def other_folder(folder):
    plain(folder)
    (folder / "images").rename(folder / "photos")
    return ["-i", "photos"]


@row("COLMAP", "PINHOLE", "an image is missing", refused="1 of 6 images are missing: c.png; copy them there")
def missing_image(folder):
    plain(folder)
    (folder / "images/c.png").unlink()


@row("COLMAP", "PINHOLE", "no image folder", refused="no such image folder; ")
def no_folder(folder):
    Capture().write_colmap(folder)


@row("COLMAP", "PINHOLE", "two files could be one image", refused="both c.bmp and c.jpg could be image c.png; keep one")
def ambiguous(folder):
    plain(folder)
    for suffix in (".bmp", ".jpg"):
        save_8bit(np.zeros((64, 96, 3), np.uint8), folder / f"images/c{suffix}")
    (folder / "images/c.png").unlink()


@row("COLMAP", "PINHOLE", "an image is cut short", refused="b.png: cannot be read as an image")
def broken(folder):
    plain(folder)
    path = folder / "images/b.png"
    path.write_bytes(path.read_bytes()[:700])


@row("COLMAP", "PINHOLE", "16-bit grey PNG")
def gray16(folder):
    stored(folder, ".png", lambda pixels, path: Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(path))


@row("COLMAP", "PINHOLE", "16-bit RGB PNG")
def rgb16(folder):
    def save(pixels: np.ndarray, path: Path) -> None:
        deep = np.ascontiguousarray(pixels.astype(">u2") * 257).astype(">u2")
        path.write_bytes(png_16bit(deep))

    stored(folder, ".png", save)


def png_16bit(pixels: np.ndarray) -> bytes:
    """A PNG of big-endian uint16 [H, W, 3], which Pillow reads but does not write (PNG specification, 11.2)."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + line.tobytes() for line in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


for name, suffix, mode in (
    ("8-bit grey PNG", ".png", "L"),
    ("RGBA PNG", ".png", "RGBA"),
    ("palette PNG", ".png", "P"),
    ("CMYK JPEG", ".jpg", "CMYK"),
    ("TIFF", ".tif", "RGB"),
    ("BMP, upper-case suffix", ".BMP", "RGB"),
):
    row("COLMAP", "PINHOLE", name)(
        lambda folder, suffix=suffix, mode=mode: stored(
            folder,
            suffix,
            lambda pixels, path: (
                Image.fromarray(pixels[..., 0] if mode == "L" else pixels)
                .convert(mode)
                .save(path, **({"quality": 100} if mode == "CMYK" else {}))
            ),
        )
    )


def save_disc(folder: Path, **options: object) -> None:
    """A COLMAP scene whose photographs are transparent but for the disc around the red spot."""
    capture = Capture(**options)
    capture.write_colmap(folder)
    capture.write_images(folder / "images")
    for index, name in enumerate(capture.names):
        pixels = np.dstack([capture.photo(index), capture.disc(index).astype(np.uint8) * 255])
        Image.fromarray(pixels).save(folder / "images" / name)


@row(
    "COLMAP", "PINHOLE", "transparent places: the background shows through", note="to ignore these places, as masks do"
)
def transparent(folder):
    capture = plain(folder)
    for index, name in enumerate(capture.names):
        save_rgba(capture.photo(index), folder / "images" / name)


for model in ("PINHOLE", "OPENCV"):
    row("COLMAP", model, "transparent places, data.alpha=mask", note="alpha as mask")(
        lambda folder, model=model: save_disc(folder, cameras=[camera(model)]) or ["--set", "data.alpha=mask"]
    )


@row("COLMAP", "PINHOLE", "lossless WebP")
def webp(folder):
    stored(folder, ".webp", lambda pixels, path: Image.fromarray(pixels).save(path, lossless=True))


@row("COLMAP", "PINHOLE", "floating-point TIFF", refused="floating-point pixels are not supported, convert it to 8-bit")
def floats(folder):
    stored(folder, ".tif", lambda pixels, path: Image.fromarray(pixels[..., 0].astype(np.float32)).save(path))


def save_turned(pixels: np.ndarray, path: Path) -> None:
    """A JPEG that EXIF tells viewers to turn by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(path, quality=100, subsampling=0, exif=exif)


@row("COLMAP", "PINHOLE", "EXIF rotation, calibrated as stored: EXIF left alone")
def exif(folder):
    stored(folder, ".jpg", save_turned)


@row(
    "COLMAP", "PINHOLE", "EXIF rotation, calibrated upright", refused="EXIF says it is turned: store its pixels upright"
)
def exif_upright(folder):
    stored(folder, ".jpg", lambda pixels, path: save_turned(np.rot90(pixels).copy(), path))


@row("COLMAP", "PINHOLE", "images cropped after calibration", refused="is 60x64 but its camera 1 is 96x64")
def cropped(folder):
    stored(folder, ".png", lambda pixels, path: save_8bit(pixels[:, :60], path))


# --------------------------------------------------------------------------------------------------- COLMAP: names

COMPOSED, DECOMPOSED = "\u00e9", "e\u0301"  # é as one letter (NFC), and as two (NFD)
ODD_NAMES = [" a b.png", "#1.png", 'it\'s "x".png', "line\nend.png", "\x1b[31mred\x07.png", "日本 \U0001f4f7\u202e.png"]


def store(pixels: np.ndarray, path: Path) -> None:
    """A PNG under any name, or what the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".jpg": "JPEG", ".tif": "TIFF", ".bmp": "BMP"}.get(path.suffix.lower(), "PNG")
    Image.fromarray(pixels).save(path, kind, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))


def store_all(capture: Capture, folder: Path, files: Sequence[str] | None = None, divide: int = 1) -> None:
    """The photographs under these names; None: those that the capture has."""
    for index, file in enumerate(files or capture.names):
        pixels = Image.fromarray(capture.photo(index))
        store(np.asarray(pixels.resize((pixels.width // divide, pixels.height // divide), BOX)), folder / file)


def named(folder: Path, names: Sequence[str], files: Sequence[str] | None = None, model: str = "PINHOLE") -> Capture:
    """A COLMAP scene with these names in the model, and these on disk."""
    capture = Capture(names=names, cameras=[camera(model)])
    capture.write_colmap(folder)
    store_all(capture, folder / "images", files)
    return capture


def numbered(form: str) -> list[str]:
    """Six names."""
    return [form.format(index) for index in range(6)]


MIXED = (".JPG", ".Tif", ".Bmp")
DOTTED = numbered("frame.{:04}")
TWINS = [f"{name}.{suffix}" for name in "abc" for suffix in ("jpg", "png")]
CASES = ["A.png", "a.png", "a.PNG", "left/a.png", "Left/a.png", "LEFT/A.png"]
FORMS = [
    f"{folder}{letter}.png" for folder in ("", f"{COMPOSED}/", f"{DECOMPOSED}/") for letter in (COMPOSED, DECOMPOSED)
]
LONG = [f"{'x' * 246}{index}.png" for index in range(6)]
LONG_LETTERS = [f"{'日' * 83}{index}.png" for index in range(6)]

FOLDERS = ["a", "a.png/b.png", "a.png.png", "a.png/d", "c", "c.mask"]

for oddity, names, files in (
    ("frame.0001, no suffix", DOTTED, None),
    ("a.jpg beside a.png", TWINS, None),
    ("names that differ by case only", CASES, None),
    ("names that differ by Unicode form only (NFC, NFD)", FORMS, None),
    ("names of 251 characters", LONG, None),
    ("names of 254 bytes, 85 letters", LONG_LETTERS, None),
    ("spaces, quotes, #, line ends and escapes in names", ODD_NAMES, None),
    ("a name that is another's folder", FOLDERS, ["a.bmp", "a.png/b.png", "a.png.png", "a.png/d.tif", "c", "c.mask"]),
):
    row("COLMAP", "PINHOLE", oddity)(lambda folder, n=names, f=files: named(folder, n, f) and None)
    row("COLMAP", "OPENCV", f"{oddity}, -r 2 with masks", note="masks of 5 of 5")(
        lambda folder, n=names, f=files: (
            named(folder, n, f, "OPENCV").write_masks(folder / "masks", name="{}") or ["-r", "2"]
        )
    )

for oddity, names, files in (
    ("frame.0001 in the model, frame.0001.png on disk", DOTTED, numbered("frame.{:04}.png")),
    ("raw photographs in the model (a.CR2), a.jpg on disk", numbered("{}.CR2"), numbered("{}.jpg")),
    ("names in another case on disk", numbered("Left/IMG_{}.JPG"), numbered("left/img_{}.jpg")),
    ("suffixes .JPG, .Tif, .Bmp", numbered("{}.png"), [f"{i}{MIXED[i % 3]}" for i in range(6)]),
    ("names in another Unicode form on disk", numbered(COMPOSED + "{}.png"), numbered(DECOMPOSED + "{}.png")),
    ("absolute paths of another computer", numbered("/home/me/scene/images/l/{}.png"), numbered("l/{}.png")),
    ("absolute paths of Windows", numbered("C:\\scene\\images\\{}.png"), numbered("{}.png")),
    ("names that begin with images/", numbered("images/{}.png"), numbered("{}.png")),
    ("names that begin with ./", numbered("./{}.png"), numbered("{}.png")),
    ("backslashes in the names of files", numbered("day\\{}.png"), numbered("day\\{}.png")),
    ("frame.0001 with backslashes", numbered("day\\frame.{}"), numbered("day/frame.{}.png")),
):
    row("COLMAP", "PINHOLE", oddity)(lambda folder, n=names, f=files: named(folder, n, f) and None)


@row("COLMAP", "PINHOLE", "absolute paths")
def absolute_names(folder):
    named(folder, [f"{folder.resolve()}/images/left/{index}.png" for index in range(6)])


@row(
    "COLMAP", "PINHOLE", "a.jpg and a.png in the model, only a.jpg on disk", refused="1 of 6 images are missing: a.png"
)
def one_twin(folder):
    named(folder, TWINS)
    (folder / "images/a.png").unlink()


@row("COLMAP", "PINHOLE", "a name that is listed twice, with one pose", note="1 images are listed more than once")
def listed_twice(folder):
    poses = [*ring(6)[:5], ring(6)[4]]
    plain(folder, Capture(names=[*NAMES[:5], f"./{NAMES[4]}"], poses=poses))


@row("COLMAP", "PINHOLE", "a name that is listed twice, with two poses", refused="e.png is listed twice")
def two_poses(folder):
    plain(folder, Capture(names=[*NAMES[:5], f"./{NAMES[4]}"]))


@row("COLMAP", "PINHOLE", "names of files that are not UTF-8", refused="the folder has files whose names are not UTF-8")
def latin_files(folder):
    named(folder, numbered("é{}.png"))
    for path in (folder / "images").iterdir():
        path.rename(os.fsdecode(bytes(path.parent) + b"/" + path.name.encode("latin-1")))


@row("COLMAP", "PINHOLE", "names in the model that are not UTF-8", refused="is not UTF-8; rename its file in ASCII")
def latin_model(folder):
    named(folder, numbered("e{}.png"))
    model = folder / "sparse/0/images.bin"
    model.write_bytes(model.read_bytes().replace(b"e3.png\0", b"\xe93.png\0"))


@row("COLMAP", "PINHOLE", "AVIF, with transparency")
def avif(folder):
    stored(folder, ".avif", lambda pixels, path: save_rgba(pixels, path, quality=100, subsampling="4:4:4"))


@row("COLMAP", "PINHOLE", "HEIC (pillow-heif is installed)", needs="pillow_heif")
def heic(folder):
    import pillow_heif

    pillow_heif.register_heif_opener()
    stored(folder, ".HEIC", lambda pixels, path: Image.fromarray(pixels).save(path, "HEIF", quality=100, chroma=444))


# -------------------------------------------------------------------------------------------- COLMAP: other layouts


def moved(folder: Path, place: str, text: bool = False) -> None:
    """A scene with its model in `place`."""
    plain(folder, place=place, text=text)


for oddity, place, text, arguments in (
    ("text model beside images", ".", True, None),
    ("binary model beside images", ".", False, None),
    ("model in colmap/sparse", "colmap/sparse", False, None),
    ("-s scene/sparse/0", "sparse/0", False, "sparse/0"),
    ("-s scene/sparse/1", "sparse/1", True, "sparse/1"),
    ("-s scene/sparse", "sparse/0", False, "sparse"),
    ("-s scene/sparse, model in sparse", "sparse", True, "sparse"),
    ("-s scene/colmap/sparse/0", "colmap/sparse/0", False, "colmap/sparse/0"),
    ("-s scene/colmap/sparse", "colmap/sparse/0", False, "colmap/sparse"),
    ("-s scene/model", "model", False, "model"),
):
    row("COLMAP", "PINHOLE", oddity)(
        lambda folder, place=place, text=text, arguments=arguments: (
            moved(folder, place, text) or (["-s", str(folder / arguments)] if arguments else None)
        )
    )


@row("COLMAP", "OPENCV", "-s scene/sparse/0, -r 2 with images_2 and masks", note="images_2 through OPENCV lenses")
def model_named(folder):
    capture = Capture(cameras=[camera("OPENCV")])
    capture.write_colmap(folder)
    store_all(capture, folder / "images_2", divide=2)
    capture.write_masks(folder / "masks")
    return ["-r", "2", "-s", str(folder / "sparse/0")]


@row("COLMAP", "PINHOLE", "-s scene\\sparse\\0, -i and masks with backslashes", note="masks of 5 of 5")
def windows_paths(folder):
    capture = plain(folder)
    (folder / "images").rename(folder / "photos")
    (folder / "photos").rename(folder / "day")
    (folder / "my").mkdir()
    (folder / "day").rename(folder / "my/day")
    capture.write_masks(folder / "my/masks")
    return ["-i", "my\\day", "-s", str(folder / "sparse/0").replace("/", "\\"), "--set", "data.masks=my\\masks"]


# ---------------------------------------------------------------------------- COLMAP: smaller copies of other names


def llff(folder: Path, names: Sequence[str] = NAMES, copies: Sequence[int] = range(6), whole: bool = True) -> list[str]:
    """images_2/image000.png, ... are copies of the photographs with these indices; the arguments to use them."""
    capture = named(folder, names)
    copied = Capture(names=numbered("image{:03}.png"), poses=[capture.poses[index] for index in copies])
    store_all(copied, folder / "images_2", numbered("image{:03}.png")[: len(copies)], divide=2)
    if not whole:
        shutil.rmtree(folder / "images")
    return ["-r", "2"]


row("COLMAP", "PINHOLE", "-r 2, images_2/image000.png ... (LLFF)", note="paired in their order, and alike")(llff)
row("COLMAP", "PINHOLE", "-r 2, images_2/image000.png ... without images", note="paired in their order")(
    lambda folder: llff(folder, whole=False)
)
row("COLMAP", "PINHOLE", "-i images_2, images_2/image000.png ...", note="images: images_2")(
    lambda folder: llff(folder) and ["-i", "images_2"]
)
row("COLMAP", "PINHOLE", "-r 2, images_2 in the order of numbers", note="Taking the photographs of")(
    lambda folder: llff(folder, ["1.png", "2.png", "10.png", "11.png", "3.png", "4.png"], (0, 1, 4, 5, 2, 3))
)
row(
    "COLMAP", "PINHOLE", "-r 2, images_2 in the order of numbers, without images", refused="sort otherwise by their num"
)(lambda folder: llff(folder, ["1.png", "2.png", "10.png", "11.png", "3.png", "4.png"], (0, 1, 4, 5, 2, 3), False))
row("COLMAP", "PINHOLE", "-r 2, images_2 of other names, one too few", note="holds 5 images, not 6")(
    lambda folder: llff(folder, copies=range(5))
)


@row("COLMAP", "PINHOLE", "-r 2, images_2/image000.png ... and a photograph without a pose", note="and alike")
def llff_without_pose(folder):
    arguments = llff(folder)
    model = Capture().reconstruction()
    model.deregister_frame(3)
    model.write_binary(folder / "sparse/0")
    return arguments


@row("COLMAP", "PINHOLE", "-r 2, an image is missing in images_2", note="1 of 6 images are missing: c.png")
def gap(folder):
    store_all(plain(folder), folder / "images_2", divide=2)
    (folder / "images_2/c.png").unlink()
    return ["-r", "2"]


@row("COLMAP", "PINHOLE", "-r 2, a.jpg and a.png, one a.png in images_2", note="Taking the photographs of")
def merged_twins(folder):
    store_all(named(folder, TWINS), folder / "images_2", [f"{name[0]}.png" for name in TWINS], divide=2)
    return ["-r", "2"]


# --------------------------------------------------------------------------------------------------- COLMAP: masks


def masked(folder: Path, model: str = "PINHOLE", **how: object) -> None:
    """A COLMAP scene with masks in which a disc around the red spot counts."""
    capture = plain(folder, Capture(cameras=[camera(model)]))
    capture.write_masks(folder / "masks", **how)


@row("COLMAP", "PINHOLE", "masks a.png.png, black ignored", note="masks of 5 of 5")
def masks(folder):
    masked(folder)


@row("COLMAP", "OPENCV", "masks of distorted images", note="through OPENCV lenses")
def distorted_masks(folder):
    masked(folder, "OPENCV")


@row("COLMAP", "OPENCV", "masks of distorted images, -r 2", note="resized to 1/2")
def resized_masks(folder):
    masked(folder, "OPENCV")
    return ["-r", "2"]


@row("COLMAP", "PINHOLE", "masks a.jpg of another suffix", note="masks of 5 of 5")
def jpeg_masks(folder):
    masked(folder, name="{stem}.jpg")


@row("COLMAP", "PINHOLE", "masks of half the size", note="masks of 5 of 5")
def half_masks(folder):
    masked(folder, divide=2)


@row("COLMAP", "PINHOLE", "masks with white ignored, --invert_masks", note="masks of 5 of 5")
def inverted_masks(folder):
    masked(folder, invert=True)
    return ["--invert_masks"]


for form in ("{}.mask.png", "{stem}.mask.png", "{stem}_mask.png", "{}_mask.png", "mask_{stem}.jpg", "mask_{}"):
    for place in ("masks", "images"):
        shown = form.format("a.png", stem="a")
        row("COLMAP", "PINHOLE", f"masks called {place}/{shown}", note="masks of 5 of 5")(
            lambda folder, form=form, place=place: plain(folder).write_masks(folder / place, name=form)
        )


@row("COLMAP", "OPENCV", "masks called images/a.png.mask.png, -r 2 with images_2", note="masks of 5 of 5")
def masks_beside_the_large_ones(folder):
    capture = plain(folder, Capture(cameras=[camera("OPENCV")]))
    store_all(capture, folder / "images_2", [name.replace("png", "jpg") for name in NAMES], divide=2)
    capture.write_masks(folder / "images", name="{}.mask.png")
    return ["-r", "2"]


@row("COLMAP", "PINHOLE", "photographs called a.png and a_mask.png")
def photographs_called_masks(folder):
    named(folder, [form.format(letter) for letter in "abc" for form in ("{}.png", "{}_mask.png")])


@row("COLMAP", "PINHOLE", "masks of a.jpg and a.png", note="masks of 5 of 5")
def masks_of_twins(folder):
    named(folder, TWINS).write_masks(folder / "masks")


@row("COLMAP", "PINHOLE", "one mask a.png for a.jpg and a.png", refused="a.png: could be the mask of a.jpg or of a.png")
def mask_of_twins(folder):
    named(folder, TWINS).write_masks(folder / "masks", name="{stem}.png")


@row(
    "COLMAP", "PINHOLE", "one mask for left/a.png and right/a.png", refused="of left/0.png or of right/0.png; make one"
)
def mask_of_folders(folder):
    capture = named(folder, [f"{side}/{i}.png" for i in range(3) for side in ("left", "right")])
    capture.write_masks(folder / "masks", name="../masks/{stem}.png")


@row("COLMAP", "PINHOLE", "masks of frame.0001", note="masks of 5 of 5")
def masks_of_dotted(folder):
    named(folder, DOTTED, numbered("frame.{:04}.png")).write_masks(folder / "masks", name="{}.png")


@row("COLMAP", "PINHOLE", "masks as AVIF", note="masks of 5 of 5")
def avif_masks(folder):
    masked(folder, name="{stem}.avif")


@row("COLMAP", "PINHOLE", "masks for some images only", note="masks of 2 of 5 images")
def some_masks(folder):
    masked(folder)
    for name in "cdef":
        (folder / f"masks/{name}.png.png").unlink()
    Image.new("L", SIZE, 255).save(folder / "masks/c.png.png")


@row("COLMAP", "PINHOLE", "a mask that is all black", refused="ignores the whole image; take c.png out of the dataset")
def black_mask(folder):
    masked(folder)
    Image.new("L", SIZE, 0).save(folder / "masks/c.png.png")


@row(
    "COLMAP",
    "PINHOLE",
    "a mask of another shape",
    refused="c.png.png: is 64x64, its image 96x64; make the mask of that",
)
def square_mask(folder):
    masked(folder)
    Image.new("L", (64, 64), 255).save(folder / "masks/c.png.png")


@row(
    "COLMAP", "PINHOLE", "masks that belong to no image", refused="none of its files is the mask of an image; name them"
)
def foreign_masks(folder):
    masked(folder, name="other_{}.png")


# ------------------------------------------------------------------------------------------------------ transforms


def blender(folder: Path, suffix: str = "", split: bool = True, **more: object) -> Capture:
    """transforms_train.json, and transforms_test.json with the last two views if `split`."""
    capture = Capture(cameras=[camera("PINHOLE", (90, 90, 48, 32))])
    capture.write_images(folder / "all", save=save_rgba)
    frames = capture.frames("./all/")
    for frame in frames:
        frame["file_path"] = frame["file_path"].removesuffix(".png") + suffix
    angle = {"camera_angle_x": 2 * np.arctan(48 / 90), **more}
    for name, part in (("train", frames[:4] if split else frames), ("test", frames[4:] if split else [])):
        if part:
            (folder / f"transforms_{name}.json").write_text(json.dumps({**angle, "frames": part}))
    return capture


def save_rgba(pixels: np.ndarray, path: Path, **how: object) -> None:
    """With transparency where the picture is black."""
    alpha = np.where(pixels.max(axis=-1) > 0, 255, 0).astype(np.uint8)
    Image.fromarray(np.dstack([pixels, alpha])).save(path, **how)


@row("Blender", "camera_angle_x", "train and test files, no extensions, RGBA", note="4 training and 2 test views")
def blender_usual(folder):
    blender(folder)


@row("Blender", "camera_angle_x", "train file only, extensions given", note="every 8th image by name")
def blender_alone(folder):
    blender(folder, ".png", split=False)


@row("Blender", "camera_angle_x", "points3d.ply, as 3DGS and BlenderNeRF write it", note="starting points: ")
def blender_points(folder):
    blender(folder)
    normals = [(f"n{axis}", "f4") for axis in "xyz"]
    write_ply(folder / "points3d.ply", [*POINTS[:3], *normals, *POINTS[3:]])


@row("Blender", "camera_angle_x", "train and validation files", note="4 training and 2 test views (transforms_val")
def blender_validation(folder):
    blender(folder)
    (folder / "transforms_test.json").rename(folder / "transforms_val.json")


@row("Blender", "camera_angle_x", "random background")
def blender_random(folder):
    blender(folder)
    return ["--random_background"]


@row("Blender", "camera_angle_x", "an image is missing", refused="1 of 4 images are missing: ./all/b")
def blender_missing(folder):
    blender(folder)
    (folder / "all/b.png").unlink()


@row("Blender", "none", "no camera_angle_x", refused="no `camera_angle_x`, `fl_x` or `x_fov`; export the file again")
def blender_no_angle(folder):
    blender(folder, camera_angle_x=None)


def shared(folder: Path, model: str = "OPENCV", drop: tuple[str, ...] = (), **more: object) -> Capture:
    """transforms.json with intrinsics for all frames, some keys dropped and some added."""
    capture = Capture(cameras=[camera(model)])
    capture.write_images(folder / "images")
    intrinsics = {key: value for key, value in capture.intrinsics().items() if key not in drop}
    capture.write_transforms(folder, {**intrinsics, **more})
    return capture


def panorama(folder: Path, **more: object) -> None:
    """transforms.json of panoramas, whose cameras need no more than to be called so."""
    capture = Capture(cameras=[camera("EQUIRECTANGULAR", size=(96, 48))])
    capture.write_images(folder / "images")
    capture.write_transforms(folder, {"w": 96, "h": 48, **more})


row("instant-ngp", "OPENCV", "shared intrinsics, aabb_scale", note="through OPENCV lenses")(
    lambda folder: shared(folder, aabb_scale=4, scale=0.5, offset=[0.5, 0.5, 0.5]) and None
)
row("instant-ngp", "OPENCV_FISHEYE", "is_fisheye", note="through OPENCV_FISHEYE lenses")(
    lambda folder: shared(folder, "OPENCV_FISHEYE", is_fisheye=True) and None
)
row("instant-ngp", "PINHOLE", "x_fov and y_fov in degrees instead of lengths")(
    lambda folder: (
        shared(
            folder,
            "PINHOLE",
            drop=("fl_x", "fl_y"),
            x_fov=float(np.degrees(2 * np.arctan(48 / 90))),
            y_fov=float(np.degrees(2 * np.arctan(32 / 94))),
        )
        and None
    )
)
row("instant-ngp", "f-theta", "f-theta lens", refused="camera model f-theta is not read; undistort the images")(
    lambda folder: shared(folder, "PINHOLE", ftheta_p0=0.0) and None
)
row("instant-ngp", "latlong", "panorama", note="through EQUIRECTANGULAR lenses")(
    lambda folder: panorama(folder, latlong=True)
)


@row(
    "instant-ngp",
    "OPENCV",
    "frames whose images were thrown away",
    note="1 of 6 images are missing, left out: images/b.png",
)
def thrown_away(folder):
    shared(folder)
    (folder / "images/b.png").unlink()


@row("instant-ngp", "OPENCV", "most images missing", refused="4 of 6 images are missing: images/a.png, images/b.png, ")
def mostly_missing(folder):
    shared(folder)
    for name in "abcd":
        (folder / f"images/{name}.png").unlink()


@row("instant-ngp", "PINHOLE", "dynamic_mask_a.png beside a.png, white ignored", note="masks of 5 of 5")
def dynamic_masks(folder):
    shared(folder, "PINHOLE").write_masks(folder / "images", invert=True, name="dynamic_mask_{}")


row("nerfstudio", "OPENCV", "camera_model, applied_transform", note="through OPENCV lenses")(
    lambda folder: shared(folder, camera_model="OPENCV", applied_transform=np.eye(4)[:3].tolist()) and None
)
row("nerfstudio", "OPENCV_FISHEYE", "camera_model", note="through OPENCV_FISHEYE lenses")(
    lambda folder: shared(folder, "OPENCV_FISHEYE", camera_model="OPENCV_FISHEYE") and None
)
row("nerfstudio", "FULL_OPENCV", "k3 to k6", note="through FULL_OPENCV lenses")(
    lambda folder: shared(folder, "FULL_OPENCV") and None
)
row("nerfstudio", "EQUIRECTANGULAR", "panorama", note="through EQUIRECTANGULAR lenses")(
    lambda folder: panorama(folder, camera_model="EQUIRECTANGULAR")
)
row(
    "nerfstudio",
    "ORTHOPHOTO",
    "camera that is no perspective",
    refused="camera model ORTHOPHOTO is not read; undistort",
)(lambda folder: shared(folder, "PINHOLE", camera_model="ORTHOPHOTO") and None)


def per_frame(folder: Path, change: Callable[[int, dict], None] = lambda index, frame: None, **meta: object) -> Capture:
    """transforms.json with two cameras, whose intrinsics stand in the frames."""
    capture = Capture(cameras=[camera("PINHOLE"), camera("OPENCV", size=(90, 70), number=2)])
    capture.write_images(folder / "images")
    frames = [{**frame, **capture.intrinsics(index)} for index, frame in enumerate(capture.frames())]
    for index, frame in enumerate(frames):
        change(index, frame)
    capture.write_transforms(folder, meta, frames)
    return capture


@row("nerfstudio", "PINHOLE, OPENCV", "intrinsics in the frames, two sizes", note="through OPENCV lenses")
def nerfstudio_per_frame(folder):
    per_frame(folder)


@row("nerfstudio", "PINHOLE, OPENCV", "no extensions, Windows paths")
def nerfstudio_windows(folder):
    per_frame(folder, lambda index, frame: frame.update(file_path=f".\\images\\{NAMES[index][0]}"))


@row("nerfstudio", "PINHOLE, OPENCV", "a.jpg in the file, a.png on disk")
def nerfstudio_suffix(folder):
    per_frame(folder, lambda index, frame: frame.update(file_path=f"images/{NAMES[index][0]}.jpg"))


@row("nerfstudio", "PINHOLE, OPENCV", "absolute paths")
def nerfstudio_absolute(folder):
    per_frame(folder, lambda index, frame: frame.update(file_path=f"{folder.resolve()}/images/{NAMES[index]}"))


@row("nerfstudio", "PINHOLE, OPENCV", "poses of 3 rows")
def nerfstudio_3x4(folder):
    per_frame(folder, lambda index, frame: frame.update(transform_matrix=frame["transform_matrix"][:3]))


def posed(folder: Path, change: Callable[[int, np.ndarray], np.ndarray]) -> None:
    """transforms.json of two cameras with poses changed."""

    def edit(index: int, frame: dict) -> None:
        frame["transform_matrix"] = change(index, np.array(frame["transform_matrix"])).tolist()

    per_frame(folder, edit)


row("nerfstudio", "PINHOLE, OPENCV", "a pose times a number, its last row too")(
    lambda folder: posed(folder, lambda index, pose: 2 * pose if index == 2 else pose)
)
row("nerfstudio", "PINHOLE, OPENCV", "rotations times 0.5", note="3x3 part of 6 of 6 poses is a rotation times 0.5")(
    lambda folder: posed(folder, lambda index, pose: pose @ np.diag([0.5, 0.5, 0.5, 1]))
)
row("nerfstudio", "PINHOLE, OPENCV", "poses of three digits", note="images have few digits: the nearest rotations are")(
    lambda folder: posed(folder, lambda index, pose: np.round(pose, 3))
)
row(
    "nerfstudio",
    "PINHOLE, OPENCV",
    "a sheared pose",
    refused="its axes are stretched or sheared by",
)(lambda folder: posed(folder, lambda index, pose: pose + 0.2 * (index == 2) * np.outer(np.eye(4)[0], np.eye(4)[1])))
row("nerfstudio", "PINHOLE, OPENCV", "transposed poses", refused="its last row is not 0 0 0 1: is it transposed?")(
    lambda folder: posed(folder, lambda index, pose: pose.T)
)
row("nerfstudio", "PINHOLE, OPENCV", "some poses mirrored", refused="1 of 6 poses are mirrored (determinant -1), the")(
    lambda folder: posed(folder, lambda index, pose: np.diag([1, 1, 1 - 2 * (index == 2), 1]) @ pose)
)


@row("nerfstudio", "PINHOLE", "a left-handed world", note="all 6 poses are mirrored (determinant -1)")
def left_handed(folder):
    """Mirrored at a plane that both spots lie in."""
    mirror, across = np.eye(4), np.cross(SPOTS[1], [0.0, 0.0, 1.0])
    mirror[:3, :3] -= 2 * np.outer(across, across) / (across @ across)
    capture = shared(folder, "PINHOLE")
    frames = capture.frames()
    for frame in frames:
        frame["transform_matrix"] = (mirror @ frame["transform_matrix"]).tolist()
    capture.write_transforms(folder, frames=frames)


@row("nerfstudio", "PINHOLE, OPENCV", "test_frames of ScanNet++", note="4 training and 2 test views (test_frames of")
def frames_apart(folder):
    capture = per_frame(folder)
    frames = [{**frame, **capture.intrinsics(index)} for index, frame in enumerate(capture.frames())]
    capture.write_transforms(folder, {"test_frames": frames[4:]}, frames[:4])


@row("nerfstudio", "PINHOLE, OPENCV", "`split` in the frames", note="2 test views (`split` of the frames")
def split_keys(folder):
    per_frame(folder, lambda index, frame: frame.update(split="test" if index > 3 else "train"))


@row("nerfstudio", "PINHOLE, OPENCV", "val_filenames only", note="4 training and 2 test views (val_filenames of")
def validation_lists(folder):
    per_frame(folder, val_filenames=[f"images/{name}" for name in NAMES[4:]])


@row(
    "nerfstudio",
    "PINHOLE",
    "lists, beside a COLMAP model",
    note="only what it says about which images are for",
)
def lists_beside_colmap(folder):
    shared(folder, "PINHOLE", test_filenames=["images/b.png", "images/e.png"])
    Capture().write_colmap(folder, place="colmap/sparse/0")


@row("nerfstudio", "PINHOLE", "transforms_test.json beside transforms.json", note="2 test views (transforms_test.json)")
def second_file(folder):
    capture = shared(folder, "PINHOLE")
    frames, intrinsics = capture.frames(), capture.intrinsics()
    capture.write_transforms(folder, frames=frames[:4])
    (folder / "transforms_test.json").write_text(json.dumps({**intrinsics, "frames": frames[4:]}))


@row("nerfstudio", "PINHOLE, OPENCV", "train and test lists", note="4 training and 2 test views (test_filenames of")
def nerfstudio_lists(folder):
    names = [f"images/{name}" for name in NAMES]
    per_frame(folder, train_filenames=names[:4], test_filenames=names[4:])


def write_ply(path: Path, dtype: list[tuple[str, str]], count: int = 40) -> None:
    """A binary PLY of points near the spots, white where there are colours."""
    vertices = np.zeros(count, dtype)
    positions = np.random.default_rng(0).uniform(-1, 1, (3, count))
    for axis, values in zip("xyz", positions, strict=True):
        vertices[axis] = values
    for name in set(vertices.dtype.names) - set("xyz"):
        vertices[name] = 1 if vertices.dtype[name].kind == "f" else 255
    PlyData([PlyElement.describe(vertices, "vertex")]).write(str(path))


@row("nerfstudio", "PINHOLE", "ply_file_path with colours", note="40 points")
def ply(folder):
    shared(folder, "PINHOLE", ply_file_path="sparse_pc.ply")
    write_ply(folder / "sparse_pc.ply", [*((a, "f4") for a in "xyz"), *((c, "u1") for c in ("red", "green", "blue"))])


@row("nerfstudio", "PINHOLE", "ply_file_path without colours", note="40 points")
def bare_ply(folder):
    shared(folder, "PINHOLE", ply_file_path="sparse_pc.ply")
    write_ply(folder / "sparse_pc.ply", [(a, "f8") for a in "xyz"])


for oddity, columns, words in (
    ("16-bit colours", [(c, "u2") for c in ("red", "green", "blue")], "colours from red green blue (uint16, 0 to 255)"),
    ("fractions in r g b", [(c, "f4") for c in "rgb"], "colours from r g b (float32, 0 to 1)"),
    ("harmonics", [(f"f_dc_{i}", "f4") for i in range(3)], "colours from f_dc_0 f_dc_1 f_dc_2 (harmonics)"),
    ("intensity only", [("intensity", "u2")], "its points have no colours, only intensity; they start grey"),
):
    row("nerfstudio", "PINHOLE", f"ply_file_path, {oddity}", note=words)(
        lambda folder, columns=columns: (
            shared(folder, "PINHOLE", ply_file_path="sparse_pc.ply")
            and write_ply(folder / "sparse_pc.ply", [*((axis, "f4") for axis in "xyz"), *columns])
        )
    )


@row(
    "nerfstudio", "PINHOLE", "ply_file_path that is missing", refused="or take the key out to start from random points"
)
def missing_ply(folder):
    shared(folder, "PINHOLE", ply_file_path="sparse_pc.ply")


@row("nerfstudio", "PINHOLE", "no points", note="random points before the cameras")
def nerfstudio_no_points(folder):
    shared(folder, "PINHOLE")


@row("nerfstudio", "OPENCV", "mask_path, black ignored", note="masks of 5 of 5")
def mask_paths(folder):
    capture = shared(folder)
    capture.write_masks(folder / "masks", name="{}")
    frames = [{**frame, "mask_path": frame["file_path"].replace("images", "masks")} for frame in capture.frames()]
    capture.write_transforms(folder, frames=frames)


@row("nerfstudio", "OPENCV", "-r 2 with images_2", note="images_2 through OPENCV lenses")
def nerfstudio_images_2(folder):
    shared(folder).write_images(folder / "images_2", divide=2)
    return ["-r", "2"]


@row("nerfstudio", "OPENCV", "-r 2 without images_2", note="through OPENCV lenses resized to 1/2 (Lanczos)")
def nerfstudio_resized(folder):
    shared(folder)
    return ["-r", "2"]


# ------------------------------------------------------------------------------------------------ transforms: names


def listed(
    folder: Path, paths: Sequence[str], files: Sequence[str] | None = None, model: str = "PINHOLE", **meta: object
) -> Capture:
    """transforms.json whose frames have these paths, and photographs under these, relative to the scene."""
    capture = Capture(cameras=[camera(model)])
    store_all(capture, folder, files or paths)
    frames = [{**frame, "file_path": path} for frame, path in zip(capture.frames(), paths, strict=True)]
    capture.write_transforms(folder, {**capture.intrinsics(), **meta}, frames)
    return capture


for oddity, names in (
    ("images/frame.0001, no suffix", DOTTED),
    ("a.jpg beside a.png", TWINS),
    ("names that differ by case only", CASES),
    ("names that differ by Unicode form only (NFC, NFD)", FORMS),
    ("names of 251 characters", LONG),
    ("spaces, quotes, #, line ends and escapes in names", ODD_NAMES),
):
    for model, arguments in (("PINHOLE", []), ("OPENCV", ["-r", "2"])):
        row("nerfstudio", model, oddity + (", -r 2" if arguments else ""))(
            lambda folder, n=names, m=model, a=arguments: (
                listed(folder, [f"images/{name}" for name in n], model=m) and a
            )
        )

for oddity, paths, files in (
    ("frame.0001 in the file, frame.0001.png on disk", numbered("./images/frame.{:04}"),
     numbered("images/frame.{:04}.png")),
    ("a in the file, a.JPG, a.Tif, a.Bmp on disk", numbered("images/{}"),
     [f"images/{i}{MIXED[i % 3]}" for i in range(6)]),
    ("names in another case on disk", numbered("Images/IMG_{}.JPG"), numbered("images/img_{}.jpg")),
    ("names in another Unicode form on disk", numbered("images/" + DECOMPOSED + "{}"),
     numbered(f"images/{COMPOSED}{{}}.png")),
    ("../images/a.png beside images/a.png", [f"{way}images/{i}.png" for i in range(3) for way in ("", "../")], None),
    ("/elsewhere/a.png beside a.png", [f"{way}{i}.png" for i in range(3) for way in ("", "$OUT/")], None),
    ("images/../images/a.png", numbered("images/../images/{}.png"), numbered("images/{}.png")),
    ("equal names in sub-folders", [f"{side}/images/{i}.png" for i in range(3) for side in "lr"], None),
    ("absolute paths of another computer", numbered("/home/me/scene/images/{}.png"), numbered("images/{}.png")),
    ("absolute paths of Windows", numbered("D:\\scene\\images\\{}.png"), numbered("images/{}.png")),
    ("backslashes in the names of files", numbered("images\\{}.png"), numbered("images\\{}.png")),
):  # fmt: skip

    def write(folder: Path, paths: Sequence[str] = paths, files: Sequence[str] | None = files) -> None:
        paths = [path.replace("$OUT", str(folder.parent.resolve() / "elsewhere")) for path in paths]
        listed(folder, paths, files)

    row("nerfstudio", "PINHOLE", oddity)(write)


@row("nerfstudio", "PINHOLE", "frame.0001, train and test lists", note="4 training and 2 test views (test_filenames of")
def listed_dotted(folder):
    paths = [f"images/{name}" for name in DOTTED]
    listed(folder, paths, train_filenames=paths[:4], test_filenames=paths[4:])


@row(
    "nerfstudio", "PINHOLE", "a.jpg beside a.png, test list of a.png, b.png", note="4 training and 2 test views (test_"
)
def listed_twins(folder):
    listed(folder, [f"images/{name}" for name in TWINS], test_filenames=["images/a.png", "./images/b.png"])


@row("Blender", "PINHOLE", "train and test files, ./all/r.0001", note="4 training and 2 test views")
def blender_dotted(folder):
    capture = listed(folder, numbered("./all/r.{:04}"), numbered("all/r.{:04}.png"))
    meta = json.loads((folder / "transforms.json").read_text())
    (folder / "transforms.json").unlink()
    for split, part in (("train", capture.frames()[:4]), ("test", capture.frames()[4:])):
        frames = [
            frame for frame in meta["frames"] if frame["transform_matrix"] in [f["transform_matrix"] for f in part]
        ]
        (folder / f"transforms_{split}.json").write_text(json.dumps({**meta, "frames": frames}))


@row("nerfstudio", "PINHOLE", "a frame that is listed twice, with one pose", note="1 images are listed more than once")
def frame_twice(folder):
    capture = listed(folder, numbered("images/{}.png"))
    meta = json.loads((folder / "transforms.json").read_text())
    again = {**meta["frames"][2], "file_path": "./images/2.png"}
    capture.write_transforms(folder, meta, [*meta["frames"], again])


@row("nerfstudio", "PINHOLE", "a frame that is listed twice, with two poses", refused="images/2.png is listed twice (")
def frame_of_two_poses(folder):
    capture = listed(folder, numbered("images/{}.png"))
    meta = json.loads((folder / "transforms.json").read_text())
    capture.write_transforms(folder, meta, [*meta["frames"], {**meta["frames"][3], "file_path": "images/2.png"}])


@row(
    "nerfstudio", "PINHOLE", "a name that is not Unicode", refused="is not UTF-8; rename the file, and correct it there"
)
def not_unicode(folder):
    listed(folder, numbered("images/{}.png"))
    file = folder / "transforms.json"
    file.write_text(file.read_text().replace("images/3.png", "images/\\udce93.png"))
    (folder / "images/3.png").rename(folder / "images/\udce93.png")


@row("nerfstudio", "PINHOLE", "mask_path and ply_file_path with backslashes", note="masks of 5 of 5")
def windows_mask_paths(folder):
    capture = shared(folder, "PINHOLE", ply_file_path="points\\sparse.ply")
    (folder / "points").mkdir()
    write_ply(folder / "points/sparse.ply", [(a, "f4") for a in "xyz"])
    capture.write_masks(folder / "masks", name="{}")
    frames = [{**frame, "mask_path": f".\\masks\\{name}"} for frame, name in zip(capture.frames(), NAMES, strict=True)]
    capture.write_transforms(folder, json.loads((folder / "transforms.json").read_text()), frames)


@row("nerfstudio", "OPENCV", "-r 2, images_2/image000.png ...", note="paired in their order, and alike")
def nerfstudio_llff(folder):
    store_all(shared(folder), folder / "images_2", numbered("image{:03}.png"), divide=2)
    return ["-r", "2"]


@row("nerfstudio", "PINHOLE", "-r 2, a.jpg and a.png, one a.png in images_2", note="Taking the photographs of")
def nerfstudio_merged_twins(folder):
    capture = listed(folder, [f"images/{name}" for name in TWINS])
    store_all(capture, folder / "images_2", [f"{name[0]}.png" for name in TWINS], divide=2)
    return ["-r", "2"]


@row(
    "nerfstudio",
    "PINHOLE",
    "a.jpg and a.png in the file, only a.png on disk",
    note="1 of 6 images are missing, left out",
)
def nerfstudio_one_twin(folder):
    listed(folder, [f"images/{name}" for name in TWINS])
    (folder / "images/a.jpg").unlink()


@row("nerfstudio", "OPENCV", "-r 2, an image is missing in images_2", note="1 of 6 images are missing: images/c.png")
def nerfstudio_gap(folder):
    store_all(shared(folder), folder / "images_2", divide=2)
    (folder / "images_2/c.png").unlink()
    return ["-r", "2"]


@row("nerfstudio", "OPENCV", "beside a COLMAP model: -s .../transforms.json", note="through OPENCV lenses")
def named_file(folder):
    shared(folder)
    Capture().write_colmap(folder)
    return ["-s", str(folder / "transforms.json")]


@row("nerfstudio", "OPENCV", "not JSON", refused="not readable as JSON")
def not_json(folder):
    shared(folder)
    (folder / "transforms.json").write_text('{"frames": [')


@row("nerfstudio", "OPENCV", "byte order mark")
def marked_json(folder):
    shared(folder)
    (folder / "transforms.json").write_bytes(b"\xef\xbb\xbf" + (folder / "transforms.json").read_bytes())


@row("nerfstudio", "OPENCV", "UTF-16", refused="transforms.json: is UTF-16 or UTF-32 text, or no text")
def utf16_json(folder):
    shared(folder)
    path = folder / "transforms.json"
    path.write_bytes(path.read_text().encode("utf-16"))


@row(
    "nerfstudio",
    "OPENCV",
    "a comma too many",
    refused="; correct line 1 (a comma too many,",
)
def comma(folder):
    shared(folder)
    path = folder / "transforms.json"
    path.write_text('{"camera_model": "OPENCV",,' + path.read_text()[1:])  # first: no count of digits in the message


@row("nerfstudio", "OPENCV", "NaN in a pose", refused="`transform_matrix` is not a pose: not all its num")
def nan_pose(folder):
    capture = shared(folder)
    frames = capture.frames()
    frames[1]["transform_matrix"][0][3] = float("nan")
    capture.write_transforms(folder, frames=frames)


@row("nerfstudio", "OPENCV", "fl_x is a word", refused="`fl_x` is 'long', not a number; export the file again")
def wrong_type(folder):
    shared(folder, fl_x="long")


# ------------------------------------------------------------------------------------------------ several at once


@row(
    "COLMAP", "PINHOLE",
    "text, a line an image, CR LF, day 1/shot.0001, bare names in test.txt, points3D.ply, -s scene/sparse/0",
    note="4 training and 2 test views (sparse/0/test.txt), 40 points",
)  # fmt: skip
def text_of_all_kinds(folder):
    place = text_model(folder, [f"day {1 + i // 3}/shot.{i:04}" for i in range(6)], layout=str, points=0)
    (place / "points3D.txt").unlink()
    write_ply(place / "points3D.ply", POINTS)
    (place / "test.txt").write_text("\ufeffshot.0001\nDAY 2\\shot.0004.png\n")
    rewritten(place, lambda content: content.replace(b"\n", b"\r\n"))
    return ["-s", str(place)]


@row(
    "COLMAP", "OPENCV",
    "long quaternions, day 1/shot 0.JPG, LLFF's images_2, masks shot 0_mask.png, train_list.txt, -s scene/sparse",
    note="masks of 4 of 4",
)  # fmt: skip
def copies_of_all_kinds(folder):
    names = [f"day {1 + i // 3}/shot {i}.JPG" for i in range(6)]
    text_model(folder, names, quaternions(lambda value: -2 * value), "OPENCV")
    capture = Capture(names=names, cameras=[camera("OPENCV")])
    store_all(capture, folder / "images_2", numbered("image{:03}.png"), divide=2)
    capture.write_masks(folder / "masks", name="../masks/{stem}_mask.png")
    (folder / "train_list.txt").write_text("".join(f"{name}\n" for name in names[:4]))
    return ["-r", "2", "-s", str(folder / "sparse")]


@row(
    "COLMAP", "PINHOLE", "a.CR2 for a.png, alpha as mask, lists in transforms.json, -s scene/colmap",
    note="4 training and 2 test views (test_filenames of transforms.json)",
)  # fmt: skip
def lists_of_other_cameras(folder):
    save_disc(folder, names=[f"{letter}.png" for letter in "abcdef"])
    Capture(names=[f"{letter}.CR2" for letter in "abcdef"]).write_colmap(folder, place="colmap/sparse/0")
    shutil.rmtree(folder / "sparse")
    capture = Capture()
    capture.write_transforms(folder, {**capture.intrinsics(), "test_filenames": ["images/b.jpg", "./images/e.jpg"]})
    return ["-s", str(folder / "colmap"), "--set", "data.alpha=mask"]


@row(
    "nerfstudio", "OPENCV",
    "D:\\scene\\images\\frame.0001 and so in lists, rotations times 0.5, points3d.ply of 16 bits, masks, -r 2",
    note="4 training and 2 test views (test_filenames of transforms.json), 40 points",
)  # fmt: skip
def transforms_of_all_kinds(folder):
    paths = numbered("D:\\scene\\images\\frame.{:04}")
    listed(folder, paths, numbered("images/frame.{:04}"), "OPENCV", test_filenames=paths[4:])
    meta = json.loads((folder / "transforms.json").read_text())
    for frame in meta["frames"]:
        frame["transform_matrix"] = (np.array(frame["transform_matrix"]) @ np.diag([0.5, 0.5, 0.5, 1])).tolist()
    (folder / "transforms.json").write_text("\ufeff" + json.dumps(meta), encoding="utf-8")
    write_ply(folder / "points3d.ply", [*POINTS[:3], *((color, "u2") for color in ("red", "green", "blue"))])
    Capture(names=numbered("frame.{:04}"), cameras=[camera("OPENCV")]).write_masks(folder / "masks", name="{}.mask.png")
    return ["-r", "2"]


# ----------------------------------------------------------------------------------------------------- real scenes


ROWS += [
    Row("COLMAP", "PINHOLE", "bonsai, -r 80", lambda folder: ["-r", "80"], real="bonsai"),
    Row("COLMAP", "PINHOLE", "garden, -r 80", lambda folder: ["-r", "80"], real="garden"),
    Row("COLMAP", "OPENCV", "fox, phone photos, -r 80", lambda folder: ["-r", "80"], real="fox"),
    Row("instant-ngp", "OPENCV", "fox, 17 of 67 images thrown away, -r 80", lambda folder: ["-r", "80"],
        note="17 of 67 images are missing", real="fox/transforms.json"),
    Row("Blender", "camera_angle_x", "lego, RGBA, white background, -r 80", lambda folder: ["-r", "80", "-w"],
        note="100 training and 25 test views", real="lego"),
]  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("row", ROWS, ids=[row.id for row in ROWS])
def test_input(row, tmp_path, capsys, caplog, monkeypatch, pytestconfig):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "scene"
    if row.needs:
        pytest.importorskip(row.needs)
    if row.real:
        scenes = pytestconfig.getoption("--scenes")
        if not scenes or not (Path(scenes) / row.real).exists():
            pytest.skip("a real scene: name the folder that has it with --scenes")
        source = Path(scenes) / row.real
    arguments = ["-s", str(source), "-m", str(tmp_path / "out"), *SETTINGS, *(row.make(source) or [])]
    if not row.is_reported:
        arguments.append("--no_report")
    with pytest.raises(SystemExit) as stopped:
        run_cli(train.main, arguments)
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    if row.refused:
        RESULTS[row.id] = check_refusal(row, stopped.value.code, printed, tmp_path)
    else:
        assert stopped.value.code == 0, printed
        assert row.note in printed
        RESULTS[row.id] = check_views(arguments, exact=not row.real, spots=SPOTS + row.offset)


def check_refusal(row: Row, code: int, printed: str, folder: Path) -> str:
    """The one line that says what to do, as the table shows it."""
    last = printed.splitlines()[-1]
    assert code == 1 and last.startswith("error: ") and row.refused in last
    return f"refused: {last.removeprefix('error: ').replace(str(folder) + '/', '')}"


def check_views(arguments: list[str], exact: bool, spots: np.ndarray) -> str:
    """Every view shows the spots where its camera says, and masks keep what they should; then the words for it."""
    config = train_config(arguments)
    scene = open_scene(config)
    views = [*scene.train, *scene.test]
    if exact:
        store = ImageStore(views, background=(0, 0, 0), device="cpu", budget_bytes=0)
        frame = scene.normalisation
        for index, view in enumerate(views):
            assert store[index].shape == (view.height, view.width, 3)
            check_spots(store[index].numpy(), view, frame.apply_points(spots))
            check_mask(store.mask(index), view, frame.apply_points(spots)[0])
    sizes = sorted({(view.width, view.height) for view in views})
    points = f"{len(scene.points.positions):,} points" if scene.points else "random points"
    return (
        f"trains: {len(scene.train)} + {len(scene.test)} views of {', '.join(f'{w}x{h}' for w, h in sizes)}, "
        f"{points}, images: {scene.image_source}"
    )


def check_spots(pixels: np.ndarray, view, spots: np.ndarray) -> None:
    gray = pixels[..., 0].astype(int).tolist() == pixels[..., 1].astype(int).tolist()
    for channel in (0,) if gray else (0, 1):
        place = view.look(spots[channel][None])[0][0]
        np.testing.assert_allclose(spot_center(pixels[..., channel]), place, atol=TOLERANCE)


def check_mask(kept, view, spot: np.ndarray) -> None:
    if kept is None or kept.all():
        return
    if view.mask.path.name.startswith("lens-"):
        np.testing.assert_array_equal(kept, kept_places(view.lens, view.width, view.height))
        return
    np.testing.assert_allclose(spot_center(kept.numpy()), view.look(spot[None])[0][0], atol=1.0)
    assert 0.02 < kept.float().mean() < 0.12


def test_the_table_in_the_docs_is_what_happened(pytestconfig):
    """Last in this file: all rows have run."""
    ran = [row for row in ROWS if row.id in RESULTS]
    lines = [f"| {row.format} | {row.model} | {row.oddity} | {RESULTS[row.id]} |" for row in ran]
    assert len({row.id for row in ROWS}) == len(ROWS) >= 40
    if pytestconfig.getoption("--write-inputs"):
        assert len(ran) == len(ROWS), "only a whole run writes the table: give --scenes, and no -k"
        DOCS.write_text(HEADER.format(rows=len(ROWS), tolerance=TOLERANCE) + "\n".join(lines) + "\n", encoding="utf-8")
    table = DOCS.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line not in table] == []
    assert sum(line.startswith("| ") for line in table) == len(ROWS) + 1


HEADER = """# Inputs

What a capture may look like, and what comes of it: {rows} inputs, each trained for one step by `train.py`. Written by
`pytest tests/test_inputs.py --write-inputs --scenes DIR`, where DIR holds the four real scenes; the same tests fail
when this table no longer says what happens.

The made scenes show two coloured spots whose place in every photograph is known. "Trains" means that `train.py` ended
well and that each view, undistorted and resized as the row says, shows the spots within {tolerance} pixels of where its
camera puts them, and masks kept what they should. "Refused" is the one line that `train.py` ended with.

| format | camera | oddity | result |
|---|---|---|---|
"""


@pytest.fixture(autouse=True)
def _log_to_stderr():
    """The run's own handler writes through tqdm; nothing of another test's may stay."""
    yield
    logging.getLogger().handlers.clear()
