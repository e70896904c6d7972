"""Bilateral grids of photos: slicing and its gradients against float64 autograd of plain code; total variation."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from distwar_gs.adjust import bilateral
from distwar_gs.adjust.bilateral import (
    HEIGHT,
    LEVELS,
    LUMA,
    WIDTH,
    Bilateral,
    make_bilateral,
    neutral_grid,
    rate_share,
    sliced,
    total_variation,
    total_variation_gradient,
)
from distwar_gs.config import AppearanceConfig, ConfigError, config_of


def reference(image: Tensor, grid: Tensor) -> Tensor:
    """`sliced`, pixel by pixel and corner by corner."""
    height, width = image.shape[:2]
    sizes = (LEVELS, HEIGHT, WIDTH)
    rows = []
    for y in range(height):
        for x in range(width):
            color = image[y, x]
            luma = sum(weight * channel for weight, channel in zip(LUMA, color, strict=True))
            place = (luma, *torch.tensor([(y + 0.5) / height, (x + 0.5) / width], dtype=torch.float64))
            cells = [(share * (size - 1)).clamp(0, size - 1) for share, size in zip(place, sizes, strict=True)]
            lower = [min(int(cell.detach()), size - 2) for cell, size in zip(cells, sizes, strict=True)]
            matrix = torch.zeros(12, dtype=torch.float64)
            for corner in range(8):
                weight, index = torch.ones((), dtype=torch.float64), []
                for axis in range(3):
                    above = corner >> axis & 1
                    part = cells[axis] - lower[axis]
                    weight = weight * (part if above else 1.0 - part)
                    index.append(lower[axis] + above)
                matrix = matrix + weight * grid[:, index[0], index[1], index[2]]
            matrix = matrix.reshape(3, 4)
            rows.append(matrix[:, :3] @ color + matrix[:, 3])
    return torch.stack(rows).reshape(height, width, 3)


def drawn(height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Image, grid and gradient, float64; some pixels are darker than black or brighter than white."""
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    image = torch.rand(height, width, 3, **options) * 1.4 - 0.2
    grid = neutral_grid().double() + 0.3 * torch.randn(12, LEVELS, HEIGHT, WIDTH, **options)
    return image, grid, torch.randn(height, width, 3, **options)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 4)])
