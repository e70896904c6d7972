"""Poses of training photos that are learned (distwar_gs.adjust.poses): gauge, rate, runs, files."""

import json

import numpy as np
import pytest
import torch
from adjusted_runs import assert_12_steps_are_6_and_6_more
from demo_runs import demo_config, run_program
from scripts_as_modules import imported_script
from torch.utils._pytree import tree_leaves

from distwar_datasets import load_scene
from distwar_gs.adjust import aligning
from distwar_gs.adjust.base import make_adjustments
from distwar_gs.adjust.poses import Poses, pose_rate
from distwar_gs.config import PosesConfig
from distwar_gs.training.trainer import Trainer
from distwar_kernels import Cameras

EXTENT = 2.5
ON = {"poses.refine": True, "poses.warm_up": 0.0}


def centers(count: int = 6) -> torch.Tensor:
    return EXTENT * torch.randn(count, 3, generator=torch.Generator().manual_seed(1))


def camera_at(center: torch.Tensor) -> Cameras:
    viewmat = torch.eye(4)
    viewmat[:3, 3] = -center
    return Cameras("pinhole", viewmat[None], torch.tensor([[50.0, 50.0, 32.0, 24.0]]), 64, 48)


def walked(steps: int = 200, count: int = 6) -> Poses:
    """After steps of random gradients, photo by photo."""
    places, generator = centers(count), torch.Generator().manual_seed(2)
    poses = Poses(places, EXTENT, PosesConfig(refine=True, lr=0.02, lr_final=0.01))
    for step in range(steps):
        moved = poses.camera(step % count, camera_at(places[step % count]))
        moved.viewmats.grad = torch.randn(1, 4, 4, generator=generator)
        poses.step(step / steps)
    return poses


def test_cameras_keep_their_middle_their_mean_turn_and_their_spread():
    """Of all motions: no mean turn, no mean shift, no growth, though each has moved far; to first order."""
    poses, places = walked(), centers()
    motions = torch.stack([poses.motion(view) for view in range(6)])
    arms = places - places.mean(dim=0)
    assert motions[:, :3].norm(dim=1).min() > 0.01 and motions[:, 3:].norm(dim=1).min() > 0.01 * EXTENT
    torch.testing.assert_close(motions[:, :3].mean(dim=0), torch.zeros(3), rtol=0.0, atol=1e-6)
    torch.testing.assert_close(motions[:, 3:].mean(dim=0), torch.zeros(3), rtol=0.0, atol=1e-5)
    assert abs(float((motions[:, 3:] * arms).sum() / arms.square().sum())) < 1e-5


def test_what_the_gauge_takes_out_is_a_motion_of_all_cameras_together():
    """Between any two cameras nothing changes by it but their distance, by one factor: to first order, so motions are
    small here."""
    places = centers()
    poses = Poses(places, EXTENT, PosesConfig(refine=True, lr=1e-4, lr_final=1e-4, warm_up=0.0))
    raw = torch.zeros(6, 6)
    for step in range(60):
        view = step % 6
        moved = poses.camera(view, camera_at(places[view]))
        moved.viewmats.grad = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(step))
        before = poses.motions._raw[view].clone()
        poses.step(0.0)
        raw[view] += poses.motions._raw[view] - before
    motions = torch.stack([poses.motion(view) for view in range(6)])
    left_out = raw * torch.tensor([1.0] * 3 + [EXTENT] * 3) - motions
    turn, arms = left_out[0, :3], places - places.mean(dim=0)
    growth = float(poses.growth)
    expected = torch.linalg.cross(turn.expand(6, 3), arms) + growth * arms
    torch.testing.assert_close(left_out[:, :3], turn.expand(6, 3), rtol=0.0, atol=1e-7)
    shifts = left_out[:, 3:] - left_out[:, 3:].mean(dim=0)
    torch.testing.assert_close(shifts, expected, rtol=0.0, atol=1e-6)
    assert turn.norm() > 1e-5 and abs(growth) > 1e-6


def test_a_camera_moves_as_far_as_the_rate_says():
    for share in (0.0, 0.5, 1.0):
        places = centers()
        poses = Poses(places, EXTENT, PosesConfig(refine=True, lr=1e-3, lr_final=1e-5, warm_up=0.0))
        moved = poses.camera(2, camera_at(places[2]))
        moved.viewmats.grad = torch.ones(1, 4, 4)
        poses.step(share)
        change = poses.motions._raw[2]
        expected = 1e-3 * 0.01**share
        assert change.abs().max() == pytest.approx(expected, rel=1e-3)


def test_the_rate_rises_in_the_warm_up():
    settings = PosesConfig(lr=1e-2, lr_final=1e-4, warm_up=0.1)
    rates = [pose_rate(settings, share) for share in (0.0, 0.05, 0.1, 1.0)]
    assert rates == pytest.approx([0.0, 0.5e-2 * 0.01**0.05, 1e-2 * 0.01**0.1, 1e-4])


