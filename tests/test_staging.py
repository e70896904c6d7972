"""Photos under COLMAP's names, and the names that they get in the scene."""

import os

import numpy as np
import pycolmap
import pytest
from PIL import Image
from test_photos import picture

from distwar_gs.capture.photos import LeftOut
from distwar_gs.capture.staging import LONGEST, Staged, load_stage, save_stage, scene_names, stage


@pytest.fixture
def phone() -> Image.Exif:
    """A phone of 26 mm, as it is on film."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Apple", "iPhone 12"
    exif.get_ifd(0x8769).update({0x920A: 4.2, 0xA405: 26})
    return exif


def focal_length(width: int, height: int) -> float:
    """Of 26 mm on film of 36x24 mm, by the diagonals."""
    return 26 / np.hypot(36, 24) * np.hypot(width, height)


@pytest.mark.parametrize(
    ("name", "staged"),
    [
        ("a b.jpg", "000000.jpg"), ("ü.png", "000000.png"), ("日本.tif", "000000.tif"), ("a\\b.bmp", "000000.bmp"),
        ("# 1.jpg", "000000.jpg"), ("sub dir/a'b.jpeg", "000000.jpg"), (os.fsdecode(b"caf\xe9.jpg"), "000000.jpg"),
        ("line\nbreak.jpg", "000000.jpg"), ("x" * 251 + ".jpg", "000000.jpg"),
    ],
)  # fmt: skip
def test_colmap_reads_photos_of_any_name(tmp_path, name, staged):
    path = tmp_path / "my photos" / name
    path.parent.mkdir(parents=True)
    picture(1).save(path, format={"g": "JPEG", "f": "TIFF", "p": "BMP"}[name[-1]] if name[-3:] != "png" else "PNG")
    (photo,) = stage(tmp_path / "my photos", [name], tmp_path / "out\\put é/photos")
    assert (photo.name, photo.staged, photo.converted) == (name, staged, False)
    file = tmp_path / "out\\put é/photos" / staged
    assert file.is_symlink() and file.read_bytes() == path.read_bytes()
    with Image.open(path) as image:
        np.testing.assert_allclose(pycolmap.Bitmap.read(file, True).to_array(), np.asarray(image), atol=3)


@pytest.mark.parametrize("suffix", ["webp", "avif", "heic", "jp2", "gif"])
def test_formats_that_colmap_cannot_read_are_converted(tmp_path, phone, suffix):
    """Losslessly, with the focal length."""
    if suffix == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    exif = {"exif": phone} if suffix in ("webp", "avif", "heic") else {}
    picture(1).save(tmp_path / f"IMG 1.{suffix}", **exif)
    (photo,) = stage(tmp_path, [f"IMG 1.{suffix}"], tmp_path / "staged")
    assert photo == Staged(f"IMG 1.{suffix}", "000000.png", "IMG 1.jpg", True)
    with Image.open(tmp_path / photo.name) as image:
        pixels = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(pycolmap.Bitmap.read(tmp_path / "staged/000000.png", True).to_array(), pixels)
    camera = pycolmap.infer_camera_from_image(tmp_path / "staged/000000.png")
    assert camera.has_prior_focal_length == bool(exif)
    assert camera.mean_focal_length() == pytest.approx(focal_length(160, 120) if exif else 1.2 * 160, rel=1e-3)


@pytest.mark.parametrize(("suffix", "orientation", "turns"), [("webp", 6, -1), ("avif", 8, 1), ("webp", 3, 2)])
def test_converted_photos_stand_upright(tmp_path, phone, suffix, orientation, turns):
    """As viewers show them (pillow-heif turns HEIC itself); JPEGs stay as they are stored."""
    phone[0x0112] = orientation
    for name in (f"a.{suffix}", "b.jpg"):
        picture(1).save(tmp_path / name, exif=phone, quality=95)
    stage(tmp_path, [f"a.{suffix}", "b.jpg"], tmp_path / "staged")
    lying = np.asarray(picture(1)).astype(int)
    upright = pycolmap.Bitmap.read(tmp_path / "staged/000000.png", True).to_array()
    assert np.abs(upright - np.rot90(lying, turns)).mean() < 8
    stored = pycolmap.Bitmap.read(tmp_path / "staged/000001.jpg", True).to_array()
    assert stored.shape == (120, 160, 3) and np.abs(stored - lying).mean() < 8
    camera = pycolmap.infer_camera_from_image(tmp_path / "staged/000000.png")
    assert camera.has_prior_focal_length and (camera.height, camera.width) == upright.shape[:2]


def test_transparency_and_16_bits_are_converted_as_they_are_seen(tmp_path):
    grey = np.linspace(0, 65535, 160 * 120).reshape(120, 160).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.jp2")
    picture(1).convert("RGBA").save(tmp_path / "b.webp", lossless=True)
    stage(tmp_path, ["a.jp2", "b.webp"], tmp_path / "staged")
    first, second = (pycolmap.Bitmap.read(tmp_path / f"staged/00000{index}.png", True).to_array() for index in (0, 1))
    assert np.abs(first[..., 0] - grey / 257.0).max() < 2
    np.testing.assert_array_equal(second, np.asarray(picture(1)))


def test_a_disk_without_links(tmp_path, monkeypatch):
    picture(1).save(tmp_path / "a.jpg")

    def refuse(self, target):
        raise OSError("no links here")

    monkeypatch.setattr("pathlib.Path.symlink_to", refuse)
    stage(tmp_path, ["a.jpg"], tmp_path / "staged")
    staged = tmp_path / "staged/000000.jpg"
    assert not staged.is_symlink() and staged.read_bytes() == (tmp_path / "a.jpg").read_bytes()


@pytest.mark.parametrize(
    ("names", "suffixes", "scene"),
    [
        (["a.jpg", "b/a.JPG", "ü c.jpeg"], [".jpg"] * 3, ["a.jpg", "b/a.JPG", "ü c.jpeg"]),  # as they are
        (["a.heic", "a.jpg"], [".jpg", ".jpg"], ["a.heic.jpg", "a.jpg"]),
        (["a.jpg", "a.heic"], [".jpg", ".jpg"], ["a.jpg", "a.heic.jpg"]),
        (["cam\\a.jpg", "cam/a.jpg"], [".jpg", ".jpg"], ["cam/a.jpg.jpg", "cam/a.jpg"]),
        (["..\\a.jpg", "C:\\x\\a.png"], [".jpg", ".png"], ["a.jpg", "C:/x/a.png"]),
        (["frame.0001", "frame.0002", "ohne"], [".jpg"] * 3, ["frame.0001.jpg", "frame.0002.jpg", "ohne.jpg"]),
        (["really.jpg", "a.jpg"], [".png", ".tif"], ["really.png", "a.tif"]),  # the content is another format's
        ([os.fsdecode(b"caf\xe9.jpg"), "caf\u00e9.jpg"], [".jpg"] * 2, ["caf\u00e9.jpg.jpg", "caf\u00e9.jpg"]),
        (["a\nb.jpg", "a\x7f.jpg"], [".jpg"] * 2, ["a_b.jpg", "a_.jpg"]),
        (["x" * 250 + ".heic"], [".jpg"], ["x" * 250 + ".jpg"]),
        (["x" * 251 + ".jpg", "x" * 251], [".jpg"] * 2, ["x" * 251 + ".jpg", "x" * 235 + "_2.jpg"]),
    ],
)
def test_names_in_the_scene(names, suffixes, scene):
    found = scene_names(names, suffixes)
    assert found == scene and len(set(found)) == len(names)
    assert all(len(os.fsencode(part)) <= LONGEST for name in found for part in name.split("/"))


def test_what_was_staged_is_remembered(tmp_path):
    photos = [Staged(os.fsdecode(b"caf\xe9 \\.jpg"), "000000.jpg", "café /.jpg", False)]
    left_out = [LeftOut("日本.txt", "not an image")]
    save_stage(tmp_path / "photos.json", photos, left_out)
    assert load_stage(tmp_path / "photos.json") == (photos, left_out)
