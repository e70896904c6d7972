"""A panorama of all directions: longitude across, latitude down; its left and right edge are one.

pixel = (fx atan2(x, z) + cx, fy atan2(y, rho) + cy), with rho = |(x, z)|; of a whole panorama fx = width / (2 pi) and
fy = height / pi. Depth is the distance from the camera.
"""

import math

import torch
from torch import Tensor

from distwar_kernels.projection.lenses.lens import Lens, along_ray

POLE = 1e-6
"""A point whose rho is this small a part of its distance has no longitude and is not drawn."""


def _project(xy: Tensor, z: Tensor, intrinsics: Tensor) -> Tensor:
    x, y = xy.unbind(-1)
    rho = torch.sqrt(x * x + z * z)
    angles = torch.stack([torch.atan2(x, z), torch.atan2(y, rho)], dim=-1)
    return intrinsics[:, None, :2] * angles + intrinsics[:, None, 2:]


def _jacobian(xy: Tensor, z: Tensor, intrinsics: Tensor, width: int, height: int) -> Tensor:
    """Within half a row of pixels of a pole it is that half a row away from it, and constant."""
    x, y = xy.unbind(-1)
    fx, fy = intrinsics[:, None, :2].unbind(-1)
    squared = x * x + y * y + z * z
    rho = torch.sqrt(x * x + z * z)
    least = torch.sqrt(squared) * 0.5 / fy
    kept = torch.maximum(rho, least)
    zero = torch.zeros_like(z)
    across = torch.stack([z / rho / kept, zero, -x / rho / kept], dim=-1)
    down = torch.stack([-y * x / rho, rho, -y * z / rho], dim=-1) / squared[..., None]
    rows = torch.stack([fx[..., None] * across, fy[..., None] * down], dim=-2)
    return torch.where((rho < least)[..., None, None], rows.detach(), rows)


def _sees(xy: Tensor, z: Tensor, intrinsics: Tensor) -> Tensor:
    x, y = xy.unbind(-1)
    aside = x * x + z * z
    return aside > POLE**2 * (aside + y * y)


def _period(intrinsics: Tensor) -> Tensor:
    return 2 * math.pi * intrinsics[:, 0]


EQUIRECTANGULAR = Lens(("fx", "fy", "cx", "cy"), _project, _jacobian, along_ray, _sees, _period)
