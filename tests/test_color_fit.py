"""Measuring after a fit of colours: the map that is found, and that both numbers are told, each with its protocol."""

import json

import numpy as np
import pytest
import torch
from demo_runs import demo_config, run_program
from test_metrics import PROTOCOL, photos, views

from distwar_gs.evaluation.color_fit import fitted
from distwar_gs.evaluation.losses import ssim
from distwar_gs.evaluation.metrics import append_metrics, evaluate, psnr
from distwar_gs.training.trainer import Trainer

FITTED = {"psnr_colour_fit", "ssim_colour_fit"}


def picture(seed: int = 0, height: int = 20, width: int = 30) -> torch.Tensor:
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))


def test_an_affine_change_of_colours_is_undone():
    target = 0.2 + 0.6 * picture()
    matrix = torch.tensor([[0.7, 0.1, 0.0], [0.05, 0.8, -0.1], [0.0, 0.2, 0.6]])
    image = target @ matrix.T + torch.tensor([0.02, 0.0, 0.1])
    assert psnr(image, target) < 20.0
    torch.testing.assert_close(fitted(image, target), target, rtol=0.0, atol=1e-5)


def test_it_is_the_least_squares_fit_of_numpy():
    image, target = 0.2 + 0.3 * picture(1), 0.5 + 0.2 * picture(2)
    pixels = np.concatenate([image.numpy(), np.ones((20, 30, 1))], axis=-1).reshape(-1, 4)
    matrix, *_ = np.linalg.lstsq(pixels, target.numpy().reshape(-1, 3).astype(float), rcond=None)
    expected = torch.from_numpy(pixels @ matrix).reshape(20, 30, 3).float()
    torch.testing.assert_close(fitted(image, target), expected, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_never_worse(seed):
    image, target = picture(seed), picture(seed + 100)
    assert psnr(fitted(image, target), target) >= psnr(image, target)
    assert psnr(fitted(target, target), target) > 99.0


def test_only_pixels_that_count_are_fitted_to():
    target, kept = 0.2 + 0.6 * picture(), torch.zeros(20, 30, dtype=torch.bool)
    kept[:, :15] = True
    image = torch.where(kept[..., None], 0.5 * target, 0.9 * picture(3))
    torch.testing.assert_close(fitted(image, target, kept)[kept], target[kept], rtol=0.0, atol=1e-5)
    assert psnr(fitted(image, target), target, kept) < 40.0


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_a_render_of_one_colour_becomes_the_mean(value):
    """Its map is not unique; the smallest is taken, and gray is no different from black."""
    target = picture()
    result = fitted(torch.full_like(target, value), target)
    torch.testing.assert_close(result, target.mean(dim=(0, 1)).expand_as(target), rtol=0.0, atol=1e-5)


def test_both_numbers_are_measured_and_stated(tmp_path):
    images = [photo.clamp(40, 200) for photo in photos()]

    def render(view):
        return images[view.index].float() / 255 * 0.5 + 0.2

    plain, result = (evaluate(render, images, views(), PROTOCOL, with_color_fit=fit) for fit in (False, True))
    assert result.psnr == plain.psnr < 20.0 and result.ssim == plain.ssim
    assert result.views[0].psnr_colour_fit > 45.0 and result.views[0].psnr == plain.views[0].psnr
    render8 = (render(views()[1]) * 255 + 0.5).to(torch.uint8).float() / 255
    target = images[1].float() / 255
    assert result.views[1].ssim_colour_fit == pytest.approx(ssim(fitted(render8, target), target).item())
    assert set(result.numbers) - set(plain.numbers) == FITTED
    assert "affine map (3x4)" in result.protocol["colour_fit"] and "colour_fit" not in plain.protocol
    assert f"(after a fit of colours {result.numbers['psnr_colour_fit']:.2f} dB" in result.words()
    assert "fit" not in plain.words()
    append_metrics(tmp_path / "metrics.json", 1, "test", result)
    append_metrics(tmp_path / "metrics.json", 1, "test", plain)
    (first, second) = json.loads((tmp_path / "metrics.json").read_text())
    assert set(first) - set(second) == FITTED and set(first["per_view"][0]) - set(second["per_view"][0]) == FITTED


@pytest.mark.parametrize(
    ("changes", "is_fitted"),
    [({}, False), ({"log.colour_fit": True}, True), ({"appearance.model": "exposure"}, True)],
)
def test_a_run_says_both_where_it_is_asked_for_or_appearance_is_learned(
    demo_scene, tmp_path, in_process, changes, is_fitted
):
    run = Trainer(demo_config(demo_scene, tmp_path, {"train.iterations": 2} | changes))
    assert run.run() == 0
    (record,) = json.loads((tmp_path / "metrics.json").read_text())
    assert (set(record) >= FITTED) == is_fitted == ("colour_fit" in record["protocol"])
    assert ("after a fit of colours" in (tmp_path / "train.log").read_text()) == is_fitted


def test_render_says_both_where_it_is_asked_for(demo_run, tmp_path):
    result = run_program("render.py", demo_run.folder, "--out", tmp_path, "--colour_fit", "--device", "cpu")
    assert result.returncode == 0 and "(after a fit of colours " in result.stderr + result.stdout
    (record,) = json.loads((tmp_path / f"iteration_{demo_run.steps}/metrics.json").read_text())
    trained = json.loads((demo_run.folder / "metrics.json").read_text())[-1]
    assert record["psnr_colour_fit"] > record["psnr"] == trained["psnr"]
