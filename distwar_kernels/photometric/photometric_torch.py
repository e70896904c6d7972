"""SSIM of two float images in plain PyTorch, any dtype and device: what evaluation measures with.

SSIM follows Wang et al. 2004 ("Image quality assessment: from error visibility to structural similarity", equation 13)
with the settings of the 3DGS reference (graphdeco-inria/gaussian-splatting, utils/loss_utils.py): an 11x11 Gaussian
window of sigma 1.5, zero padding, every channel by itself, the mean over the whole map.
"""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from distwar_kernels.constants import SSIM_C1, SSIM_C2, SSIM_RADIUS, SSIM_SIGMA

WINDOW_SIZE = 2 * SSIM_RADIUS + 1


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


@torch.no_grad()
def ssim_map(image: Tensor, target: Tensor) -> Tensor:
    """The similarity [1, C, H, W] around each pixel, of images as for `ssim`; not differentiable."""
    return _similarity(_planes(image), _planes(target))[0]


class _Ssim(torch.autograd.Function):
    """SSIM with its derivative written out: the blur is its own adjoint, so the backward is one more blur of three
    maps, where autograd would push five maps (two of them the constant target's) back through the convolution."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        """Mean SSIM of two [1, C, H, W] images."""
        value, *terms = _similarity(x, y)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(x, y, value, *terms)
        return value.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None]:
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
    luminance = mean_x * mean_x + mean_y * mean_y + SSIM_C1  # the denominators, then the numerators
    contrast = xx + yy - luminance + (SSIM_C1 + SSIM_C2)
    luminance_top = 2.0 * mean_x * mean_y + SSIM_C1
    contrast_top = 2.0 * (xy - mean_x * mean_y) + SSIM_C2
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
        window = torch.exp(-(offsets**2) / (2.0 * SSIM_SIGMA**2))
        return (window / window.sum()).to(device=device, dtype=dtype)
