"""Lenses in plain PyTorch: from a point before the camera to a pixel. Their twins on CUDA are in fused/lenses/."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from distwar_kernels.constants import FRUSTUM_MARGIN


class Lens(NamedTuple):
    """What projection must know of a lens; differentiable by autograd, any dtype."""

    parameters: tuple[str, ...]
    """Names of a camera's intrinsics, in their order."""
    project: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(x and y [C, N, 2], z [C, N], intrinsics [C, P]) -> pixels [C, N, 2]."""
    jacobian: Callable[[Tensor, Tensor, Tensor, int, int], Tensor]
    """(x and y, z, intrinsics, width, height) -> d(pixel)/d(point) [C, N, 2, 3], where Gaussians are linearised: near
    the image, wherever they are."""


def _pinhole_project(xy: Tensor, z: Tensor, intrinsics: Tensor) -> Tensor:
    focals, centers = intrinsics[:, None, :2], intrinsics[:, None, 2:]
    return xy / z[..., None] * focals + centers


def _pinhole_jacobian(xy: Tensor, z: Tensor, intrinsics: Tensor, width: int, height: int) -> Tensor:
    """The direction is clamped a margin outside the image, on each side by the true principal point, where the
    linearisation would explode (gsplat, cuda/include/Utils.cuh, persp_proj)."""
    focals, centers = intrinsics[:, None, :2], intrinsics[:, None, 2:]
    size = torch.tensor([width, height], dtype=z.dtype, device=z.device)
    margin = FRUSTUM_MARGIN * 0.5 * size / focals
    low, high = -(centers / focals + margin), (size - centers) / focals + margin
    x, y = torch.maximum(torch.minimum(xy / z[..., None], high), low).unbind(-1)
    fx, fy = focals.unbind(-1)
    zero = torch.zeros_like(z)
    top = torch.stack([fx / z, zero, -fx * x / z], dim=-1)
    bottom = torch.stack([zero, fy / z, -fy * y / z], dim=-1)
    return torch.stack([top, bottom], dim=-2)


PINHOLE = Lens(("fx", "fy", "cx", "cy"), _pinhole_project, _pinhole_jacobian)
"""pixel = f (x, y) / z + c"""