def test_what_is_not_finite_moves_nothing_for_good():
    places = centers()
    poses = Poses(places, EXTENT, PosesConfig(refine=True))
    moved = poses.camera(0, camera_at(places[0]))
    moved.viewmats.grad = torch.full((1, 4, 4), torch.nan)
    poses.step(0.5)
    assert all(leaf.isfinite().all() for leaf in tree_leaves(poses.state_dict()))


def test_cameras_at_one_place():
    """A panorama: there is no spread that could grow."""
    poses = Poses(torch.ones(3, 3), 1.0, PosesConfig(refine=True, warm_up=0.0))
    moved = poses.camera(1, camera_at(torch.ones(3)))
    moved.viewmats.grad = torch.ones(1, 4, 4)
    poses.step(0.1)
    assert all(poses.motion(view).isfinite().all() for view in range(3)) and poses.growth == 0.0


# ------------------------------------------------------------------------------------------------------ in a run


@pytest.fixture
def make(demo_scene, tmp_path, in_process, monkeypatch):
    """A run on the CPU: make("folder", {"key": value})."""
    monkeypatch.setattr(aligning, "STEPS", 2)

    def make(folder: str, changes: dict, scene=demo_scene) -> Trainer:
        values = {"train.iterations": 12, "densification.strategy": "adc"} | changes
        return Trainer(demo_config(scene, tmp_path / folder, values))

    return make


def test_off_makes_no_adjustment_and_no_files(make):
    run = make("run", {"train.iterations": 2})
    assert make_adjustments(run.config, run.scene, run.state.device) == [] and run.state.refined is None
    assert run.run() == 0 and not (run.folder / "refined").exists()
    assert not run.batches.cameras[0].viewmats.requires_grad


@pytest.mark.parametrize("strategy", ["adc", "mcmc", "guided"])
def test_a_run_goes_on_to_the_same_bits(make, strategy):
    assert_12_steps_are_6_and_6_more(make, ON | {"densification.strategy": strategy}, "poses")


def test_with_masks_and_with_exposure(make):
    """Both adjustments are learned, and a photo of which a mask ignores everything moves no camera."""
    run = make("run", ON | {"appearance.model": "exposure", "train.iterations": 8})
    real = run.batches.images.mask
    masked = 3
    run.batches.images.mask = lambda index: torch.zeros(60, 80, dtype=torch.bool) if index == masked else real(index)
    run.batches._sampler.next = iter([masked, 1, masked, 2, masked, 4, masked, 5]).__next__
    run.batches._sampler.upcoming = lambda: []
    assert run.run() == 0
    poses, exposure = run.state.adjustments
    assert [adjustment.name for adjustment in (poses, exposure)] == ["poses", "exposure"]
    assert poses.motions._raw[masked].abs().max() == 0.0 and poses.motions._raw[4].abs().min() > 0.0
    assert exposure.matrices._raw[4].abs().max() > 0.0


def test_other_photos_are_refused(make):
    run = make("run", ON)
    with pytest.raises(ValueError, match="is not of shape"):
        run.state.adjustments[0].load_state_dict(walked(6).state_dict())
    with pytest.raises(ValueError, match="lacks a part"):
        run.state.adjustments[0].load_state_dict({"growth": torch.zeros(())})


@pytest.mark.parametrize("normalise", [True, False])
def test_refined_cameras_are_exported(make, tmp_path, demo_scene, normalise):
    """refined/ is the model of a scene; with the photos beside it, it is read as the poses that were learned."""
    run = make("run", ON | {"data.normalise": normalise, "poses.lr": 0.01})
    assert run.run() == 0
    (tmp_path / "run/refined/images").symlink_to(demo_scene / "images")
    read = load_scene(run.folder / "refined", test_every=0, normalise=False)
    learned = run.state.refined(run.scene.train)
    plain = {view.name: view for view in load_scene(demo_scene, normalise=False).train}
    entries = {entry["img_name"]: entry for entry in json.loads((run.folder / "cameras.json").read_text())}
    assert [view.name for view in read.train] == [view.name for view in learned]
    for own, view in zip(read.train, learned, strict=True):
        there = run.scene.normalisation.undo_viewmat(view.viewmat)
        np.testing.assert_allclose(own.viewmat, there, rtol=0.0, atol=1e-9)
        assert np.abs(own.viewmat - plain[own.name].viewmat).max() > 1e-3
        np.testing.assert_allclose(entries[own.name]["position"], own.center, rtol=0.0, atol=1e-9)
    assert len(read.points.positions) == len(run.scene.points.positions)


def test_cameras_json_of_a_run_that_goes_on_has_what_is_learned_already(make):
    changes = ON | {"poses.lr": 0.01}
    assert make("run", changes | {"train.iterations": 6}).run() == 0
    second = make("run", changes | {"train.resume": "auto"})
    second.open()  # what a session begins with
    second.monitor.close()
    positions = {
        entry["img_name"]: entry["position"] for entry in json.loads((second.folder / "cameras.json").read_text())
    }
    for view, learned in zip(second.scene.train, second.state.refined(second.scene.train), strict=True):
        center = second.scene.normalisation.undo_points(learned.center)
        np.testing.assert_allclose(positions[view.name], center, rtol=0.0, atol=1e-9)
        assert np.abs(learned.center - view.center).max() > 1e-4


