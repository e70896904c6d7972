"""What a configuration makes of a scene."""

import logging

import numpy as np
import pytest
import torch
from demo_runs import demo_config
from scene_files import write_blender

from distwar_gs import views
from distwar_gs.config import Config, ConfigError
from distwar_gs.views import cameras_of, measured_images, open_scene, training_images

CPU = torch.device("cpu")


def test_cameras_keep_their_order_and_values(demo_scene, tmp_path):
    scene = open_scene(demo_config(demo_scene, tmp_path))
    cameras = cameras_of(scene.train, CPU)
    assert len(cameras) == 14
    for camera, view in zip(cameras, scene.train, strict=True):
        camera.check(count=1)
        assert camera.viewmats.dtype == camera.intrinsics.dtype == torch.float32
        assert (camera.width, camera.height) == (view.width, view.height)
        np.testing.assert_array_equal(camera.viewmats[0].numpy(), view.viewmat.astype(np.float32))
        np.testing.assert_array_equal(camera.Ks[0].numpy(), view.K.astype(np.float32))


def test_the_section_data_reaches_the_reader(demo_scene, tmp_path):
    def scene(**changes):
        return open_scene(demo_config(demo_scene, tmp_path, {f"data.{key}": value for key, value in changes.items()}))

    assert len(scene().test) == 2 and len(scene(test_every=4).test) == 4 and len(scene(eval=False).test) == 0
    assert scene().extent == 1.0 and scene(normalise=False).extent > 2.0
    assert scene(normalise=False).normalisation.scale == 1.0
    (tmp_path / "mine.txt").write_text("view_003\nview_007.png\n")
    held = scene(test_list=str(tmp_path / "mine.txt"))
    assert [view.name for view in held.test] == ["view_003.png", "view_007.png"] and len(held.train) == 14
    view = scene(resolution=45).train[0]
    assert (view.width, view.height) == (45, 34)


def test_a_scene_must_be_given():
    with pytest.raises(ConfigError, match="give the folder of the scene with -s"):
        open_scene(Config())


def test_what_was_found_is_logged(demo_scene, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        open_scene(demo_config(demo_scene, tmp_path))
    assert "14 training and 2 test views (every 8th image by name held out), 3,008 points" in caplog.text


@pytest.mark.parametrize(("background", "level"), [("black", 0), ("white", 255), ("random", 0)])
def test_transparent_images(tmp_path, background, level):
    config = demo_config(write_transparent(tmp_path), tmp_path / "run", {"data.background": background})
    scene = open_scene(config)
    seen = training_images(scene, config, CPU)[0]
    assert seen.shape == (20, 20, 4 if background == "random" else 3)
    if background != "random":
        assert (seen == level).all()
    measured = measured_images(scene.test, config)
    assert len(measured) == 2
    assert measured[0].shape == (20, 20, 3) and (measured[0] == level).all()
    assert views.evaluation_background(config) == (level / 255,) * 3


def write_transparent(tmp_path):
    """A Blender scene whose images are transparent everywhere: grey with alpha 0."""
    from PIL import Image

    folder = write_blender(tmp_path / "scene")
    for path in folder.rglob("*.png"):
        Image.new("RGBA", (20, 20), (128, 128, 128, 0)).save(path)
    return folder
