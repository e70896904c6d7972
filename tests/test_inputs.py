"""What a capture may look like: every row is a scene that trains, or ends in one line that says what to do.

Rows of the table in docs/inputs.md, which `pytest tests/test_inputs.py --write-inputs --scenes DIR` writes; a test
fails when the table says anything that did not happen here. `--scenes` names a folder with real scenes (bonsai, fox,
garden, lego); without it their rows are skipped.
"""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from captures import MODELS, NAMES, SIZE, SPOTS, Capture, add_points, camera, save_8bit, spot_centre
from PIL import Image
from plyfile import PlyData, PlyElement
from scene_files import look_at, ring

import train
from datasets.images import ImageStore
from distwar_gs.cli import run_cli, train_config
from distwar_gs.views import open_scene

pytestmark = pytest.mark.usefixtures("in_process")

DOCS = Path(__file__).parents[1] / "docs/inputs.md"
SETTINGS = ("--device", "cpu", "--iterations", "1", "--set", "log.tensorboard=false", "model.init_points=300")
TOLERANCE = 0.3


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
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Where the spots' origin is in the scene's world."""
    real: str = ""
    """Name of the scene among the real ones, which are not made."""

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
    row("COLMAP", model, oddity, refused="sees too wide an angle" if wide else "")(
        with_camera(model, size=(96, 48) if wide else SIZE)
    )

row("COLMAP", "PINHOLE", "non-square pixels")(with_camera("PINHOLE", (80, 120, 30, 40)))
row("COLMAP", "OPENCV", "coefficients all 0: used as it is", note="images: images")(
    with_camera("OPENCV", (90, 94, 46, 35, 0, 0, 0, 0))
)
row("COLMAP", "OPENCV_FISHEYE", "fisheye wider than 168 degrees", refused="cut perspective views out")(
    with_camera("OPENCV_FISHEYE", (30, 30, 48, 32, 0, 0, 0, 0))
)
row("COLMAP", "SIMPLE_RADIAL", "distortion that folds before the border", refused="folds before the border")(
    with_camera("SIMPLE_RADIAL", (60, 48, 32, -0.5))
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


def moved(offset: tuple[float, float, float]) -> Capture:
    """The capture with its poses about that place; its photographs are those of the one about the origin."""
    move = np.eye(4)
    move[:3, 3] = np.negative(offset)
    return Capture(poses=[pose @ move for pose in ring(6)])


@row("COLMAP", "PINHOLE", "UTM coordinates", note="are relative to (452311, 541195", offset=UTM)
def utm(folder):
    model = moved(UTM).reconstruction(points=0)
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
    Capture(cameras=[camera("OPENCV")], poses=moved(ECEF).poses).write_transforms(folder)
    Capture(cameras=[camera("OPENCV")]).write_images(folder / "images")


@row("Blender", "camera_angle_x", "UTM coordinates", note="random points before the cameras", offset=UTM)
def blender_in_utm(folder):
    capture = Capture(cameras=[camera("SIMPLE_PINHOLE", (90, 48, 32))], poses=moved(UTM).poses)
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


@row("COLMAP", "OPENCV", "-r 2 with images_2 of distorted images", note="images_2 undistorted from OPENCV")
def distorted_images_2(folder):
    capture = Capture(cameras=[camera("OPENCV")])
    capture.write_colmap(folder)
    capture.write_images(folder / "images_2", divide=2)
    return ["-r", "2"]


@row("COLMAP", "OPENCV", "-r 2 without images_2", note="undistorted from OPENCV resized to 1/2 (Lanczos)")
def resized(folder):
    plain(folder, Capture(cameras=[camera("OPENCV")]))
    return ["-r", "2"]


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
def grey16(folder):
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


# --------------------------------------------------------------------------------------------------- COLMAP: masks


def masked(folder: Path, model: str = "PINHOLE", **how: object) -> None:
    """A COLMAP scene with masks in which a disc around the red spot counts."""
    capture = plain(folder, Capture(cameras=[camera(model)]))
    capture.write_masks(folder / "masks", **how)


@row("COLMAP", "PINHOLE", "masks a.png.png, black ignored", note="masks of 5 of 5")
def masks(folder):
    masked(folder)


@row("COLMAP", "OPENCV", "masks of distorted images", note="undistorted from OPENCV")
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
    masked(folder, name="mask_{}.png")


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


def save_rgba(pixels: np.ndarray, path: Path) -> None:
    """With transparency where the picture is black."""
    alpha = np.where(pixels.max(axis=-1) > 0, 255, 0).astype(np.uint8)
    Image.fromarray(np.dstack([pixels, alpha])).save(path)


@row("Blender", "camera_angle_x", "train and test files, no extensions, RGBA", note="4 training and 2 test views")
def blender_usual(folder):
    blender(folder)


@row("Blender", "camera_angle_x", "train file only, extensions given", note="every 8th image by name")
def blender_alone(folder):
    blender(folder, ".png", split=False)


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


row("instant-ngp", "OPENCV", "shared intrinsics, aabb_scale", note="undistorted from OPENCV")(
    lambda folder: shared(folder, aabb_scale=4, scale=0.5, offset=[0.5, 0.5, 0.5]) and None
)
row("instant-ngp", "OPENCV_FISHEYE", "is_fisheye", note="undistorted from OPENCV_FISHEYE")(
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
row("instant-ngp", "latlong", "panorama", refused="sees too wide an angle")(
    lambda folder: shared(folder, "PINHOLE", latlong=True) and None
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


row("nerfstudio", "OPENCV", "camera_model, applied_transform", note="undistorted from OPENCV")(
    lambda folder: shared(folder, camera_model="OPENCV", applied_transform=np.eye(4)[:3].tolist()) and None
)
row("nerfstudio", "OPENCV_FISHEYE", "camera_model", note="undistorted from OPENCV_FISHEYE")(
    lambda folder: shared(folder, "OPENCV_FISHEYE", camera_model="OPENCV_FISHEYE") and None
)
row("nerfstudio", "FULL_OPENCV", "k3 to k6", note="undistorted from FULL_OPENCV")(
    lambda folder: shared(folder, "FULL_OPENCV") and None
)
row("nerfstudio", "EQUIRECTANGULAR", "panorama", refused="sees too wide an angle")(
    lambda folder: shared(folder, "PINHOLE", camera_model="EQUIRECTANGULAR") and None
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


@row("nerfstudio", "PINHOLE, OPENCV", "intrinsics in the frames, two sizes", note="undistorted from OPENCV")
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


@row(
    "nerfstudio",
    "PINHOLE, OPENCV",
    "a pose that is no pose",
    refused="frame 2, images/c.png: `transform_matrix` is not",
)
def nerfstudio_scaled(folder):
    def scale(index: int, frame: dict) -> None:
        if index == 2:
            frame["transform_matrix"] = (2 * np.array(frame["transform_matrix"])).tolist()

    per_frame(folder, scale)


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


@row("nerfstudio", "OPENCV", "-r 2 with images_2", note="images_2 undistorted from OPENCV")
def nerfstudio_images_2(folder):
    shared(folder).write_images(folder / "images_2", divide=2)
    return ["-r", "2"]


@row("nerfstudio", "OPENCV", "-r 2 without images_2", note="undistorted from OPENCV resized to 1/2 (Lanczos)")
def nerfstudio_resized(folder):
    shared(folder)
    return ["-r", "2"]


@row("nerfstudio", "OPENCV", "beside a COLMAP model: -s .../transforms.json", note="undistorted from OPENCV")
def named_file(folder):
    shared(folder)
    Capture().write_colmap(folder)
    return ["-s", str(folder / "transforms.json")]


@row("nerfstudio", "OPENCV", "not JSON", refused="not readable as JSON")
def not_json(folder):
    shared(folder)
    (folder / "transforms.json").write_text('{"frames": [')


@row("nerfstudio", "OPENCV", "fl_x is a word", refused="`fl_x` is 'long', not a number; export the file again")
def wrong_type(folder):
    shared(folder, fl_x="long")


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
    if row.real:
        scenes = pytestconfig.getoption("--scenes")
        if not scenes or not (Path(scenes) / row.real).exists():
            pytest.skip("a real scene: name the folder that has it with --scenes")
        source = Path(scenes) / row.real
    arguments = ["-s", str(source), "-m", str(tmp_path / "out"), *SETTINGS, *(row.make(source) or [])]
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
    grey = pixels[..., 0].astype(int).tolist() == pixels[..., 1].astype(int).tolist()
    for channel in (0,) if grey else (0, 1):
        x, y, z = view.K @ (view.viewmat[:3, :3] @ spots[channel] + view.viewmat[:3, 3])
        np.testing.assert_allclose(spot_centre(pixels[..., channel]), (x / z, y / z), atol=TOLERANCE)


def check_mask(kept, view, spot: np.ndarray) -> None:
    if kept is None or kept.all():
        return
    x, y, z = view.K @ (view.viewmat[:3, :3] @ spot + view.viewmat[:3, 3])
    np.testing.assert_allclose(spot_centre(kept.numpy()), (x / z, y / z), atol=1.0)
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
