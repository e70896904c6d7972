"""Which file is the photograph that a dataset names."""

import logging
import os
import unicodedata

import numpy as np
import pytest
from PIL import Image
from scene_files import write_image

from datasets import DataError
from datasets.pairing import ImageFinder, image_files, pair_by_order, pair_images, pair_names_by_order, same_shape

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a.png", "a.png"),
        ("./left/a.png", "left/a.png"),
        ("left\\a.png", "left/a.png"),
        ("left\\a.png", "left\\a.png"),
        ("a.png", "a.JPG"),
        ("a", "a.Tif"),
        ("a.JPEG", "a.jpeg"),
        ("A.png", "a.PNG"),
        ("Left/a.png", "left/a.png"),
        (COMPOSED, DECOMPOSED),
        (DECOMPOSED, COMPOSED),
        ("a.CR2", "a.jpg"),
        ("frame.0001", "frame.0001"),
        ("frame.0001", "frame.0001.png"),
        ("frame.0001.png", "frame.0001.jpg"),
        ("a.png ", "a.png"),
        (" #1 'x'.png", " #1 'x'.png"),
        ("images/a.png", "a.png"),
        ("../left/a.png", "left/a.png"),
        ("/elsewhere/scene/images/left/a.png", "left/a.png"),
        ("C:\\Users\\me\\scene\\images\\left\\a.png", "left/a.jpg"),
        ("\\\\server\\share\\images\\a.png", "a.png"),
    ],
)
def test_found(tmp_path, name, file):
    root = touch(tmp_path / "images", file, "frame.0002.png", "b.png")
    assert ImageFinder(root).find(name) == root / file


@pytest.mark.parametrize(
    "name", ["c.png", "frame.0001", "left/a.png", "", ".", "..", "x" * 300, "a\0b", "../c.png", "/", "sub", "sub/"]
)
def test_not_found(tmp_path, name):
    root = touch(tmp_path / "images", "a.png", "frame.0002.png", "frame.png", "sub/b.png")
    assert ImageFinder(root).find(name) is None


def test_absolute_paths_and_paths_that_lead_up(tmp_path):
    root = touch(tmp_path / "meta", "a.png")
    other = touch(tmp_path / "images", "b.JPG")
    finder = ImageFinder(root)
    assert finder.find(f"{other}/b.JPG") == other / "b.JPG" == finder.find(f"{other}/b")
    assert finder.find("../images/b.png").resolve() == other / "b.JPG"


def test_the_file_called_just_so_comes_first(tmp_path):
    root = touch(tmp_path, "A.png", "a.png", "a.jpg", "B.jpg", "b.jpg")
    found = {name: ImageFinder(root).find(name).name for name in ("a.png", "A.png", "A.bmp", "b.png")}
    assert found == {"a.png": "a.png", "A.png": "A.png", "A.bmp": "A.png", "b.png": "b.jpg"}


@pytest.mark.parametrize(
    ("name", "files"),
    [("a.bmp", ("a.jpg", "a.png")), ("a.png", ("A.png", "a.PNG")), ("Left/a.png", ("left/a.png", "LEFT/a.png"))],
)
def test_two_files_could_be_meant(tmp_path, name, files):
    with pytest.raises(DataError, match="both .* and .* could be image"):
        ImageFinder(touch(tmp_path, *files)).find(name)


def test_no_file_is_that_of_two_names(tmp_path):
    touch(tmp_path, "a.jpg")
    with pytest.raises(DataError, match=r"1 of 2 images are missing: a\.png"):
        pair_images(tmp_path, ["a.jpg", "a.png"])
    with pytest.raises(DataError, match=r"a\.jpg could be image a\.png or a\.tif"):
        pair_images(tmp_path, ["a.png", "a.tif"])
    spelled = pair_images(tmp_path, ["a.jpg", "./a.jpg"])
    assert set(spelled.values()) == {tmp_path / "a.jpg"}


def test_names_on_disk_that_are_not_utf8_are_pointed_out(tmp_path):
    open(os.fsencode(tmp_path) + b"/\xe9.png", "w").close()
    with pytest.raises(DataError, match=r"1 of 1 images are missing: é\.png; .*names are not UTF-8"):
        pair_images(tmp_path, ["é.png"])


