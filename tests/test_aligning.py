"""Test views measured from where the model sees their photos."""

import json
from dataclasses import replace

import pytest
import torch
from demo_runs import demo_config, run_program
from test_color_fit import PROTOCOL, photos, views

from distwar_gs.adjust import aligning
from distwar_gs.adjust.aligning import Aligner
from distwar_gs.adjust.rigid import moved
from distwar_gs.evaluation.metrics import evaluate, psnr, to_8bit
from distwar_gs.formats.export import load_model
from distwar_gs.rendering.renderer import render, render_settings
from distwar_gs.rendering.views import camera_of, open_scene
from distwar_gs.training.trainer import Trainer

ALIGNED = {"psnr_aligned", "ssim_aligned"}


@pytest.fixture(scope="module")
def trained(demo_run):
    """Scene, parameters, settings and background of a trained model."""
    config = demo_config(demo_run.scene, demo_run.folder)
    scene = open_scene(config)
    params = load_model(demo_run.folder / "point_cloud/iteration_60/point_cloud.ply", scene.normalisation)
    return scene, params, render_settings(config, scene.extent, torch.device("cpu")), torch.zeros(3)


def drawn(trained, view) -> torch.Tensor:
    scene, params, settings, background = trained
    camera = camera_of(view, torch.device("cpu"))
    return render(params, camera, settings, sh_degree=2, background=background).colors[0]


def off(scene, view):
    """The view from a place that is a degree and 1 % of the extent away."""
    motion = torch.tensor([0.012, -0.01, 0.006, *(0.01 * scene.extent * torch.tensor([0.6, 0.0, -0.8]))])
    viewmat = moved(torch.from_numpy(view.viewmat), torch.from_numpy(view.center), motion.double())
    return replace(view, viewmat=viewmat.numpy())


@pytest.mark.parametrize("masked", [False, True])
def test_a_view_that_is_off_is_brought_back(trained, masked):
    scene, params, settings, background = trained
    (view, *_), kept = scene.test, None
    photo = to_8bit(drawn(trained, view))
    if masked:  # what is ignored may show anything
        kept = torch.ones(photo.shape[:2], dtype=torch.bool)
        kept[:, 50:], photo[:, 50:] = False, 255
    astray = off(scene, view)
    aligner = Aligner(params, settings, background, scene.extent, 0.2)
    before, after = (psnr(picture, photo / 255.0, kept) for picture in
                     (drawn(trained, astray), aligner(astray, photo, kept)))  # fmt: skip
    assert before < 35.0 and after > before + 8.0


def test_a_view_that_is_right_loses_nothing(trained, monkeypatch):
    scene, params, settings, background = trained
    monkeypatch.setattr(aligning, "RATE", 0.3)  # much too large: every step leads away
    photo = to_8bit(drawn(trained, scene.test[0]))
    picture = Aligner(params, settings, background, scene.extent, 0.2)(scene.test[0], photo, None)
    assert torch.equal(picture, drawn(trained, scene.test[0]))


def test_parameters_get_no_gradients(trained, monkeypatch):
    scene, params, settings, background = trained
    monkeypatch.setattr(aligning, "STEPS", 1)
    leaves = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in params.items()}
    photo = to_8bit(drawn(trained, scene.test[1]))
    picture = Aligner(leaves, settings, background, scene.extent, 0.2)(scene.test[1], photo, None)
    assert not picture.requires_grad and all(leaf.grad is None for leaf in leaves.values())


def test_both_numbers_are_measured_and_stated():
    images = photos()

    def aligned(view, photo, kept):
        assert torch.equal(photo, images[view.index]) and kept is None
        return photo.float() / 255.0

    plain, result = (
        evaluate(lambda view: torch.full(images[view.index].shape, 0.4), images, views(), PROTOCOL, aligned=one)
        for one in (None, aligned)
    )
    assert result.psnr == plain.psnr < 30.0 and result.numbers["psnr_aligned"] == 100.0
    assert set(result.numbers) - set(plain.numbers) == ALIGNED
    assert "camera pose of each view" in result.protocol["aligned"] and "aligned" not in plain.protocol
    assert "(after a fit of poses 100.00 dB, 1.0000)" in result.words() and "fit" not in plain.words()


@pytest.mark.parametrize(
    ("changes", "is_aligned"),
    [({}, False), ({"log.align_poses": True}, True), ({"poses.refine": True}, True)],
)
def test_a_run_says_both_where_it_is_asked_for_or_poses_are_refined(
    demo_scene, tmp_path, in_process, monkeypatch, changes, is_aligned
):
    monkeypatch.setattr(aligning, "STEPS", 1)
    run = Trainer(demo_config(demo_scene, tmp_path, {"train.iterations": 2} | changes))
    assert run.run() == 0
    (record,) = json.loads((tmp_path / "metrics.json").read_text())
    assert (set(record) >= ALIGNED) == is_aligned == ("aligned" in record["protocol"])


def test_render_says_both_where_it_is_asked_for(demo_run, tmp_path, monkeypatch):
    monkeypatch.setattr(aligning, "STEPS", 3)  # the program is forked from here
    result = run_program("render.py", demo_run.folder, "--out", tmp_path, "--align_poses", "--device", "cpu")
    assert result.returncode == 0 and "(after a fit of poses " in result.stderr + result.stdout
    (record,) = json.loads((tmp_path / f"iteration_{demo_run.steps}/metrics.json").read_text())
    trained = json.loads((demo_run.folder / "metrics.json").read_text())[-1]
    assert record["psnr_aligned"] > 0.0 and record["psnr"] == trained["psnr"]
