"""Exposure of each photo: gradients against float64 autograd; runs with and without it."""

import pytest
import torch
from adjusted_runs import assert_12_steps_are_6_and_6_more
from demo_runs import demo_config
from scripts_as_modules import imported_script

from distwar_gs.adjust.base import make_adjustments
from distwar_gs.adjust.exposure import Exposure, affine, affine_backward
from distwar_gs.adjust.photo_values import rate_factor
from distwar_gs.config import AppearanceConfig
from distwar_gs.training.trainer import Trainer


def exposure_of(photos: int, device: str = "cpu", **settings: float) -> Exposure:
    return Exposure(photos, AppearanceConfig(**settings), torch.device(device))


def test_a_matrix_is_applied_to_each_pixel():
    image = torch.tensor([[[1.0, 2.0, 3.0], [0.0, 0.5, 0.0]]])
    matrix = torch.tensor([[2.0, 0.0, 0.0, 0.1], [0.0, 1.0, 1.0, 0.0], [0.0, 0.0, -1.0, 0.0]])
    expected = torch.tensor([[[2.1, 5.0, -3.0], [0.1, 0.5, 0.0]]])
    torch.testing.assert_close(affine(image, matrix), expected)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (33, 20)])
def test_gradients_are_those_of_autograd(size):
    generator = torch.Generator().manual_seed(size[0])
    image, v_image = (torch.randn(*size, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    matrix = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    leaves = image.clone().requires_grad_(), matrix.clone().requires_grad_()
    changed = torch.einsum("rc,hwc->hwr", leaves[1][:, :3], leaves[0]) + leaves[1][:, 3]
    expected = torch.autograd.grad(changed, leaves, v_image)
    torch.testing.assert_close(affine(image, matrix), changed.detach(), rtol=1e-12, atol=1e-12)
    for own, other in zip(affine_backward(image, matrix, v_image), expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)
    single = affine_backward(image.float(), matrix.float(), v_image.float())
    torch.testing.assert_close(single[1].double(), expected[1], rtol=1e-4, atol=1e-4)


def test_gains_of_photos_are_found():
    """Three photos of one picture, brighter and darker than the middle: each gets its gain, the picture is kept."""
    picture = torch.rand(8, 9, 3, generator=torch.Generator().manual_seed(0))
    gains, exposure = torch.tensor([0.5, 1.0, 1.5]), exposure_of(3, exposure_lr_final=0.0001)
    for step in range(1500):
        view = step % 3
        difference = exposure.image(view, picture) - gains[view] * picture
        v_picture = exposure.backward(difference / difference.numel())
        assert v_picture.shape == picture.shape
        exposure.step(step / 1500)
    for view in range(3):
        torch.testing.assert_close(exposure.image(view, picture), gains[view] * picture, rtol=0.0, atol=0.01)


def test_the_image_that_was_rendered_is_not_changed():
    exposure = exposure_of(2)
    exposure.matrices.step(0, torch.ones(3, 4), 1.0)
    image = torch.rand(4, 5, 3)
    before = image.clone()
    assert not torch.equal(exposure.image(0, image), image) and torch.equal(image, before)


# ------------------------------------------------------------------------------------------------------ in a run


ADC = {"densification.strategy": "adc"}  # of which no rate follows the length of the run


@pytest.fixture
def make(demo_scene, tmp_path, in_process):
    """A run on the CPU: make("folder", {"key": value})."""

    def make(folder: str, changes: dict, scene=demo_scene) -> Trainer:
        return Trainer(demo_config(scene, tmp_path / folder, {"train.iterations": 12} | ADC | changes))

    return make


def test_none_makes_no_adjustment(make):
    run = make("run", {})
    assert run.state.adjustments == [] and make_adjustments(run.config, run.scene, run.state.device) == []


@pytest.mark.parametrize("appearance", ["exposure", "bilateral"])
def test_a_run_goes_on_to_the_same_bits(make, appearance):
    """12 steps are 6 and 6 more; the rates of the photos follow the length of the run, so both parts are of 12."""
    assert_12_steps_are_6_and_6_more(make, {"appearance.model": appearance}, appearance)


def test_the_rate_falls_over_the_run():
    """The first step of a photo is as large as its rate; here its photos are two, of which each moves by a half."""
    went = []
    for share in (0.0, 0.5, 1.0):
        exposure = exposure_of(2, exposure_lr_final=0.0001)
        exposure.backward(exposure.image(0, torch.ones(2, 2, 3)))
        exposure.step(share)
        went.append(float(exposure.matrices.of(1)[0, 3] - exposure.matrices.of(0)[0, 3]))
    assert went == pytest.approx([0.01 * rate_factor(2), 0.001 * rate_factor(2), 0.0001 * rate_factor(2)], rel=1e-4)


def test_a_step_is_told_which_share_of_the_run_is_done(make):
    shares: list[float] = []
    run = make("run", {"appearance.model": "exposure", "train.iterations": 4})
    (adjustment,) = run.state.adjustments
    real = adjustment.step
    adjustment.step = lambda share: (shares.append(share), real(share))
    assert run.run() == 0 and shares == [0.25, 0.5, 0.75, 1.0]


def test_the_model_keeps_the_colours_of_the_middle(make, demo_scene, tmp_path):
    """On photos of changing exposure test views gain by it; their photos are those of the scene that was disturbed."""
    with imported_script("disturb_photos") as script:
        script.main([str(demo_scene), str(tmp_path / "scene"), "--exposure", "1.5", "--seed", "1"])
    measured = {}
    for appearance in ("none", "exposure"):
        run = make(appearance, {"appearance.model": appearance, "train.iterations": 100}, tmp_path / "scene")
        assert run.run() == 0
        measured[appearance] = run.results.evaluations[100].psnr
    assert measured["exposure"] > measured["none"] + 0.4


@pytest.mark.gpu
def test_steps_do_not_wait_for_the_gpu():
    exposure = exposure_of(3, "cuda")
    image = torch.rand(30, 40, 3, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for view in (0, 1, 0):
            exposure.backward(exposure.image(view, image))
            exposure.step(0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
