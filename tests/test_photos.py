"""Which files of a folder are photos, and what is said of those that are none."""

import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.errors import DataError
from distwar_gs.capture import decoding
from distwar_gs.capture.photos import LeftOut, check_enough, check_photos, find_photos

RNG = np.random.default_rng(0)


def picture(seed: int = 0, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Soft noise, another for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def jpeg(seed: int = 0, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, format="JPEG", **options)
    return buffer.getvalue()


def write(folder: Path, **files: bytes) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def usable(folder: Path, out: Path | None = None) -> tuple[list[str], dict[str, str]]:
    """What both looks at a folder find."""
    found, left_out = find_photos(folder, out)
    names, unusable = check_photos(folder, found)
    return names, {each.name: each.reason for each in [*left_out, *unusable]}


def test_photos_are_told_by_content_and_sorted_by_folders(tmp_path):
    write(
        tmp_path, **{"b.JPG": jpeg(1), "a/z.jpg": jpeg(2), "a b.jpg": jpeg(3), "frame.0002": jpeg(4), "ohne": jpeg(5)}
    )
    picture(6).save(tmp_path / "really.jpg", format="PNG")
    picture(7).save(tmp_path / "c.webp")
    picture(8).convert("CMYK").save(tmp_path / "d.tif")
    assert usable(tmp_path) == (
        ["a/z.jpg", "a b.jpg", "b.JPG", "c.webp", "d.tif", "frame.0002", "ohne", "really.jpg"], {},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("notes.txt", b"words", "not an image"),
        ("IMG_1.AAE", b"<?xml version='1.0'?>", "not an image"),
        ("film.MOV", b"\0\0\0\x18ftypqt  " + b"\0" * 40, "a video: give it instead of the folder"),
        ("IMG_1.DNG", b"II*\0\x08\0\0\0", "a camera's raw file: develop it to JPEG, PNG or TIFF"),
        ("IMG_1.cr3", b"\0\0\0\x18ftypcrx ", "a camera's raw file: develop it to JPEG, PNG or TIFF"),
        ("broken.jpg", b"no image", "cannot be read as an image"),
        ("empty.png", b"", "cannot be read as an image: empty"),
        ("page.jpeg", b"<html>404</html>", "cannot be read as an image"),
        ("._a.jpg", b"\0\5\x16\7", "a hidden file"),
        ("cut.jpg", jpeg(9)[:-900], "damaged or cut short (image file is truncated"),
        (".thumbnails/a.jpg", jpeg(1), None),
        ("__MACOSX/x/._a.jpg", b"", None),
    ],
)
def test_files_that_are_no_photos(tmp_path, name, content, reason):
    write(tmp_path, **{"a.jpg": jpeg(1), "b.jpg": jpeg(2), name: content})
    names, left_out = usable(tmp_path)
    assert names == ["a.jpg", "b.jpg"]
    if reason is None:
        assert left_out == {f"{name.partition('/')[0]}/": "a hidden folder, with 1 files"}
    else:
        assert list(left_out) == [name] and left_out[name].startswith(reason)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp", "avif", "heic"])
