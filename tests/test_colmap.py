import numpy as np
import pycolmap
import pytest
from PIL import Image
from scene_files import ring, write_blender, write_colmap, write_image

from distwar_datasets import DataError, load_scene

ALL = {"test_every": 0, "normalise": False}


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("place", ["sparse/0", "sparse", "colmap/sparse/0"])
def test_pinhole_model(tmp_path, text, place):
    write_colmap(tmp_path, text=text, place=place)
    scene = load_scene(tmp_path, **ALL)
    assert [view.name for view in scene.train] == ["a.png", "b.png", "c.png", "d.png"]
    for view, pose in zip(scene.train, ring(4), strict=True):
        np.testing.assert_allclose(view.K, [[50, 0, 30], [0, 51, 17], [0, 0, 1]])
        np.testing.assert_allclose(view.viewmat, pose, atol=1e-12)
        assert (view.width, view.height, view.image_path) == (64, 40, tmp_path / "images" / view.name)
    expected = np.random.default_rng(0)
    np.testing.assert_allclose(scene.points.positions[0], expected.uniform(-1, 1, 3))
    np.testing.assert_array_equal(scene.points.colors[0], expected.integers(0, 256, 3, dtype=np.uint8))
    assert (scene.image_source, scene.points.positions.shape) == ("images", (20, 3))


def test_text_model_of_an_old_colmap_without_rigs(tmp_path):
    write_colmap(tmp_path, text=True)
    for name in ("rigs.txt", "frames.txt"):
        (tmp_path / "sparse/0" / name).unlink()
    np.testing.assert_allclose(load_scene(tmp_path, **ALL).train[2].viewmat, ring(4)[2], atol=1e-12)


def test_views_do_not_depend_on_the_order_in_the_file(tmp_path):
    write_colmap(tmp_path, names=["c.png", "a.png", "d.png", "b.png"])
    scene = load_scene(tmp_path, **ALL)
    assert [view.name for view in scene.train] == ["a.png", "b.png", "c.png", "d.png"]
    np.testing.assert_allclose(scene.train[0].viewmat, ring(4)[1], atol=1e-12)


@pytest.mark.parametrize(
    ("model", "params"),
    [
        ("SIMPLE_PINHOLE", (50, 30, 17)),
        ("SIMPLE_RADIAL", (50, 30, 17, 0)),
        ("OPENCV", (50, 50, 30, 17, 0, 0, 0, 0)),
        ("FULL_OPENCV", (50, 50, 30, 17, 0, 0, 0, 0, 0, 0, 0, 0)),
    ],
)
def test_no_distortion_is_a_pinhole(tmp_path, model, params):
    write_colmap(tmp_path, model=model, params=params)
    view = load_scene(tmp_path, **ALL).train[0]
    np.testing.assert_allclose(view.K, [[50, 0, 30], [0, 50, 17], [0, 0, 1]])
    assert view.image_path == tmp_path / "images/a.png"


def test_model_without_points(tmp_path):
    assert load_scene(write_colmap(tmp_path, points=0)).points is None


def test_downscaled_folder_with_other_extensions_and_subfolders(tmp_path):
    write_colmap(tmp_path, names=["left/1.JPG", "left/2.JPG", "right/1.JPG"], size=(66, 40), images=None)
    for index, name in enumerate(["right/1.png", "left/2.png", "left/1.png"]):
        write_image(tmp_path / "images_4" / name, 17, 10, level=index)  # 66 / 4 = 16.5, rounded up
    scene = load_scene(tmp_path, resolution=4, **ALL)
    names = {view.name: view.image_path.relative_to(tmp_path).as_posix() for view in scene.train}
    assert names == {f"{stem}.JPG": f"images_4/{stem}.png" for stem in ("left/1", "left/2", "right/1")}
    np.testing.assert_allclose(scene.train[0].K[:2, 2], [30 * 17 / 66, 17 / 4])
    np.testing.assert_allclose(np.diag(scene.train[0].K)[:2], [50 * 17 / 66, 51 / 4])
    assert scene.image_source == "images_4"


def test_other_image_folder(tmp_path):
    write_colmap(tmp_path, images="photos/day")
    assert load_scene(tmp_path, images="photos/day").train[0].image_path == tmp_path / "photos/day/b.png"
    with pytest.raises(DataError, match=r"images: no such image folder.*photos, sparse"):
        load_scene(tmp_path)


