"""How a page shows a model: what is up, where one looks from, and a run's cameras."""

import json

import numpy as np
import pytest
from test_camera_paths import centers, ring, scenes

from distwar_gs.viewing.camera_paths import mean_up
from distwar_gs.viewing.tours import KEYS, longer_angle, tour_of, tour_of_run, upright

MIRROR = np.diag([1.0, 1.0, -1.0, 1.0])


@pytest.mark.parametrize("name", scenes())
@pytest.mark.parametrize("mirrored", [False, True])
def test_up_is_up_and_looks_are_finite(name, mirrored):
    viewmats = scenes()[name] @ MIRROR if mirrored else scenes()[name]
    tour = tour_of(viewmats, 50.0)
    np.testing.assert_allclose(tour.upright @ tour.upright.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(tour.upright) == pytest.approx(-1.0 if mirrored else 1.0)
    np.testing.assert_allclose(tour.upright @ mean_up(viewmats), [0.0, -1.0, 0.0], atol=1e-6)
    assert len(tour.loop) == KEYS and tour.angle == 50.0
    for look in (tour.start, *tour.loop):
        assert np.isfinite([look.position, look.target]).all() and np.linalg.norm(look.target - look.position) > 1e-6


@pytest.mark.parametrize("up", [(0.0, -1.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, -1e-9, 0.0)])
def test_up_of_any_direction(up):
    up = np.array(up)
    across = np.array([0.0, 0.0, 1.0]) if abs(up[2]) < 0.5 else np.array([1.0, 0.0, 0.0])
    viewmat = np.eye(4)
    viewmat[:3, :3] = np.stack([np.cross(-up, across), -up, across])  # right, down, forward
    turn = upright(viewmat[None])
    np.testing.assert_allclose(turn @ up, [0.0, -1.0, 0.0], atol=1e-8)
    assert np.linalg.det(turn) == pytest.approx(1.0)


def test_the_first_camera_is_where_it_starts_and_the_loop_begins_near_it():
    viewmats = ring(24)
    tour = tour_of(viewmats, 50.0)
    np.testing.assert_allclose(tour.start.position, centers(viewmats)[0], atol=1e-9)
    ahead = viewmats[0] @ [*tour.start.target, 1.0]
    np.testing.assert_allclose(ahead[:2], 0.0, atol=1e-9)
    assert ahead[2] > 1.0
    distances = [np.linalg.norm(look.position - tour.start.position) for look in tour.loop]
    assert np.argmin(distances) == 0
    np.testing.assert_allclose([look.target for look in tour.loop], np.tile([1.0, 2.0, 3.0], (KEYS, 1)), atol=1e-6)


@pytest.mark.parametrize(("width", "height", "angle"), [(200, 100, 90.0), (100, 200, 53.13010235415598)])
def test_angle_of_the_longer_side(width, height, angle):
    assert longer_angle(np.diag([100.0, 200.0, 1.0]), width, height) == pytest.approx(angle)


@pytest.mark.parametrize(("background", "color"), [("white", 1.0), ("random", 0.0)])
def test_of_a_run_folder(tmp_path, background, color):
    (tmp_path / "config.yaml").write_text(f"data: {{background: {background}}}\n")
    camera = {"position": [1.0, 2.0, 3.0], "rotation": np.eye(3).tolist(), "width": 200, "height": 100, "fx": 100.0,
              "fy": 110.0}  # fmt: skip
    far = camera | {"position": [-1.0, 2.0, 3.0], "origin": [1e6, 0.0, 0.0]}
    assert tour_of_run(tmp_path) is None
    (tmp_path / "cameras.json").write_text(json.dumps([camera | {"origin": [1e6, 0.0, 0.0]}, far]))
    tour = tour_of_run(tmp_path).moved(np.array([-1e6, 0.0, 0.0]))
    np.testing.assert_allclose(tour.start.position, [1.0, 2.0, 3.0], atol=1e-6)
    assert tour.background == (color,) * 3 and tour.angle == pytest.approx(90.0)
