"""SSIM against the definition, its gradient against finite differences, and the mixed loss."""

import math

import pytest
import torch

from distwar_gs.losses import (
    as_floats,
    l1_loss,
    masked_ssim,
    photometric_gradient,
    photometric_gradients,
    photometric_loss,
    ssim,
)
from distwar_kernels.photometric import photometric_torch


def naive_ssim(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The definition, window by window: weighted means, variances and covariance of zero-padded 11x11 windows."""
    g = torch.tensor([math.exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11)], dtype=torch.float64)
    w = torch.outer(g, g) / torch.outer(g, g).sum()
    a, b = (torch.nn.functional.pad(image, (0, 0, 5, 5, 5, 5)).unfold(0, 11, 1).unfold(1, 11, 1) for image in (x, y))
    mean_a, mean_b = (w * a).sum((-1, -2), keepdim=True), (w * b).sum((-1, -2), keepdim=True)
    var_a, var_b = (w * (a - mean_a) ** 2).sum((-1, -2)), (w * (b - mean_b) ** 2).sum((-1, -2))
    covariance = (w * (a - mean_a) * (b - mean_b)).sum((-1, -2))
    mean_a, mean_b = mean_a[..., 0, 0], mean_b[..., 0, 0]
    top = (2 * mean_a * mean_b + 0.01**2) * (2 * covariance + 0.03**2)
    return (top / ((mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2))).mean()


def pair(height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(height, width, 3, dtype=torch.float64, generator=generator)
    return x, (x + 0.2 * torch.randn(x.shape, dtype=torch.float64, generator=generator)).clamp(0, 1)


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (5, 3), (13, 18), (20, 11)])
def test_ssim_is_the_definition(size):
    x, y = pair(*size)
    torch.testing.assert_close(ssim(x, y), naive_ssim(x, y), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ssim(x.float(), y.float()).double(), naive_ssim(x, y), rtol=1e-5, atol=1e-5)


def test_ssim_of_equal_images_is_one_and_of_different_ones_less():
    x, y = pair(16, 16)
    assert ssim(x, x).item() == pytest.approx(1.0, abs=1e-12)
    assert ssim(x, y).item() < 0.99
    assert ssim(x[None], y[None]).item() == ssim(x, y).item()


@pytest.mark.parametrize("size", [(1, 2), (9, 7), (12, 14)])
def test_ssim_gradient(size):
    x, y = pair(*size, seed=1)
    assert torch.autograd.gradcheck(lambda image: ssim(image, y), x.requires_grad_())


def test_ssim_gradient_equals_autograd_of_the_definition():
    x, y = pair(12, 9, seed=2)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(naive_ssim(x, y), x)
    (got,) = torch.autograd.grad(ssim(x, y), x)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


def test_training_works_after_an_evaluation_in_inference_mode():
    photometric_torch._window.cache_clear()
    x, y = (image.float() for image in pair(12, 12))
    with torch.inference_mode():
        ssim(x, y)
    x.requires_grad_()
    photometric_loss(x, y, 0.2)[0].backward()
    assert x.grad.abs().sum() > 0


def test_photometric_loss_mixes_its_parts():
    x, y = pair(12, 12)
    x.requires_grad_()
    loss, parts = photometric_loss(x, y, 0.2)
    assert loss.item() == pytest.approx(0.8 * (x - y).abs().mean().item() + 0.2 * (1 - naive_ssim(x, y).item()))
    assert parts["l1"].item() == l1_loss(x, y).item()
    assert parts["ssim"].item() == ssim(x, y).item()
    assert loss.requires_grad and not any(part.requires_grad for part in parts.values())


def test_shapes_that_are_not_one_image_are_refused():
    x, _ = pair(4, 4)
    for other in (x[:3], x[None].expand(2, 4, 4, 3)):
        with pytest.raises(ValueError, match="one shape"):
            ssim(other, x)
    with pytest.raises(ValueError, match="one shape"):
        ssim(x[:0], x[:0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_agrees_with_cpu_and_never_syncs():
    x, y = (image.float().cuda() for image in pair(37, 53))
    x.requires_grad_()
    photometric_loss(x, y, 0.2)[0].backward()  # fills the window's cache and the libraries' workspaces
    gradient, x.grad = x.grad, None
    torch.cuda.set_sync_debug_mode("error")
    try:
        photometric_loss(x, y, 0.2)[0].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(x.grad, gradient)
    on_cpu = x.detach().cpu().requires_grad_()
    photometric_loss(on_cpu, y.cpu(), 0.2)[0].backward()
    torch.testing.assert_close(gradient.cpu(), on_cpu.grad, rtol=1e-4, atol=1e-8)


# ------------------------------------------------------------------------------------------------------------ masks


def masked_pair() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, y = pair(24, 30, seed=3)
    kept = torch.ones(24, 30, dtype=torch.bool)
    kept[6:20, 12:] = False
    return x, y, kept


def with_noise(image: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    noise = torch.rand(image.shape, dtype=image.dtype, generator=torch.Generator().manual_seed(9))
    return torch.where(kept[..., None], image, noise)


def test_ignored_pixels_have_no_part_in_the_loss_and_its_gradient():
    x, y, kept = masked_pair()
    results = []
    for image, target in ((x, y), (with_noise(x, kept), y), (x, with_noise(y, kept))):
        image = image.clone().requires_grad_()
        loss, _ = photometric_loss(image, target, 0.2, kept=kept)
        results.append((loss.item(), *torch.autograd.grad(loss, image)))
    for loss, gradient in results:
        assert loss == results[0][0] and torch.equal(gradient, results[0][1])
        assert (gradient[~kept] == 0).all() and (gradient[kept] != 0).all()


def test_pixels_that_count_have_the_gradient_of_an_image_without_a_mask():
    """Away from the mask's border, where the windows of SSIM see no ignored pixel."""
    x, y, kept = masked_pair()
    x.requires_grad_()
    (masked,) = torch.autograd.grad(photometric_loss(x, y, 0.2, kept=kept)[0], x)
    (plain,) = torch.autograd.grad(photometric_loss(x, y, 0.2)[0], x)
    torch.testing.assert_close(masked[:, :2], plain[:, :2])
    assert not torch.allclose(masked[:, 9:12], plain[:, 9:12])


def test_a_mask_that_keeps_everything_changes_nothing():
    x, y, kept = masked_pair()
    everything = torch.ones_like(kept)
    assert photometric_loss(x, y, 0.2, kept=everything)[0] == photometric_loss(x, y, 0.2)[0]
    torch.testing.assert_close(masked_ssim(x, y, everything), ssim(x, y))


def test_masked_ssim_measures_what_counts():
    x, y, kept = masked_pair()
    assert masked_ssim(x, y, kept) == masked_ssim(with_noise(x, kept), y, kept)
    same = torch.where(kept[..., None], x, y)
    assert masked_ssim(same, same, kept).item() == pytest.approx(1.0)
    assert masked_ssim(x, y, kept).item() < ssim(x * kept[..., None], y * kept[..., None]).item() - 0.01


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [3, 4])
def test_the_gradient_by_kernels_is_that_of_the_cpu_with_a_mask_too(channels):
    g = torch.Generator().manual_seed(11)
    photo = torch.randint(0, 256, (24, 30, channels), generator=g).to(torch.uint8)
    image, background = torch.rand(24, 30, 3, generator=g), torch.rand(3, generator=g)
    kept = masked_pair()[2]
    for mask in (None, kept):
        arguments = (image, photo, 0.2, background, mask)
        wanted, values = photometric_gradient(*arguments)
        actual, on_gpu = photometric_gradient(*(a.cuda() if isinstance(a, torch.Tensor) else a for a in arguments))
        torch.testing.assert_close(actual.cpu(), wanted, rtol=1e-3, atol=1e-7)
        torch.testing.assert_close(on_gpu["loss"].cpu(), values["loss"])
        assert mask is None or (actual.cpu()[~kept] == 0).all()


