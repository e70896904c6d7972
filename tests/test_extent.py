"""How large a scene is and how near its cameras come, whatever single cameras and points do."""

import numpy as np
import pytest
from scene_files import look_at, ring

from datasets.extent import camera_extent, stray_cameras, view_depths
from datasets.scene import PointCloud, RawScene, View, build_scene


def views_at(poses):
    K = np.array([[50.0, 0, 32], [0, 50.0, 24], [0, 0, 1]])
    return tuple(View(f"{i:03d}.png", None, 64, 48, K, pose, 1) for i, pose in enumerate(poses))


def cloud(positions):
    return PointCloud(np.asarray(positions, dtype=np.float64), np.zeros((len(positions), 3), np.uint8))


def ball(count=2000, radius=0.5, seed=0):
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return radius * points / np.linalg.norm(points, axis=1, keepdims=True)


def scene_of(views, points, **options):
    raw = RawScene("colmap", views, "images", points=points)
    return build_scene("somewhere", raw, **{"test_every": 8, "hold_out": True, "normalise": True} | options)


def moved(pose, factor):
    """The same view from `factor` times as far from the origin."""
    pose = pose.copy()
    pose[:3, 3] *= factor
    return pose


ORBIT = ring(40, radius=3.0, height=1.0)


@pytest.mark.parametrize(("strays", "factor"), [((20,), 80.0), ((8,), 80.0), ((5, 30), 12.0), ((1, 2, 3), 1e4)])
@pytest.mark.parametrize("points", [cloud(ball()), None], ids=["points", "no points"])
def test_stray_cameras_change_nothing_but_are_named(strays, factor, points, caplog):
    views = views_at([moved(pose, factor) if i in strays else pose for i, pose in enumerate(ORBIT)])
    scene, without = scene_of(views, points), scene_of(views_at(ORBIT), points)
    assert scene.normalisation.scale == pytest.approx(without.normalisation.scale, rel=0.15)
    np.testing.assert_allclose(scene.normalisation.shift, without.normalisation.shift, atol=0.5)
    assert len(scene.train) + len(scene.test) == 40
    message = "\n".join(record.message for record in caplog.records)
    assert f"far from all other cameras ({len(strays)} of 40)" in message
    assert all(f"{i:03d}.png" in message for i in strays)


@pytest.mark.parametrize(
    "poses",
    [
        ORBIT,
        [look_at((x, 0, 0), (x, 1, 0)) for x in np.arange(0.0, 80.0, 0.5)],  # along a street
        [moved(pose, 3.0 if i % 20 == 0 else 1.0) for i, pose in enumerate(ORBIT)],  # two overviews
        [look_at((0.001 * np.sin(i), 0.001 * np.cos(i), 0), (np.sin(i), np.cos(i), 0)) for i in range(30)]
        + [look_at((0.1, 0, 0), (5, 0, 0))],  # a tripod, and one step beside it
        [look_at((x, 0, 0), (x, 9, 0)) for x in (0.0, 1.0, 30.0)],  # three photos
    ],
    ids=["orbit", "street", "overviews", "tripod", "few"],
)
def test_captures_without_strays_have_the_extent_of_3dgs(poses, caplog):
    views = views_at(poses)
    far_things = cloud(ball(3000, 40.0) if len(poses) != 40 else ball())
    scene = scene_of(views, far_things, test_every=0)
    assert 1.0 / scene.normalisation.scale == pytest.approx(camera_extent(views))
    np.testing.assert_array_equal(scene.normalisation.shift, np.mean([view.center for view in views], axis=0))
    assert not caplog.records


def test_too_few_cameras_and_no_points_name_no_stray():
    views = views_at([look_at((x, 0, 0), (x, 9, 0)) for x in (0.0, 1.0, 1000.0)])
    assert not stray_cameras(views, view_depths(views, None)).any()


@pytest.mark.parametrize("unit", [1.0, 1e-3, 250.0])
@pytest.mark.parametrize("wall", [0.4, 1.0, 3.0])
def test_the_nearest_depth_is_that_of_the_wall_however_long_the_walk(wall, unit):
    rng = np.random.default_rng(1)
    points = np.stack([rng.uniform(-2, 82, 9000), np.full(9000, wall), rng.uniform(-2, 2, 9000)], axis=-1)
    views = views_at([look_at((unit * x, 0, 0), (unit * x, unit, 0)) for x in np.arange(0.0, 80.0, 0.5)])
    scene = scene_of(views, cloud(unit * points))
    assert scene.nearest / scene.normalisation.scale == pytest.approx(unit * wall)


def test_a_few_wrong_points_before_a_lens_do_not_count():
    views = views_at(ORBIT)
    wrong = [view.center * 0.99 for view in views for _ in range(3)]
    clean, spoiled = (scene_of(views, cloud(points)) for points in (ball(), np.concatenate([ball(), wrong])))
    assert spoiled.nearest == pytest.approx(clean.nearest, rel=0.01)


def test_close_ups_among_overviews_count():
    """Three photos of a detail from 0.1 away, among forty from 3 away."""
    details = [look_at((0.6, y, 0), (0.5, y, 0)) for y in (-0.02, 0.0, 0.02)]
    detail = ball(6000) * [[1.0, 0.2, 0.2]]
    scene = scene_of(views_at([*ORBIT, *details]), cloud(np.concatenate([ball(), detail])))
    assert scene.nearest / scene.normalisation.scale < 0.15


@pytest.mark.parametrize("points", [None, cloud(ball(8)), cloud(ball(500) + [0, 0, 100.0])])
def test_nothing_is_known_where_too_few_points_are_seen(points):
    assert scene_of(views_at(ORBIT), points).nearest is None
    assert np.isnan(view_depths(views_at(ORBIT), points)).all()
