import logging
import os
from functools import partial

import numpy as np
import pytest
from PIL import Image
from scene_files import write_colmap

from distwar_datasets import DataError, load_scene
from distwar_datasets.pixels.masks import decode_mask

load_undistorted = partial(load_scene, undistort="always")
RADIAL = {"model": "SIMPLE_RADIAL", "params": (50, 30, 17, 0.1)}


@pytest.fixture(autouse=True)
def home_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "distwar-gs"


def image_paths(scene):
    return [view.image_path for view in scene.train + scene.test]


def test_cache_is_used_again_and_said_once(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="distwar_datasets")
    source = write_colmap(tmp_path / "scene", **RADIAL)
    first = image_paths(load_undistorted(source))
    assert caplog.text.count("writing 4 images to") == 1
    stamps = [path.stat().st_mtime_ns for path in first]
    second = image_paths(load_undistorted(source))
    assert (first, stamps) == (second, [path.stat().st_mtime_ns for path in second])
    assert caplog.text.count("writing 4 images to") == 1
    cache = source / ".distwar_cache"
    assert all(cache in path.parents for path in first)
    assert len(list(cache.iterdir())) == 1  # nothing temporary is left


def test_changed_image_or_camera_makes_a_new_cache(tmp_path):
    source = write_colmap(tmp_path / "scene", **RADIAL)
    folder = image_paths(load_undistorted(source))[0].parent
    os.utime(source / "images/a.png", ns=(1, 1))
    touched = image_paths(load_undistorted(source))[0].parent
    other = write_colmap(tmp_path / "other", model="SIMPLE_RADIAL", params=(50, 30, 17, 0.11))
    assert len({folder.name, touched.name, image_paths(load_undistorted(other))[0].parent.name}) == 3


def test_cache_that_lost_a_file_is_made_again(tmp_path):
    source = write_colmap(tmp_path / "scene", **RADIAL)
    lost = image_paths(load_undistorted(source))[1]
    lost.unlink()
    assert image_paths(load_undistorted(source))[1] == lost
    assert lost.is_file()


def test_read_only_source_uses_the_home_cache(tmp_path, home_cache):
    source = write_colmap(tmp_path / "scene", **RADIAL)
    (source / ".distwar_cache").write_text("a file where the folder should be cannot be written into, even by root")
    paths = image_paths(load_undistorted(source))
    assert all(home_cache in path.parents and path.is_file() for path in paths)
    assert image_paths(load_undistorted(source)) == paths


def test_no_place_for_the_cache(tmp_path, home_cache):
    source = write_colmap(tmp_path / "scene", **RADIAL)
    (source / ".distwar_cache").touch()
    home_cache.parent.touch()
    with pytest.raises(DataError, match="neither can be written"):
        load_undistorted(source)


def test_damaged_photo_leaves_no_half_made_cache(tmp_path):
    source = write_colmap(tmp_path / "scene", **RADIAL)
    photo = source / "images/c.png"
    photo.write_bytes(photo.read_bytes()[:60])  # the header is whole
    with pytest.raises(DataError, match=r"c\.png: cannot be read"):
        load_undistorted(source)
    assert list((source / ".distwar_cache").iterdir()) == []


def test_alpha_is_undistorted_too(tmp_path):
    source = write_colmap(tmp_path / "scene", names=["a.png"], **RADIAL)
    rgba = np.full((40, 64, 4), 200, np.uint8)
    rgba[:, :32, 3], rgba[:, 32:, 3] = 0, 255
    Image.fromarray(rgba).save(source / "images/a.png")
    alpha = np.asarray(Image.open(load_undistorted(source, test_every=0).train[0].image_path))[..., 3]
    assert (alpha[:, :28].max(), alpha[:, 36:].min()) == (0, 255)


NAMES = ["a.mask", "a", "A", "é.png", "e\u0301.png", f"{'x' * 247}.png", "\x1b[2J\n.png"]


def test_images_and_masks_of_names_that_meet_are_files_of_their_own(tmp_path):
    """Seven photographs of seven levels, each with a mask of its own: all are there after undistortion, each once."""
    source = write_colmap(tmp_path, names=NAMES, images=None, **RADIAL)
    for index, name in enumerate(NAMES):
        for folder in ("images", "masks"):
            (source / folder).mkdir(exist_ok=True)
            kept = np.tile(np.arange(64) < 8 * (index + 1), (40, 1))
            pixels = kept * np.uint8(255) if folder == "masks" else np.full((40, 64), 30 * (index + 1), np.uint8)
            Image.fromarray(pixels).save(source / folder / name, "PNG")
    for resolution in (1, 2):
        named = {view.name: view for view in load_undistorted(source, test_every=0, resolution=resolution).train}
        assert sorted(named) == sorted(NAMES)
        views = [named[name] for name in NAMES]
        levels = [np.asarray(Image.open(view.image_path)) for view in views]
        assert [(level.min(), level.max()) for level in levels] == [(30 * i, 30 * i) for i in range(1, 8)]
        kept = [decode_mask(view.mask, (view.width, view.height)).mean() for view in views]
        assert np.diff(kept).min() > 0.05, "each next mask keeps an eighth more"
    files = [path for path in (source / ".distwar_cache").rglob("*") if path.is_file()]
    assert len(files) == 3 * len(NAMES) and all(path.name.isprintable() for path in files)
