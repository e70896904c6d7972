"""One view of a scene, projected and in tiles: what the blend op is timed on."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from distwar_gs.gaussians.model import sh_degree_of
from distwar_gs.rendering.renderer import Splats, view_colors
from distwar_kernels import AtomicTraffic, Cameras, Reduction, atomic_traffic, rasterize_to_pixels
from distwar_kernels.constants import TILE_SIZE

LEAVES = ("means2d", "conics", "colors", "opacities")


@dataclass(frozen=True)
class Projected:
    """Inputs of ``rasterize_to_pixels`` with one camera; shapes as there."""

    means2d: Tensor
    conics: Tensor
    colors: Tensor
    opacities: Tensor
    isect_offsets: Tensor
    flatten_ids: Tensor
    width: int
    height: int

    @classmethod
    @torch.no_grad()
    def of(cls, params: dict[str, Tensor], splats: Splats, camera: Cameras) -> "Projected":
        """The Gaussians as a camera sees them, in the colours it sees them in."""
        colors = view_colors(params, camera, splats.radii, sh_degree_of(params))
        return cls(
            splats.means2d, splats.conics, colors, splats.opacities, splats.isect_offsets, splats.flatten_ids,
            camera.width, camera.height,
        )  # fmt: skip

    def leaves(self) -> list[Tensor]:
        """Fresh leaves of the graph, in the order of LEAVES."""
        return [getattr(self, name).detach().clone().requires_grad_() for name in LEAVES]

    @cached_property
    def upstream(self) -> tuple[Tensor, Tensor]:
        """Random dL/d(image) and dL/d(alpha), the same for every scene of this size."""
        g = torch.Generator().manual_seed(0)
        shape = (1, self.height, self.width)
        image = torch.randn(*shape, self.colors.shape[-1], generator=g).to(self.means2d)
        return image, torch.randn(*shape, 1, generator=g).to(self.means2d)

    def blend(self, leaves: list[Tensor], reduction: Reduction) -> tuple[Tensor, Tensor]:
        """The op on these leaves: image and alphas."""
        means2d, conics, colors, opacities = leaves
        return rasterize_to_pixels(
            means2d, conics, colors, opacities, self.width, self.height, TILE_SIZE, self.isect_offsets,
            self.flatten_ids, reduction=reduction,
        )  # fmt: skip

    def gradients(self, reduction: Reduction, weights: Tensor | float = 1.0) -> list[Tensor]:
        """dL/d(leaves) for `upstream`, times weights [1, height, width, 1]."""
        leaves = self.leaves()
        upstream = [v * weights for v in self.upstream]
        return list(torch.autograd.grad(self.blend(leaves, reduction), leaves, upstream))

    def traffic(self) -> AtomicTraffic:
        """What the backward pass sends to the atomic units."""
        return atomic_traffic(
            self.means2d, self.conics, self.opacities, self.width, self.height, self.isect_offsets, self.flatten_ids
        )
