"""Runs that begin with a file: a point cloud in the place of the scene's points, or Gaussians of any trainer."""

import json
import shutil

import numpy as np
import plyfile
import pytest
import torch
from demo_runs import DENSE_SCHEDULE, demo_config
from sog_files import write_sog

from distwar_datasets import DataError, load_scene
from distwar_gs.checkpoints.checkpoint import CheckpointError
from distwar_gs.config import ConfigError
from distwar_gs.formats.export import find_ply, load_model, load_ply, save_model, save_ply
from distwar_gs.formats.ply import ModelFileError
from distwar_gs.gaussians.memory import Cap
from distwar_gs.gaussians.model import degree_in_use
from distwar_gs.gaussians.start import with_degree
from distwar_gs.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture
def make(demo_scene, tmp_path):
    """Makes a Trainer on the demo scene that begins with a file; with adc, as `demo_run` was trained."""

    def make(init_ply, changes: dict | None = None, folder: str = "run", scene=None) -> Trainer:
        start = {"model.init_ply": init_ply and str(init_ply), "model.sh_degree": 2, "densification.strategy": "adc"}
        return Trainer(demo_config(scene or demo_scene, tmp_path / folder, start | (changes or {})))

    return make


def write_cloud(path, positions, colors, kind: str = "f8"):
    table = np.zeros(
        len(positions), [*((axis, kind) for axis in "xyz"), *((c, "u1") for c in ("red", "green", "blue"))]
    )
    for index, name in enumerate(table.dtype.names):
        table[name] = np.concatenate([positions, colors], axis=1)[:, index]
    plyfile.PlyData([plyfile.PlyElement.describe(table, "vertex")]).write(str(path))
    return path


@pytest.fixture
def own_points(demo_scene, tmp_path):
    """The scene's points as a point cloud."""
    points = load_scene(demo_scene, normalise=False).points
    return write_cloud(tmp_path / "own.ply", points.positions, points.colors)


def log_of(run: Trainer) -> str:
    return (run.folder / "train.log").read_text()


def measured(run: Trainer) -> float:
    """PSNR of the held-out views as the model is now."""
    run.open()
    try:
        return run.results.evaluate().psnr
    finally:
        run.monitor.close()


def psnr_of(folder) -> float:
    return json.loads((folder / "metrics.json").read_text())[-1]["psnr"]


# ----------------------------------------------------------------------------------------------------- point clouds


@pytest.mark.parametrize("changes", [{}, {"densification.strategy": "mcmc"}, {"data.normalise": False}])
def test_a_cloud_of_the_scenes_own_points_is_the_same_start(make, own_points, demo_scene, changes):
    if "densification.strategy" in changes:
        changes |= {"optim.adam": "dense", "densification.cap_max": 4000}
    with_file, without = (make(start, {**DENSE_SCHEDULE, **changes, "train.iterations": 12}, str(i))
                          for i, start in enumerate((own_points, None)))  # fmt: skip
    for run in (with_file, without):
        run.run()
    assert all(torch.equal(with_file.state.params[name], without.state.params[name]) for name in with_file.state.params)
    assert "starting from the 3,008 points of " in log_of(with_file) and "not from the 3,008 of" in log_of(with_file)


def test_another_cloud_takes_the_place_of_the_scenes(make, demo_scene, tmp_path):
    points = load_scene(demo_scene, normalise=False).points
    colors = np.full((500, 3), [255, 0, 128], np.uint8)
    run = make(write_cloud(tmp_path / "few.ply", points.positions[:500], colors, "f4"))
    frame = run.scene.normalisation
    np.testing.assert_allclose(
        frame.undo_points(run.state.params["means"].detach().double().numpy()), points.positions[:500], atol=1e-4
    )
    rgb = 0.5 + 0.28209479 * run.state.params["sh0"][:, 0].detach()
    np.testing.assert_allclose(rgb, np.tile([1.0, 0.0, 128 / 255], (500, 1)), atol=1e-6)


def test_a_cloud_of_more_points_than_the_cap_is_thinned(make, own_points):
    run = make(own_points, {"densification.cap_max": 700, "train.iterations": 2})
    again = make(own_points, {"densification.cap_max": 700}, "again")
    assert run.run() == 0 and len(run.state.params["means"]) == 700
    assert len(again.state.params["means"].unique(dim=0)) == 700
    assert "starting from 700 of the 3,008 points, drawn at random" in log_of(run) and "--cap_max" in log_of(run)


def test_what_memory_holds_limits_a_start(make, own_points, monkeypatch):
    monkeypatch.setattr(Cap, "for_start", lambda self, share: int(share * 3000))
    assert len(make(own_points).state.params["means"]) == 1500
    assert len(make(None, folder="scene").state.params["means"]) == 3000
    assert len(make(None, {"densification.cap_max": 700}, "capped").state.params["means"]) == 3008  # as before


