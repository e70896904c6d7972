import logging

import numpy as np
import pytest
from PIL import Image
from scene_files import write_colmap, write_image

from datasets import load_scene
from datasets.resize import target_size

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
    with caplog.at_level(logging.WARNING, logger="datasets"):
        scene = load_scene(source, **ALL)
    assert [view.width for view in scene.train] == [1600, 850, 1600, 1600]
    assert scene.train[1].image_path == source / "images/b.png"
    assert "-r 1" in caplog.text
    assert scene.image_source == "images resized to 1600 px wide (Lanczos)"
    assert load_scene(source, resolution=1, **ALL).train[0].width == 1700


def test_undistorted_then_resized(tmp_path):
    source = write_colmap(tmp_path, model="SIMPLE_RADIAL", params=(50, 30, 17, 0.1))
    whole, half = (load_scene(source, resolution=r, **ALL) for r in (1, 2))
    assert half.image_source == "images undistorted from SIMPLE_RADIAL resized to 1/2 (Lanczos)"
    scale = np.array([half.train[0].width / whole.train[0].width, half.train[0].height / whole.train[0].height, 1.0])
    np.testing.assert_allclose(half.train[0].K, scale[:, None] * whole.train[0].K)
