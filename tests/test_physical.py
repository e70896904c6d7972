"""Exposure, white balance, vignette and response curve: gradients against float64 autograd, what is found, runs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from adjusted_runs import assert_12_steps_are_6_and_6_more
from demo_runs import demo_config
from scripts_as_modules import imported_script
from torch import Tensor

from distwar_datasets import View
from distwar_gs.adjust.developing import Curve, Developed, light_slope, of_light, to_light
from distwar_gs.adjust.physical import Physical, radial_powers
from distwar_gs.config import AppearanceConfig
from distwar_gs.training.trainer import Trainer

LOGITS = torch.tensor([0.4, -0.3, 0.2, 0.0, -0.5, 0.3, 0.1, -0.2], dtype=torch.float64)


def views_of(cameras: list[int], width: int = 40, height: int = 30) -> list[View]:
    K = np.array([[40.0, 0, 0.4 * width], [0, 40.0, 0.55 * height], [0, 0, 1]])
    plain = View("a.png", None, width, height, K, np.eye(4), 0)
    return [replace(plain, name=f"{index}.png", camera_id=camera) for index, camera in enumerate(cameras)]


def physical_of(cameras: list[int], device: str = "cpu", **settings: float) -> Physical:
    return Physical(views_of(cameras), AppearanceConfig(**settings), torch.device(device))


def drawn(*size: int, seed: int = 0) -> Tensor:
    """Float64 colours, some below 0 and some above 1."""
    return 1.4 * torch.rand(*size, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.1


def test_light_is_that_of_srgb():
    values = torch.linspace(-0.2, 1.5, 400, dtype=torch.float64, requires_grad=True)
    with imported_script("disturb_photos") as script:
        inside = (values >= 0) & (values <= 1)
        expected = script.to_linear(values[inside].detach().numpy())
    torch.testing.assert_close(to_light(values)[inside].detach(), torch.from_numpy(expected))
    torch.testing.assert_close(of_light(to_light(values)), values, rtol=0, atol=1e-7)
    (slope,) = torch.autograd.grad(to_light(values).sum(), values)
    torch.testing.assert_close(light_slope(values.detach()), slope, rtol=1e-9, atol=1e-9)


def test_a_curve_rises_from_0_to_1_and_its_inverse_is_exact():
    curve = Curve.of(LOGITS)
    values = torch.linspace(-0.3, 1.3, 333, dtype=torch.float64)
    there, slopes = curve.at(values)
    torch.testing.assert_close(curve.inverse(there)[0], values, rtol=1e-12, atol=1e-12)
    assert (there.diff() > 0).all() and (slopes > 0).all()
    ends, _ = curve.at(torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([0.0, 1.0], dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(Curve.of(torch.zeros(8)).at(values.float())[0], values.float())


def test_what_is_not_a_number_stays_one_and_breaks_nothing():
    colors = torch.tensor([[[torch.nan, torch.inf, -torch.inf]]])
    photo = Developed.of(colors, torch.ones(1, 1, 3), Curve.of(LOGITS.float())).photo
    assert photo.shape == (1, 1, 3) and photo[0, 0, 1] == 1.0


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (33, 20)])
def test_gradients_are_those_of_autograd(size):
    colors, logs, logits = drawn(*size), 0.5 * drawn(*size, seed=1) - 0.3, LOGITS.clone()
    leaves = [tensor.requires_grad_() for tensor in (colors, logs, logits)]
    curve = Curve.of(logits)
    light = logs.exp() * to_light(curve.at(colors)[0])
    whole = curve.inverse(of_light(light))[0]
    v_photo = torch.randn(*size, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    v_whole = torch.where((whole > 1) & (v_photo < 0), 0.0, v_photo)
    expected = torch.autograd.grad(whole, leaves, v_whole)
    plain = Curve.of(LOGITS)
    made = Developed.of(colors.detach(), logs.detach().exp(), plain)
    torch.testing.assert_close(made.photo, whole.detach().clamp_max(1.0), rtol=1e-12, atol=1e-12)
    v_colors, v_logs, v_slopes = made.backward(v_photo, plain)
    for own, other in zip((v_colors, v_logs, plain.v_logits(v_slopes)), expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-10)


def test_radii_are_from_the_principal_point():
    powers = radial_powers(torch.zeros(30, 40, 3), 0.4, 0.55)
    assert powers.shape == (30, 40, 3) and float(powers[16, 16, 0]) == pytest.approx(0.25 / 25.0**2)
    half = radial_powers(torch.zeros(15, 20, 3), 0.4, 0.55)  # of a photo of half the size
    blocks = powers[..., 0].reshape(15, 2, 20, 2).mean(dim=(1, 3))
    torch.testing.assert_close(half[..., 0], blocks, rtol=0, atol=1e-3)
    torch.testing.assert_close(powers[..., 2], powers[..., 0] ** 3)


def test_it_begins_with_no_change():
    picture = torch.rand(30, 40, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(physical_of([0, 0]).image(1, picture), picture, rtol=0, atol=1e-6)


def test_what_two_cameras_did_is_found():
    """Six photos of one picture, brighter and darker, warmer and colder, by two cameras of which one has a vignette."""
    picture = 0.05 + 0.6 * torch.rand(30, 40, 3, generator=torch.Generator().manual_seed(0))
    cameras = [0, 0, 0, 1, 1, 1]
    physical = physical_of(cameras, physical_lr=0.02, exposure_lr_final=1e-4, physical_pull=0.0)
    stops = torch.tensor([-0.7, 0.1, 0.6, -0.4, 0.4, 0.0])
    warmth = torch.tensor([0.1, -0.1, 0.05, 0.0, -0.1, 0.05])
    gains = torch.stack([stops + warmth, stops, stops - warmth], dim=-1)
    falloff = -0.5 * radial_powers(picture, 0.4, 0.55)[..., :1]
    for step in range(600):
        view = step % 6
        light = to_light(picture) * (gains[view] + cameras[view] * falloff).exp()
        photo = of_light(light).clamp_max(1.0)
        difference = physical.image(view, picture) - photo
        physical.backward(difference / difference.numel())
        physical.step(step / 600)
        assert step < 594 or float(difference.abs().mean()) < 0.01
    found = torch.stack([physical.exposures.of(view) for view in range(6)])
    power = float((found * gains).sum() / gains.square().sum())  # which the curve undoes: photos cannot tell it
    assert 0.5 < power < 2.0
    torch.testing.assert_close(found, power * gains, rtol=0, atol=0.05)
    corner = physical.vignettes.values.sum(dim=1) / power
    assert abs(float(corner[0])) < 0.08 and float(corner[1]) == pytest.approx(-0.5, abs=0.08)


def test_white_is_cut_off():
    """A photo that is white where the model says more is no reason to change; one that is darker is."""
    physical = physical_of([0])
    picture = torch.full((2, 2, 3), 1.3)
    made = physical.image(0, picture)
    assert torch.equal(made, torch.ones(2, 2, 3))
    assert torch.equal(physical.backward(-torch.ones(2, 2, 3)), torch.zeros(2, 2, 3))
    physical.image(0, picture)
    assert (physical.backward(torch.ones(2, 2, 3)) > 0.5).all()


def test_states_of_another_kind_are_refused():
    physical = physical_of([0, 0, 1])
    with pytest.raises(ValueError, match="what is learned of cameras lacks a part"):
        physical.load_state_dict({"exposures": {}})
    with pytest.raises(ValueError, match=r"values of the vignettes of cameras is not of shape \[1, 3\]"):
        physical_of([0, 0, 0]).load_state_dict(physical.state_dict())


# ------------------------------------------------------------------------------------------------------ in a run


@pytest.fixture
def make(demo_scene, tmp_path, in_process):
    """A run on the CPU: make("folder", {"key": value})."""

    def make(folder: str, changes: dict, scene=demo_scene) -> Trainer:
        values = {
            "train.iterations": 12,
            "densification.strategy": "adc",
            "appearance.model": "physical",
            "data.resolution": 2,
        } | changes
        return Trainer(demo_config(scene, tmp_path / folder, values))

    return make


@pytest.mark.parametrize("strategy", ["adc", pytest.param("guided", marks=pytest.mark.slow)])
def test_a_run_goes_on_to_the_same_bits(make, strategy):
    assert_12_steps_are_6_and_6_more(make, {"densification.strategy": strategy}, "physical")


@pytest.mark.slow
def test_the_model_keeps_the_colours_of_the_middle(make, demo_scene, tmp_path):
    """On photos of changing light and one lens, whose test photos are as they were."""
    with imported_script("disturb_photos") as script:
        script.main([str(demo_scene), str(tmp_path / "scene"), "--exposure", "1.5", "--one_lens", "--seed", "1"])
    measured = {}
    for model in ("none", "physical"):
        run = make(
            model, {"appearance.model": model, "train.iterations": 100, "data.resolution": 2}, tmp_path / "scene"
        )
        assert run.run() == 0
        measured[model] = run.results.evaluations[100].psnr
    assert measured["physical"] > measured["none"] + 0.4


@pytest.mark.gpu
def test_a_gpu_agrees_and_does_not_wait():
    picture, v_image = drawn(30, 40).float(), drawn(30, 40, seed=4).float()
    results = {}
    for device in ("cpu", "cuda"):
        physical = physical_of([0, 1, 0], device)
        image, gradient = picture.to(device), v_image.to(device)
        physical.backward(physical.image(0, image))
        physical.step(0.0)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if device == "cuda" else "default")
        try:
            for view in (0, 1, 0):
                made = physical.image(view, image)
                v_rendered = physical.backward(gradient)
                physical.step(0.5)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        results[device] = made.cpu(), v_rendered.cpu()
    for own, other in zip(*results.values(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-4)