def test_caps_for_a_start():
    class TwelveFit:
        def gaussians(self, held):
            return 12

    assert [Cap(*arguments).for_start(0.5) for arguments in ((None, TwelveFit()), (5, TwelveFit()), (0,), (None,))] == [
        6, 5, None, None
    ]  # fmt: skip


# -------------------------------------------------------------------------------------------------------- Gaussians


def test_all_parameters_of_a_model_are_kept(make, demo_run):
    run = make(demo_run.folder)
    saved = load_ply(find_ply(demo_run.folder), run.scene.normalisation)
    assert all(torch.equal(run.state.params[name].detach(), saved[name]) for name in saved)
    assert all(not optimizer.state for optimizer in run.state.optimizers.values())
    assert measured(run) == psnr_of(demo_run.folder)


@pytest.mark.parametrize("name", ["a.ply", "a.compressed.ply", "a.spz", "a.splat", "a.sog", "folder"])
def test_every_format_is_a_start(make, demo_run, tmp_path, name):
    params = load_model(find_ply(demo_run.folder))
    (save_model if name not in ("a.sog", "folder") else write_sog)(tmp_path / name, params)
    run = make(tmp_path / name, {"train.iterations": 10})
    assert measured(run) == pytest.approx(psnr_of(demo_run.folder), abs=0.2)
    assert run.run() == 0 and psnr_of(run.folder) > psnr_of(demo_run.folder) + 0.1


@pytest.mark.parametrize("strategy", ["adc", "mcmc", "guided"])
def test_training_goes_on_from_a_model(make, demo_run, strategy):
    """And in the world's frame: what comes out lies where the model lay."""
    changes = {**DENSE_SCHEDULE, "train.iterations": 50, "densification.opacity_reset_every": 100}
    changes |= {"mcmc": {"optim.adam": "dense", "densification.cap_max": 3500}}.get(strategy, {})
    changes |= {"model.antialiased": False}  # as it was trained
    run = make(find_ply(demo_run.folder), changes | {"densification.strategy": strategy})
    before = measured(run)
    assert run.run() == 0 and len(run.state.params["means"]) > 3008
    assert psnr_of(run.folder) > before + 0.1
    was, now = (load_ply(find_ply(folder))["means"] for folder in (demo_run.folder, run.folder))
    assert torch.cdist(was, now).amin(dim=1).median() < 0.02 * was.std()


@pytest.mark.parametrize(
    ("strategy", "words", "left"),
    [("adc", "none are added", 3008), ("mcmc", "faintest go", 2000), ("guided", "faintest go", 2000)],
)
def test_a_model_of_more_gaussians_than_the_cap(make, demo_run, strategy, words, left):
    changes = {**DENSE_SCHEDULE, "densification.strategy": strategy, "optim.adam": "dense", "train.iterations": 12,
               "densification.cap_max": 2000, "densification.prune_opacity": 0.0}  # fmt: skip
    run = make(demo_run.folder, changes)
    assert len(run.state.params["means"]) == 3008 and run.run() == 0
    assert words in log_of(run) and "more than densification.cap_max, 2,000" in log_of(run)
    assert len(run.state.params["means"]) == left


@pytest.mark.parametrize("normalise", [True, False])
def test_the_frame_of_a_model_is_that_of_the_poses(make, demo_run, normalise):
    run = make(demo_run.folder, {"data.normalise": normalise, "model.near_plane": 0.03 if normalise else 0.1})
    assert measured(run) == pytest.approx(psnr_of(demo_run.folder), abs=0.05)


def harmonic_model(demo_run, path, degree: int = 2):
    """The demo's Gaussians with strong harmonics."""
    params = load_ply(find_ply(demo_run.folder))
    count = (degree + 1) ** 2 - 1
    params["shN"] = 0.3 * torch.randn(len(params["means"]), count, 3, generator=torch.Generator().manual_seed(1))
    save_ply(path, params)
    return params


def test_harmonics_of_a_model_are_in_use_from_the_first_step(make, demo_run, tmp_path, monkeypatch):
    harmonic_model(demo_run, tmp_path / "a.ply")
    run = make(tmp_path / "a.ply", {"model.sh_degree_interval": 1000, "train.iterations": 3})
    degrees = []
    forward = run.state.engine.forward
    monkeypatch.setattr(run.state.engine, "forward", lambda step, camera, degree, background, **options: (
        degrees.append(degree), forward(step, camera, degree, background))[1])  # fmt: skip
    run.run()
    assert degrees == [2, 2, 2]
    resumed = make(None, {"model.sh_degree_interval": 1000, "train.iterations": 4, "train.resume": "auto"})
    assert resumed.state.first_degree == 2
    assert make(None, folder="ordinary").state.first_degree == 0


