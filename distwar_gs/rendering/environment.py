"""What is seen where no Gaussian is: a colour for each direction of view, as infinitely far as a sky is.

Spherical harmonics of the direction in the world, as Gaussians have them, so 16 x 3 numbers at degree 3: enough for a
sky that is brighter at the horizon and towards the sun. What is sharper, clouds and trees, Gaussians show. A picture is
what Gaussians show plus what light they let through times this: C + (1 - alpha) B.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from distwar_datasets.lenses import Lens
from distwar_kernels import Cameras
from distwar_kernels.sh.sh_torch import sh_basis

GRAY = 0.5
"""Added to the harmonics, as to those of Gaussians."""


class Backdrop(NamedTuple):
    """What one camera sees of an environment, for a backward pass by hand."""

    basis: Tensor
    """[H, W, K]."""
    colors: Tensor
    """[H, W, 3]."""

    def behind(self, image: Tensor, transmittances: Tensor) -> Tensor:
        """`image` [H, W, 3] with this where light comes through; transmittances [H, W]."""
        return torch.addcmul(image, transmittances[..., None], self.colors)

    def backward(self, v_image: Tensor, transmittances: Tensor) -> tuple[Tensor, Tensor]:
        """From dL/d(what `behind` returned) [H, W, 3] to dL/d(coefficients) [K, 3] and dL/d(transmittances) [H, W]."""
        v_colors = (transmittances[..., None] * v_image).reshape(-1, 3)
        return self.basis.reshape(-1, self.basis.shape[-1]).T @ v_colors, (self.colors * v_image).sum(dim=-1)


@dataclass(frozen=True)
class Environment:
    """A colour for each direction."""

    coefficients: Tensor
    """[K, 3] of the harmonics up to a degree d, K = (d + 1)^2; directions are those of the world's axes."""

    @property
    def degree(self) -> int:
        """Of the harmonics."""
        return math.isqrt(len(self.coefficients)) - 1

    def backdrop(self, camera: Cameras) -> Backdrop:
        """What one camera sees (C = 1). A camera's pose has no gradient of it: Gaussians say where it is."""
        basis = sh_basis(self.degree, directions(camera))[0]
        return Backdrop(basis, GRAY + basis @ self.coefficients)

    def behind(self, colors: Tensor, alphas: Tensor, cameras: Cameras) -> Tensor:
        """Images [C, H, W, 3] of these cameras with this behind them; alphas [C, H, W, 1]. Differentiable."""
        backdrops = torch.stack([self.backdrop(camera).colors for camera in cameras.each()])
        return colors + (1.0 - alphas) * backdrops


@torch.no_grad()
def directions(cameras: Cameras) -> Tensor:
    """[C, H, W, 3] where each pixel's middle looks, in the world's axes, of length 1; 0 where a lens has no ray. Waits
    for the device unless these are pinholes."""
    before = torch.nn.functional.normalize(_before(cameras), dim=-1)
    return before @ cameras.viewmats[:, None, :3, :3]  # of a row: R^T d


def _before(cameras: Cameras) -> Tensor:
    """[C, H, W, 3] the same in camera axes, of any length."""
    if cameras.model == "orthographic":
        along = cameras.viewmats.new_tensor([0.0, 0.0, 1.0])
        return along.expand(len(cameras.viewmats), cameras.height, cameras.width, 3)
    if cameras.model != "pinhole":
        lenses = [Lens(cameras.model, tuple(numbers)) for numbers in cameras.intrinsics.tolist()]
        rays = np.stack([lens.pixel_rays(cameras.width, cameras.height) for lens in lenses])
        return torch.from_numpy(np.nan_to_num(rays)).to(cameras.viewmats)
    fx, fy, cx, cy = (number[:, None, None] for number in cameras.intrinsics.unbind(-1))
    x, y = (torch.arange(size, device=fx.device, dtype=fx.dtype) + 0.5 for size in (cameras.width, cameras.height))
    across, down = torch.broadcast_tensors((x[None, None] - cx) / fx, (y[None, :, None] - cy) / fy)
    return torch.stack([across, down, torch.ones_like(across)], dim=-1)
