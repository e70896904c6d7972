import numpy as np
import pytest
from scene_files import look_at, ring, write_blender, write_colmap

from distwar_datasets import DataError, Normalisation, load_scene
from distwar_datasets.build import split_views
from distwar_datasets.extent import camera_extent
from distwar_datasets.scene import View


def make_views(names, poses=None):
    poses = poses or ring(len(names))
    return [View(n, None, 8, 8, np.eye(3), pose, 1) for n, pose in zip(names, poses, strict=True)]


def test_split_is_by_name_whatever_the_order():
    names = [f"{i:02d}.png" for i in range(20)]
    shuffled = [names[i] for i in np.random.default_rng(0).permutation(20)]
    train, test, rule = split_views(make_views(shuffled), 8, True)
    assert [view.name for view in test] == ["00.png", "08.png", "16.png"]
    assert [view.name for view in train] == [name for name in names if name not in {"00.png", "08.png", "16.png"}]
    assert rule == "every 8th image by name held out"


@pytest.mark.parametrize(("test_every", "hold_out"), [(0, True), (8, False)])
def test_nothing_is_held_out_when_not_asked(test_every, hold_out):
    train, test, rule = split_views(make_views(["b", "a"]), test_every, hold_out)
    assert [view.name for view in train] == ["a", "b"]
    assert (test, rule) == ((), "none")


def test_extent_is_that_of_3dgs():
    views = make_views("abcd", [look_at(c) for c in ((3, 0, 1), (-1, 0, 1), (1, 2, 1), (1, -2, 1))])
    assert camera_extent(views) == pytest.approx(1.1 * 2.0)
    assert camera_extent(make_views("ab", [look_at((3, 0, 1))] * 2)) == 1.0


def test_normalisation_keeps_pixels_and_is_invertible():
    rng = np.random.default_rng(1)
    frame = Normalisation(rng.normal(size=3), 0.37)
    frame = Normalisation.from_dict(frame.as_dict())
    viewmat, points = look_at((3.0, -2.0, 1.5)), rng.normal(size=(7, 3))
    world = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    moved = frame.apply_viewmat(viewmat)
    training = frame.apply_points(points) @ moved[:3, :3].T + moved[:3, 3]
    np.testing.assert_allclose(training, world * 0.37, atol=1e-12)
    np.testing.assert_allclose(frame.undo_viewmat(moved), viewmat, atol=1e-12)
    np.testing.assert_allclose(frame.undo_points(frame.apply_points(points)), points, atol=1e-12)


def test_normalised_scene_has_unit_extent_about_the_origin(tmp_path):
    poses = [look_at((5 + x, 7 + y, 2)) for x, y in ((3, 0), (-3, 0), (0, 3), (0, -3))]
    write_colmap(tmp_path, poses=poses)
    scene = load_scene(tmp_path, test_every=0)
    raw = load_scene(tmp_path, test_every=0, normalise=False)
    np.testing.assert_allclose(np.mean([view.center for view in scene.train], axis=0), 0.0, atol=1e-12)
    assert (scene.extent, camera_extent(scene.train)) == (1.0, pytest.approx(1.0))
    assert raw.extent == pytest.approx(3.3)
    np.testing.assert_allclose(scene.normalisation.undo_points(scene.points.positions), raw.points.positions)
    back = scene.normalisation.undo_viewmat(scene.train[1].viewmat)
    np.testing.assert_allclose(back, raw.train[1].viewmat, atol=1e-12)


def test_one_image_cannot_be_held_out(tmp_path):
    write_colmap(tmp_path, names=["a.png"])
    with pytest.raises(DataError, match="no_eval"):
        load_scene(tmp_path)
    assert load_scene(tmp_path, test_every=0).extent == 1.0


def test_detection_names_what_it_looked_for(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=r"transforms_train\.json.*sparse/0.*colmap/sparse/0.*photos"):
        load_scene(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        load_scene(tmp_path / "nowhere")
    assert load_scene(write_blender(tmp_path / "blender")).kind == "blender"
    assert load_scene(write_colmap(tmp_path / "colmap")).kind == "colmap"


@pytest.mark.parametrize("options", [{"test_every": -1}, {"resolution": 0}, {"resolution": -2}])
def test_bad_options_are_refused(tmp_path, options):
    write_colmap(tmp_path)
    with pytest.raises(DataError, match=next(iter(options))):
        load_scene(tmp_path, **options)
