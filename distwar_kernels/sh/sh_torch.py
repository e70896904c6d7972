"""Spherical harmonics in plain PyTorch: what the CPU runs, and in float64 the ground truth of the tests.

The real basis in the sign and order convention of Kerbl et al. 2023, so that its PLY files read the same.
"""

import torch
from torch import Tensor

from distwar_kernels.constants import HARMONIC0

_C1 = 0.4886025119029199  # sqrt(3) / (2 sqrt(pi))
_C2 = (1.0925484305920792, 0.31539156525252005, 0.5462742152960396)
_C3 = (0.5900435899266435, 2.890611442640554, 0.4570457994644658, 0.3731763325901154, 1.445305721320277)


def spherical_harmonics_torch(degree: int, directions: Tensor, coefficients: Tensor) -> Tensor:
    """Arguments and result of ``spherical_harmonics``."""
    basis = sh_basis(degree, torch.nn.functional.normalize(directions, dim=-1))
    return (basis[..., None] * coefficients[..., : basis.shape[-1], :]).sum(-2)


def sh_basis(degree: int, directions: Tensor) -> Tensor:
    """Values of the (degree + 1)^2 basis functions at unit directions [..., 3] -> [..., K]."""
    x, y, z = directions.unbind(-1)
    values = [torch.full_like(x, HARMONIC0)]
    if degree >= 1:
        values += [-_C1 * y, _C1 * z, -_C1 * x]
    if degree >= 2:
        values += _degree_2(x, y, z)
    if degree >= 3:
        values += _degree_3(x, y, z)
    return torch.stack(values, dim=-1)


def _degree_2(x: Tensor, y: Tensor, z: Tensor) -> list[Tensor]:
    a, b, c = _C2
    return [a * x * y, -a * y * z, b * (3 * z * z - 1), -a * x * z, c * (x * x - y * y)]


def _degree_3(x: Tensor, y: Tensor, z: Tensor) -> list[Tensor]:
    a, b, c, d, e = _C3
    zz = z * z
    return [
        -a * y * (3 * x * x - y * y),
        b * x * y * z,
        -c * y * (5 * zz - 1),
        d * z * (5 * zz - 3),
        -c * x * (5 * zz - 1),
        e * z * (x * x - y * y),
        -a * x * (x * x - 3 * y * y),
    ]
