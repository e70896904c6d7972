import json
import math
import shutil

import numpy as np
import pytest
from PIL import Image
from scene_files import ring, write_blender, write_image

from distwar_datasets import DataError, load_scene

SPLIT = "transforms_train.json"


def edit(folder, change):
    meta = json.loads((folder / SPLIT).read_text())
    change(meta)
    (folder / SPLIT).write_text(json.dumps(meta))


def test_cameras(tmp_path):
    scene = load_scene(write_blender(tmp_path), normalise=False)
    assert (len(scene.train), len(scene.test), scene.split_rule) == (4, 2, "transforms_test.json")
    assert (scene.points, scene.kind) == (None, "blender")
    for view, pose in zip(scene.train, ring(4), strict=True):
        np.testing.assert_allclose(view.viewmat, pose, atol=1e-12)
        focal = 10 / math.tan(0.4)
        np.testing.assert_allclose(view.K, [[focal, 0, 10], [0, focal, 10], [0, 0, 1]])
    assert scene.train[1].name == "train/r_1.png"
    assert scene.train[1].image_path == tmp_path / "train/r_1.png"


def test_the_object_cube_moves_with_the_cameras(tmp_path):
    write_blender(tmp_path)
    raw, scene = load_scene(tmp_path, normalise=False), load_scene(tmp_path)
    np.testing.assert_allclose(raw.bounds, [[-1.3] * 3, [1.3] * 3])
    np.testing.assert_allclose(scene.normalisation.undo_points(np.array(scene.bounds)), raw.bounds, atol=1e-12)
    assert (scene.extent, raw.extent) == (1.0, pytest.approx(3.3))


def test_without_a_test_file_the_train_file_is_split(tmp_path):
    scene = load_scene(write_blender(tmp_path, train=9, test=None))
    assert [view.name for view in scene.test] == ["train/r_0.png", "train/r_8.png"]
    assert scene.split_rule == "every 8th image by name held out"


def test_training_without_hold_out_uses_the_train_file_only(tmp_path):
    scene = load_scene(write_blender(tmp_path), hold_out=False)
    assert (len(scene.train), len(scene.test), scene.split_rule) == (4, 0, "none")


def test_file_path_with_extension_and_resolution(tmp_path):
    write_blender(tmp_path, size=40)
    edit(tmp_path, lambda meta: [frame.update(file_path=frame["file_path"] + ".png") for frame in meta["frames"]])
    scene = load_scene(tmp_path, resolution=2)
    assert scene.train[0].name == "train/r_0.png"
    assert {(view.width, view.K[0, 2]) for view in scene.train + scene.test} == {(20, 10.0)}
    assert scene.image_source == "images resized to 1/2 (Lanczos)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda meta: meta.pop("camera_angle_x"), "no `camera_angle_x`"),
        (lambda meta: meta.update(camera_angle_x="wide"), "`camera_angle_x` is 'wide', not a number"),
        (lambda meta: meta.update(camera_angle_x=0.0), "between 0 and pi"),
        (lambda meta: meta.pop("frames"), "no `frames`"),
        (lambda meta: meta.update(frames=[]), "`frames` is empty"),
        (lambda meta: meta.update(camera_model="ORTHOPHOTO"), "ORTHOPHOTO is not read; undistort"),
        (lambda meta: meta.update(ftheta_p0=1.0), "f-theta is not read; undistort"),
        (lambda meta: meta.update(k1="none"), "`k1` is 'none', not a number"),
        (lambda meta: meta.update(test_filenames="r_1"), "`test_filenames` is a str"),
        (lambda meta: meta.update(ply_file_path="cloud.ply"), "cloud.ply.*or take the key out"),
        (lambda meta: meta["frames"][1].update(mask_path="m.png"), "the mask m.png is missing"),
        (lambda meta: meta["frames"][2].pop("file_path"), "frame 2 has no `file_path`"),
        (lambda meta: meta["frames"][2].update(file_path="/"), "1 of 4 images are missing: /"),
        (lambda meta: meta["frames"][2].pop("transform_matrix"), "r_2: `transform_matrix` is not"),
        (
            lambda meta: meta["frames"][2].update(transform_matrix=[[1, 2]]),
            "r_2: `transform_matrix` is not",
        ),
        (lambda meta: meta["frames"][2]["transform_matrix"][0].__setitem__(3, math.nan), "`transform_matrix` is not"),
    ],
)
def test_bad_files_are_named(tmp_path, change, message):
    edit(write_blender(tmp_path / "scene"), change)
    with pytest.raises(DataError, match=rf"scene.*{message}"):
        load_scene(tmp_path / "scene")


def test_missing_images_and_broken_json(tmp_path):
    write_blender(tmp_path)
    (tmp_path / "train/r_3.png").unlink()
    with pytest.raises(DataError, match=r"1 of 4 images are missing: \./train/r_3"):
        load_scene(tmp_path)
    (tmp_path / SPLIT).write_text("{")
    with pytest.raises(DataError, match="not readable as JSON"):
        load_scene(tmp_path)


def test_photographs_for_training_and_testing_are_views_of_both(tmp_path):
    write_blender(tmp_path, test=None)
    shutil.copy(tmp_path / SPLIT, tmp_path / "transforms_test.json")
    edit(tmp_path, lambda meta: meta.update(k1=0.01))
    for index in range(4):
        write_image(tmp_path / f"train/r_{index}.png", 40, 40, level=50 * index)
    for resolution in (1, 2):  # one camera distorts, the other does not: no cached copy may be that of both
        scene = load_scene(tmp_path, resolution=resolution)
        for views in (scene.train, scene.test):
            assert [view.name for view in views] == [f"train/r_{index}.png" for index in range(4)]
            levels = [np.asarray(Image.open(view.image_path)) for view in views]
            assert [(level.shape[1], level.min(), level.max()) for level in levels] == [
                (view.width, 50 * index, 50 * index) for index, view in enumerate(views)
            ]


def test_test_frames_are_listed_by_their_names(tmp_path):
    """As they are; but for the suffix where none is written so; and however the system spells them."""
    names = ["images/a.jpg", "images/a.png", "images/frame.0001", "images/é.png", "images/b.png"]
    for name in names:
        write_image(tmp_path / (name if name.endswith("g") else name + ".png"), 20, 20)
    frames = [
        {"file_path": name, "transform_matrix": (np.linalg.inv(pose) @ np.diag([1, -1, -1, 1.0])).tolist()}
        for name, pose in zip(names, ring(5), strict=True)
    ]
    listed = ["./images/a.png", "images\\frame.0001", "images/e\u0301.JPG"]
    meta = {"camera_angle_x": 0.8, "frames": frames, "test_filenames": listed}
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    scene = load_scene(tmp_path)
    assert [view.name for view in scene.test] == ["images/a.png", "images/frame.0001.png", "images/é.png"]
    assert [view.name for view in scene.train] == ["images/a.jpg", "images/b.png"]
