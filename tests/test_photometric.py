"""The photometric loss and its gradient against the float64 definition: the CUDA kernels in the emulator, the CPU's op,
and on a GPU that op."""

import ctypes
import re
from pathlib import Path

import pytest
import torch
from emulated_kernels import build
from emulated_photometric import run
from random_scenes import assert_below, relative_l2
from torch import Tensor

from distwar_gs import losses
from distwar_kernels import constants, loader, photometric_errors, photometric_gradient, photometric_loss
from distwar_kernels.photometric.photometric import composite
from distwar_kernels.photometric.photometric_reference import photometric_reference

BOUND = 1e-5  # rounding gives 1e-7
PLAIN_BOUND = 2e-5  # without contrast variances are small differences: 8e-6 (PyTorch's float32 convolutions: 1e-4)
LAMBDA = 0.2
# Height, width, channels of the photo. A block takes 32 pixels across, 8 rows at a time, 14 rows or more in all.
SIZES = [
    (1, 1, 3), (1, 1, 4), (1, 2, 3), (1, 33, 3), (1, 70, 4), (2, 1, 3), (37, 1, 3), (3, 4, 3), (5, 5, 4), (10, 10, 3),
    (11, 11, 3), (13, 31, 3), (14, 32, 3), (15, 33, 4), (16, 64, 3), (8, 65, 3), (24, 27, 3), (29, 97, 4), (45, 38, 3),
    (71, 50, 3),
]  # fmt: skip


