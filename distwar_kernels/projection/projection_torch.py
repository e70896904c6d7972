"""Projection in plain PyTorch, any dtype, differentiable by autograd: what the CPU runs, and in float64 the
ground truth of the tests."""

import torch
from torch import Tensor

from distwar_kernels.cameras import Cameras
from distwar_kernels.constants import ALPHA_CUT, BLUR, EXTENT


def project_torch(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    cameras: Cameras,
    *,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    antialiased: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Arguments and results of ``project_gaussians``: radii, means2d, depths, conics, compensations."""
    # A Gaussian with a NaN or an infinity is culled; zeros in its place keep its (zero) gradients finite.
    whole = torch.isfinite(torch.cat([means, quats, scales], dim=-1)).all(-1)
    means, quats, scales = (torch.where(whole[:, None], t, torch.zeros_like(t)) for t in (means, quats, scales))
    covariances = covariance_matrices(quats, scales)
    rotations = cameras.viewmats[:, :3, :3]
    means_camera = torch.einsum("cij,nj->cni", rotations, means) + cameras.viewmats[:, None, :3, 3]
    lens, size = cameras.lens, (cameras.width, cameras.height)
    depths = lens.depth(means_camera[..., :2], means_camera[..., 2])
    seen = (depths >= near_plane) & (depths <= far_plane)
    seen = seen & lens.sees(means_camera[..., :2], means_camera[..., 2], cameras.intrinsics)
    # A safe place keeps the arithmetic of culled Gaussians finite, and so their (zero) gradients.
    xy = torch.where(seen[..., None], means_camera[..., :2], torch.zeros_like(means_camera[..., :2]))
    z = torch.where(seen, means_camera[..., 2], torch.ones_like(depths))
    means2d = lens.project(xy, z, cameras.intrinsics)
    jacobians = lens.jacobian(xy, z, cameras.intrinsics, *size)
    jacobians = torch.einsum("cnij,cjk->cnik", jacobians, rotations)
    exact = torch.einsum("cnij,njk,cnlk->cnil", jacobians, covariances, jacobians)
    blurred = exact + BLUR * torch.eye(2, dtype=means.dtype, device=means.device)
    determinants = _determinant(blurred)
    invertible = determinants > 0
    safe = torch.where(invertible, determinants, torch.ones_like(determinants))
    conics = torch.stack([blurred[..., 1, 1], -blurred[..., 0, 1], blurred[..., 0, 0]], dim=-1) / safe[..., None]
    compensations = _compensations(exact, safe) if antialiased else None
    radii = _radii(blurred, opacities, compensations, means2d, *size)
    finite = torch.isfinite(conics).all(-1) & torch.isfinite(means2d).all(-1)
    radii = torch.where((whole & seen & invertible & finite)[..., None], radii, torch.zeros_like(radii))
    return radii, means2d, depths, conics, compensations


def covariance_matrices(quats: Tensor, scales: Tensor) -> Tensor:
    """R S S^T R^T [N, 3, 3] from unnormalised quaternions wxyz [N, 4] and standard deviations [N, 3]."""
    factors = rotation_matrices(quats) * scales[:, None, :]
    return factors @ factors.transpose(1, 2)


def rotation_matrices(quats: Tensor) -> Tensor:
    """Rotation matrices [N, 3, 3] of unnormalised quaternions wxyz [N, 4]."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).reshape(-1, 3, 3)


def _determinant(matrices: Tensor) -> Tensor:
    return matrices[..., 0, 0] * matrices[..., 1, 1] - matrices[..., 0, 1] * matrices[..., 1, 0]


def _compensations(exact: Tensor, blurred_determinants: Tensor) -> Tensor:
    """sqrt(det(covariance) / det(blurred covariance)); the tiny floor keeps the square root's slope finite."""
    return torch.sqrt((_determinant(exact) / blurred_determinants).clamp_min(1e-12))


@torch.no_grad()
def _radii(
    blurred: Tensor, opacities: Tensor, compensations: Tensor | None, means2d: Tensor, width: int, height: int
) -> Tensor:
    """Half extents [C, N, 2] of the box where alpha can reach 1/255 (StopThePop, Radl et al. 2024, section B.2)."""
    visible = opacities * compensations if compensations is not None else opacities.expand(blurred.shape[:-2])
    extents = torch.sqrt(2.0 * torch.log((visible / ALPHA_CUT).clamp_min(1.0))).clamp_max(EXTENT)
    variances = torch.diagonal(blurred, dim1=-2, dim2=-1)
    boxes = torch.ceil(extents[..., None] * torch.sqrt(variances.clamp_min(0.0)))
    size = torch.tensor([width, height], dtype=boxes.dtype, device=boxes.device)
    touches = ((means2d + boxes > 0) & (means2d - boxes < size)).all(-1) & (visible >= ALPHA_CUT)
    boxes = torch.where(touches[..., None], boxes, torch.zeros_like(boxes))
    return torch.nan_to_num(boxes, nan=0.0).clamp_max(2.0**30).int()
