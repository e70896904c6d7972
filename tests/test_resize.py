import logging

import numpy as np
import pytest
from PIL import Image
from scene_files import write_colmap, write_image

from distwar_datasets import DataError, load_scene
from distwar_datasets.pixels.resize import target_size

ALL = {"test_every": 0, "normalise": False}


@pytest.mark.parametrize(
    ("size", "resolution", "expected"),
    [
        ((4000, 3000), -1, (1600, 1200)),
        ((1600, 3000), -1, (1600, 3000)),
        ((4000, 3000), 1, (4000, 3000)),
        ((4946, 3286), 4, (1236, 822)),
        ((400, 300), 100, (100, 75)),
        ((90, 300), 100, (90, 300)),
        ((4946, 3286), 3, (1649, 1095)),
        ((4946, 3286), 16, (309, 205)),
        ((4946, 3286), 17, (17, 11)),
        ((3, 1), 8, (1, 1)),
    ],
)
def test_target_size(size, resolution, expected):
    assert target_size(*size, resolution) == expected


def test_halved_images_are_cached_and_cameras_scaled(tmp_path):
    source = write_colmap(tmp_path, size=(65, 40))
    scene = load_scene(source, resolution=2, **ALL)
    view = scene.train[3]
    assert Image.open(view.image_path).size == (view.width, view.height) == (32, 20)
    np.testing.assert_array_equal(np.asarray(Image.open(view.image_path)), 30)  # the picture that belongs to d.png
    np.testing.assert_allclose(view.K, [[50 * 32 / 65, 0, 30 * 32 / 65], [0, 25.5, 8.5], [0, 0, 1]])
    assert scene.image_source == "images resized to 1/2 (Lanczos)"
    assert view.image_path.parent.parent == source / ".distwar_cache"
    stamp = view.image_path.stat().st_mtime_ns
    assert load_scene(source, resolution=2, **ALL).train[3].image_path.stat().st_mtime_ns == stamp


def test_automatic_resolution_warns_and_keeps_small_images(tmp_path, caplog):
    source = write_colmap(tmp_path, size=(1700, 10), params=(1000, 1000, 850, 5))
    write_image(source / "images/b.png", 850, 5)
    with caplog.at_level(logging.WARNING, logger="distwar_datasets"):
        scene = load_scene(source, **ALL)
    assert [view.width for view in scene.train] == [1600, 850, 1600, 1600]
    assert scene.train[1].image_path == source / "images/b.png"
    assert "-r 1" in caplog.text
    assert scene.image_source == "images resized to 1600 px wide (Lanczos)"
    assert load_scene(source, resolution=1, **ALL).train[0].width == 1700


def test_undistorted_then_resized(tmp_path):
    source = write_colmap(tmp_path, model="SIMPLE_RADIAL", params=(50, 30, 17, 0.1))
    whole, half = (load_scene(source, resolution=r, undistort="always", **ALL) for r in (1, 2))
    assert half.image_source == "images undistorted from SIMPLE_RADIAL resized to 1/2 (Lanczos)"
    scale = np.array([half.train[0].width / whole.train[0].width, half.train[0].height / whole.train[0].height, 1.0])
    np.testing.assert_allclose(half.train[0].K, scale[:, None] * whole.train[0].K)


@pytest.mark.parametrize("divisor", [3, 5, 6, 12])
def test_every_small_number_divides(tmp_path, divisor):
    """As gsplat's data_factor does; 3DGS took 3 for a width of 3 pixels."""
    source = write_colmap(tmp_path, size=(240, 120), params=(150, 153, 90, 50))
    view = load_scene(source, resolution=divisor, **ALL).train[3]
    assert Image.open(view.image_path).size == (view.width, view.height) == (240 // divisor, 120 // divisor)
    np.testing.assert_array_equal(np.asarray(Image.open(view.image_path)), 30)
    np.testing.assert_allclose(np.diag(view.K), [150 / divisor, 153 / divisor, 1])


@pytest.mark.parametrize("divisor", [2, 3, 7])
def test_a_folder_of_divided_images_is_used(tmp_path, divisor):
    source = write_colmap(tmp_path, size=(140, 84))
    for name in "abcd":
        write_image(source / f"images_{divisor}/{name}.jpg", 140 // divisor, 84 // divisor)
    scene = load_scene(source, resolution=divisor, **ALL)
    assert scene.image_source == f"images_{divisor}" and scene.train[0].width == 140 // divisor
    assert scene.train[0].image_path == source / f"images_{divisor}/a.jpg"


@pytest.mark.parametrize(
    ("resolution", "words"),
    [
        (8, "divides a.png, 64 pixels wide, to 8 pixels; divide by 4 at most, or give a width in pixels"),
        (5, "divides a.png, 64 pixels wide, to 13 pixels; divide by 4 at most"),
        (0, "use 1 to 16 to divide, a larger number for a width"),
        (-3, "use 1 to 16 to divide, a larger number for a width"),
    ],
)
def test_a_resolution_that_cannot_be_meant_is_refused(tmp_path, resolution, words):
    with pytest.raises(DataError, match=f"resolution {resolution}: {words}"):
        load_scene(write_colmap(tmp_path), resolution=resolution, **ALL)


def test_photos_that_are_small_already_are_left_alone(tmp_path):
    source = write_colmap(tmp_path, size=(12, 8), params=(10, 10, 6, 4))
    assert {load_scene(source, resolution=r, **ALL).train[0].width for r in (1, -1, 17, 80)} == {12}
    with pytest.raises(DataError, match="12 pixels wide, to 6 pixels; keep its size with 1"):
        load_scene(source, resolution=2, **ALL)
