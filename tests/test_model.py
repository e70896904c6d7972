"""How the Gaussians begin: sizes from neighbours, colours, random points, and points nobody can start from."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pycolmap
import pytest
import torch
from demo_runs import DENSE_SCHEDULE, demo_config
from scene_files import ring, write_colmap

from distwar_datasets import View, load_scene
from distwar_gs.config import ModelConfig
from distwar_gs.gaussians import model
from distwar_gs.training.trainer import Trainer

CONFIG = ModelConfig()


def cloud(count: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 3)), rng.integers(0, 256, (count, 3), dtype=np.uint8)


def scene(points=None, bounds=None):
    """Two cameras at x = 1 and x = 3, looking along different axes."""
    views = []
    for x, turn in ((1.0, np.eye(3)), (3.0, np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]))):
        viewmat = np.eye(4)
        viewmat[:3, :3], viewmat[:3, 3] = turn, -turn @ np.array([x, 5.0, 0.0])
        views.append(View("a.png", None, 8, 8, np.diag([9.0, 9.0, 1.0]), viewmat, 1))
    return SimpleNamespace(source="demo", train=tuple(views), points=points, extent=2.0, bounds=bounds)


def test_scales_are_the_rms_distance_to_three_neighbours():
    positions, _ = cloud()
    squared = ((positions[:, None] - positions[None]) ** 2).sum(-1)
    expected = np.sqrt(np.sort(squared, axis=1)[:, 1:4].mean(axis=1))
    np.testing.assert_allclose(model.initial_scales(positions), expected, rtol=1e-12)
    np.testing.assert_allclose(model.initial_scales(positions, 0.5), expected / 2, rtol=1e-12)


def test_duplicates_and_strays_stay_within_the_cloud():
    positions, _ = cloud()
    positions[:5] = positions[0]
    positions[10] = 1e6
    scales = model.initial_scales(positions)
    assert scales.min() > 1e-4 and scales.max() < 10.0


@pytest.mark.parametrize("positions", [[[1.0, 2, 3]], [[1.0, 2, 3]] * 6])
def test_points_without_any_distance(positions):
    assert np.all(model.initial_scales(np.array(positions)) == model.DEGENERATE_SCALE)


def test_two_points_are_each_others_neighbours():
    np.testing.assert_allclose(model.initial_scales(np.array([[0.0, 0, 0], [2, 0, 0]])), [2.0, 2.0])


def test_initialise():
    positions, colors = cloud(50)
    params = model.initialize(positions, colors, CONFIG, "cpu")
    assert tuple(params) == model.PARAMETER_NAMES
    shapes = {name: (*param.shape,) for name, param in params.items()}
    expected = {"means": (50, 3), "quats": (50, 4), "scales": (50, 3), "opacities": (50,), "sh0": (50, 1, 3)}
    assert shapes == expected | {"shN": (50, 15, 3)}
    assert all(param.dtype == torch.float32 and param.requires_grad and param.is_leaf for param in params.values())
    torch.testing.assert_close(torch.sigmoid(params["opacities"]), torch.full((50,), 0.1))
    rgb = 0.5 + model.SH_C0 * params["sh0"].detach()[:, 0]
    torch.testing.assert_close(rgb, torch.from_numpy(colors / 255.0).float())
    assert torch.equal(params["quats"].detach(), torch.tensor([1.0, 0, 0, 0]).expand(50, 4))
    assert torch.all(params["scales"][:, :1] == params["scales"])
    assert model.parameter_count(params) == 50 * 59 and model.sh_degree_of(params) == 3


def test_float_colours_are_taken_as_they_are():
    positions, colors = cloud(20)
    from_bytes = model.initialize(positions, colors, CONFIG, "cpu")
    from_floats = model.initialize(torch.from_numpy(positions), torch.from_numpy(colors / 255.0), CONFIG, "cpu")
    torch.testing.assert_close(from_bytes["sh0"], from_floats["sh0"])


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_degree(degree):
    params = model.initialize(*cloud(5), ModelConfig(sh_degree=degree), "cpu")
    assert params["shN"].shape == (5, (degree + 1) ** 2 - 1, 3) and model.sh_degree_of(params) == degree


def test_active_degree_rises_at_the_multiples():
    degrees = [model.active_sh_degree(step, CONFIG) for step in (1, 999, 1000, 1999, 2000, 3000, 30_000)]
    assert degrees == [0, 0, 1, 1, 2, 3, 3]


def test_bad_points_are_refused():
    positions, colors = cloud(5)
    positions[2, 1] = np.nan
    with pytest.raises(model.ModelError, match="1 of 5 points are not finite"):
        model.initialize(positions, colors, CONFIG, "cpu")
    with pytest.raises(model.ModelError, match="model.init=random"):
        model.initialize(positions[:0], colors[:0], CONFIG, "cpu")
    with pytest.raises(model.ModelError, match=r"\[5, 3\] and \[4, 3\]"):
        model.initialize(positions, colors[:4], CONFIG, "cpu")


def test_points_that_32_bits_cannot_hold_are_refused():
    positions, colors = cloud(5)
    positions[3, 0] = 1e39
    with pytest.raises(model.ModelError, match="1 of 5 points are not finite, or too far away"):
        model.initialize(positions, colors, CONFIG, "cpu")


# ------------------------------------------------------------------------------------------- few and awkward points

CAMERAS = [-pose[:3, :3].T @ pose[:3, 3] for pose in ring(4)]


def test_what_is_denser_than_pixels_begins_as_large_as_a_part_of_one(tmp_path):
    """Of the nearest view: 10 points a hundredth of a pixel apart, and 10 many pixels apart, which stay."""
    scene = load_scene(scene_with_points(tmp_path, []), normalise=False, test_every=4)
    centres = np.stack([view.center for view in scene.train])
    dense = np.random.default_rng(0).normal(0, 1e-4, (10, 3)) + [0.1, 0.0, 0.0]
    sparse = np.random.default_rng(1).normal(0, 1.0, (10, 3))
    positions, colors = np.concatenate([dense, sparse]), np.full((20, 3), 128, np.uint8)
    sizes = {}
    for pixels in (0.0, 0.3):
        config = dataclasses.replace(CONFIG, init_pixels=pixels)
        sizes[pixels] = model.initialize(positions, colors, config, "cpu", scene.train)["scales"].detach().exp().numpy()
    assert np.array_equal(sizes[0.3][10:], sizes[0.0][10:])
    distances = np.linalg.norm(positions[:10, None] - centres, axis=2)
    focal = scene.train[0].K[0, 0]
    np.testing.assert_allclose(sizes[0.3][:10, 0], 0.3 * distances.min(axis=1) / focal, rtol=1e-5)
    assert (sizes[0.0][:10] < 0.1 * sizes[0.3][:10]).all()
    alone = dataclasses.replace(CONFIG, init_pixels=0.3)
    assert np.array_equal(model.initialize(positions, colors, alone, "cpu")["scales"].detach().exp(), sizes[0.0])


AWKWARD = {
    "none": [],
    "one": [[0.1, 0.2, 0.0]],
    "two": [[0.5, 0.0, 0.0], [-0.5, 0.1, 0.0]],
    "two in one place": [[0.1, 0.0, 0.0]] * 2,
    "three in a row": [[0.1 * i, 0.0, 0.0] for i in range(3)],
    "all in one place": [[0.1, 0.0, 0.2]] * 50,
    "each one twice": [[np.sin(i), np.cos(2 * i), np.sin(3 * i)] for i in range(20)] * 2,
    "some at the cameras": [*CAMERAS, *CAMERAS, *([np.sin(i), np.cos(2 * i), np.sin(3 * i)] for i in range(20))],
    "all at the cameras": CAMERAS,
    "next to nothing apart": [[0.1, 0.0, 0.0], [0.1 + 1e-12, 0.0, 0.0]],
    "a stray": [[1e30, 0.0, 0.0], *([np.sin(i), np.cos(2 * i), np.sin(3 * i)] for i in range(20))],
}


def scene_with_points(folder: Path, points: list) -> Path:
    """A COLMAP scene of four images in a ring and exactly these points."""
    write_colmap(folder, points=0)
    reconstruction = pycolmap.Reconstruction(folder / "sparse/0")
    for index, point in enumerate(points):
        color = np.array([200, 40 * index % 256, 90], np.uint8)
        reconstruction.add_point3D(np.asarray(point, float), pycolmap.Track(), color)
    reconstruction.write_binary(folder / "sparse/0")
    return folder


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("strategy", ["adc", "guided"])
@pytest.mark.parametrize("points", AWKWARD.values(), ids=AWKWARD)
def test_training_begins_from_any_points(tmp_path, points, strategy):
    """Without points from random ones; growth, pruning and an opacity reset included."""
    scene = scene_with_points(tmp_path / "scene", points)
    changes = {**DENSE_SCHEDULE, "train.iterations": 30, "data.test_every": 4, "model.init_points": 500}
    run = Trainer(demo_config(scene, tmp_path / "run", changes | {"densification.strategy": strategy}))
    assert len(run.state.params["means"]) == (len(points) or 500)
    begin = {name: param.detach().clone() for name, param in run.state.params.items()}
    assert all(value.isfinite().all() for value in begin.values())
    assert run.run() == 0 and run.state.step == 30
    assert all(param.isfinite().all() for param in run.state.params.values())
    text = (run.folder / "train.log").read_text()
    assert "not finite" not in text and "nothing is visible" not in text
    assert len(run.state.params["sh0"]) != len(begin["sh0"]) or not torch.equal(run.state.params["sh0"], begin["sh0"])


def test_random_points_fill_the_bounds_and_repeat_with_the_seed():
    low, high = torch.tensor([-1.0, 0, 2]), torch.tensor([1.0, 1, 6])
    bounded = scene(bounds=(low.double().numpy(), high.double().numpy()))
    draws = [model.random_points(bounded, 4000, torch.Generator().manual_seed(3)) for _ in range(2)]
    (positions, colors), (again, _) = draws
    assert torch.equal(positions, again)
    assert torch.all(positions >= low) and torch.all(positions <= high)
    torch.testing.assert_close(positions.mean(0), (low + high) / 2, rtol=0, atol=0.06)
    assert torch.all((colors - 0.5).abs() < 0.01)


def test_starting_points_follow_the_config():
    generator = torch.Generator().manual_seed(0)
    points = SimpleNamespace(positions=np.zeros((4, 3)), colors=np.zeros((4, 3), np.uint8))
    few = ModelConfig(init_points=10)
    assert len(model.starting_points(scene(points), few, generator)[0]) == 4
    assert len(model.starting_points(scene(), few, generator)[0]) == 10
    assert len(model.starting_points(scene(points), ModelConfig(init="random", init_points=9), generator)[0]) == 9
    with pytest.raises(model.ModelError, match="demo holds no points"):
        model.starting_points(scene(), ModelConfig(init="sfm"), generator)