def pictures(height: int, width: int, channels: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A render, a photo of bytes that it resembles, and a background."""
    g = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 256, (height, width, channels), generator=g).to(torch.uint8)
    image = target[..., :3] / 255.0 + 0.2 * torch.randn(height, width, 3, generator=g)
    background = torch.rand(3, generator=g)
    photo = composite(target, torch.float64, background)
    tied = (image - photo).abs() < 1e-5  # where rounding would decide the sign of L1's gradient
    return torch.where(tied, image + 1e-4, image), target, background


def any_pictures(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    height, width = (int(torch.randint(1, 150, (), generator=g)) for _ in range(2))
    return pictures(height, width, 3 + seed % 2, seed)


def smooth_pictures(height: int = 40, width: int = 50) -> tuple[Tensor, Tensor]:
    """A gradient of greys with a little noise on the render: variances are small beside the means."""
    x, y = torch.arange(width)[None, :, None], torch.arange(height)[:, None, None]
    target = (100 + 2 * x + y).expand(height, width, 3).to(torch.uint8).contiguous()
    noise = torch.randn(height, width, 3, generator=torch.Generator().manual_seed(0))
    return target / 255.0 + 0.003 * noise, target


def constant_pictures(value: float, byte: int) -> tuple[Tensor, Tensor]:
    return torch.full((23, 40, 3), value), torch.full((23, 40, 3), byte, dtype=torch.uint8)


PLAIN = {
    "smooth": smooth_pictures(),
    "greys": constant_pictures(0.8, 230),
    "dark-greys": constant_pictures(0.1, 2),
    "white": constant_pictures(1.0, 254),
    "black-and-white": constant_pictures(0.0, 255),
    "beyond-one": constant_pictures(1.2, 230),
}
plain_pictures = pytest.mark.parametrize("pair", PLAIN.values(), ids=PLAIN.keys())


def exact(image: Tensor, target: Tensor, lambda_dssim: float, background: Tensor | None) -> dict[str, Tensor]:
    """The loss, its parts and its gradient in float64."""
    image = image.double().cpu().requires_grad_()
    background = None if background is None else background.double().cpu()
    loss, l1, ssim = photometric_reference(image, target.cpu(), lambda_dssim, background)
    (gradient,) = torch.autograd.grad(loss, image)
    return {"loss": loss.detach(), "l1": l1.detach(), "ssim": ssim.detach(), "gradient": gradient}


def worst_error(result: tuple[Tensor, Tensor, Tensor], expected: dict[str, Tensor]) -> float:
    """Of loss, l1 and ssim the absolute error, of the gradient the relative one."""
    loss, parts, gradient = (tensor.detach().cpu().double() for tensor in result)
    values = {"loss": loss, "l1": parts[0], "ssim": parts[1]}
    errors = [abs(value - expected[name]).item() for name, value in values.items()]
    return max(*errors, relative_l2(gradient, expected["gradient"]))


def through_autograd(function, image: Tensor, *args) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, parts and gradient, by the Python function."""
    image = image.detach().requires_grad_()
    loss, parts = function(image, *args)
    (gradient,) = torch.autograd.grad(loss, image)
    assert not any(part.requires_grad for part in parts.values())
    return loss, torch.stack([parts["l1"], parts["ssim"]]), gradient


def exact_errors(image: Tensor, target: Tensor, background: Tensor | None) -> Tensor:
    """[H, W] in float64: the mean over a pixel's channels."""
    background = None if background is None else background.double().cpu()
    return (image.double().cpu() - composite(target.cpu(), torch.float64, background)).abs().mean(dim=-1)


# ------------------------------------------------------------------------------------------ the reference itself


def test_the_reference_is_ssim_and_l1():
    """Against the other implementation of this repository, which has tests of its own against the definition."""
    image, target, _ = pictures(23, 18)
    image, photo = image.double(), target.double() / 255.0
    loss, l1, ssim = photometric_reference(image, target, LAMBDA)
    torch.testing.assert_close(ssim, losses.ssim(image, photo), rtol=1e-12, atol=1e-12)
    assert l1.item() == losses.l1_loss(image, photo).item()
    assert loss.item() == pytest.approx(0.8 * l1.item() + 0.2 * (1 - ssim.item()), abs=1e-12)


def test_gradcheck_of_the_reference():
    image, target, background = pictures(4, 5, 4)
    image, background = image.double().requires_grad_(), background.double()
    assert torch.autograd.gradcheck(lambda x: photometric_reference(x, target, 0.7, background)[0], image)


def test_the_reference_lays_photos_on_the_background():
    target = torch.tensor([[[255, 0, 0, 255], [255, 0, 0, 0], [255, 255, 255, 51]]], dtype=torch.uint8)
    image = torch.tensor([[[1.0, 0.0, 0.0], [0.1, 0.2, 0.3], [0.28, 0.36, 0.44]]], dtype=torch.float64)
    background = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    assert photometric_reference(image, target, 0.0, background)[1].item() == pytest.approx(0.0, abs=1e-12)


# -------------------------------------------------------------------------------- the CUDA kernels, in the emulator


@pytest.fixture(scope="module")
def library(emulation_flags):
    return ctypes.CDLL(str(build("photometric", *emulation_flags)))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_kernels_agree_with_the_reference(library, size):
    image, target, background = pictures(*size)
    expected = exact(image, target, LAMBDA, background)
    assert worst_error(run(library, image, target, LAMBDA, background), expected) < BOUND


@pytest.mark.parametrize("lambda_dssim", [0.0, 0.5, 1.0])
def test_kernels_at_other_weights(library, lambda_dssim):
    image, target, background = pictures(19, 35, 4, seed=1)
    expected = exact(image, target, lambda_dssim, background)
    assert worst_error(run(library, image, target, lambda_dssim, background), expected) < BOUND


@plain_pictures
def test_kernels_on_pictures_without_contrast(library, pair):
    assert worst_error(run(library, *pair, LAMBDA), exact(*pair, LAMBDA, None)) < PLAIN_BOUND


def test_kernels_on_several_strips_and_chunks(library):
    image, target, background = pictures(100, 105, 3, seed=2)
    assert library.blocks(105, 100) > 4 * 4
    expected = exact(image, target, LAMBDA, background)
    assert worst_error(run(library, image, target, LAMBDA, background), expected) < BOUND


@pytest.mark.parametrize("size", [*SIZES, (100, 105, 3)], ids=str)
def test_kernels_leave_the_errors_of_all_pixels_and_change_nothing_else(library, size):
    image, target, background = pictures(*size)
    *results, errors = run(library, image, target, LAMBDA, background, with_errors=True)
    torch.testing.assert_close(errors.double(), exact_errors(image, target, background), rtol=1e-6, atol=1e-7)
    plain = run(library, image, target, LAMBDA, background)
    assert all(torch.equal(mine, other) for mine, other in zip(results, plain, strict=True))


def test_kernels_find_no_error_in_equal_pictures(library):
    *_, errors = run(library, *equal_pictures(), LAMBDA, with_errors=True)
    assert not errors.any()


def equal_pictures() -> tuple[Tensor, Tensor]:
    """Every byte, as a photo and as the floats that PyTorch makes of it."""
    target = torch.arange(256, dtype=torch.uint8).reshape(32, 8, 1).expand(-1, -1, 3).contiguous()
    return target / 255.0, target


def test_kernels_find_equal_pictures_equal(library):
    loss, parts, gradient = run(library, *equal_pictures(), LAMBDA)
    assert loss.item() == 0.0
    assert parts.tolist() == [0.0, 1.0]
    assert not gradient.any()


def test_the_emulator_notices_a_wrong_picture(library):
    """The comparison above is no triviality: one byte less in one corner is seen."""
    image, target, background = pictures(20, 40)
    expected = exact(image, target, LAMBDA, background)
    target[0, 0, 0] ^= 16
    assert worst_error(run(library, image, target, LAMBDA, background), expected) > 10 * BOUND


def test_blocks_fill_a_gpu_and_cover_the_image(library):
    assert 600 <= library.blocks(1297, 840) <= 660  # one wave of five blocks on each of 132 SMs
    assert library.blocks(1, 1) == 1
    assert library.blocks(4000, 3000) >= 600


# ------------------------------------------------------------------------------------------------- on the CPU


@pytest.mark.parametrize("function", [photometric_loss, losses.photometric_loss])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_cpu_agrees_with_the_reference(size, function):
    image, target, background = pictures(*size)
    expected = exact(image, target, LAMBDA, background)
    assert worst_error(through_autograd(function, image, target, LAMBDA, background), expected) < BOUND


@pytest.mark.parametrize("lambda_dssim", [0.0, 0.5, 1.0])
def test_cpu_at_other_weights(lambda_dssim):
    image, target, background = pictures(19, 35, 4, seed=1)
    expected = exact(image, target, lambda_dssim, background)
    result = through_autograd(photometric_loss, image, target, lambda_dssim, background)
    assert worst_error(result, expected) < BOUND


def test_cpu_over_many_sizes():
    errors = {}
    for seed in range(20):
        image, target, background = any_pictures(seed)
        result = through_autograd(photometric_loss, image, target, seed % 11 / 10, background)
        errors[seed] = worst_error(result, exact(image, target, seed % 11 / 10, background))
    assert_below(errors, 2e-6)  # ten times what is seen; PyTorch's float32 convolutions: 7e-6


@plain_pictures
def test_cpu_on_pictures_without_contrast(pair):
    assert worst_error(through_autograd(photometric_loss, *pair, LAMBDA), exact(*pair, LAMBDA, None)) < PLAIN_BOUND


def test_cpu_finds_equal_pictures_equal():
    """Those with alpha, too: each byte over each background is the float that PyTorch makes of it."""
    alpha = torch.arange(256, dtype=torch.uint8).reshape(16, 16, 1)
    target = torch.cat([equal_pictures()[1].reshape(16, 16, 3), alpha.flip(0)], dim=-1)
    background = torch.tensor([0.3, 0.7, 1.0 / 3.0])
    laid = (losses.as_floats(target, background), target, LAMBDA, background)
    for arguments in ((*equal_pictures(), LAMBDA), laid):
        gradient, loss, parts = photometric_gradient(*arguments)
        assert (loss.item(), parts["l1"].item(), parts["ssim"].item()) == (0.0, 0.0, 1.0)
        assert not gradient.any()


def assert_errors_are_exact(image: Tensor, target: Tensor, lambda_dssim: float, background: Tensor) -> None:
    """And all else is as it is without them."""
    errors, *results = photometric_errors(image, target, lambda_dssim, background)
    wanted = exact_errors(image, target, background)
    torch.testing.assert_close(errors.cpu().double(), wanted, rtol=1e-6, atol=1e-7)
    v_image, loss, parts = photometric_gradient(image, target, lambda_dssim, background)
    assert torch.equal(results[0], v_image) and results[1] == loss and results[2] == parts


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_cpu_errors(size):
    image, target, background = pictures(*size)
    assert_errors_are_exact(image, target, LAMBDA, background)


def test_cpu_errors_over_many_sizes():
    for seed in range(20):
        image, target, background = any_pictures(seed)
        assert_errors_are_exact(image, target, seed % 11 / 10, background)
    errors, *_ = photometric_errors(*equal_pictures(), LAMBDA)
    assert not errors.any()


def test_cpu_is_bit_equal_for_any_number_of_threads():
    image, target, background = pictures(57, 83, 4)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(photometric_gradient(image, target, LAMBDA, background))
    finally:
        torch.set_num_threads(threads)
    for gradient, loss, parts in results[1:]:
        assert torch.equal(gradient, results[0][0]) and loss == results[0][1] and parts == results[0][2]


def test_the_losses_module_gives_bytes_and_floats_the_same_loss():
    image, target, background = pictures(12, 17, 4)
    of_bytes = losses.photometric_loss(image[None], target, LAMBDA, background)[0]
    of_floats = losses.photometric_loss(image, losses.as_floats(target, background), LAMBDA)[0]
    torch.testing.assert_close(of_bytes, of_floats, rtol=1e-5, atol=1e-6)


def test_the_window_is_that_of_the_constants():
    source = (Path(constants.__file__).parent / "photometric/photometric.h").read_text(encoding="utf-8")
    table = re.search(r"kHalf\[\] = {([^}]+)}", source).group(1)
    half = torch.tensor([float(number.strip().rstrip("f")) for number in table.split(",")], dtype=torch.float64)
    offsets = torch.arange(constants.SSIM_RADIUS + 1, dtype=torch.float64)
    window = torch.exp(-(offsets**2) / (2 * constants.SSIM_SIGMA**2))
    torch.testing.assert_close(half, window / (2 * window.sum() - 1), rtol=1e-12, atol=0.0)


def test_opcheck_on_the_cpu():
    image, target, background = pictures(9, 14, 4)
    loader.load("cpu")
    arguments = (image.requires_grad_(), target, background, LAMBDA)
    for more in ((), (False,), (True,)):
        torch.library.opcheck(torch.ops.distwar.photometric_loss.default, (*arguments, *more))


@pytest.mark.parametrize(
    ("complaint", "change"),
    [
        ("image", lambda i, t, b: (i[0], t, b)),
        ("image", lambda i, t, b: (i[:0], t[:0], b)),
        ("image", lambda i, t, b: (i[..., :2], t, b)),
        ("target", lambda i, t, b: (i, t[1:], b)),
        ("target", lambda i, t, b: (i, t[..., :2], b)),
        ("uint8", lambda i, t, b: (i, t / 255.0, b)),
        ("float32", lambda i, t, b: (i.double(), t, b)),
        ("background", lambda i, t, b: (i, t, b[:2])),
        ("background", lambda i, t, b: (i, t, None)),
    ],
)
def test_wrong_arguments_are_named(complaint, change):
    image, target, background = change(*pictures(6, 7, 4))
    with pytest.raises(ValueError, match=complaint):
        photometric_loss(image, target, LAMBDA, background)


def test_the_losses_module_wants_a_background_for_alpha():
    image, target, _ = pictures(6, 7, 4)
    with pytest.raises(ValueError, match="background"):
        losses.photometric_loss(image, target, LAMBDA)


# --------------------------------------------------------------------------------------------------------- GPU


def on_gpu(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.cuda() for tensor in tensors)


def gpu_error(image: Tensor, target: Tensor, background: Tensor | None, lambda_dssim: float = LAMBDA) -> float:
    args = (target.cuda(), lambda_dssim, None if background is None else background.cuda())
    expected = exact(image, target, lambda_dssim, background)
    return worst_error(through_autograd(photometric_loss, image.cuda(), *args), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [*SIZES, (840, 1297, 3), (532, 799, 4)], ids=str)
def test_cuda_agrees_with_the_reference(size):
    assert gpu_error(*pictures(*size)) < BOUND


@pytest.mark.gpu
def test_cuda_over_many_seeds(seeds):
    assert_below({seed: gpu_error(*any_pictures(seed), lambda_dssim=seed % 11 / 10) for seed in seeds}, BOUND)


@pytest.mark.gpu
@plain_pictures
def test_cuda_on_pictures_without_contrast(pair):
    assert gpu_error(*pair, None) < PLAIN_BOUND


@pytest.mark.gpu
def test_cuda_finds_equal_pictures_equal():
    loss, parts, gradient = through_autograd(photometric_loss, *on_gpu(*equal_pictures()), LAMBDA)
    assert (loss.item(), parts.tolist()) == (0.0, [0.0, 1.0])
    assert not gradient.any()


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(37, 53, 3), (64, 100, 4)], ids=str)
def test_the_losses_module_agrees_on_both_devices(size):
    image, target, background = pictures(*size)
    on_cpu = through_autograd(losses.photometric_loss, image, target, LAMBDA, background)
    args = on_gpu(image, target, background)
    on_cuda = through_autograd(losses.photometric_loss, *args[:2], LAMBDA, args[2])
    for mine, theirs in zip(on_cuda, on_cpu, strict=True):
        assert relative_l2(mine.cpu(), theirs) < BOUND


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [3, 4])
def test_cuda_is_bit_equal_from_run_to_run(channels):
    image, target, background = on_gpu(*pictures(333, 517, channels))
    first, again = (through_autograd(photometric_loss, image, target, LAMBDA, background) for _ in range(2))
    assert all(torch.equal(mine, other) for mine, other in zip(first, again, strict=True))