def test_files_cut_short_are_noticed_in_every_format(tmp_path, suffix):
    if suffix == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    for index in range(2):
        noise = RNG.integers(0, 256, (120, 160, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{index}.{suffix}")
    whole = (tmp_path / f"1.{suffix}").read_bytes()
    (tmp_path / f"1.{suffix}").write_bytes(whole[: len(whole) // 2])
    names, left_out = usable(tmp_path)
    assert names == [f"0.{suffix}"] and list(left_out) == [f"1.{suffix}"]
    assert re.match("damaged or cut short|cannot be read as an image", left_out[f"1.{suffix}"])


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"hevx"])
def test_heic_without_pillow_heif(tmp_path, monkeypatch, brand):
    monkeypatch.setattr(decoding, "_formats", lambda: ("PNG", "JPEG"))
    (tmp_path / "a.HEIC").write_bytes(b"\0\0\0\x24ftyp" + brand + b"\0" * 50)
    assert usable(tmp_path) == ([], {"a.HEIC": "a HEIC photo: pip install pillow-heif, or convert it to JPEG"})


@pytest.mark.parametrize(
    ("size", "kept"), [((160, 63), False), ((40, 30), False), ((64, 64), True), ((20, 400), False)]
)
def test_small_photos(tmp_path, size, kept):
    picture(0, size).save(tmp_path / "a.png")
    names, left_out = usable(tmp_path)
    assert names == (["a.png"] if kept else [])
    if not kept:
        assert left_out == {"a.png": f"too small ({size[0]}x{size[1]}, each side needs at least 64 pixels)"}


def test_duplicates_of_equal_bytes_and_of_equal_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "edited"
    write(tmp_path, **{"a.jpg": jpeg(1), "b (1).jpg": jpeg(1), "sub/c.jpg": jpeg(1, exif=exif), "d.jpg": jpeg(2)})
    names, left_out = usable(tmp_path)
    assert names == ["a.jpg", "d.jpg"]
    assert left_out == {"b (1).jpg": "a duplicate of a.jpg", "sub/c.jpg": "a duplicate of a.jpg"}


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        (("IMG_1.jpg", (160, 120)), ("img_1.png", (160, 120)), "IMG_1.jpg"),  # one picture, two formats
        (("images/a.jpg", (160, 120)), ("images_2/a.jpg", (80, 64)), None),  # another shape: another picture
        (("images_2/a.jpg", (160, 120)), ("images/a.jpg", (320, 240)), "images/a.jpg"),  # the larger one
        (("a.avif", (160, 120)), ("a.webp", (320, 240)), "a.webp"),
        (("left/a.jpg", (160, 120)), ("right/a.jpg", (160, 120)), None),  # a stereo pair looks alike
        (("a.jpg", (160, 120)), ("b.png", (160, 120)), None),  # other names
    ],
)
def test_one_picture_in_two_formats_or_sizes(tmp_path, first, second, kept):
    for index, (name, size) in enumerate((first, second)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        image = picture(1, (320, 240)).resize(size, Image.Resampling.LANCZOS)
        image.putpixel((index, 0), (0, 0, 0))  # never equal pixels
        image.save(path, quality=90)
    names, left_out = usable(tmp_path)
    both = {first[0], second[0]}
    assert set(names) == ({kept} if kept else both)
    assert left_out == ({name: f"a duplicate of {kept}" for name in both - {kept}} if kept else {})


def test_turned_photos_are_compared_upright(tmp_path):
    """A phone's JPEG lies on its side and says so; the same as PNG stands upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(1).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", exif=exif, quality=95)
    picture(1).save(tmp_path / "a.png")
    assert usable(tmp_path)[1] == {"a.png": "a duplicate of a.jpg"}


def test_different_pictures_of_one_name_stay(tmp_path):
    for folder in ("cam1", "cam2", "cam3"):
        (tmp_path / folder).mkdir()
        picture(int(folder[-1])).save(tmp_path / folder / f"IMG_1.{'png' if folder == 'cam2' else 'jpg'}")
    assert len(usable(tmp_path)[0]) == 3


def test_the_scene_within_the_folder_is_passed_over(tmp_path):
    write(
        tmp_path, **{"a.jpg": jpeg(1), "out/images/a.jpg": jpeg(1), "out/sfm/state.json": b"{}", "b/out/c.jpg": jpeg(2)}
    )
    assert usable(tmp_path, tmp_path / "out") == (["a.jpg", "b/out/c.jpg"], {})


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    write(tmp_path, **{"a.jpg": jpeg(1)})
    (tmp_path / "linked.jpg").symlink_to(tmp_path / "a.jpg")
    (tmp_path / "again").symlink_to(tmp_path)
    names, left_out = usable(tmp_path)
    assert names == ["a.jpg"]
    assert left_out == {
        "pipe.jpg": "not a regular file", "gone.jpg": "not a regular file", "linked.jpg": "a duplicate of a.jpg",
        "again/": "a link to a folder, which is not followed",
    }  # fmt: skip


def test_too_few_photos_are_refused_with_what_was_left_out():
    left_out = [LeftOut(f"{index}.heic", "a HEIC photo: pip install pillow-heif") for index in range(7)]
    message = (
        r"photos: 2 usable photos, at least 3 are needed; left out: 0\.heic: a HEIC photo: pip install pillow-heif; .*"
        "; and 2 more"
    )
    with pytest.raises(DataError, match=message):
        check_enough(Path("photos"), ["a.jpg", "b.jpg"], left_out)
    check_enough(Path("photos"), ["a.jpg", "b.jpg", "c.jpg"], left_out)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("ä b.jpg", "ä b.jpg"), ("a\x1b[2J.jpg", r"a\x1b[2J.jpg"), ("a\nb", r"a\nb"), ("\udce9", r"\udce9")],
)
def test_names_are_shown_without_control_characters(name, shown):
    assert str(LeftOut(name, "empty")) == f"left out: {shown}: empty"


def test_the_docs_have_the_reasons():
    """docs/data.md lists what is said of files that are left out."""
    docs = (Path(__file__).parents[1] / "docs/data.md").read_text(encoding="utf-8")
    rows = next(mark for mark in test_files_that_are_no_photos.pytestmark if mark.name == "parametrize").args[1]
    reasons = {reason.partition(":")[0].partition(" (")[0] for _, _, reason in rows if reason}
    assert len(reasons) >= 6 and [reason for reason in sorted(reasons) if reason not in docs] == []