def test_missing_images_are_named(tmp_path):
    names = [f"{index}.png" for index in range(8)]
    write_colmap(tmp_path, names=names)
    for name in names[1:]:
        (tmp_path / "images" / name).unlink()
    with pytest.raises(DataError, match=r"images: 7 of 8 images are missing: 1\.png, 2\.png, 3\.png, 4\.png, 5\.png, "):
        load_scene(tmp_path)


def test_ambiguous_image(tmp_path):
    write_colmap(tmp_path, images=None, names=["a.JPEG"])
    write_image(tmp_path / "images/a.png", 64, 40)
    write_image(tmp_path / "images/a.bmp", 64, 40)
    with pytest.raises(DataError, match=r"a\.bmp and a\.png"):
        load_scene(tmp_path)


def test_wrong_aspect_is_refused(tmp_path):
    write_colmap(tmp_path)
    write_image(tmp_path / "images/c.png", 40, 64)
    with pytest.raises(DataError, match=r"c\.png: is 40x64 but its camera 1 is 64x40"):
        load_scene(tmp_path)


def test_file_that_is_no_image(tmp_path):
    write_colmap(tmp_path)
    (tmp_path / "images/b.png").write_text("hello")
    with pytest.raises(DataError, match=r"b\.png: cannot be read as an image"):
        load_scene(tmp_path)


@pytest.mark.parametrize("damaged", ["cameras.bin", "images.bin", "points3D.bin"])
def test_truncated_model(tmp_path, damaged):
    path = write_colmap(tmp_path) / "sparse/0" / damaged
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=f"{damaged}: is cut short|not a readable"):
            load_scene(tmp_path)


def test_damaged_text_model(tmp_path):
    path = write_colmap(tmp_path, text=True) / "sparse/0/images.txt"
    path.write_text(path.read_text().replace(" 1 a.png", " one a.png"))
    with pytest.raises(DataError, match="not a readable COLMAP model"):
        load_scene(tmp_path)


def test_records_of_any_length_are_walked(tmp_path):
    """Tracks and 2D points make the records of a model differ in length."""
    write_colmap(tmp_path, points=0)
    place = tmp_path / "sparse/0"
    model = pycolmap.Reconstruction(place)
    for image in model.images.values():
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D(np.ones(2)) for _ in range(image.image_id)])
    for length in (2, 4):
        track = pycolmap.Track([pycolmap.TrackElement(image_id, 0) for image_id in range(1, length + 1)])
        model.add_point3D(np.full(3, float(length)), track if length == 4 else pycolmap.Track())
    model.write_binary(place)
    points, written = load_scene(tmp_path, **ALL).points, [model.points3D[number] for number in sorted(model.points3D)]
    assert len(written) == 2
    np.testing.assert_array_equal(points.positions, [point.xyz for point in written])
    np.testing.assert_array_equal(points.colors, [point.color for point in written])
    path = place / "points3D.bin"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match="cut short"):
        load_scene(tmp_path)


def test_incomplete_and_empty_models(tmp_path):
    write_colmap(tmp_path / "part")
    (tmp_path / "part/sparse/0/points3D.bin").unlink()
    with pytest.raises(DataError, match=r"points3D\.bin missing"):
        load_scene(tmp_path / "part")
    with pytest.raises(DataError, match="no image with a pose"):
        load_scene(write_colmap(tmp_path / "empty", names=[]))


def test_unusable_camera(tmp_path):
    write_colmap(tmp_path, params=(0.0, 51.0, 30.0, 17.0))
    with pytest.raises(DataError, match="camera 1 is not usable"):
        load_scene(tmp_path)


def test_too_wide_cameras_are_refused_in_one_line(tmp_path):
    write_colmap(tmp_path / "fish", model="OPENCV_FISHEYE", params=(20, 20, 32, 20, 0.01, 0, 0, 0))
    write_colmap(tmp_path / "pano", model="EQUIRECTANGULAR", params=(64, 32), size=(64, 32))
    for name, model in (("fish", "OPENCV_FISHEYE"), ("pano", "EQUIRECTANGULAR")):
        with pytest.raises(DataError, match=f"camera 1 .{model}. sees too wide") as error:
            load_scene(tmp_path / name, undistort="always")
        assert "\n" not in str(error.value) and "data.undistort=auto" in str(error.value)
        assert load_scene(tmp_path / name).train[0].lens is not None


