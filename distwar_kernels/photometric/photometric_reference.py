"""The photometric loss in plain PyTorch, any dtype, differentiable by autograd: its definition, and the CPU's op."""

import torch
import torch.nn.functional as F
from torch import Tensor

_RADIUS = 5
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2


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
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x.square() + mean_y.square() + _C1)
    variances = xx - mean_x.square() + yy - mean_y.square()
    ssim = (luminance * (2 * (xy - mean_x * mean_y) + _C2) / (variances + _C2)).mean()
    l1 = (image - photo).abs().mean()
    return (1 - lambda_dssim) * l1 + lambda_dssim * (1 - ssim), l1, ssim


def composite(target: Tensor, dtype: torch.dtype, background: Tensor | None) -> Tensor:
    """A photo of bytes as numbers in [0, 1]; one with alpha (straight, not premultiplied) is laid on `background`."""
    photo = target.to(dtype) / 255.0
    if photo.shape[-1] == 3:
        return photo
    return photo[..., :3] * photo[..., 3:] + background.to(dtype) * (1.0 - photo[..., 3:])


def _blur(planes: Tensor) -> Tensor:
    """The window over planes [C, 1, H, W], zero outside: one two-dimensional convolution."""
    offsets = torch.arange(-_RADIUS, _RADIUS + 1, dtype=torch.float64, device=planes.device)
    window = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
    square = torch.outer(window, window) / window.sum() ** 2
    return F.conv2d(planes, square.to(planes.dtype)[None, None], padding=_RADIUS)
