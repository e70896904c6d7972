"""From 3D Gaussians to 2D ones: EWA splatting (Zwicker et al. 2002; Kerbl et al. 2023, equation 5)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from distwar_kernels import loader
from distwar_kernels.cameras import SCHEMA, Cameras
from distwar_kernels.constants import BLUR
from distwar_kernels.gsplat_ops import gsplat
from distwar_kernels.library import LIBRARY, InputGradients
from distwar_kernels.projection.projection_torch import project_torch


class Projection(NamedTuple):
    """Gaussians as C cameras see them; where radii are 0 the Gaussian is culled and the rest is meaningless."""

    radii: Tensor  # [C, N, 2] int32, half extents of the bounding box in pixels
    means2d: Tensor  # [C, N, 2] pixels
    depths: Tensor  # [C, N] as the lens has them (`Lens.depth`): for a pinhole along the camera's z axis
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

    For pinholes on CUDA this is gsplat's ``fully_fused_projection``, on the CPU a kernel of our own, for float32 and
    poses that need no gradient; else PyTorch code, differentiated by autograd.
    """
    cameras.check()
    if _has_kernel((means, quats, scales, opacities), cameras):
        loader.load("cpu")
        gaussians = (tensor.contiguous() for tensor in (means, quats, scales, opacities))
        means2d, depths, conics, compensations, radii = torch.ops.distwar.project(
            *gaussians, *cameras.arguments(), near_plane, far_plane, antialiased
        )
        return Projection(radii, means2d, depths, conics, compensations if antialiased else None)
    if not means.is_cuda or cameras.model != "pinhole":
        planes = {"near_plane": near_plane, "far_plane": far_plane}
        return Projection(*project_torch(means, quats, scales, opacities, cameras, **planes, antialiased=antialiased))
    radii, means2d, depths, conics, compensations = gsplat().fully_fused_projection(
        means, None, quats, scales, cameras.viewmats, cameras.Ks, cameras.width, cameras.height,
        eps2d=BLUR, near_plane=near_plane, far_plane=far_plane, calc_compensations=antialiased, opacities=opacities,
    )  # fmt: skip
    return Projection(radii, means2d, depths, conics, compensations)


def _has_kernel(gaussians: tuple[Tensor, ...], cameras: Cameras) -> bool:
    """Whether it is the CPU's kernel that projects these."""
    tensors = (*gaussians, cameras.viewmats, cameras.intrinsics)
    plain = all(tensor.dtype == torch.float32 and not tensor.is_cuda for tensor in tensors)
    return plain and cameras.model == "pinhole" and not any(tensor.requires_grad for tensor in tensors[4:])


# ------------------------------------------------------------------------------------- registration with PyTorch

_INPUTS = (
    f"Tensor means, Tensor quats, Tensor scales, Tensor opacities, {SCHEMA}, float near_plane, float far_plane,"
    " bool antialiased"
)
LIBRARY.define(
    f"project({_INPUTS}) -> (Tensor means2d, Tensor depths, Tensor conics, Tensor compensations, Tensor radii)"
)
LIBRARY.define(f"project_backward({_INPUTS}, Tensor[] upstream) -> (Tensor v_means, Tensor v_quats, Tensor v_scales)")


@torch.library.register_fake("distwar::project", lib=LIBRARY)
def _fake(means, quats, scales, opacities, model, camera, image, near_plane, far_plane, antialiased):
    shape = (camera[0].shape[0], means.shape[0])
    numbers = (means.new_empty(*shape, *last) for last in ((2,), (), (3,), ()))
    return (*numbers, means.new_empty(*shape, 2, dtype=torch.int32))


@torch.library.register_fake("distwar::project_backward", lib=LIBRARY)
def _backward_fake(means, quats, scales, *_):
    return torch.empty_like(means), torch.empty_like(quats), torch.empty_like(scales)


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple) -> None:
    means, quats, scales, opacities, model, camera, image, *rest = inputs
    ctx.save_for_backward(means, quats, scales, opacities, *camera)
    ctx.rest = (model, image, rest)
    ctx.gradients = InputGradients("project", inputs)
    ctx.mark_non_differentiable(output[-1])


def _backward(ctx: Any, *upstream: Tensor) -> tuple:
    *gaussians, viewmats, intrinsics = ctx.saved_tensors
    model, image, rest = ctx.rest
    v_means, v_quats, v_scales = torch.ops.distwar.project_backward(
        *gaussians, model, [viewmats, intrinsics], image, *rest, [v.contiguous() for v in upstream[:-1]]
    )
    return ctx.gradients.of(means=v_means, quats=v_quats, scales=v_scales)


torch.library.register_autograd("distwar::project", _backward, setup_context=_save_for_backward, lib=LIBRARY)