@pytest.mark.gpu
def test_the_gradient_is_scaled_by_what_follows():
    image, target, _ = on_gpu(*pictures(20, 30))
    image.requires_grad_()
    (plain,) = torch.autograd.grad(photometric_loss(image, target, LAMBDA)[0], image)
    (scaled,) = torch.autograd.grad(-3.0 * photometric_loss(image, target, LAMBDA)[0], image)
    torch.testing.assert_close(scaled, -3.0 * plain)


@pytest.mark.gpu
def test_cuda_takes_views_and_images_of_a_stack():
    image, target, background = on_gpu(*pictures(40, 60, 4))
    expected = photometric_loss(image[5:, 3:].contiguous(), target[5:, 3:].contiguous(), LAMBDA, background)[0]
    stack = torch.stack([torch.zeros_like(target), target])
    assert photometric_loss(image[5:, 3:], stack[1][5:, 3:], LAMBDA, background)[0].item() == expected.item()


@pytest.mark.gpu
def test_cuda_never_syncs():
    image, target, background = on_gpu(*pictures(50, 60, 4))
    through_autograd(losses.photometric_loss, image, target, LAMBDA, background)
    torch.cuda.set_sync_debug_mode("error")
    try:
        through_autograd(losses.photometric_loss, image, target, LAMBDA, background)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_cuda_runs_on_the_current_stream():
    """The inputs arrive late on a side stream; a launch on the default stream would see zeros."""
    source = pictures(50, 60, 4)
    ready = on_gpu(*source)
    late = tuple(torch.zeros_like(tensor) for tensor in ready)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(100_000_000)  # about 50 ms
        for tensor, value in zip(late, ready, strict=True):
            tensor.copy_(value)
        result = through_autograd(photometric_loss, *late[:2], LAMBDA, late[2])
    torch.cuda.synchronize()
    assert worst_error(result, exact(*source[:2], LAMBDA, source[2])) < BOUND