def mean_turn(views, others) -> float:
    """Mean angle between the cameras of two lists, degrees."""
    cosines = [
        (np.trace(one.viewmat[:3, :3].T @ other.viewmat[:3, :3]) - 1) / 2
        for one, other in zip(views, others, strict=True)
    ]
    return float(np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0))).mean())


@pytest.mark.slow
def test_disturbed_poses_come_back(make, demo_scene, tmp_path, monkeypatch):
    """Cameras that are turned by a degree end nearer to where they were, and aligned test views gain."""
    monkeypatch.setattr(aligning, "STEPS", 40)
    with imported_script("disturb_poses") as script:
        script.main([str(demo_scene), str(tmp_path / "scene"), "--degrees", "1", "--percent", "0"])
    true = load_scene(demo_scene).train
    changes = {"train.iterations": 420, "poses.lr": 3e-3, "poses.lr_final": 1e-4, "log.align_poses": True}
    runs = {on: make(str(on), changes | {"poses.refine": on}, tmp_path / "scene") for on in (False, True)}
    assert all(run.run() == 0 for run in runs.values())
    plain, refined = (run.results.evaluations[420].numbers["psnr_aligned"] for run in runs.values())
    learned = runs[True].state.refined(runs[True].scene.train)
    assert mean_turn(runs[True].scene.train, true) == pytest.approx(1.0, rel=1e-6)
    assert mean_turn(learned, true) < 0.75 and refined > plain + 0.5


def test_the_flag_of_the_program(demo_scene, tmp_path):
    result = run_program("train.py", "-s", demo_scene, "-m", tmp_path / "run", "--device", "cpu", "--iterations", 2,
                         "-r", 4, "--refine_poses", "--no_report")  # fmt: skip
    assert result.returncode == 0 and "after a fit of poses" in result.stderr + result.stdout
    assert "refine: true" in (tmp_path / "run/config.yaml").read_text()
    assert (tmp_path / "run/refined/sparse/0/images.txt").is_file()


# ---------------------------------------------------------------------------------------------------- on the GPU


def test_the_fused_engine_learns_poses_too(demo_scene, tmp_path, in_process, monkeypatch, emulated_fused_ops):
    """Two steps by both engines, the fused one's kernels on the CPU: the same motions."""
    import emulated_fused

    from distwar_gs.engines.fused_engine import FusedEngine
    from distwar_kernels.fused import capacity

    emulated_fused.pretend_cuda(monkeypatch)
    monkeypatch.setattr(capacity, "_GRAIN", 64)
    monkeypatch.setattr(aligning, "STEPS", 1)
    motions = {}
    for engine in ("composed", "fused"):
        changes = ON | {"train.iterations": 2, "data.resolution": 4}
        run = Trainer(demo_config(demo_scene, tmp_path / engine, changes))
        state = run.state
        if engine == "fused":
            state.engine = FusedEngine(state.params, state.optimizers, state.strategy, state.settings)
        assert run.run() == 0
        motions[engine] = torch.stack([state.adjustments[0].motion(view) for view in range(len(run.scene.train))])
    assert motions["fused"].abs().max() > 1e-4
    torch.testing.assert_close(motions["fused"], motions["composed"], rtol=1e-2, atol=1e-6)


@pytest.mark.gpu
def test_a_run_on_a_gpu_goes_on_to_the_same_bits(demo_scene, tmp_path, in_process, monkeypatch):
    monkeypatch.setattr(aligning, "STEPS", 2)
    changes = ON | {"train.device": "cuda", "train.deterministic": True, "train.iterations": 40}

    def run_in(folder: str, more: dict) -> Trainer:
        run = Trainer(demo_config(demo_scene, tmp_path / folder, changes | more))
        assert run.run() == 0
        return run

    whole = run_in("whole", {"train.checkpoint_iterations": [20]})
    second = run_in("second", {"train.resume": str(whole.folder / "checkpoints/step_20.pt")})
    own, other = (tree_leaves(run.state.adjustments[0].state_dict()) for run in (whole, second))
    assert all(map(torch.equal, own, other)) and own[0].abs().max() > 1e-4


@pytest.mark.gpu
def test_steps_do_not_wait_for_the_gpu():
    places = centers().cuda()
    poses = Poses(places, EXTENT, PosesConfig(refine=True))
    cameras = [camera_at(place.cpu()).to("cuda") for place in places]
    poses.camera(0, cameras[0])  # constants are made once
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for view in (0, 1, 0):
            moved = poses.camera(view, cameras[view])
            moved.viewmats.grad = torch.ones_like(moved.viewmats)
            poses.step(0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