def test_a_mask_makes_transparent_photos_black_as_well():
    image, background = torch.rand(24, 30, 3), torch.tensor([0.3, 0.9, 0.1])
    photo, kept = torch.zeros(24, 30, 4, dtype=torch.uint8), masked_pair()[2]
    v_image, _ = photometric_gradient(image, photo, 0.2, background, kept)
    assert (v_image[~kept] == 0).all() and (v_image[kept] != 0).any()


# ----------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("kind", ["bytes", "bytes with alpha", "floats", "batched floats"])
def test_errors_are_mean_differences_where_the_mask_keeps_them(kind, with_mask):
    """And losses and gradients are the same bits with and without."""
    g = torch.Generator().manual_seed(11)
    photo = torch.randint(0, 256, (24, 30, 4 if "alpha" in kind else 3), generator=g).to(torch.uint8)
    image, background = torch.rand(24, 30, 3, generator=g), torch.rand(3, generator=g)
    kept = masked_pair()[2] if with_mask else None
    wanted = (image - as_floats(photo, background)).abs().mean(dim=-1)
    if kept is not None:
        wanted = wanted.masked_fill(~kept, 0.0)
    if "floats" in kind:
        photo = as_floats(photo)
    if "batched" in kind:
        image, photo = image[None], photo[None]
    arguments = (image, photo, 0.2, background, kept)
    gradients, values = photometric_gradients(*arguments, with_errors=True)
    assert set(gradients) == {"image", "errors"} and gradients["errors"].shape == (24, 30)
    torch.testing.assert_close(gradients["errors"], wanted, rtol=1e-6, atol=1e-7)
    v_image, plain = photometric_gradient(*arguments)
    assert torch.equal(gradients["image"], v_image) and values == plain
    assert set(photometric_gradients(*arguments, with_errors=False)[0]) == {"image"}
    assert not any(tensor.requires_grad for tensor in gradients.values())
