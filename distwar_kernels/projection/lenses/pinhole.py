"""The pinhole lens: pixel = f (x, y) / z + c."""

import torch
from torch import Tensor

from distwar_kernels.constants import FRUSTUM_MARGIN
from distwar_kernels.projection.lenses.lens import Lens


def _project(xy: Tensor, z: Tensor, intrinsics: Tensor) -> Tensor:
    focals, centers = intrinsics[:, None, :2], intrinsics[:, None, 2:]
    return xy / z[..., None] * focals + centers


def _jacobian(xy: Tensor, z: Tensor, intrinsics: Tensor, width: int, height: int) -> Tensor:
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


PINHOLE = Lens(("fx", "fy", "cx", "cy"), _project, _jacobian)