def blob(width, height, x, y):
    """A bright Gaussian spot at (x, y), pixel centres at +0.5, on black."""
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * 2.5**2))


def spot_center(path):
    pixels = np.asarray(Image.open(path)).astype(float)[..., 0]
    v, u = np.mgrid[: pixels.shape[0], : pixels.shape[1]] + 0.5
    return np.array([(u * pixels).sum(), (v * pixels).sum()]) / pixels.sum()


@pytest.mark.parametrize(
    ("model", "params"),
    [
        ("SIMPLE_RADIAL", (150, 85, 62, 0.15)),
        ("RADIAL", (150, 85, 62, 0.15, -0.05)),
        ("OPENCV", (150, 152, 85, 62, 0.1, -0.05, 0.01, -0.01)),
        ("OPENCV_FISHEYE", (150, 152, 85, 62, 0.02, 0, 0, 0)),
        ("FISHEYE", (150, 152, 85, 62)),
    ],
)
@pytest.mark.parametrize("downscale", [1, 2])
def test_undistorted_image_agrees_with_its_pinhole_camera(tmp_path, model, params, downscale):
    """What the distorting camera sees of a 3D point must be where the new pinhole camera says."""
    write_colmap(tmp_path, model=model, params=params, size=(160, 120), images=None, names=["a.png", "b.png"])
    camera = pycolmap.Camera(camera_id=1, model=model, width=160, height=120, params=params)
    rays = {"a.png": np.array([0.3, -0.2, 1.0]), "b.png": np.array([-0.35, 0.25, 1.0])}
    folder = "images" if downscale == 1 else f"images_{downscale}"
    for name, ray in rays.items():
        spot = blob(160, 120, *camera.img_from_cam(ray)).reshape(120 // downscale, downscale, 160 // downscale, -1)
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(np.uint8(255 * spot.mean(axis=(1, 3)))).save(tmp_path / folder / name)
    scene = load_scene(tmp_path, resolution=downscale, undistort="always", **ALL)
    assert scene.image_source == f"{folder} undistorted from {model}"
    for view in scene.train:
        assert Image.open(view.image_path).size == (view.width, view.height)
        expected = view.K @ rays[view.name]
        np.testing.assert_allclose(spot_center(view.image_path), expected[:2] / expected[2], atol=0.15)


def test_a_model_beside_the_images_comes_after_all_else(tmp_path):
    write_colmap(tmp_path, text=True, place=".")
    assert len(load_scene(tmp_path, **ALL).train) == 4
    write_blender(tmp_path, train=3, test=None)
    (tmp_path / "transforms_train.json").rename(tmp_path / "transforms.json")
    assert load_scene(tmp_path, **ALL).kind == "transforms"
    write_colmap(tmp_path, names=["a.png", "b.png"])
    scene = load_scene(tmp_path, **ALL)
    assert (scene.kind, len(scene.train)) == ("colmap", 2)


def test_a_list_called_images_is_no_model(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images.txt").write_text("a.png\n")
    with pytest.raises(DataError, match="no dataset found"):
        load_scene(tmp_path)


def test_the_scene_of_a_model_is_where_the_images_are(tmp_path):
    scene = write_colmap(tmp_path / "scene")
    write_colmap(tmp_path / "scene/distorted", images=None)
    write_colmap(tmp_path / "scene", names=["a.png", "b.png"], place="sparse/7")
    for named, views in (("sparse/0", 4), ("sparse/7", 2), ("sparse", 4)):
        loaded = load_scene(scene / named, resolution=2, **ALL)
        assert (loaded.source, len(loaded.train)) == (scene, views)
        assert (scene / ".distwar_cache") in loaded.train[0].image_path.parents
    with pytest.raises(DataError, match="no such image folder"):  # its photos are not those in scene/images
        load_scene(scene / "distorted/sparse/0")


def test_a_model_named_from_within(tmp_path, monkeypatch):
    monkeypatch.chdir(write_colmap(tmp_path / "scene") / "sparse/0")
    assert load_scene(".", **ALL).source == tmp_path / "scene"
