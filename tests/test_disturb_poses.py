"""A scene whose poses are off: by how much, what stays, what is refused."""

import json

import numpy as np
import pytest
from demo_runs import run_program
from scene_files import write_blender
from scripts_as_modules import imported_script

from distwar_datasets import load_scene

PLAIN = {"normalise": False}


@pytest.fixture(scope="module")
def script():
    with imported_script("disturb_poses") as module:
        yield module


@pytest.fixture
def make(script, demo_scene, tmp_path):
    def make(*arguments: object, scene=demo_scene, name="out"):
        script.main([str(scene), str(tmp_path / name), *map(str, arguments)])
        return tmp_path / name

    return make


def angle(one, other) -> float:
    cosine = (np.trace(one.viewmat[:3, :3].T @ other.viewmat[:3, :3]) - 1.0) / 2.0
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def pairs(before, after, split):
    both = list(zip(getattr(before, split), getattr(after, split), strict=True))
    assert both and all(one.name == other.name for one, other in both)
    return both


@pytest.mark.parametrize("keep_test", [False, True])
def test_cameras_move_by_what_is_asked_for_and_nothing_else_changes(make, demo_scene, keep_test):
    out = make("--degrees", 0.5, "--percent", 2, *(["--keep_test"] if keep_test else []))
    before, after = (load_scene(folder, **PLAIN) for folder in (demo_scene, out))
    for split in ("train", "test"):
        moves = split == "train" or not keep_test
        for one, other in pairs(before, after, split):
            assert angle(one, other) == pytest.approx(0.5 if moves else 0.0, abs=1e-5)
            distance = np.linalg.norm(one.center - other.center)
            assert distance == pytest.approx(0.02 * before.extent if moves else 0.0, rel=1e-6, abs=1e-9)
            np.testing.assert_allclose(one.K, other.K, rtol=0, atol=1e-9)
            assert one.image_path.read_bytes() == other.image_path.read_bytes()
    np.testing.assert_allclose(before.points.positions, after.points.positions, rtol=0, atol=1e-12)
    assert np.array_equal(before.points.colors, after.points.colors)


def test_the_record_says_what_was_done(make, demo_scene):
    out = make("--degrees", 1, "--percent", 1, "--seed", 4)
    record = json.loads((out / "disturbed.json").read_text())
    assert record["asked"] == {"degrees": 1.0, "percent": 1.0, "seed": 4, "keep_test": False, "test_every": 8}
    before, after = (load_scene(folder, **PLAIN) for folder in (demo_scene, out))
    for one, other in pairs(before, after, "train"):
        drawn = record["poses"][one.name]
        np.testing.assert_allclose(other.center - one.center, drawn["shift"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(other.viewmat[:3, :3].T, np.array(drawn["turn"]) @ one.viewmat[:3, :3].T, atol=1e-9)


def test_a_seed_is_a_draw(make):
    texts = [(make("--seed", seed, name=f"{index}") / "sparse/0/images.txt").read_text()
             for index, seed in enumerate((1, 1, 2))]  # fmt: skip
    assert texts[0] == texts[1] != texts[2]


def test_a_scene_without_points_in_another_format(make, tmp_path):
    out = make(scene=write_blender(tmp_path / "blender"), name="blender-out")
    scene = load_scene(out, **PLAIN)
    assert (len(scene.train), len(scene.test)) == (4, 2) and scene.points is None


BAD = {
    "degrees": (("--degrees", "181"), "--degrees is 181: it must be between 0 and 180"),
    "percent": (("--percent", "-1"), "--percent is -1: it must be between 0 and 100"),
    "nan": (("--percent", "nan"), "--percent is nan: it must be between 0 and 100"),
    "seed": (("--seed", "-1"), "--seed is -1: it must be at least 0"),
    "every": (("--test_every", "1"), "--test_every is 1: it must be at least 2"),
    "size": (("-r", "0"), "--resolution is 0: it must be -1 or a positive number"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_bad_arguments(demo_scene, tmp_path, arguments, message):
    result = run_program("scripts/disturb_poses.py", demo_scene, tmp_path / "out", *arguments)
    assert result.returncode != 0 and message in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_bad_places(demo_scene, tmp_path):
    (tmp_path / "there").mkdir()
    places = {
        (demo_scene, tmp_path / "there"): "is there already; delete it, or give another folder",
        (demo_scene, tmp_path / "no/out"): "the folder that it is to be in does not exist; make it",
        (demo_scene, demo_scene / "out"): "lies in the scene; give a folder outside of it",
        (tmp_path / "nothing", tmp_path / "out"): "is not the folder of a scene",
        (tmp_path / "there", tmp_path / "out"): "there",
    }
    for (scene, out), message in places.items():
        result = run_program("scripts/disturb_poses.py", scene, out)
        assert result.returncode != 0 and message in result.stderr and "Traceback" not in result.stderr
