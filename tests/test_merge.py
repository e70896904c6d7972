"""Two runs in one model: frames, which Gaussians are kept, files, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from demo_runs import run_program
from scipy.spatial.transform import Rotation

from distwar_gs.formats import merging
from distwar_gs.formats.export import load_exactly, load_ply, save_ply
from distwar_gs.formats.merging import IDENTITY, Similarity, frame_between, joined, own_rows

FRAME = Similarity(2.5, Rotation.from_rotvec([0.3, -0.5, 0.2]).as_matrix(), np.array([4.0, -1.0, 2.0]))


def poses(count: int = 5, seed: int = 0) -> merging.Poses:
    generator = np.random.default_rng(seed)
    rotations = Rotation.random(count, random_state=seed).as_matrix()
    return {f"{i}.png": (generator.normal(size=3), rotations[i]) for i in range(count)}


def moved(those: merging.Poses, frame: Similarity) -> merging.Poses:
    return {name: (frame.points(center), frame.rotation @ rotation) for name, (center, rotation) in those.items()}


@pytest.mark.parametrize("count", [2, 5])
def test_the_frame_is_found_by_photos_in_common(count):
    there = poses(count)
    found, common = frame_between(moved(there, FRAME) | {"own.png": poses(1)["0.png"]}, there)
    assert common == count and found.scale == pytest.approx(FRAME.scale)
    np.testing.assert_allclose(found.rotation, FRAME.rotation, atol=1e-12)
    np.testing.assert_allclose(found.shift, FRAME.shift, atol=1e-12)


def test_one_frame_stays_as_it_is():
    assert frame_between(poses(), poses())[0] is IDENTITY
    assert frame_between(poses(), {f"b{name}": pose for name, pose in poses().items()}) == (IDENTITY, 0)
    at_one_place = {name: (np.ones(3), rotation) for name, (_, rotation) in poses().items()}
    assert frame_between(at_one_place, at_one_place)[0] is IDENTITY


def test_gaussians_are_where_they_were():
    """The covariance goes along, and the colour in the direction that goes along."""
    from distwar_kernels.projection.projection_torch import covariance_matrices
    from distwar_kernels.sh.sh_torch import spherical_harmonics_torch

    generator = np.random.default_rng(1)
    shapes = {
        "means": (9, 3),
        "quats": (9, 4),
        "scales": (9, 3),
        "opacities": (9,),
        "sh0": (9, 1, 3),
        "shN": (9, 15, 3),
    }
    arrays = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    after = {name: torch.from_numpy(np.asarray(a)).double() for name, a in FRAME.gaussians(arrays).items()}
    before = {name: torch.from_numpy(a).double() for name, a in arrays.items()}
    rotation = torch.from_numpy(FRAME.rotation)
    own, other = (covariance_matrices(p["quats"], p["scales"].exp()) for p in (before, after))
    torch.testing.assert_close(other, FRAME.scale**2 * rotation @ own @ rotation.T, rtol=1e-4, atol=1e-4)
    direction = torch.tensor([[0.2, -0.7, 0.4]], dtype=torch.float64).expand(9, 3)
    colors = [
        spherical_harmonics_torch(3, d, torch.cat([p["sh0"], p["shN"]], dim=1))
        for p, d in ((before, direction), (after, direction @ rotation.T))
    ]
    torch.testing.assert_close(*colors, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(after["means"], FRAME.points(arrays["means"].astype(np.float64)))


def test_each_place_belongs_to_the_nearest_camera():
    means = np.array([[0.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0], [9.0, 0, 0]])
    left, right = np.array([[0.0, 0, 0], [2.0, 0, 0]]), np.array([[2.0, 0, 0], [8.0, 0, 0]])
    np.testing.assert_array_equal(own_rows(means, left, right, True), [True, True, True, False])
    np.testing.assert_array_equal(own_rows(means, right, left, False), [False, False, False, True])


def test_harmonics_that_one_lacks_are_zeros():
    one = {"means": np.ones((2, 3)), "shN": np.ones((2, 3, 3), np.float32)}
    other = {"means": np.zeros((1, 3)), "shN": np.ones((1, 8, 3), np.float32)}
    both = joined(one, other)
    assert both["shN"].shape == (3, 8, 3) and both["shN"][:2, 3:].max() == 0 and both["shN"][:2, :3].min() == 1
    np.testing.assert_array_equal(both["means"][:, 0], [1, 1, 0])


# ------------------------------------------------------------------------------------------------------ the program


@pytest.fixture
def second_run(demo_run, tmp_path):
    """The same run in another frame, with the names of its first eight photos alone in common."""
    run = tmp_path / "second"
    shutil.copytree(demo_run.folder, run)
    ply = run / "point_cloud/iteration_60/point_cloud.ply"
    back = Similarity(1 / FRAME.scale, FRAME.rotation.T, -FRAME.rotation.T @ FRAME.shift / FRAME.scale)
    arrays = back.gaussians({name: tensor.numpy() for name, tensor in load_ply(ply).items()})
    save_ply(ply, {name: torch.from_numpy(np.asarray(array, np.float32)) for name, array in arrays.items()})
    entries = json.loads((run / "cameras.json").read_text())
    for index, entry in enumerate(entries):
        entry["position"] = back.points(np.array(entry["position"])).tolist()
        entry["rotation"] = (back.rotation @ np.array(entry["rotation"])).tolist()
        entry["img_name"] = entry["img_name"] if index < 8 else f"other_{index}.png"
    (run / "cameras.json").write_text(json.dumps(entries))
    return run


def test_a_run_merged_with_itself_in_another_frame_is_the_run(demo_run, second_run, tmp_path):
    """All cameras of both are at the same places, so all is the first's."""
    out = tmp_path / "merged.ply"
    result = run_program("scripts/merge.py", demo_run.folder, second_run, out)
    assert result.returncode == 0, result.stderr
    assert "8 photos in common" in result.stdout and "scaled by 2.5" in result.stdout
    own, merged = load_exactly(demo_run.folder / "point_cloud/iteration_60/point_cloud.ply")[0], load_exactly(out)[0]
    share = len(merged["means"]) / len(own["means"])
    assert 0.99 < share < 1.01  # where two cameras are as near but for rounding, either may have a Gaussian