@pytest.mark.gpu
def test_in_a_cuda_graph():
    """Captured once, replayed on another render: what an eager run of that gives."""
    image, target, background = on_gpu(*pictures(60, 70, 4))

    def step() -> tuple[Tensor, ...]:
        return through_autograd(photometric_loss, image, target, LAMBDA, background)

    with torch.cuda.stream(torch.cuda.Stream()):  # a capture wants everything warm, off the default stream
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    image.mul_(0.7)
    graph.replay()
    replayed = [tensor.clone() for tensor in captured]
    assert all(torch.equal(again, now) for again, now in zip(replayed, step(), strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [3, 4])
def test_opcheck(channels):
    image, target, background = on_gpu(*pictures(20, 33, channels))
    photometric_loss(image, target, LAMBDA, background)  # loads the kernels
    arguments = (image.requires_grad_(), target, background, LAMBDA)
    for more in ((), (False,), (True,)):
        torch.library.opcheck(torch.ops.distwar.photometric_loss.default, (*arguments, *more))


@pytest.mark.gpu
def test_gpu_errors_over_many_seeds(seeds):
    for seed in seeds:
        assert_errors_are_exact(*on_gpu(*any_pictures(seed)[:2]), seed % 11 / 10, any_pictures(seed)[2].cuda())


@pytest.mark.gpu
def test_under_torch_compile():
    image, target, background = on_gpu(*pictures(20, 33, 4))
    compiled = torch.compile(photometric_loss, fullgraph=True, backend="aot_eager")
    plain, traced = (through_autograd(f, image, target, LAMBDA, background) for f in (photometric_loss, compiled))
    assert all(torch.equal(mine, other) for mine, other in zip(plain, traced, strict=True))


@pytest.mark.gpu
def test_the_raw_op_says_what_is_wrong():
    image, target, background = on_gpu(*pictures(6, 7, 4))
    photometric_loss(image, target, LAMBDA, background)  # loads the kernels
    for arguments, complaint in (
        ((image.double(), target, background), "image must be Float, not Double"),
        ((image, target.float(), background), "target must be Byte, not Float"),
        ((image, target[1:], background), "of one size"),
        ((image, target, None), "give a background"),
        ((image, target, background.cpu()), "background is on cpu"),
        ((image, target.transpose(0, 1).contiguous().transpose(0, 1), background), "target must be contiguous"),
        ((image[:0], target[:0], background), "no pixels"),
    ):
        with pytest.raises(RuntimeError, match=complaint):
            torch.ops.distwar.photometric_loss(*arguments, LAMBDA)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_a_gpu_that_is_not_the_current_one():
    image, target, background = pictures(30, 40, 4)
    other = (tensor.to("cuda:1") for tensor in (image, target))
    result = through_autograd(photometric_loss, *other, LAMBDA, background.to("cuda:1"))
    assert worst_error(result, exact(image, target, LAMBDA, background)) < BOUND
