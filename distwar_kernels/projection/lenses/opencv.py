"""A perspective lens that distorts as OpenCV describes it: pixel = f D((x, y) / z) + c.

COLMAP's SIMPLE_RADIAL, RADIAL, OPENCV and FULL_OPENCV, and OpenCV's thin prism: coefficients that a model lacks are 0.
"""

import torch
from torch import Tensor

from distwar_kernels.projection.lenses.distortion import PARAMETERS, distort, distortion_jacobian, rational
from distwar_kernels.projection.lenses.lens import Lens


def _project(xy: Tensor, z: Tensor, intrinsics: Tensor) -> Tensor:
    numbers = intrinsics[:, None]
    return numbers[..., :2] * distort(xy / z[..., None], numbers[..., 4:], rational) + numbers[..., 2:4]


def _jacobian(xy: Tensor, z: Tensor, intrinsics: Tensor, width: int, height: int) -> Tensor:
    """The direction is kept within `limit` of the axis, beyond which the linearisation would explode."""
    numbers = intrinsics[:, None]
    t, limit = xy / z[..., None], numbers[..., 4 + PARAMETERS.index("limit")]
    r2 = t.square().sum(-1)
    is_beyond = r2 > limit.square()
    shrink = torch.where(is_beyond, limit / torch.sqrt(torch.where(is_beyond, r2, torch.ones_like(r2))), 1.0)
    t = shrink[..., None] * t
    inner = torch.cat([torch.eye(2, dtype=t.dtype, device=t.device).expand(*t.shape, 2), -t[..., None]], dim=-1)
    outer = numbers[..., :2, None] * distortion_jacobian(t, numbers[..., 4:], rational)
    return outer @ inner / z[..., None, None]


def _sees(xy: Tensor, z: Tensor, intrinsics: Tensor) -> Tensor:
    """Within the lens's reach, and before the camera."""
    reach = intrinsics[:, None, 4 + PARAMETERS.index("reach")]
    return (z > 0) & (xy.square().sum(-1) <= (reach * z).square())


OPENCV = Lens(("fx", "fy", "cx", "cy", *PARAMETERS), _project, _jacobian, sees=_sees)
