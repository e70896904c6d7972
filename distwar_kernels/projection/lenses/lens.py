"""What a lens is in plain PyTorch: from a point before the camera to a pixel. Each has a file here, and its twin for
the CUDA kernels has the same name in fused/lenses/."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Lens(NamedTuple):
    """What projection must know of a lens; differentiable by autograd, any dtype."""

    parameters: tuple[str, ...]
    """Names of a camera's intrinsics, in their order."""
    project: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(x and y [C, N, 2], z [C, N], intrinsics [C, P]) -> pixels [C, N, 2]."""
    jacobian: Callable[[Tensor, Tensor, Tensor, int, int], Tensor]
    """(x and y, z, intrinsics, width, height) -> d(pixel)/d(point) [C, N, 2, 3], where Gaussians are linearised: near
    the image, wherever they are."""