def test_images_are_in_the_order_of_their_paths(tmp_path):
    touch(tmp_path, "b.png", "a/2.JPG", "a/1.heic", ".hidden.png", "a/notes.txt", "B.png")
    assert [path.relative_to(tmp_path).as_posix() for path in image_files(tmp_path)] == [
        "B.png", "a/1.heic", "a/2.JPG", "b.png",
    ]  # fmt: skip


def test_shapes():
    assert same_shape((4032, 3024), (1008, 756)) and same_shape((66, 40), (17, 10))
    assert not same_shape((64, 40), (40, 64)) and not same_shape((96, 64), (60, 64))


# ----------------------------------------------------------------------------------------------- copies of other names


def photographs(folder, names, seed=0):
    """Smooth random pictures, so that a smaller copy still shows the same."""
    folder.mkdir(parents=True)
    for name, coarse in zip(names, np.random.default_rng(seed).integers(0, 256, (len(names), 4, 6, 3)), strict=True):
        Image.fromarray(coarse.astype(np.uint8)).resize((96, 64), Image.Resampling.BICUBIC).save(folder / name)
    return [folder / name for name in names]


def copies(photos, folder, name="image{:03d}.png"):
    folder.mkdir()
    for index, photo in enumerate(photos):
        Image.open(photo).resize((24, 16), Image.Resampling.LANCZOS).convert("RGB").save(folder / name.format(index))
    return folder


def test_copies_pair_in_the_order_of_the_photographs(tmp_path, caplog):
    photos = photographs(tmp_path / "images", [f"IMG_{i}.JPG" for i in (4026, 4027, 4031, 4040)])
    small = copies(photos, tmp_path / "images_4")
    with caplog.at_level(logging.INFO, logger="datasets"):
        pairs = pair_by_order(small, {"second": photos[1], "last": photos[3]}, tmp_path / "images")
    assert pairs == {"second": small / "image001.png", "last": small / "image003.png"}
    assert "paired in their order" in caplog.text


def test_copies_in_another_order_are_noticed(tmp_path):
    """Numbers without zeros: the copies were made in the order 1, 2, 10, by names it is 1, 10, 2."""
    photos = photographs(tmp_path / "images", ["1.png", "2.png", "10.png"])
    small = copies(photos, tmp_path / "images_4")
    with pytest.raises(DataError, match=r"image002\.png does not show what 2\.png shows"):
        pair_by_order(small, {path.name: path for path in photos}, tmp_path / "images")


def test_copies_that_do_not_belong(tmp_path):
    photos = photographs(tmp_path / "images", ["a.png", "b.png", "c.png"])
    originals = {path.name: path for path in photos}
    with pytest.raises(DataError, match="it holds 2 images, not 3"):
        pair_by_order(copies(photos[:2], tmp_path / "images_2"), originals, tmp_path / "images")
    small = copies(photos, tmp_path / "images_4")
    write_image(small / "image001.png", 16, 24)
    with pytest.raises(DataError, match=r"image001\.png has another shape than b\.png"):
        pair_by_order(small, originals, tmp_path / "images")


def test_where_only_copies_are_there_their_order_must_be_clear(tmp_path, caplog):
    small = copies(photographs(tmp_path / "photos", ["x.png", "y.png", "z.png"]), tmp_path / "images_4")
    sizes = {name: (96, 64) for name in ("b.JPG", "a.JPG", "c.JPG")}
    pairs = pair_names_by_order(small, sizes)
    assert {name: path.name for name, path in pairs.items()} == {
        "a.JPG": "image000.png", "b.JPG": "image001.png", "c.JPG": "image002.png",
    }  # fmt: skip
    assert "paired in their order" in caplog.text
    for names, why in (("1 2 10", "sort otherwise"), ("a B c", "sort otherwise"), ("a b", "holds 3 images, not 2")):
        with pytest.raises(DataError, match=why):
            pair_names_by_order(small, dict.fromkeys(names.split(), (96, 64)))
    with pytest.raises(DataError, match="another shape than the camera of a"):
        pair_names_by_order(small, dict.fromkeys("abc", (64, 96)))
