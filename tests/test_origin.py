"""Where float32 is too coarse, which round offset is taken off there, and scenes that are shifted by it."""

import json

import numpy as np
import pytest
from moved_scenes import PLACES, camera_places, write_moved

from datasets import load_scene, near_origin, needs_origin, round_origin, scene_origin

FAR = [
    ((452310.0, 5411950.0, 263.0), 3.0, 0.0),
    ((0.0, 0.0, -6.3e6), 3.0, 0.0),
    ((-1e5, 0.0, 0.0), 100.0, 0.0),
    ((1000.0, 0.0, 0.0), 0.1, 0.0),
    ((452.3, 5411.9, 0.2), 0.003, 0.0),
    ((6.3e6, 0.0, 0.0), 1e5, 1e6),  # from a satellite
    ((1e300, 0.0, 0.0), 1.0, 0.0),
]
NEAR = [
    ((0.0, 0.0, 0.0), 1e-9, 0.0),
    ((10.0, -20.0, 3.0), 3.0, 4000.0),
    ((1000.0, 1000.0, 0.0), 20.0, 1500.0),
    ((3.0, 0.0, 0.0), 0.1, 1500.0),
    ((5e5, 0.0, 1e4), 1e4, 8000.0),
    ((6.3e6, 0.0, 0.0), 1e5, 0.0),
]


@pytest.mark.parametrize(("centre", "extent", "focal"), FAR)
def test_float32_is_too_coarse(centre, extent, focal):
    assert needs_origin(np.array(centre), extent, focal)


@pytest.mark.parametrize(("centre", "extent", "focal"), NEAR)
def test_float32_is_fine_enough(centre, extent, focal):
    assert not needs_origin(np.array(centre), extent, focal)


@pytest.mark.parametrize("extent", [1e-6, 0.003, 0.05, 1.0, 3.2, 811.0, 2e4])
@pytest.mark.parametrize("centre", [centre for centre, _, _ in FAR[:5]])
def test_the_offset_is_round_and_leaves_float32_fine_enough(centre, extent):
    origin = round_origin(np.array(centre), extent)
    left = np.array(centre) - origin
    assert np.abs(left).max() <= max(0.5, 0.5 * extent) and not needs_origin(left, extent, 4096.0)
    assert np.array_equal(np.array([float(f"{value:.17g}") for value in origin]), origin)
    if extent > 1 / 64:
        assert np.array_equal(origin, np.round(origin)), "whole units"
    assert not np.signbit(round_origin(np.array([-0.1, 0.0, 0.0]), 3.0)).any()


@pytest.mark.parametrize("place", PLACES)
def test_a_far_scene_has_an_origin_amidst_its_cameras(demo_scene, tmp_path, place):
    scene = load_scene(write_moved(demo_scene, tmp_path / "far", *PLACES[place]))
    origin, there = scene_origin(scene), np.stack(list(camera_places(tmp_path / "far").values()))
    assert origin.any() and (np.abs(origin - np.median(there, axis=0)) <= max(0.5, 2.0 * PLACES[place][1])).all()


def test_ordinary_scenes_have_none_unless_asked_for(demo_scene, tmp_path):
    for number, (offset, scale) in enumerate([((0, 0, 0), 1.0), ((50.0, -20, 7), 1.0), ((0, 0, 0), 1e4)]):
        scene = load_scene(write_moved(demo_scene, tmp_path / f"{number}", offset, scale))
        assert not scene_origin(scene).any()
        assert near_origin(scene) is scene
    assert scene_origin(load_scene(tmp_path / "1"), always=True).tolist() == [50.0, -20.0, 8.0]


@pytest.mark.parametrize("place", ["UTM", "ECEF", "a hand wide"])
def test_a_scene_without_normalisation_is_shifted_only(demo_scene, tmp_path, place):
    offset, scale = PLACES[place]
    write_moved(demo_scene, tmp_path / "far", offset, scale)
    far = load_scene(tmp_path / "far", normalise=False)
    near = near_origin(far)
    assert near.normalisation.scale == 1.0 and np.array_equal(near.normalisation.shift, scene_origin(far))
    assert near.extent == far.extent
    for before, after in zip((*far.train, *far.test), (*near.train, *near.test), strict=True):
        np.testing.assert_allclose(after.center + near.normalisation.shift, before.center, atol=1e-7)
    np.testing.assert_allclose(
        near.points.positions + near.normalisation.shift, far.points.positions, rtol=0, atol=1e-8
    )


@pytest.mark.parametrize("digits", [3, 4, 6, 7, 9, 10])
@pytest.mark.parametrize("place", ["UTM", "ECEF", "a kilometre wide"])
def test_rotations_of_a_few_digits_do_not_move_cameras_that_are_far_away(demo_scene, tmp_path, place, digits):
    """The extent of the scene, and where its cameras are, do not depend on how a program rounds its matrices."""
    (offset, scale), near = PLACES[place], load_scene(demo_scene)
    frames, (view, *_) = [], near.train
    for seen in (*near.train, *near.test):
        pose = np.linalg.inv(near.normalisation.undo_viewmat(seen.viewmat)) @ np.diag([1.0, -1.0, -1.0, 1.0])
        pose[:3, 3] = pose[:3, 3] * scale + offset
        pose[:3, :3] = np.round(pose[:3, :3], digits)
        frames.append({"file_path": f"images/{seen.name}", "transform_matrix": pose.tolist()})
    meta = {"fl_x": view.K[0, 0], "fl_y": view.K[1, 1], "cx": view.K[0, 2], "cy": view.K[1, 2], "w": 80, "h": 60}
    (tmp_path / "transforms.json").write_text(json.dumps({**meta, "frames": frames}))
    (tmp_path / "images").symlink_to(demo_scene / "images")
    far = load_scene(tmp_path)
    assert far.normalisation.scale == pytest.approx(near.normalisation.scale / scale, rel=1e-3)
    for seen, expected in zip((*far.train, *far.test), (*near.train, *near.test), strict=True):
        assert seen.name == f"images/{expected.name}"
        np.testing.assert_allclose(seen.center, expected.center, rtol=0, atol=1e-3)
        np.testing.assert_allclose(seen.viewmat[:3, :3], expected.viewmat[:3, :3], rtol=0, atol=3.0 * 10.0**-digits)
