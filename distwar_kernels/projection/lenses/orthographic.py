"""Parallel rays: pixel = f (x, y) + c, f in pixels per unit of length. Maps and plans; nothing gets smaller far off."""

import torch
from torch import Tensor

from distwar_kernels.projection.lenses.lens import Lens


def _project(xy: Tensor, z: Tensor, intrinsics: Tensor) -> Tensor:
    return xy * intrinsics[:, None, :2] + intrinsics[:, None, 2:]


def _jacobian(xy: Tensor, z: Tensor, intrinsics: Tensor, width: int, height: int) -> Tensor:
    fx, fy = (focal.expand_as(z) for focal in intrinsics[:, None, :2].unbind(-1))
    zero = torch.zeros_like(z)
    rows = [torch.stack([fx, zero, zero], dim=-1), torch.stack([zero, fy, zero], dim=-1)]
    return torch.stack(rows, dim=-2)


ORTHOGRAPHIC = Lens(("fx", "fy", "cx", "cy"), _project, _jacobian)
