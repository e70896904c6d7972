"""The photometric loss of 3D Gaussian Splatting, L1 + D-SSIM: its gradient is made along with it."""

from typing import Any

import torch
from torch import Tensor

from distwar_kernels import loader
from distwar_kernels.library import LIBRARY
from distwar_kernels.shapes import check_shapes


def photometric_loss(
    image: Tensor,  # [H, W, 3]
    target: Tensor,  # [H, W, 3] or [H, W, 4] uint8
    lambda_dssim: float,
    background: Tensor | None = None,  # [3]
) -> tuple[Tensor, dict[str, Tensor]]:
    """``(1 - lambda) L1 + lambda (1 - SSIM)`` of a render against a photo of bytes (Kerbl et al. 2023, equation 7).

    SSIM is that of Wang et al. 2004 with an 11x11 Gaussian window of sigma 1.5, zero outside the image, each channel by
    itself; both means are over all numbers of the image. Differentiable, once, in ``image``. The gradient is computed
    with the loss, and nothing waits for a GPU; a training loop that needs no graph takes it from
    ``photometric_gradient``.

    Args:
        image: the render, float32, in [0, 1] by and large.
        target: the photo; its fourth channel is straight alpha. A constant, as is ``background``.
        lambda_dssim: the weight of D-SSIM, 0 to 1.
        background: what a photo with alpha is laid on, float32; not used without alpha.

    Returns:
        The loss, and its detached parts ``l1`` and ``ssim``: scalars on the device.

    Raises:
        ValueError: shapes disagree, the render is not float32 or the photo not of bytes, or a photo with alpha has no
            background.
        KernelError: the kernels cannot be built here.
    """
    _check(image, target, background)
    loss, parts, *_ = _all(image, target, lambda_dssim, background, False)
    return loss, {"l1": parts[0], "ssim": parts[1]}


def photometric_gradient(
    image: Tensor, target: Tensor, lambda_dssim: float, background: Tensor | None = None
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """dL/d(image) [H, W, 3], the loss and its parts, without a graph; arguments as for `photometric_loss`."""
    _check(image, target, background)
    loss, parts, v_image, _ = _all(image, target, lambda_dssim, background, False)
    return v_image, loss, {"l1": parts[0], "ssim": parts[1]}


def photometric_errors(
    image: Tensor, target: Tensor, lambda_dssim: float, background: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """The errors [H, W] of the pixels, and what `photometric_gradient` returns: all in one pass.

    A pixel's error is the mean over its channels of the absolute difference between render and photo.
    """
    _check(image, target, background)
    loss, parts, v_image, errors = _all(image, target, lambda_dssim, background, True)
    return errors, v_image, loss, {"l1": parts[0], "ssim": parts[1]}


def composite(target: Tensor, dtype: torch.dtype, background: Tensor | None) -> Tensor:
    """A photo of bytes as numbers in [0, 1]; one with alpha (straight, not premultiplied) is laid on `background`.

    Raises ValueError if it has no background.
    """
    photo = target.to(dtype) / 255.0
    if photo.shape[-1] == 3:
        return photo
    if background is None:
        raise ValueError("target has an alpha channel, and there is no background to lay it on")
    return photo[..., :3] * photo[..., 3:] + background.to(dtype) * (1.0 - photo[..., 3:])


def _all(
    image: Tensor, target: Tensor, lambda_dssim: float, background: Tensor | None, with_errors: bool
) -> tuple[Tensor, ...]:
    """Loss, parts, gradient, and the pixels' errors if asked for."""
    loader.load(image.device.type)
    background = background.contiguous() if background is not None and target.shape[-1] == 4 else None
    pictures = (image.contiguous(), target.contiguous(), background)
    return torch.ops.distwar.photometric_loss(*pictures, lambda_dssim, with_errors)


def _check(image: Tensor, target: Tensor, background: Tensor | None) -> None:
    if image.dim() != 3 or image.numel() == 0:
        raise ValueError(f"image has shape {tuple(image.shape)}, expected (H, W, 3)")
    alpha = target.shape[-1:] == (4,)
    check_shapes({
        "image": (image, (*image.shape[:2], 3)),
        "target": (target, (*image.shape[:2], 4 if alpha else 3)),
        "background": (background, (3,)),
    })  # fmt: skip
    if image.dtype != torch.float32:
        raise ValueError(f"image is of {image.dtype}, expected torch.float32")
    if target.dtype != torch.uint8:
        raise ValueError(f"target is of {target.dtype}, expected torch.uint8")
    if alpha and background is None:
        raise ValueError("target has an alpha channel, and there is no background to lay it on")


# ------------------------------------------------------------------------------------- registration with PyTorch

LIBRARY.define(
    "photometric_loss(Tensor image, Tensor target, Tensor? background, float lambda_dssim, bool with_errors=False)"
    " -> (Tensor loss, Tensor parts, Tensor v_image, Tensor errors)"
)


@torch.library.register_fake("distwar::photometric_loss", lib=LIBRARY)
def _fake(image, target, background, lambda_dssim, with_errors=False):
    errors = image.new_empty(image.shape[:2] if with_errors else (0,))
    return image.new_empty(()), image.new_empty(2), torch.empty_like(image), errors


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple) -> None:
    _, parts, v_image, errors = output
    ctx.save_for_backward(v_image)
    ctx.mark_non_differentiable(parts, v_image, errors)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, v_loss: Tensor | None, *_: None) -> tuple:
    (v_image,) = ctx.saved_tensors
    return None if v_loss is None else v_image * v_loss, None, None, None, None


torch.library.register_autograd("distwar::photometric_loss", _backward, setup_context=_save_for_backward, lib=LIBRARY)
