"""Fisheyes: the angle to the axis is the radius of the image, which is then distorted; beyond 180 degrees, too.

pixel = f D(theta (x, y) / rho) + c, with rho = |(x, y)| and theta = atan2(rho, z): COLMAP's SIMPLE_FISHEYE, FISHEYE,
SIMPLE_RADIAL_FISHEYE, RADIAL_FISHEYE, OPENCV_FISHEYE and THIN_PRISM_FISHEYE. Its FOV (Devernay and Faugeras 2001) is
one whose points are moved away from the axis by a factor, `stretch`, first. Depth is the distance from the camera.
"""

import math

import torch
from torch import Tensor

from distwar_kernels.projection.lenses.distortion import PARAMETERS, distort, distortion_jacobian, polynomial
from distwar_kernels.projection.lenses.lens import Lens, along_ray

MOST_ANGLE = 3.1
"""Radians to the axis beyond which nothing is drawn: a point straight behind the camera is a circle in the image."""
_NEAR_AXIS = 0.04
"""Below this tan(theta)^2 series are taken, where differences would cancel."""


def _project(xy: Tensor, z: Tensor, intrinsics: Tensor) -> Tensor:
    numbers = intrinsics[:, None]
    xy = numbers[..., 18:] * xy
    ideal = _per_offset(xy, z)[..., None] * xy
    return numbers[..., :2] * distort(ideal, numbers[..., 4:18], polynomial) + numbers[..., 2:4]


def _jacobian(xy: Tensor, z: Tensor, intrinsics: Tensor, width: int, height: int) -> Tensor:
    numbers = intrinsics[:, None]
    stretch = numbers[..., 18:]
    xy = stretch * xy
    g = _per_offset(xy, z)
    outer = distortion_jacobian(g[..., None] * xy, numbers[..., 4:18], polynomial)
    squared = xy.square().sum(-1) + z.square()
    across = _rise(xy, z, g)[..., None, None] * xy[..., None] * xy[..., None, :]
    across = across + g[..., None, None] * torch.eye(2, dtype=z.dtype, device=z.device)
    inner = torch.cat([stretch[..., None] * across, -(xy / squared[..., None])[..., None]], dim=-1)
    return numbers[..., :2, None] * outer @ inner


def _per_offset(xy: Tensor, z: Tensor) -> Tensor:
    """theta / rho."""
    rho2 = xy.square().sum(-1)
    s2, is_near, rho, ahead = _tangents(rho2, z)
    return torch.where(is_near, _series(s2, (1, -1 / 3, 1 / 5, -1 / 7, 1 / 9)) / ahead, torch.atan2(rho, z) / rho)


def _rise(xy: Tensor, z: Tensor, g: Tensor) -> Tensor:
    """The derivative of g = theta / rho by rho, over rho."""
    rho2 = xy.square().sum(-1)
    s2, is_near, rho, ahead = _tangents(rho2, z)
    near = _series(s2, (-2 / 3, 4 / 5, -6 / 7, 8 / 9, -10 / 11)) / ahead**3
    return torch.where(is_near, near, (z / (rho2 + z.square()) - g) / rho.square())


def _tangents(rho2: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """tan(theta)^2 where that is small, else 0; where it is; rho, 1 where it is; and z, 1 where it is not."""
    is_near = (z > 0) & (rho2 < _NEAR_AXIS * z.square())
    one = torch.ones_like(z)
    ahead = torch.where(is_near, z, one)
    s2 = torch.where(is_near, rho2 / ahead.square(), torch.zeros_like(z))
    return s2, is_near, torch.sqrt(torch.where(is_near, one, rho2)), ahead


def _series(s2: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    value = torch.zeros_like(s2)
    for coefficient in reversed(coefficients):
        value = value * s2 + coefficient
    return value


def _sees(xy: Tensor, z: Tensor, intrinsics: Tensor) -> Tensor:
    reach, stretch = intrinsics[:, None, 4 + PARAMETERS.index("reach")], intrinsics[:, None, 18]
    rho = stretch * torch.sqrt(xy.square().sum(-1))
    return torch.atan2(rho, z) <= reach.clamp_max(min(MOST_ANGLE, math.pi))


FISHEYE = Lens(("fx", "fy", "cx", "cy", *PARAMETERS, "stretch"), _project, _jacobian, along_ray, _sees)
