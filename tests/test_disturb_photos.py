"""A scene whose light changes from photo to photo: what is drawn, what it does to pixels, what stays."""

import json

import numpy as np
import pytest
from demo_runs import run_program
from PIL import Image
from scripts_as_modules import imported_script

from distwar_datasets import load_scene

ASKED = ("--exposure", 1, "--white_balance", 0.2, "--vignette", 0.3, "--seed", 3)


@pytest.fixture(scope="module")
def script():
    with imported_script("disturb_photos") as module:
        yield module


@pytest.fixture(scope="module")
def made(script, demo_scene, tmp_path_factory):
    out = tmp_path_factory.mktemp("disturbed") / "scene"
    script.main([str(demo_scene), str(out), *map(str, ASKED)])
    return out


def pixels_of(view):
    return np.asarray(Image.open(view.image_path)).astype(float)


def test_only_photos_to_train_on_change(made, demo_scene):
    before, after = load_scene(demo_scene), load_scene(made)
    for split in ("train", "test"):
        pairs = list(zip(getattr(before, split), getattr(after, split), strict=True))
        assert pairs and all(one.name == other.name for one, other in pairs)
        assert all(
            np.array_equal(one.viewmat, other.viewmat) and np.array_equal(one.K, other.K) for one, other in pairs
        )
        equal = [one.image_path.read_bytes() == other.image_path.read_bytes() for one, other in pairs]
        assert all(equal) if split == "test" else not any(equal)
    assert np.array_equal(before.points.positions, after.points.positions)


def test_the_record_says_what_was_done(made, demo_scene, script):
    """From it and the photo before comes the photo after, but where it is white."""
    record = json.loads((made / "disturbed.json").read_text())
    assert record["asked"] == {
        "exposure": 1.0, "white_balance": 0.2, "vignette": 0.3, "one_lens": False, "seed": 3,
        "test_every": 8,
    }  # fmt: skip
    scene, before = load_scene(made), {view.name: view for view in load_scene(demo_scene).train}
    assert set(record["photos"]) == {view.name for view in scene.train}
    for view in scene.train[:3]:
        light = record["photos"][view.name]
        assert abs(light["stops"]) <= 1.0 and 0.0 <= light["vignette"] <= 0.3 and light["gains"][1] == 1.0
        assert all(1 / 1.2 <= gain <= 1.2 for gain in light["gains"])
        own, other = (script.to_linear(pixels_of(one) / 255) for one in (before[view.name], view))
        height, width = own.shape[:2]
        middle = own[height // 2, width // 2] * 2 ** light["stops"] * light["gains"]
        assert other[height // 2, width // 2] == pytest.approx(np.minimum(middle, 1.0), abs=0.02)
        corner = own[0, 0] * 2 ** light["stops"] * light["gains"] * (1 - light["vignette"])
        assert other[0, 0] == pytest.approx(np.minimum(corner, 1.0), abs=0.02)


def test_the_same_seed_is_the_same_photos(script, made, demo_scene, tmp_path):
    for name, seed in (("same", 3), ("other", 4)):
        script.main([str(demo_scene), str(tmp_path / name), *map(str, ASKED[:-1]), str(seed)])
    photos = {name: [view.image_path.read_bytes() for view in load_scene(tmp_path / name).train] for name in
              ("same", "other")}  # fmt: skip
    own = [view.image_path.read_bytes() for view in load_scene(made).train]
    assert photos["same"] == own and all(one != other for one, other in zip(photos["other"], own, strict=True))


def test_nothing_asked_changes_nothing(script):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    assert np.array_equal(script.disturbed(pixels, script.Light(0.0, (1.0, 1.0, 1.0), 0.0)), pixels)


def test_light_is_linear(script):
    """One stop is twice the light, not twice the value; what is too bright is white; alpha stays."""
    pixels = np.full((2, 2, 4), 100, dtype=np.uint8)
    brighter = script.disturbed(pixels, script.Light(1.0, (1.0, 1.0, 1.0), 0.0))
    assert (brighter[..., 3] == 100).all() and (brighter[..., :3] == 138).all()
    assert (script.disturbed(pixels, script.Light(5.0, (1.0, 1.0, 1.0), 0.0))[..., :3] == 255).all()
    values = np.linspace(0, 1, 50)
    assert script.to_srgb(script.to_linear(values)) == pytest.approx(values, abs=1e-6)


def test_photos_of_lenses_that_distort_change_as_they_were_taken(script, tmp_path):
    """A transforms.json with radial distortion: the photo in the file is disturbed, not its undistorted copy."""
    pixels = np.full((40, 60, 3), 90, dtype=np.uint8)
    (tmp_path / "scene/images").mkdir(parents=True)
    frames = []
    for index in range(9):
        Image.fromarray(pixels).save(tmp_path / f"scene/images/{index}.jpg", quality=98)
        pose = np.eye(4)
        pose[0, 3] = index
        frames.append({"file_path": f"images/{index}.jpg", "transform_matrix": pose.tolist()})
    lens = {"fl_x": 50, "fl_y": 50, "cx": 30, "cy": 20, "w": 60, "h": 40, "k1": 0.1, "camera_model": "OPENCV"}
    (tmp_path / "scene/transforms.json").write_text(json.dumps(lens | {"frames": frames}))
    script.main([str(tmp_path / "scene"), str(tmp_path / "out"), "--exposure", "2", "--vignette", "0"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["disturbed.json", "images", "transforms.json"]
    levels = [np.asarray(Image.open(tmp_path / f"out/images/{index}.jpg")).mean() for index in range(9)]
    assert levels[0] == pytest.approx(90, abs=1) and all(abs(level - 90) > 2 for level in levels[1:8])


def test_smaller_copies_are_left_out(script, demo_scene, tmp_path):
    """Their light would be the old one."""
    from shutil import copytree

    copytree(demo_scene, tmp_path / "scene")
    copytree(tmp_path / "scene/images", tmp_path / "scene/images_2")
    script.main([str(tmp_path / "scene"), str(tmp_path / "out")])
    assert not (tmp_path / "out/images_2").exists() and (tmp_path / "out/images").is_dir()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--exposure", -1), "--exposure is -1: it must be between 0 and 8"),
        (("--vignette", 2), "--vignette is 2: it must be between 0 and 1"),
        (("--white_balance", "nan"), "--white_balance is nan: it must be between 0 and 4"),
        (("--seed", -1), "--seed is -1: it must be at least 0"),
        (("--test_every", 1), "--test_every is 1: it must be at least 2"),
    ],
)
def test_bad_numbers(demo_scene, tmp_path, arguments, said):
    result = run_program("scripts/disturb_photos.py", demo_scene, tmp_path / "out", *arguments)
    assert (result.returncode, result.stderr) == (1, f"error: {said}\n")
    assert list(tmp_path.iterdir()) == []


def test_bad_folders(demo_scene, tmp_path):
    for scene, out, said in (
        (tmp_path / "gone", tmp_path / "out", f"{tmp_path / 'gone'}: is not the folder of a scene"),
        (demo_scene, tmp_path, f"{tmp_path}: is there already; delete it, or give another folder"),
        (demo_scene, tmp_path / "a/out", "the folder that it is to be in does not exist; make it"),
        (demo_scene, demo_scene / "out", "lies in the scene; give a folder outside of it"),
    ):
        result = run_program("scripts/disturb_photos.py", scene, out)
        assert result.returncode == 1 and said in result.stderr and result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == [] and not (demo_scene / "out").exists()
