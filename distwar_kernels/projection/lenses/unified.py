"""The enhanced unified camera (Khomutenko et al. 2016): pixel = f (x, y) / (alpha d + (1 - alpha) z) + c, with
d = sqrt(beta rho^2 + z^2); beyond 180 degrees, too.

COLMAP's EUCM; and with alpha = 1/2, beta = -4 k its SIMPLE_DIVISION and DIVISION (Fitzgibbon 2001), which have the
ideal radius as r / (1 + k r^2) of the image's r. Depth is the distance from the camera.
"""

import torch
from torch import Tensor

from distwar_kernels.projection.lenses.lens import Lens, along_ray

LEAST_WEIGHT = 1e-3
"""A point whose denominator is this small a part of its distance is not drawn."""


def _parts(xy: Tensor, z: Tensor, intrinsics: Tensor) -> tuple[Tensor, ...]:
    """alpha, beta, d and the denominator; d is kept off 0, as it is where the lens sees nothing."""
    alpha, beta = intrinsics[:, None, 4:6].unbind(-1)
    squared = beta * xy.square().sum(-1) + z.square()
    d = torch.sqrt(torch.where(squared > 0, squared, torch.ones_like(squared)))
    return alpha, beta, d, alpha * d + (1 - alpha) * z


def _project(xy: Tensor, z: Tensor, intrinsics: Tensor) -> Tensor:
    *_, weight = _parts(xy, z, intrinsics)
    return intrinsics[:, None, :2] * xy / weight[..., None] + intrinsics[:, None, 2:4]


def _jacobian(xy: Tensor, z: Tensor, intrinsics: Tensor, width: int, height: int) -> Tensor:
    alpha, beta, d, weight = _parts(xy, z, intrinsics)
    rise = -alpha * beta / (d * weight.square())
    along = -(alpha * z / d + 1 - alpha) / weight.square()
    across = rise[..., None, None] * xy[..., None] * xy[..., None, :]
    across = across + torch.eye(2, dtype=z.dtype, device=z.device) / weight[..., None, None]
    inner = torch.cat([across, (along[..., None] * xy)[..., None]], dim=-1)
    return intrinsics[:, None, :2, None] * inner


def _sees(xy: Tensor, z: Tensor, intrinsics: Tensor) -> Tensor:
    """Where the image does not fold (alpha above 1/2), the denominator is positive, and it is not beyond the reach."""
    reach = intrinsics[:, None, 6]
    alpha, beta, d, weight = _parts(xy, z, intrinsics)
    rho2 = xy.square().sum(-1)
    is_real = (beta * rho2 + z.square() > 0) & (weight > LEAST_WEIGHT * along_ray(xy, z))
    is_real = is_real & (alpha * z > -(1 - alpha) * d)
    return is_real & (rho2 <= (reach * weight).square())


UNIFIED = Lens(("fx", "fy", "cx", "cy", "alpha", "beta", "reach"), _project, _jacobian, along_ray, _sees)