@pytest.mark.parametrize(
    ("held", "wanted", "words"),
    [(2, 1, "those above degree 1 are left out; --sh_degree 2 keeps them"), (1, 3, "up to degree 3 start at zero"),
     (0, 2, "up to degree 2 start at zero"), (2, 0, "those above degree 0 are left out")],
)  # fmt: skip
def test_harmonics_of_another_degree(make, demo_run, tmp_path, held, wanted, words):
    params = harmonic_model(demo_run, tmp_path / "a.ply", held)
    run = make(tmp_path / "a.ply", {"model.sh_degree": wanted})
    common = (min(held, wanted) + 1) ** 2 - 1
    assert run.state.params["shN"].shape == (len(params["means"]), (wanted + 1) ** 2 - 1, 3)
    assert torch.equal(run.state.params["shN"][:, :common].detach(), params["shN"][:, :common])
    assert not run.state.params["shN"][:, common:].any() and words in log_of(run)


def test_degrees_in_use():
    params = {"shN": torch.zeros(2, 15, 3)}
    assert degree_in_use(params) == 0
    for harmonic, degree in ((0, 1), (2, 1), (3, 2), (7, 2), (8, 3), (14, 3)):
        params["shN"].zero_()[1, harmonic, 1] = -1e-9
        assert degree_in_use(params) == degree
    assert with_degree(params, 1)["shN"].shape == (2, 3, 3)


@pytest.mark.parametrize(("of_file", "of_run"), [(True, False), (False, True), (True, True)])
def test_another_antialiasing_is_said(make, demo_run, tmp_path, of_file, of_run):
    save_ply(tmp_path / "a.ply", load_ply(find_ply(demo_run.folder)), antialiased=of_file)
    run = make(tmp_path / "a.ply", {"model.antialiased": of_run})
    assert ("its Gaussians will have to adapt" in log_of(run)) == (of_file != of_run)


# ------------------------------------------------------------------------------------------------ resuming, mistakes


def test_a_run_that_began_with_a_file_goes_on_without_it(make, demo_run, tmp_path):
    file = shutil.copy(find_ply(demo_run.folder), tmp_path / "a.ply")
    whole = make(file, {**DENSE_SCHEDULE, "train.iterations": 20}, "whole")
    whole.run()
    make(file, {**DENSE_SCHEDULE, "train.iterations": 10}, "parts").run()
    (tmp_path / "a.ply").unlink()
    for start in (file, None):
        parts = make(start, {**DENSE_SCHEDULE, "train.iterations": 20, "train.resume": "auto"}, "parts")
    parts.run()
    assert all(torch.equal(whole.state.params[name], parts.state.params[name]) for name in whole.state.params)
    with pytest.raises(CheckpointError, match="trained with model.init_ply .*which a run keeps"):
        make(find_ply(demo_run.folder), {"train.resume": "auto"}, "parts")


def test_a_file_in_another_frame_is_pointed_out(make, demo_run, own_points, tmp_path):
    params = load_ply(find_ply(demo_run.folder))
    params["means"] += torch.tensor([500.0, 0.0, 0.0])
    save_ply(tmp_path / "moved.ply", params)
    for file, words in ((tmp_path / "moved.ply", True), (own_points, False)):
        assert ("is it in the frame, and the units, of the poses?" in log_of(make(file, folder=file.stem))) == words


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("none.ply", None, ModelFileError, "none.ply: no such file; give a point cloud"),
        ("a.ply", b"hello", ModelFileError, "a.ply: not a readable PLY file"),
        ("a.ksplat", b"hello", ModelFileError, "a.ksplat: .ksplat is not read"),
        ("scan.las", b"LASF", ModelFileError, "scan.las: is no run folder, and of files .ply, .splat, "),
        ("step_7.pt", b"PK", ModelFileError, "step_7.pt: is a checkpoint; continue it with --resume "),
        ("a.spz", b"hello", ModelFileError, "a.spz: not a readable SPZ file"),
        ("b.ply", b"ply\nformat ascii 1.0\nelement vertex 0\nproperty int x\nend_header\n", DataError, "no columns x"),
        ("empty.ply", b"ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nproperty float y\nproperty float z\n"
            b"end_header\n", ModelFileError, "empty.ply: holds no points to start from; give another file"),
        ("runs", "folder", ModelFileError, "no point_cloud/iteration_N/point_cloud.ply with a saved model"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_a_start(make, tmp_path, name, content, error, words):
    if content == "folder":
        (tmp_path / name).mkdir()
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error) as caught:
        make(tmp_path / name)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("init", ["random", "sfm"])
def test_one_start_only(make, own_points, init):
    with pytest.raises(ConfigError, match=f"model.init is {init}: leave it auto with model.init_ply"):
        make(own_points, {"model.init": init})


@pytest.mark.parametrize("name", ["a.ply", "a.spz", "a.sog", "a.splat"])
def test_resuming_a_model_points_to_init_ply(make, tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=rf"{name}: is a model, not a checkpoint.*--init_ply {tmp_path / name}"):
        make(None, {"train.resume": str(tmp_path / name)})
