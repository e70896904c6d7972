"""View-dependent colour from spherical harmonics coefficients (degree 0 to 3)."""

from typing import Any

import torch
from torch import Tensor

from distwar_kernels import loader
from distwar_kernels.gsplat_ops import gsplat
from distwar_kernels.library import LIBRARY, InputGradients
from distwar_kernels.sh.sh_torch import spherical_harmonics_torch


def spherical_harmonics(
    degree: int,
    directions: Tensor,  # [..., 3]
    coefficients: Tensor,  # [..., K, 3]
    masks: Tensor | None = None,  # [...] bool
) -> Tensor:
    """Evaluates the harmonics up to ``degree`` in each direction: [..., 3], to be shifted by +0.5 to a colour.

    Directions are from the camera to the Gaussian in world axes and need not be normalised; K may exceed
    (degree + 1)^2. Elements whose mask is False may hold anything. On CUDA this is gsplat's kernel, on the CPU our own
    for float32, else PyTorch code.
    """
    if directions.is_cuda:
        return gsplat().spherical_harmonics(degree, directions, coefficients, masks)
    if directions.dtype != torch.float32 or coefficients.dtype != torch.float32:
        return spherical_harmonics_torch(degree, directions, coefficients)
    loader.load("cpu")
    return torch.ops.distwar.harmonics(
        degree, directions.reshape(-1, 3).contiguous(), coefficients.reshape(-1, *coefficients.shape[-2:]).contiguous(),
        None if masks is None else masks.reshape(-1).contiguous(),
    ).reshape(directions.shape)  # fmt: skip


# ------------------------------------------------------------------------------------- registration with PyTorch

_INPUTS = "int degree, Tensor directions, Tensor coefficients, Tensor? masks"
LIBRARY.define(f"harmonics({_INPUTS}) -> Tensor")
LIBRARY.define(f"harmonics_backward({_INPUTS}, Tensor v_colors) -> (Tensor v_directions, Tensor v_coefficients)")


@torch.library.register_fake("distwar::harmonics", lib=LIBRARY)
def _fake(degree, directions, coefficients, masks):
    return torch.empty_like(directions)


@torch.library.register_fake("distwar::harmonics_backward", lib=LIBRARY)
def _backward_fake(degree, directions, coefficients, masks, v_colors):
    return torch.empty_like(directions), torch.empty_like(coefficients)


def _save_for_backward(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.degree, directions, coefficients, masks = inputs
    ctx.save_for_backward(directions, coefficients, masks)
    ctx.gradients = InputGradients("harmonics", inputs)


def _backward(ctx: Any, v_colors: Tensor) -> tuple:
    v_directions, v_coefficients = torch.ops.distwar.harmonics_backward(
        ctx.degree, *ctx.saved_tensors, v_colors.contiguous()
    )
    return ctx.gradients.of(directions=v_directions, coefficients=v_coefficients)


torch.library.register_autograd("distwar::harmonics", _backward, setup_context=_save_for_backward, lib=LIBRARY)