def test_all_are_kept_where_that_is_asked_for(demo_run, second_run, tmp_path):
    out = tmp_path / "merged.ply"
    result = run_program("scripts/merge.py", demo_run.folder, second_run, out, "--keep", "all")
    assert result.returncode == 0, result.stderr
    own, merged = load_ply(demo_run.folder / "point_cloud/iteration_60/point_cloud.ply"), load_ply(out)
    count = len(own["means"])
    assert len(merged["means"]) == 2 * count
    for name in ("means", "scales", "opacities", "sh0", "shN"):
        torch.testing.assert_close(merged[name][count:], own[name], rtol=1e-3, atol=1e-4)


def test_what_is_no_run_is_refused(demo_run, second_run, tmp_path):
    (tmp_path / "empty").mkdir()
    cases = [
        ((demo_run.folder, tmp_path / "nothing", "a.ply"), "is not a run folder of train.py"),
        ((demo_run.folder, tmp_path / "empty", "a.ply"), "there are: none"),
        ((demo_run.folder, second_run, "a.txt"), "no format to write; let the name end in"),
    ]
    (second_run / "cameras.json").write_text("[1]")
    cases.append(((demo_run.folder, second_run, "a.ply"), "not the cameras of a run"))
    for (first, second, out), message in cases:
        result = run_program("scripts/merge.py", first, second, tmp_path / out)
        assert result.returncode != 0 and message in result.stderr and "Traceback" not in result.stderr
        assert not (tmp_path / out).exists()
