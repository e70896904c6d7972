"""Photometric losses: L1, SSIM and the mix of both that 3D Gaussian Splatting trains with.

SSIM follows Wang et al. 2004 ("Image quality assessment: from error visibility to structural similarity", equation 13)
with the settings of the 3DGS reference (graphdeco-inria/gaussian-splatting, utils/loss_utils.py): an 11x11 Gaussian
window of sigma 1.5, zero padding, every channel by itself, the mean over the whole map.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

import distwar_kernels as kernels
from distwar_kernels.photometric.photometric_reference import composite

WINDOW_SIZE = 11
WINDOW_SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2


def l1_loss(image: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of two images of equal shape; a scalar."""
    return (image - target).abs().mean()


def without_ignored(image: Tensor, target: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Both images [H, W, 3] (or bytes with alpha, [H, W, 4]) black where `kept` [H, W] is False.

    So ignored pixels are equal, whatever was rendered or photographed there: they add nothing to a loss, get no
    gradient, and are to SSIM's window what lies outside the image is.
    """
    return _blackened(image, kept), _blackened(target, kept)


def _blackened(pixels: Tensor, kept: Tensor) -> Tensor:
    black = torch.where(kept[..., None], pixels, torch.zeros_like(pixels))
    if pixels.shape[-1] == 4:
        black[..., 3].masked_fill_(~kept, 255)  # black, not transparent
    return black


def ssim(image: Tensor, target: Tensor) -> Tensor:
    """Mean structural similarity of two images; a scalar, 1 for equal images.

    Args:
        image: [H, W, 3] or [1, H, W, 3], float in [0, 1]. Gradients flow to this one only.
        target: the same shape; taken as a constant.

    Raises:
        ValueError: the shapes differ, or are not one image with channels last.
    """
    if image.shape != target.shape or image.numel() == 0 or image.shape[:-3] not in ((), (1,)):
        raise ValueError(
            f"ssim needs two images [H, W, 3] or [1, H, W, 3] of one shape; got {[*image.shape]} and {[*target.shape]}"
        )
    return _Ssim.apply(_planes(image), _planes(target.detach()))


def masked_ssim(image: Tensor, target: Tensor, kept: Tensor) -> Tensor:
    """Mean of the similarity over the pixels that count, of images [H, W, 3] without the others; not differentiable.

    Args:
        image, target: as for `ssim`.
        kept: bool [H, W], not False everywhere.
    """
    with torch.no_grad():
        planes = (_planes(pixels) for pixels in without_ignored(image, target, kept))
        return _similarity(*planes)[0][..., kept].mean()


def photometric_loss(
    image: Tensor,
    target: Tensor,
    lambda_dssim: float,
    background: Tensor | None = None,
    kept: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`(1 - lambda) L1 + lambda (1 - SSIM)`, the loss of 3DGS (Kerbl et al. 2023, equation 7).

    D-SSIM is `1 - SSIM`, as in the reference's train.py; other texts halve it.

    Args:
        image: as for `ssim`.
        target: as for `ssim`, or bytes [H, W, 3], or bytes with straight alpha [H, W, 4]. Bytes on CUDA are for the
            fused kernels of `distwar_kernels.photometric_loss`, which also make the gradient.
        lambda_dssim: the weight of D-SSIM, 0 to 1.
        background: [3], what a target with alpha is laid on; not used without alpha.
        kept: bool [H, W], False where a mask ignores the pixel. The means still go over all pixels, so that those that
            count have the gradients, and densification the thresholds, of an image without a mask.

    Returns:
        The loss, and its detached parts `l1` and `ssim`: scalars on the device, so that nothing here waits for the GPU.
    """
    if kept is not None:
        image, target = without_ignored(image, target, kept)
    if target.dtype == torch.uint8:
        if image.is_cuda:
            return kernels.photometric_loss(image.reshape(image.shape[-3:]), target, lambda_dssim, background)
        target = as_floats(target, background)
        target = target[None] if image.dim() == 4 else target
    l1 = l1_loss(image, target)
    similarity = ssim(image, target)
    loss = (1.0 - lambda_dssim) * l1 + lambda_dssim * (1.0 - similarity)
    return loss, {"l1": l1.detach(), "ssim": similarity.detach()}


def photometric_gradient(
    image: Tensor,
    photo: Tensor,
    lambda_dssim: float,
    background: Tensor | None = None,
    kept: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """dL/d(image) of `photometric_loss`, and the values `loss`, `l1` and `ssim`; arguments as there.

    On CUDA the loss's kernels make the gradient, and autograd has no part in it.
    """
    if image.is_cuda and photo.dtype == torch.uint8:
        pair = (image.detach(), photo) if kept is None else without_ignored(image.detach(), photo, kept)
        v_image, loss, parts = kernels.photometric_gradient(*pair, lambda_dssim, background)
        return v_image if kept is None else v_image * kept[..., None], {"loss": loss, **parts}
    leaf = image.detach().requires_grad_()
    loss, parts = photometric_loss(leaf, photo, lambda_dssim, background, kept)
    (v_image,) = torch.autograd.grad(loss, leaf)
    return v_image, {"loss": loss.detach(), **parts}


def as_floats(photo: Tensor, background: Tensor | None = None) -> Tensor:
    """A photo of bytes as float32 [H, W, 3] in [0, 1]; one with straight alpha, [H, W, 4], is laid on a background."""
    if photo.shape[-1] == 4 and background is None:
        raise ValueError("target has an alpha channel, and there is no background to lay it on")
    return composite(photo, torch.float32, background)


class _Ssim(torch.autograd.Function):
    """SSIM with its derivative written out: the blur is its own adjoint, so the backward is one more blur of three
    maps, where autograd would push five maps (two of them the constant target's) back through the convolution."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, y: Tensor) -> Tensor:
        """Mean SSIM of two [1, C, H, W] images."""
        value, *terms = _similarity(x, y)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(x, y, value, *terms)
        return value.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, None]:
        """The chain rule through the window's three moments of x: E[x], E[x^2] and E[xy]."""
        if not ctx.needs_input_grad[0]:
            return None, None
        x, y, value, mean_x, mean_y, luminance, contrast, luminance_top, contrast_top = ctx.saved_tensors
        by_xx = -value / contrast
        by_xy = 2.0 * luminance_top / (luminance * contrast)
        by_mean = (
            2.0 * mean_y * contrast_top / (luminance * contrast)
            - 2.0 * mean_x * value / luminance
            - 2.0 * mean_x * by_xx
            - mean_y * by_xy
        )
        by_mean, by_xx, by_xy = _blur(torch.cat((by_mean, by_xx, by_xy), dim=1)).chunk(3, dim=1)
        return (by_mean + 2.0 * x * by_xx + y * by_xy) * (grad / x.numel()), None


def _similarity(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """The SSIM map of two [1, C, H, W] images, and the maps it is made of: means, denominators, numerators."""
    mean_x, mean_y, xx, yy, xy = _blur(torch.cat((x, y, x * x, y * y, x * y), dim=1)).chunk(5, dim=1)
    luminance = mean_x * mean_x + mean_y * mean_y + C1  # the denominators, then the numerators
    contrast = xx + yy - luminance + (C1 + C2)
    luminance_top = 2.0 * mean_x * mean_y + C1
    contrast_top = 2.0 * (xy - mean_x * mean_y) + C2
    value = luminance_top * contrast_top / (luminance * contrast)
    return value, mean_x, mean_y, luminance, contrast, luminance_top, contrast_top


def _planes(image: Tensor) -> Tensor:
    """[H, W, C] or [1, H, W, C] -> [1, C, H, W], in the memory layout in which depthwise convolution is fast.

    On the CPU that is channels-last, the layout images already have (measured 3 to 30 times faster than planes at
    160x120); on CUDA PyTorch's own depthwise kernel wants planes.
    """
    planes = image.reshape(1, *image.shape[-3:]).permute(0, 3, 1, 2)
    on_cpu = image.device.type == "cpu"
    return planes.contiguous(memory_format=torch.channels_last if on_cpu else torch.contiguous_format)


def _blur(maps: Tensor) -> Tensor:
    """The Gaussian window over each channel of [1, C, H, W], zero outside the image: columns, then rows."""
    channels, pad = maps.shape[1], WINDOW_SIZE // 2
    window = _window(maps.device, maps.dtype)
    column = window.view(1, 1, -1, 1).expand(channels, -1, -1, -1)
    row = window.view(1, 1, 1, -1).expand(channels, -1, -1, -1)
    maps = F.conv2d(maps, column, padding=(pad, 0), groups=channels)
    return F.conv2d(maps, row, padding=(0, pad), groups=channels)


@lru_cache(maxsize=8)
def _window(device: torch.device, dtype: torch.dtype) -> Tensor:
    """The normalised 1-D Gaussian window [11]. Kept, since making it would copy from the host on every step."""
    with torch.inference_mode(False):  # an inference tensor kept from an evaluation would break the training after it
        offsets = torch.arange(WINDOW_SIZE, dtype=torch.float64) - WINDOW_SIZE // 2
        window = torch.exp(-(offsets**2) / (2.0 * WINDOW_SIGMA**2))
        return (window / window.sum()).to(device=device, dtype=dtype)
