"""Bounds, and the crop box as the live viewer saves it."""

import json

import numpy as np
import pytest
import torch

from distwar_datasets import Normalisation
from distwar_gs.cleaning.boxes import bounds_box, is_inside, read_crop
from distwar_gs.system.errors import ConfigError
from distwar_gs.viewing.live.crop import rows_inside, save_crop
from distwar_gs.viewing.live.orders import CropBox

TURN = np.array([[0.6, 0.8, 0.0], [-0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])


def test_bounds_are_between_two_corners():
    points = np.array([[0.5, 0.0, 2.9], [0.5, 0.0, 3.1], [1.0, -1.0, 3.0], [-0.1, 0.0, 2.0]])
    assert is_inside(bounds_box([0, -1, 2, 1, 1, 3]), points).tolist() == [True, False, True, False]


@pytest.mark.parametrize("numbers", [[0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, float("nan")], [5, 0, 0, 1, 1, 1]])
def test_no_box(numbers):
    with pytest.raises(ConfigError, match=r"--bounds .*: no box; give X0 Y0 Z0 X1 Y1 Z1 with X0 < X1"):
        bounds_box(numbers)


@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (452310.0, 5411950.0, 265.0)], ids=["near", "UTM"])
def test_a_box_that_the_viewer_saved_keeps_what_the_viewer_draws(tmp_path, shift):
    """Its file is in the frame of the input, also far from the origin."""
    frame = Normalisation(np.array(shift), 0.25)
    box = CropBox(np.array([0.1, 0.2, -0.3]), np.array([1.0, 0.6, 2.0]), TURN)
    means = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    drawn = rows_inside(box, means)
    assert 20 < int(drawn.sum()) < 400
    inside = is_inside(read_crop(save_crop(tmp_path, box, frame)), frame.undo_points(means.double().numpy()))
    assert inside.tolist() == drawn.tolist()


SOUND = {"center": [0, 0, 0], "size": [1, 1, 1], "axes": np.eye(3).tolist()}


@pytest.mark.parametrize(
    "content",
    [
        "404: not found", "[]", "{}", "[" * 9000, json.dumps(SOUND | {"size": [1, 1, 0]}),
        json.dumps(SOUND | {"axes": [[1, 1, 0], [0, 1, 0], [0, 0, 1]]}), json.dumps(SOUND | {"center": [0, 0]}),
        json.dumps(SOUND | {"center": ["x", 0, 0]}), json.dumps(SOUND | {"center": [float("inf"), 0, 0]}),
    ],
)  # fmt: skip
def test_a_file_without_a_box(tmp_path, content):
    (tmp_path / "box.json").write_text(content)
    with pytest.raises(ConfigError, match=r"box.json: holds no crop box \(.*\); save it again with the live viewer"):
        read_crop(tmp_path / "box.json")


def test_no_file(tmp_path):
    with pytest.raises(
        ConfigError, match=r"none.json: not there; the live viewer saves a crop box as viewer_crop.json"
    ):
        read_crop(tmp_path / "none.json")
