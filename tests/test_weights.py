"""What Gaussians weigh in a picture, against the weight of each of them in each pixel."""

from dataclasses import replace

import pytest
import torch
from test_live_modes import CAMERA, SETTINGS, one, params

from distwar_gs.rendering.renderer import render
from distwar_gs.rendering.weights import SPACING, largest_weights, summed_weights, uses
from distwar_kernels import Reduction
from distwar_kernels.constants import ALPHA_CUT


def every_weight(values):
    """[H, W, N]: each Gaussian is blended as a color of its own."""
    seen = render(values, CAMERA, SETTINGS, sh_degree=0, features=torch.eye(len(values["means"])))
    return seen.features[0]


def test_sums_are_those_over_all_pixels():
    values = params()
    expected = every_weight(values).sum(dim=(0, 1))
    assert expected.max() > 10.0
    torch.testing.assert_close(summed_weights(values, CAMERA, SETTINGS), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_largest_is_never_below_that_of_a_pixel(seed):
    values = params(seed)
    exact, found = every_weight(values).amax(dim=(0, 1)), largest_weights(values, CAMERA, SETTINGS)
    assert (found >= exact - 1e-5).all() and (exact > 0.02).sum() > 40


@pytest.mark.parametrize("opacity", [0.05, 0.5, 0.9])
def test_of_a_gaussian_of_a_few_pixels_it_is_exact(opacity):
    """Its edge is below 1/255 before the next pixel of a sparse picture."""
    small = one((0.01, 0.01, 0.01), opacity)
    exact = every_weight(small).amax()
    assert 0.5 * opacity < exact <= opacity
    assert float(largest_weights(small, CAMERA, SETTINGS)[0]) == pytest.approx(float(exact), abs=0.01)


def test_a_wide_one_counts_for_what_it_covers():
    faint = one((1.0, 1.0, 1.0), 0.1)
    summed = float(summed_weights(faint, CAMERA, SETTINGS)[0])
    assert float(largest_weights(faint, CAMERA, SETTINGS)[0]) == pytest.approx(summed / SPACING**2, rel=0.05)


def test_what_is_hidden_or_behind_weighs_nothing():
    values = {name: torch.cat([tensor] * 9) for name, tensor in one((0.3, 0.3, 0.3), 0.999).items()}
    values["means"] = torch.tensor([[0.0, 0.0, 4.0 + 0.1 * i] for i in range(7)] + [[0.0, 0.0, 9.0], [0.0, 0.0, -4.0]])
    values["scales"][7] = -4.0  # small, behind seven opaque ones
    weights = largest_weights(values, CAMERA, SETTINGS)
    assert weights[0] > 0.9 and weights[7] == 0.0 and weights[8] == 0.0


def test_a_reduction_that_measures_itself_is_not_disturbed():
    values = params()
    settings = replace(SETTINGS, reduction=Reduction("auto"), absgrad=True)
    torch.testing.assert_close(
        largest_weights(values, CAMERA, settings), largest_weights(values, CAMERA, SETTINGS), rtol=1e-4, atol=1e-6
    )


def test_no_gaussians():
    none = {name: tensor[:0] for name, tensor in params().items()}
    assert largest_weights(none, CAMERA, SETTINGS).shape == (0,)


def test_uses_are_weights_and_the_area_that_is_blended():
    values = params()
    weights, areas = uses(values, CAMERA, SETTINGS)
    torch.testing.assert_close(weights, summed_weights(values, CAMERA, SETTINGS))
    blended = [one_alone(values, row) for row in range(len(weights))]
    seen = torch.tensor([float((alphas >= ALPHA_CUT).sum()) for alphas in blended])
    assert (seen > 50).sum() > 5
    torch.testing.assert_close(areas[seen > 50], seen[seen > 50], rtol=0.25, atol=5.0)
    assert (areas[seen == 0] < 20).all()


def one_alone(values, row):
    """[H, W] the alphas of one of the Gaussians, without the others."""
    alone = {name: value[row : row + 1] for name, value in values.items()}
    return render(alone, CAMERA, SETTINGS, sh_degree=0).alphas[0, ..., 0]


@pytest.mark.parametrize(("seed", "harmonics"), [(0, 3), (1, 3), (2, 0)])
def test_the_fused_rasterizer_says_the_same(device, seed, harmonics):
    """With or without harmonics, which are not read; twice the same to the bit."""
    values, fused = params(seed), replace(SETTINGS, rasterizer="fused")
    values["shN"] = values["shN"][:, :harmonics]
    expected = uses(values, CAMERA, SETTINGS)
    there = {name: value.to(device) for name, value in values.items()}
    found, again = (uses(there, CAMERA.to(device), fused) for _ in range(2))
    for one_of, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one_of.cpu(), other, rtol=2e-3, atol=1e-2)
    assert all(torch.equal(one_of, other) for one_of, other in zip(found, again, strict=True))
