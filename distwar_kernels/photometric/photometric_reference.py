"""The photometric loss in plain PyTorch, any dtype, differentiable by autograd: the definition that tests compare
with."""

import torch
import torch.nn.functional as F
from torch import Tensor

from distwar_kernels.constants import SSIM_C1, SSIM_C2, SSIM_RADIUS, SSIM_SIGMA
from distwar_kernels.photometric.photometric import composite


def photometric_reference(
    image: Tensor,  # [H, W, 3]
    target: Tensor,  # [H, W, 3] or [H, W, 4] uint8
    lambda_dssim: float,
    background: Tensor | None = None,  # [3]
) -> tuple[Tensor, Tensor, Tensor]:
    """(1 - lambda) L1 + lambda (1 - SSIM), the mean L1 and the mean SSIM, as ``photometric_loss`` defines them."""
    photo = composite(target, image.dtype, background)
    x, y = (picture.permute(2, 0, 1)[:, None] for picture in (image, photo))
    mean_x, mean_y, xx, yy, xy = (_blur(a) for a in (x, y, x * x, y * y, x * y))
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x.square() + mean_y.square() + SSIM_C1)
    variances = xx - mean_x.square() + yy - mean_y.square()
    ssim = (luminance * (2 * (xy - mean_x * mean_y) + SSIM_C2) / (variances + SSIM_C2)).mean()
    l1 = (image - photo).abs().mean()
    return (1 - lambda_dssim) * l1 + lambda_dssim * (1 - ssim), l1, ssim


def _blur(planes: Tensor) -> Tensor:
    """The window over planes [C, 1, H, W], zero outside: one two-dimensional convolution."""
    offsets = torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1, dtype=torch.float64, device=planes.device)
    window = torch.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    square = torch.outer(window, window) / window.sum() ** 2
    return F.conv2d(planes, square.to(planes.dtype)[None, None], padding=SSIM_RADIUS)
