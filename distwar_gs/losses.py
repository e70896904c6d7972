"""Photometric losses: L1, SSIM and the mix of both that 3D Gaussian Splatting trains with.

SSIM and its gradient are those of distwar_kernels.photometric; here are masks, and targets that are floats.
"""

import torch
from torch import Tensor

import distwar_kernels as kernels
from distwar_kernels.constants import SSIM_SIGMA as WINDOW_SIGMA
from distwar_kernels.photometric.photometric_torch import WINDOW_SIZE, ssim, ssim_map

__all__ = [
    "WINDOW_SIGMA",
    "WINDOW_SIZE",
    "as_floats",
    "l1_loss",
    "masked_ssim",
    "photometric_gradient",
    "photometric_gradients",
    "photometric_loss",
    "ssim",
    "without_ignored",
]


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


def masked_ssim(image: Tensor, target: Tensor, kept: Tensor) -> Tensor:
    """Mean of the similarity over the pixels that count, of images [H, W, 3] without the others; not differentiable.

    Args:
        image, target: as for `ssim`.
        kept: bool [H, W], not False everywhere.
    """
    return ssim_map(*without_ignored(image, target, kept))[..., kept].mean()


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
        target: as for `ssim`, or bytes [H, W, 3], or bytes with straight alpha [H, W, 4]. Bytes are for the kernels of
            `distwar_kernels.photometric_loss`, which also make the gradient.
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
        return kernels.photometric_loss(image.reshape(image.shape[-3:]), target, lambda_dssim, background)
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

    For bytes the loss's kernels make the gradient, and autograd has no part in it.
    """
    gradients, losses = photometric_gradients(image, photo, lambda_dssim, background, kept, with_errors=False)
    return gradients["image"], losses


def photometric_gradients(
    image: Tensor,
    photo: Tensor,
    lambda_dssim: float,
    background: Tensor | None = None,
    kept: Tensor | None = None,
    *,
    with_errors: bool,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What an engine makes a step of: `image`, dL/d(image) [H, W, 3]; with errors also `errors` [H, W], the mean over a
    pixel's channels of |image - photo|, 0 where the mask ignores it. And the losses as `photometric_gradient` has them,
    whose arguments these are."""
    if photo.dtype == torch.uint8:
        pair = (image.detach(), photo) if kept is None else without_ignored(image.detach(), photo, kept)
        make = kernels.photometric_errors if with_errors else kernels.photometric_gradient
        *errors, v_image, loss, parts = make(*pair, lambda_dssim, background)
        v_image = v_image if kept is None else v_image * kept[..., None]
    else:
        leaf = image.detach().requires_grad_()
        loss, parts = photometric_loss(leaf, photo, lambda_dssim, background, kept)
        (v_image,) = torch.autograd.grad(loss, leaf)
        errors = [_errors(leaf.detach(), photo, kept)] if with_errors else []
    gradients = dict(zip(("image", "errors"), (v_image, *errors), strict=False))
    return gradients, {"loss": loss.detach(), **parts}


def _errors(image: Tensor, photo: Tensor, kept: Tensor | None) -> Tensor:
    """[H, W] of images [H, W, 3] or [1, H, W, 3]."""
    errors = (image - photo).abs().mean(dim=-1).reshape(image.shape[-3:-1])
    return errors if kept is None else errors * kept


def as_floats(photo: Tensor, background: Tensor | None = None) -> Tensor:
    """A photo of bytes as float32 [H, W, 3] in [0, 1]; one with straight alpha, [H, W, 4], is laid on a background."""
    return kernels.composite(photo, torch.float32, background)
