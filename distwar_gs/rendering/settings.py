"""How views are rendered: what stays the same from one to the next."""

from dataclasses import dataclass

from torch import Tensor

import distwar_kernels as kernels
from distwar_gs.rendering.environment import Environment
from distwar_kernels import Cameras
from distwar_kernels.fused import fused


@dataclass(frozen=True)
class RenderSettings:
    """What stays the same from view to view."""

    near_plane: float
    """Depth in the frame of the means below which Gaussians are culled."""
    far_plane: float
    """Depth above which Gaussians are culled."""
    antialiased: bool = False
    """Multiply opacities by the compensation for the screen-space blur."""
    absgrad: bool = False
    """Leave the sum of absolute gradients in `means2d.absgrad` after the backward pass."""
    reduction: kernels.Reduction = kernels.Reduction()
    """How the blend's backward pass sums gradients."""
    rasterizer: str = "composed"
    """A key of RASTERIZERS."""
    environment: Environment | None = None
    """Behind the Gaussians, in place of the colour that a view is rendered on."""

    def plain(self, background: Tensor | None) -> Tensor | None:
        """The colour [3] that Gaussians are blended on: none where an environment comes behind them."""
        return None if self.environment else background

    def behind(self, colors: Tensor, alphas: Tensor, cameras: Cameras) -> Tensor:
        """Images [C, H, W, 3] that were blended on `plain`, with the environment if there is one."""
        return self.environment.behind(colors, alphas, cameras) if self.environment else colors

    def draw_options(self, sh_degree: int, background: Tensor | None, with_depth: bool = False) -> fused.DrawOptions:
        """As the fused rasteriser takes them; an environment is not drawn by it."""
        return fused.DrawOptions(
            sh_degree, self.plain(background), near_plane=self.near_plane, far_plane=self.far_plane,
            antialiased=self.antialiased, with_depth=with_depth,
        )  # fmt: skip
