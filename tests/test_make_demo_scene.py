import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scripts_as_modules import imported_script, script_path

from distwar_datasets import load_scene

SCRIPT = script_path("make_demo_scene")


@pytest.fixture(scope="module")
def demo():
    with imported_script("make_demo_scene") as module:
        yield module


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_points_have_the_colour_that_the_views_show(demo, tmp_path):
    """A point that a view sees must project, with the true K, to a pixel of its colour."""
    demo.make(tmp_path / "demo", demo.Recipe(views=6, width=64, height=48))
    scene = load_scene(tmp_path / "demo", test_every=0, normalise=False)
    assert (len(scene.train), scene.points.positions.shape) == (6, (3000, 3))
    view, here = scene.train[2], slice(1000, 1500)  # the 500 points that were sampled from this view
    points = scene.points.positions[here] @ view.viewmat[:3, :3].T + view.viewmat[:3, 3]
    pixel = points @ view.K.T
    x, y = np.floor(pixel[:, :2] / pixel[:, 2:]).astype(int).T
    assert abs(view.K[0, 2] - 32) > 1
    seen = (x >= 0) & (x < 64) & (y >= 0) & (y < 48) & (points[:, 2] > 0)
    assert seen.mean() > 0.97
    pixels = np.asarray(Image.open(view.image_path)).astype(int)
    error = np.abs(pixels[y[seen], x[seen]] - scene.points.colors[here][seen]).mean()
    assert error < 3.0


@pytest.mark.parametrize("lens", ["OPENCV", "OPENCV_FISHEYE", "FOV", "EUCM", "DIVISION", "EQUIRECTANGULAR"])
def test_through_a_lens_points_have_the_colour_that_the_views_show(demo, tmp_path, lens):
    """So they do through the lens that the reader gives the views, behind the camera, too."""
    demo.make(tmp_path / "demo", demo.Recipe(views=2, width=96, height=48, lens=lens))
    scene = load_scene(tmp_path / "demo", test_every=0, normalise=False)
    view, points = scene.train[0], scene.points.positions[:1500]
    places, _, seen = view.look(points)
    assert view.lens is not None and seen.mean() > 0.97
    behind = (points @ view.viewmat[2, :3] + view.viewmat[2, 3]) < 0
    assert behind[seen].any() == (lens in ("OPENCV_FISHEYE", "EUCM", "EQUIRECTANGULAR"))
    x, y = places[seen].astype(int).T
    pixels = np.asarray(Image.open(view.image_path)).astype(int)
    assert np.abs(pixels[y, x] - scene.points.colors[:1500][seen]).mean() < 5.0


def test_a_lens_of_its_own_width(demo, tmp_path):
    """A fisheye of 200 degrees has its border 100 degrees off the axis; another lens has no such choice."""
    recipe = demo.Recipe(width=101, height=51, lens="FISHEYE")
    rays = demo.camera_rays(recipe, np.array([0.53 * 101 - 50.5]), np.array([0.47 * 51]))
    assert np.degrees(np.arccos(rays[2, 0])) == pytest.approx(100.0, abs=0.01)
    with pytest.raises(ValueError, match="--fov is for fisheyes"):
        demo.make(tmp_path / "demo", demo.Recipe(lens="OPENCV", fov=100))
    assert demo.record(demo.Recipe()) == {"version": 1, "views": 40, "width": 160, "height": 120, "seed": 0}


def test_same_recipe_same_bytes_and_another_seed_another_scene(demo, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        demo.make(tmp_path / name, demo.Recipe(views=1, width=16, height=12, seed=seed))
    files = ["images/view_000.png", "sparse/0/images.bin", "sparse/0/points3D.bin"]
    read = {name: [(tmp_path / name / file).read_bytes() for file in files] for name in "abc"}
    assert read["a"] == read["b"]
    assert all(a != c for a, c in zip(read["a"], read["c"], strict=True))


def test_under_a_sky_depths_and_normals_lie_beside(demo, tmp_path):
    """Points of the maps lie on the floor or the furniture, where normals look at the camera; none are of the sky."""
    demo.make(tmp_path / "demo", demo.Recipe(views=2, width=32, height=24, sky=True, maps=True))
    scene = load_scene(tmp_path / "demo", test_every=0, normalise=False)
    assert len(scene.points.positions) < 3000 and np.isfinite(scene.points.positions).all()
    assert np.abs(scene.points.positions[:, :2]).max() < 3.5
    for view in scene.train:
        stem = view.name.replace(".png", ".npy")
        depth, normals = (np.load(tmp_path / "demo" / name / stem) for name in ("depths", "normals"))
        is_sky = depth == 0
        assert 0.1 < is_sky.mean() < 0.9 and (normals[is_sky] == 0).all()
        y, x = np.mgrid[0:24, 0:32] + 0.5
        before = depth[..., None] * (np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(view.K).T)
        assert ((normals * before).sum(axis=-1)[~is_sky] < 0).all()
        heights = ((before - view.viewmat[:3, 3]) @ view.viewmat[:3, :3])[~is_sky][:, 2]
        assert heights.min() > -1e-3 and np.median(heights) < 0.5
        pixels = np.asarray(Image.open(view.image_path))
        assert pixels[is_sky].mean() > 100


def test_command_line(tmp_path):
    arguments = (tmp_path / "x" / "demo", "--views", 1, "--width", 16, "--height", 12)
    assert run(*arguments).returncode == 0
    again = run(*arguments)
    assert (again.returncode, "already" in again.stdout) == (0, True)
    other = run(*arguments, "--seed", 3)
    assert (other.returncode, other.stderr.count("\n")) == (1, 1)
    assert "delete it" in other.stderr
    assert run(tmp_path / "y", "--views", 0).returncode == 1
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["demo"]
