"""Random points lie where the cameras look."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scene_files import look_at, ring

from distwar_datasets import View
from distwar_gs.gaussians.random_start import DEPTHS, is_within_sight, points_in_view, scene_distances, showing_share


def views_at(poses, width=64, height=40):
    K = np.array([[50.0, 0, 20], [0, 55, 25], [0, 0, 1]])  # off-centre
    return [View(f"{i}.png", None, width, height, K, pose, 1) for i, pose in enumerate(poses)]


def sees(view, points):
    x, y, z = (view.K @ (view.viewmat[:3, :3] @ points.T + view.viewmat[:3, 3:])).round(9)
    return (z > 0) & (x >= 0) & (x <= view.width * z) & (y >= 0) & (y <= view.height * z)


def draw(views, count=2000, seed=0):
    return points_in_view(views, 1.0, count, torch.Generator().manual_seed(seed)).double().numpy()


def test_every_point_is_seen_twice():
    views = views_at(ring(12))
    points = draw(views)
    assert points.shape == (2000, 3)
    assert np.sum([sees(view, points) for view in views], axis=0).min() >= 2
    np.testing.assert_array_equal(points, draw(views))
    assert not np.array_equal(points, draw(views, seed=1))


def test_cameras_that_share_nothing_still_get_their_points():
    apart = [look_at((x, 0, 0), (x, 1000, 0)) for x in (-1e4, 0, 1e4)]
    views = views_at(apart)
    counts = [sees(view, draw(views)).sum() for view in views]
    assert sum(counts) > 1990 and min(counts) > 500


def test_one_camera():
    views = views_at(ring(1))
    assert sees(views[0], draw(views)).mean() > 0.999


def test_the_distance_is_where_the_axes_meet():
    assert scene_distances(views_at(ring(9, radius=4.0, height=3.0)), 1.0) == pytest.approx((5.0, 5.0))
    depths = np.linalg.norm(draw(views_at(ring(9, radius=4.0, height=3.0))), axis=1)
    assert np.median(depths) < 5.0 * DEPTHS[1]


def test_parallel_and_outward_cameras_fall_back_to_the_extent():
    parallel = [look_at((x, 0, 0), (x, 1, 0)) for x in (-9.0, 0.0, 9.0)]
    outward = [look_at(c, 2 * np.asarray(c)) for c in ((3, 0, 1.0), (-3, 0, 1.0), (0, 3, 1.0), (0, -3, 1.0))]
    assert scene_distances(views_at(parallel), 2.0) == (6.0, 6.0)
    assert scene_distances(views_at(outward), 2.0) == (6.0, 6.0)
    assert scene_distances(views_at(parallel[:1]), 2.0) == (6.0, 6.0)


@pytest.mark.parametrize("wall", [0.8, 1.5, 4.0])
def test_along_a_wall_points_lie_before_and_behind_it(wall):
    """80 m of photos, one every half a metre: 3 extents, which a ring of cameras would suggest, are 130 m."""
    views = views_at([look_at((x, 0, 0), (x, 1, 0)) for x in np.arange(0.0, 80.0, 0.5)])
    nearest, farthest = scene_distances(views, 43.5)
    assert nearest == pytest.approx(0.5 * (50 / 64) / 0.3) and farthest == pytest.approx(130.5)
    depths = points_in_view(views, 43.5, 4000, torch.Generator().manual_seed(0))[:, 1].numpy()
    assert np.mean(np.abs(depths / wall - 1.0) < 0.3) > 0.05 and depths.min() < wall < depths.max()


BOX = (np.full(3, -1.3), np.full(3, 1.3))


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        ((0, 0, 0), True),
        ((8.0, 0, 0), True),  # not seen, but near
        ((0, 0, 40.0), False),
        ((452310.7, 5411950.2, 263.4), False),
        ((0, 0, -6.3e6), False),
    ],
)
def test_a_box_is_what_the_cameras_look_at_or_not(offset, expected):
    views = views_at([look_at(np.add(place, offset), offset) for place in ((3, 0, 1.0), (0, 3, 1.0), (-3, 0, 1.0))])
    assert is_within_sight(views, *BOX, 3.0) is expected


def test_a_box_that_is_a_dot_ahead_is_not_looked_at():
    assert not is_within_sight(views_at([look_at((1e5, 0, 0))]), *BOX, 3.0)
    assert is_within_sight(views_at([look_at((100.0, 0, 0))]), *BOX, 3.0)


def test_a_point_is_shown_by_all_cameras_of_a_ring_and_by_few_along_a_wall():
    """By the share of the views that a point projects into, counted here by `sees`."""
    ring_views = views_at(ring(12))
    wall_views = views_at([look_at((x, 0, 0), (x, 1, 0)) for x in np.arange(0.0, 80.0, 0.5)])
    middle = np.random.default_rng(0).uniform(-0.05, 0.05, (200, 3))
    wall = np.stack([np.linspace(0.0, 80.0, 300), np.full(300, 1.5), np.zeros(300)], axis=1)
    for views, points, low, high in ((ring_views, middle, 0.99, 1.0), (wall_views, wall, 0.01, 0.05)):
        scene = SimpleNamespace(train=views, points=SimpleNamespace(positions=points))
        share = showing_share(scene)
        assert low <= share <= high
        assert share == pytest.approx(np.mean([sees(view, points) for view in views]), rel=0.02)
    assert showing_share(SimpleNamespace(train=ring_views, points=None)) == 1.0
