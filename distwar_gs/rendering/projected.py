"""What blending needs of Gaussians as cameras see them, before their tiles are listed: splats, which ranks exchange."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

import distwar_kernels as kernels
from distwar_gs.rendering.settings import RenderSettings
from distwar_kernels import Cameras


class Projected(NamedTuple):
    """Gaussians as C cameras see them."""

    means2d: Tensor
    """[C, N, 2] projected centres, pixels."""
    conics: Tensor
    """[C, N, 3] inverse 2D covariances xx, xy, yy, 1/px^2."""
    opacities: Tensor
    """[C, N] in [0, 1], compensated for the blur if antialiased."""
    depths: Tensor
    """[C, N] along the camera's z axis."""
    radii: Tensor
    """[C, N, 2] int32, 0 where culled."""

    def drawn_again(self, copies: kernels.Around) -> "Projected":
        """With those behind them that a panorama's edges show again."""
        return Projected(
            copies.again_at(self.means2d), copies.again(self.conics), copies.again(self.opacities),
            copies.again(self.depths), copies.again_radii(self.radii),
        )  # fmt: skip


def project_gaussians(params: Mapping[str, Tensor], cameras: Cameras, settings: RenderSettings) -> Projected:
    """Projects the Gaussians; arguments as for `distwar_gs.rendering.renderer.render`."""
    opacities = _opacities(params)
    projection = kernels.project_gaussians(
        params["means"], params["quats"], params["scales"].exp(), opacities, cameras,
        near_plane=settings.near_plane, far_plane=settings.far_plane, antialiased=settings.antialiased,
    )  # fmt: skip
    opacities = opacities.expand(len(cameras.viewmats), -1)
    radii, means2d, depths, conics, compensations = projection
    if compensations is not None:
        opacities = opacities * compensations
    return Projected(means2d, conics, opacities, depths, radii)


def _opacities(params: Mapping[str, Tensor]) -> Tensor:
    """Opacities [N]; 0, too little to be drawn, where exp and sigmoid would make numbers of infinities."""
    finite = params["opacities"].isfinite() & params["scales"].isfinite().all(dim=-1)
    return torch.where(finite, torch.sigmoid(params["opacities"]), 0.0)
