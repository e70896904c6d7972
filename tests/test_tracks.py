"""Which of the scene's points a photo shows, and depth maps from files."""

from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import Image
from scene_files import look_at, ring, write_colmap

from distwar_datasets import DataError, load_scene
from distwar_datasets.pixels.depthmaps import find_map, read_map
from distwar_datasets.readers.tracks import not_hidden, seen_points
from distwar_datasets.scene import PointCloud, View


def view_at(viewmat: np.ndarray, width: int, height: int, name: str = "a.png") -> View:
    """With a focal length as long as the image is wide."""
    intrinsics = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    return View(name, Path(name), width, height, intrinsics, viewmat, 1)


def cloud(points) -> PointCloud:
    positions = np.asarray(points, dtype=np.float64)
    return PointCloud(positions, np.zeros(positions.shape, np.uint8))


def test_points_behind_others_are_left_out():
    view = view_at(look_at((0.0, -4.0, 0.0)), 64, 48)
    near, behind, beside, a_little = [0.0, 0, 0], [0.01, 2.0, 0], [1.0, 2.0, 0], [0.02, 0.1, 0]
    outside, back = [9.0, 0, 0], [0.0, -8.0, 0]
    seen = not_hidden(view, cloud([near, behind, beside, a_little, outside, back]))
    np.testing.assert_array_equal(seen, [near, beside, a_little])
    assert len(not_hidden(view, cloud(np.zeros((0, 3))))) == 0


def test_points_at_the_border_of_the_image():
    view = view_at(look_at((0.0, -4.0, 0.0)), 50, 33)
    x, z = (grid.ravel() for grid in np.meshgrid(np.linspace(-2.5, 2.5, 41), np.linspace(-2.0, 2.0, 41)))
    points = np.stack([x, np.zeros_like(x), z], axis=1)
    seen = not_hidden(view, cloud(points))
    assert len(seen) == int(((np.abs(x) < 2.0) & (np.abs(z) < 4 * 16.5 / 50)).sum())


@pytest.mark.parametrize("text", [False, True])
def test_tracks_of_a_model_come_first(tmp_path, text):
    write_colmap(tmp_path, points=0)
    model = pycolmap.Reconstruction(str(tmp_path / "sparse/0"))
    points = np.random.default_rng(1).uniform(-0.5, 0.5, (6, 3))
    for image_id in (1, 2, 3, 4):
        places = [pycolmap.Point2D(np.array([3.5 + index, 7.25])) for index in range(6)]
        model.images[image_id].points2D = pycolmap.Point2DList(places)
    shown = {1: [0, 1], 2: [1, 2], 3: [2, 3, 4]}
    for index, point in enumerate(points):
        track = pycolmap.Track()
        for image_id, indices in shown.items():
            if index in indices:
                track.add_element(image_id, index)
        model.add_point3D(point, track, np.zeros(3, np.uint8))
    for path in (tmp_path / "sparse/0").iterdir():
        path.unlink()
    (model.write_text if text else model.write_binary)(str(tmp_path / "sparse/0"))
    scene = load_scene(tmp_path, test_every=0)
    seen, how = seen_points(scene)
    names = {1: "a.png", 2: "b.png", 3: "c.png"}
    assert set(seen) == set(names.values()) and "tracks" in how
    for image_id, indices in shown.items():
        np.testing.assert_allclose(seen[names[image_id]], scene.normalisation.apply_points(points[indices]))


def test_without_tracks_points_are_looked_for(tmp_path):
    scene = load_scene(write_colmap(tmp_path, points=30), test_every=0)
    seen, how = seen_points(scene)
    assert set(seen) == {view.name for view in scene.train} and "no tracks" in how
    for view in scene.train:
        np.testing.assert_array_equal(seen[view.name], not_hidden(view, scene.points))
        assert 0 < len(seen[view.name]) <= 30


# ------------------------------------------------------------------------------------------------------ depth maps


def test_maps_are_found_by_the_names_of_photos(tmp_path):
    for name in ("a.npy", "b.jpg.png", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    views = {name: view_at(ring(1)[0], 4, 3, name) for name in ("a.jpg", "b.jpg", "sub/c.JPG", "photos/a.png", "d.png")}
    found = {name: find_map(tmp_path, view) for name, view in views.items()}
    assert found == {
        "a.jpg": tmp_path / "a.npy", "b.jpg": tmp_path / "b.jpg.png", "sub/c.JPG": tmp_path / "sub/c.png",
        "photos/a.png": tmp_path / "a.npy", "d.png": None,
    }  # fmt: skip


def test_numbers_are_read_as_they_are(tmp_path):
    numbers = np.array([[1, 2, 300], [0, 40000, 65535]], dtype=np.uint16)
    Image.fromarray(numbers).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", numbers.astype(np.float64)[..., None])
    expected = numbers.astype(np.float32)
    expected[1, 0] = np.nan
    for name in ("a.png", "a.npy"):
        np.testing.assert_array_equal(read_map(tmp_path / name, 3, 2), expected)
    np.testing.assert_array_equal(read_map(tmp_path / "a.npy", 6, 4), expected.repeat(2, 0).repeat(2, 1))
    np.save(tmp_path / "b.npy", np.array([[np.inf, -1.0], [np.nan, 2.5]]))
    np.testing.assert_array_equal(read_map(tmp_path / "b.npy", 2, 2), [[np.nan, np.nan], [np.nan, 2.5]])


def test_what_is_no_map_is_refused(tmp_path):
    np.save(tmp_path / "shape.npy", np.ones((10, 30)))
    np.save(tmp_path / "words.npy", np.array(["a"]))
    Image.new("RGB", (4, 3)).save(tmp_path / "colors.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    cases = {
        "shape.npy": r"is 30 x 10, which is not of the shape of its photo \(4 x 3\)",
        "words.npy": "a depth map has one number for each pixel", "colors.png": "a depth map has one number",
        "broken.png": "not a depth map",
    }  # fmt: skip
    for name, message in cases.items():
        with pytest.raises(DataError, match=message):
            read_map(tmp_path / name, 4, 3)
