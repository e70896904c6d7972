"""What a lens is in plain PyTorch: from a point before the camera to a pixel. Each has a file here, and its twin for
the CUDA kernels has the same name in fused/lenses/."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


def _along_axis(xy: Tensor, z: Tensor) -> Tensor:
    return z


def along_ray(xy: Tensor, z: Tensor) -> Tensor:
    """[C, N] how far points are from the camera: the depth of a lens that sees more than what is before it."""
    return torch.sqrt(xy.square().sum(-1) + z.square())


def _everything(xy: Tensor, z: Tensor, intrinsics: Tensor) -> Tensor:
    return torch.ones_like(z, dtype=torch.bool)


class Lens(NamedTuple):
    """What projection must know of a lens; differentiable by autograd, any dtype."""

    parameters: tuple[str, ...]
    """Names of a camera's intrinsics, in their order."""
    project: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(x and y [C, N, 2], z [C, N], intrinsics [C, P]) -> pixels [C, N, 2]."""
    jacobian: Callable[[Tensor, Tensor, Tensor, int, int], Tensor]
    """(x and y, z, intrinsics, width, height) -> d(pixel)/d(point) [C, N, 2, 3], where Gaussians are linearised: near
    the image, wherever they are."""
    depth: Callable[[Tensor, Tensor], Tensor] = _along_axis
    """(x and y, z) -> [C, N]: by what Gaussians are sorted, and culled at the near and the far plane."""
    sees: Callable[[Tensor, Tensor, Tensor], Tensor] = _everything
    """(x and y, z, intrinsics) -> bool [C, N]: which points the lens has a pixel for; others are culled."""
    period: Callable[[Tensor], Tensor] | None = None
    """(intrinsics [C, P]) -> [C] pixels from one picture of a point to the next, where the image's right edge is its
    left one: a Gaussian at an edge is drawn at the other, too. None: no edge wraps around."""

    @property
    def most_splats(self) -> int:
        """Of one Gaussian in an image."""
        return 1 if self.period is None else 3
