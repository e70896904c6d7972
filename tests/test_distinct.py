"""Every photograph once, under a name of its own."""

import logging
from dataclasses import replace

import numpy as np
import pycolmap
import pytest
from scene_files import look_at, ring

from datasets import DataError, Mask, View
from datasets.distinct import with_unique_names, without_repeats
from datasets.undistort import Shot

CAMERA = pycolmap.Camera(camera_id=1, model="PINHOLE", width=8, height=8, params=[8, 8, 4, 4])


def shot(name, path, pose=None, camera=CAMERA, mask=None):
    return Shot(View(name, path, 8, 8, np.eye(3), ring(4)[0] if pose is None else pose, 1, mask), camera)


def test_a_photograph_listed_twice_is_taken_once(tmp_path, caplog):
    poses = ring(4)
    shots = [shot(f"{i}.png", tmp_path / f"{i}.png", pose) for i, pose in enumerate(poses)]
    rounded = shot("1.png", tmp_path / "sub/../1.png", np.round(poses[1], 6))
    with caplog.at_level(logging.WARNING, logger="datasets"):
        kept = without_repeats([*shots, rounded, shots[3]], tmp_path / "model")
    assert kept == shots
    assert "2 images are listed more than once and are taken once: 1.png, 3.png" in caplog.text


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"pose": look_at((3.0, 0.1, 1.0))}, "poses"),
        ({"pose": ring(4)[0] @ np.diag([1.0, -1.0, -1.0, 1.0])}, "poses"),
        ({"camera": pycolmap.Camera(CAMERA.todict() | {"params": [9, 8, 4, 4]})}, "cameras"),
        ({"mask": "m.png"}, "masks"),
    ],
)
def test_a_photograph_has_one_pose_and_one_camera(tmp_path, other, what):
    shots = [shot(f"{i}.png", tmp_path / f"{i}.png", pose) for i, pose in enumerate(ring(4))]
    mask = Mask(tmp_path / other.pop("mask")) if "mask" in other else None
    with pytest.raises(DataError, match=rf"model: 0\.png is listed twice \(.*0\.png\), with two {what}; take the"):
        without_repeats([*shots, shot("0.png", tmp_path / "0.png", mask=mask, **other)], tmp_path / "model")
    with pytest.raises(DataError, match=r"0\.png and O\.png are one photograph"):
        without_repeats([*shots, shot("O.png", tmp_path / "0.png", mask=mask, **other)], tmp_path / "model")


def test_links_and_names_that_differ_by_case_are_photographs_of_their_own(tmp_path):
    (tmp_path / "a.png").write_bytes(b"1")
    (tmp_path / "A.png").write_bytes(b"2")
    (tmp_path / "b.png").symlink_to("a.png")
    shots = [shot(name, tmp_path / name, pose) for name, pose in zip(("a.png", "A.png", "b.png"), ring(3), strict=True)]
    assert without_repeats(shots, tmp_path) == shots


def test_names_of_several_photographs_get_numbers(tmp_path, caplog):
    files = [tmp_path / file for file in ("images/x.png", "x.png", "other/x.png", "x-2.png")]
    shots = [shot(name, file) for name, file in zip(["x.png", "x.png", "x.png", "x-2.png"], files, strict=True)]
    named = with_unique_names(shots)
    assert [one.view.name for one in named] == ["x.png", "x-3.png", "x-4.png", "x-2.png"]
    assert [one.view.image_path for one in named] == files
    assert "several images are called x.png; one of them is x-3.png from here on" in caplog.text


def test_a_photograph_for_training_and_testing_keeps_its_name(tmp_path):
    one, other = shot("a.png", tmp_path / "a.png"), shot("b.png", tmp_path / "b.png")
    again = Shot(replace(one.view), CAMERA)
    assert [named.view.name for named in with_unique_names([one, other, again])] == ["a.png", "b.png", "a.png"]
