"""From 3D Gaussians to 2D ones: EWA splatting (Zwicker et al. 2002; Kerbl et al. 2023, equation 5)."""

from typing import NamedTuple

from torch import Tensor

from distwar_kernels.cameras import Cameras
from distwar_kernels.constants import BLUR
from distwar_kernels.gsplat_ops import gsplat
from distwar_kernels.projection.projection_torch import project_torch


class Projection(NamedTuple):
    """Gaussians as C cameras see them; where radii are 0 the Gaussian is culled and the rest is meaningless."""

    radii: Tensor  # [C, N, 2] int32, half extents of the bounding box in pixels
    means2d: Tensor  # [C, N, 2] pixels
    depths: (
        Tensor  # [C, N] along the camera's z axis; through a lens that sees all around, from the camera (`Lens.depth`)
    )
    conics: Tensor  # [C, N, 3] inverse 2D covariance xx, xy, yy, 1/px^2
    compensations: Tensor | None  # [C, N] opacity factor of antialiased mode


def project_gaussians(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4] wxyz
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    cameras: Cameras,
    *,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    antialiased: bool = False,
) -> Projection:
    """Projects Gaussians through C cameras; differentiable in means, quats and scales.

    Args:
        means, scales: world units; scales are standard deviations, not their logarithms.
        quats: need not be normalised. opacities: in [0, 1]; they bound the visible extent only.
        cameras: any lens and principal point; differentiable in their poses, too, but for pinholes on CUDA.
        near_plane, far_plane: depths outside are culled.
        antialiased: also return the compensation for the blur that widens small Gaussians (Mip-Splatting, Yu et al.
            2024, section 4.2; opacities are to be multiplied by it).

    For pinholes on CUDA this is gsplat's ``fully_fused_projection``; else PyTorch code, differentiated by autograd.
    """
    cameras.check()
    if not means.is_cuda or cameras.model != "pinhole":
        planes = {"near_plane": near_plane, "far_plane": far_plane}
        return Projection(*project_torch(means, quats, scales, opacities, cameras, **planes, antialiased=antialiased))
    radii, means2d, depths, conics, compensations = gsplat().fully_fused_projection(
        means, None, quats, scales, cameras.viewmats, cameras.Ks, cameras.width, cameras.height,
        eps2d=BLUR, near_plane=near_plane, far_plane=far_plane, calc_compensations=antialiased, opacities=opacities,
    )  # fmt: skip
    return Projection(radii, means2d, depths, conics, compensations)
