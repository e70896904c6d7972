"""The blend op in plain PyTorch, any dtype, differentiable by autograd: the definition that tests compare with."""

import torch
from torch import Tensor

from distwar_kernels.constants import ALPHA_CAP, ALPHA_CUT, TILE_SIZE, TRANSMITTANCE_CUT


def blend_reference(
    means2d: Tensor,  # [G, 2]
    conics: Tensor,  # [G, 3]
    colors: Tensor,  # [G, channels]
    opacities: Tensor,  # [G]
    image_width: int,
    image_height: int,
    isect_offsets: Tensor,  # [images, tile_height, tile_width]
    flatten_ids: Tensor,  # [n_isects]
    backgrounds: Tensor | None = None,  # [images, channels]
    masks: Tensor | None = None,  # [images, tile_height, tile_width]
) -> tuple[Tensor, Tensor]:
    """Blends as ``rasterize_to_pixels`` does, over Gaussians flattened across images.

    Returns colours [images, H, W, channels] and alphas [images, H, W, 1]. Kerbl et al. 2023, equation 3.
    """
    means2d, conics, colors, opacities = _without_broken(means2d, conics, colors, opacities)
    images, tile_height, tile_width = isect_offsets.shape
    ends = torch.cat([isect_offsets.flatten()[1:], isect_offsets.new_tensor([len(flatten_ids)])])
    render = means2d.new_zeros(images, tile_height * TILE_SIZE, tile_width * TILE_SIZE, colors.shape[-1])
    transmittances = means2d.new_ones(render.shape[:-1])
    for tile, (begin, end) in enumerate(zip(isect_offsets.flatten().tolist(), ends.tolist(), strict=True)):
        image, row, column = tile // (tile_height * tile_width), tile // tile_width % tile_height, tile % tile_width
        if begin == end or (masks is not None and not masks[image, row, column]):
            continue
        ids = flatten_ids[begin:end].long()
        pixels = tile_pixels(row, column, means2d)
        weights, rest = blend_weights(means2d[ids], conics[ids], opacities[ids], pixels)
        y, x = row * TILE_SIZE, column * TILE_SIZE
        square = (TILE_SIZE, TILE_SIZE)
        render[image, y : y + TILE_SIZE, x : x + TILE_SIZE] = (weights @ colors[ids]).reshape(*square, -1)
        transmittances[image, y : y + TILE_SIZE, x : x + TILE_SIZE] = rest.reshape(square)
    if backgrounds is not None:
        render = render + transmittances[..., None] * backgrounds[:, None, None, :]
    crop = (slice(None), slice(image_height), slice(image_width))
    return render[crop], 1.0 - transmittances[crop][..., None]


def _without_broken(means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor) -> tuple[Tensor, ...]:
    """Gaussians with a NaN or an infinity anywhere become transparent."""
    finite = torch.isfinite(torch.cat([means2d, conics, colors, opacities[:, None]], dim=-1)).all(-1)
    kept = (torch.where(finite[:, None], t, torch.zeros_like(t)) for t in (means2d, conics, colors))
    return *kept, torch.where(finite, opacities, torch.zeros_like(opacities))


def blend_weights(means2d: Tensor, conics: Tensor, opacities: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Weights alpha_i T_i [pixels, n] of n sorted Gaussians, zero where cut, and the transmittance left [pixels]."""
    delta = means2d[None] - pixels[:, None]  # [pixels, n, 2]
    dx, dy = delta.unbind(-1)
    sigma = 0.5 * (conics[:, 0] * dx * dx + conics[:, 2] * dy * dy) + conics[:, 1] * dx * dy
    alphas = (opacities * torch.exp(-sigma)).clamp_max(ALPHA_CAP)
    hits = (sigma >= 0) & (alphas >= ALPHA_CUT)
    alphas = torch.where(hits, alphas, torch.zeros_like(alphas))
    after = torch.cumprod(1.0 - alphas, dim=-1)
    # A pixel is finished by the first Gaussian that would leave it too opaque; that one is not blended either.
    blended = after > TRANSMITTANCE_CUT
    alphas = torch.where(blended, alphas, torch.zeros_like(alphas))
    after = torch.cumprod(1.0 - alphas, dim=-1)
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], dim=-1)
    return alphas * before, after[:, -1]


def tile_pixels(row: int, column: int, like: Tensor) -> Tensor:
    """Pixel centres of a tile [TILE_SIZE^2, 2], row by row."""
    offsets = torch.arange(TILE_SIZE, dtype=like.dtype, device=like.device) + 0.5
    y, x = torch.meshgrid(offsets + row * TILE_SIZE, offsets + column * TILE_SIZE, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)
