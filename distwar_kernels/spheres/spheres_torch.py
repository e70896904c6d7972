"""The sphere op in plain PyTorch, any dtype, differentiable by autograd: its definition, and
what the CPU runs."""

import torch
from torch import Tensor

from distwar_kernels.cameras import Cameras
from distwar_kernels.constants import ALPHA_CAP, ALPHA_CUT, SPHERE_FRAGMENTS, TILE_SIZE
from distwar_kernels.tiles.tile_by_tile import tiles_of


def render_spheres_torch(
    centers: Tensor,  # [C, N, 3]
    radii: Tensor,  # [C, N]
    colors: Tensor,  # [C, N, 3]
    opacities: Tensor,  # [C, N]
    cameras: Cameras,
    isect_offsets: Tensor,  # [C, tile_height, tile_width]
    flatten_ids: Tensor,  # [n_isects]
    backgrounds: Tensor | None = None,  # [C, 3]
) -> tuple[Tensor, Tensor, Tensor]:
    """Blends as ``render_spheres`` does, over given tile lists.

    Returns colours [C, H, W, 3], transmittances [C, H, W] and ids [C, H, W, SPHERE_FRAGMENTS] (int64), the spheres each
    pixel blends, nearest first, counted over all cameras; -1 where there are fewer.
    """
    centers, radii, colors, opacities = (t.flatten(0, 1) for t in (centers, radii, colors, opacities))
    images, rows, columns = isect_offsets.shape
    padded = (images, rows * TILE_SIZE, columns * TILE_SIZE)
    render, transmittances = centers.new_zeros(*padded, 3), centers.new_ones(padded)
    ids = flatten_ids.new_full((*padded, SPHERE_FRAGMENTS), -1, dtype=torch.int64)
    for tile in tiles_of(isect_offsets, flatten_ids, None, centers):
        rays = _rays(tile.pixels, cameras.intrinsics[tile.square[0]])
        alphas = sphere_alphas(centers[tile.ids], radii[tile.ids], opacities[tile.ids], rays)
        nth = torch.cumsum(alphas > 0, dim=-1)
        alphas = torch.where(nth <= SPHERE_FRAGMENTS, alphas, torch.zeros_like(alphas))
        after = torch.cumprod(1.0 - alphas, dim=-1)
        before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], dim=-1)
        render[tile.square] = ((alphas * before) @ colors[tile.ids]).reshape(TILE_SIZE, TILE_SIZE, 3)
        transmittances[tile.square] = after[:, -1].reshape(TILE_SIZE, TILE_SIZE)
        ids[tile.square] = _fragments(tile.ids, alphas > 0, nth).reshape(TILE_SIZE, TILE_SIZE, SPHERE_FRAGMENTS)
    if backgrounds is not None:
        render = render + transmittances[..., None] * backgrounds[:, None, None, :]
    crop = (slice(None), slice(cameras.height), slice(cameras.width))
    return render[crop], transmittances[crop], ids[crop]


def _fragments(ids: Tensor, blended: Tensor, nth: Tensor) -> Tensor:
    """The ids [pixels, SPHERE_FRAGMENTS] of the blended spheres, the `nth` (from 1) of a pixel at its place."""
    pixel, sphere = blended.nonzero(as_tuple=True)
    fragments = ids.new_full((len(blended), SPHERE_FRAGMENTS), -1)
    fragments[pixel, nth[pixel, sphere] - 1] = ids[sphere]
    return fragments


def sphere_alphas(centers: Tensor, radii: Tensor, opacities: Tensor, rays: Tensor) -> Tensor:
    """Alphas [pixels, n], 0 where a ray misses a sphere or meets it fainter than 1/255."""
    along = rays @ centers.T
    offsets = centers[None] - along[..., None] * rays[:, None]  # from the ray to the centre, perpendicular to the ray
    alphas = (opacities * (1.0 - offsets.square().sum(-1) / radii.square())).clamp_max(ALPHA_CAP)
    return torch.where(alphas >= ALPHA_CUT, alphas, torch.zeros_like(alphas))


def _rays(pixels: Tensor, intrinsics: Tensor) -> Tensor:
    """Unit vectors [pixels, 3] from the camera through pixel centres."""
    fx, fy, cx, cy = intrinsics.unbind()
    x, y = (pixels[:, 0] - cx) / fx, (pixels[:, 1] - cy) / fy
    return torch.nn.functional.normalize(torch.stack([x, y, torch.ones_like(x)], dim=-1), dim=-1)