def test_slicing_and_its_gradients_are_those_of_plain_code(size):
    image, grid, v_image = drawn(*size)
    leaves, others = ([one.clone().requires_grad_() for one in (image, grid)] for _ in range(2))
    own, expected = sliced(*leaves), reference(*others)
    torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-10)
    own_gradients = torch.autograd.grad(own, leaves, v_image)
    for one, other in zip(own_gradients, torch.autograd.grad(expected, others, v_image), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_a_neutral_grid_changes_nothing():
    image = drawn(9, 11)[0].float()
    torch.testing.assert_close(sliced(image, neutral_grid()), image, rtol=0.0, atol=1e-6)


def test_total_variation_and_its_gradient():
    grid = drawn(1, 1)[1].requires_grad_()
    value = total_variation(grid)
    squares = [(grid.narrow(axis, 1, grid.shape[axis] - 1) - grid.narrow(axis, 0, grid.shape[axis] - 1)) ** 2
               for axis in (1, 2, 3)]  # fmt: skip
    assert float(value.detach()) == pytest.approx(sum(float(square.detach().mean()) for square in squares))
    (expected,) = torch.autograd.grad(value, grid)
    torch.testing.assert_close(total_variation_gradient(grid.detach()), expected, rtol=1e-12, atol=1e-15)
    assert total_variation(neutral_grid()) == 0 and not total_variation_gradient(neutral_grid()).any()


def test_the_gradients_of_an_adjustment_are_those_of_loss_and_total_variation():
    """Of photo and weight 10: d(sum(v * image) + 10 tv(grid of cells)), the offset of a photo apart."""
    image, grid, v_image = (tensor.float() for tensor in drawn(6, 8))
    adjustment = Bilateral(3, AppearanceConfig(grid_tv=10.0), torch.device("cpu"))
    adjustment.grids._raw[1] = grid - neutral_grid()
    adjustment.offsets._raw[1] = torch.linspace(-0.2, 0.2, 12)
    made = adjustment.image(1, image)
    v_rendered = adjustment.backward(v_image)
    leaf, cells = image.double().requires_grad_(), grid.double().requires_grad_()
    offset = torch.linspace(-0.2, 0.2, 12).double().requires_grad_()
    expected = reference(leaf, cells + offset[:, None, None, None])
    loss = (expected * v_image).sum() + 10.0 * total_variation(cells)
    v_leaf, v_cells, v_offset = torch.autograd.grad(loss, (leaf, cells, offset))
    for own, other in (
        (made, expected.detach()), (v_rendered, v_leaf), (adjustment._v_grid, v_cells), (adjustment._v_offset, v_offset)
    ):  # fmt: skip
        torch.testing.assert_close(own.double(), other, rtol=1e-3, atol=1e-4)


def test_a_vignette_and_a_curve_are_found():
    """One picture in three photos: a vignetted one, one whose dark parts are darker, and what makes their mean the
    picture. No matrix for a whole photo can do that; the grids do."""
    picture = torch.rand(24, 32, 3, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    y, x = torch.linspace(-1, 1, 24)[:, None], torch.linspace(-1, 1, 32)
    dim = (0.3 * (x**2 + y**2) / 2)[..., None] * picture
    curve = 0.4 * picture * (picture - 0.9)
    photos = [picture - dim, picture + curve, picture + dim - curve]
    adjustment = Bilateral(3, AppearanceConfig(grid_lr=0.01, grid_tv=0.01), torch.device("cpu"))
    for step in range(900):
        view = step % 3
        difference = adjustment.image(view, picture) - photos[view]
        adjustment.backward(2.0 * difference / difference.numel())
        adjustment.step(step / 900)
    for view in range(3):
        before, after = (
            (one - photos[view]).square().mean().sqrt() for one in (picture, adjustment.image(view, picture))
        )
        assert before > 0.03 and after < 0.35 * before, (view, float(before), float(after))
    mean = sum(adjustment.grid(view) for view in range(3)) / 3
    torch.testing.assert_close(mean, neutral_grid(), rtol=0.0, atol=1e-5)


def test_the_rate_rises_and_falls():
    shares = [rate_share(share) for share in (0.0, 1 / 60, 1 / 30, 0.5, 1.0)]
    assert shares == pytest.approx([0.01, 0.505 * 0.01 ** (1 / 60), 0.01 ** (1 / 30), 0.1, 0.01])


def test_states_of_another_kind_are_refused():
    adjustment = Bilateral(2, AppearanceConfig(), torch.device("cpu"))
    with pytest.raises(ValueError, match="photos"):
        adjustment.load_state_dict({"grids": {}})
    with pytest.raises(ValueError, match="photos"):
        adjustment.load_state_dict(Bilateral(3, AppearanceConfig(), torch.device("cpu")).state_dict())


def test_a_deterministic_run_on_a_gpu_is_refused():
    config = config_of({"appearance.model": "bilateral", "train.deterministic": True})
    with pytest.raises(ConfigError, match="does not go with train.deterministic; use exposure"):
        make_bilateral(config, None, torch.device("cuda"))  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "is_said"), [(80, True), (160, False)])
def test_photos_that_are_too_small_for_a_grid_are_told(caplog, width, is_said):
    views = tuple(SimpleNamespace(width=size, height=60) for size in (300, width))
    config = config_of({"appearance.model": "bilateral"})
    made = make_bilateral(config, SimpleNamespace(train=views), torch.device("cpu"))  # type: ignore[arg-type]
    assert made is not None and made.grids.count == 2
    assert ("a photo of 80 x 60 has 14,400 values, fewer than the 24,576 numbers" in caplog.text) == is_said


def test_the_grids_are_as_published():
    assert (WIDTH, HEIGHT, LEVELS) == (16, 16, 8) and sum(LUMA) == pytest.approx(1.0)
    assert (AppearanceConfig().grid_tv, AppearanceConfig().grid_lr) == (10.0, 2e-3) and not math.isnan(bilateral.FINAL)


@pytest.mark.gpu
def test_a_gpu_agrees_and_does_not_wait():
    image, grid, v_image = (tensor.float() for tensor in drawn(40, 56))
    results = []
    for device in ("cpu", "cuda"):
        adjustment = Bilateral(2, AppearanceConfig(), torch.device(device))
        adjustment.grids._raw[0] = (grid - neutral_grid()).to(device)
        own, gradient = image.to(device), v_image.to(device)
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
        try:
            made = adjustment.image(0, own)
            v_rendered = adjustment.backward(gradient)
            v_grid = adjustment._v_grid
            adjustment.step(0.5)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        results.append([one.cpu() for one in (made, v_rendered, v_grid, adjustment.grid(0))])
    for own, other in zip(*results, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-3)
