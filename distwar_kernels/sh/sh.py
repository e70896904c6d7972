"""View-dependent colour from spherical harmonics coefficients (degree 0 to 3)."""

from torch import Tensor

from distwar_kernels.gsplat_ops import gsplat
from distwar_kernels.sh.sh_torch import spherical_harmonics_torch


def spherical_harmonics(
    degree: int,
    directions: Tensor,  # [..., 3]
    coefficients: Tensor,  # [..., K, 3]
    masks: Tensor | None = None,  # [...] bool
) -> Tensor:
    """Evaluates the harmonics up to ``degree`` in each direction: [..., 3], to be shifted by +0.5 to a colour.

    Directions are from the camera to the Gaussian in world axes and need not be normalised; K may exceed
    (degree + 1)^2. Elements whose mask is False may hold anything. On CUDA this is gsplat's kernel.
    """
    if not directions.is_cuda:
        return spherical_harmonics_torch(degree, directions, coefficients)
    return gsplat().spherical_harmonics(degree, directions, coefficients, masks)
