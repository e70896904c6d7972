"""The blend op in plain PyTorch, any dtype, differentiable by autograd: the definition that tests compare with."""

import torch
from torch import Tensor

from distwar_kernels.constants import ALPHA_CAP, ALPHA_CUT, TILE_SIZE, TRANSMITTANCE_CUT
from distwar_kernels.tiles.tile_by_tile import tiles_of


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
    images, rows, columns = isect_offsets.shape
    render = means2d.new_zeros(images, rows * TILE_SIZE, columns * TILE_SIZE, colors.shape[-1])
    transmittances = means2d.new_ones(render.shape[:-1])
    for tile in tiles_of(isect_offsets, flatten_ids, masks, means2d):
        weights, rest = blend_weights(means2d[tile.ids], conics[tile.ids], opacities[tile.ids], tile.pixels)
        render[tile.square] = (weights @ colors[tile.ids]).reshape(TILE_SIZE, TILE_SIZE, -1)
        transmittances[tile.square] = rest.reshape(TILE_SIZE, TILE_SIZE)
    if backgrounds is not None:
        render = render + transmittances[..., None] * backgrounds[:, None, None, :]
    crop = (slice(None), slice(image_height), slice(image_width))
    return render[crop], 1.0 - transmittances[crop][..., None]


def blend_gradients_reference(
    splats: tuple[Tensor, Tensor, Tensor, Tensor],  # means2d, conics, colors, opacities as above
    isect_offsets: Tensor,
    flatten_ids: Tensor,
    v_colors: Tensor,  # [images, H, W, channels]
    v_alphas: Tensor,  # [images, H, W, 1]
) -> list[Tensor]:
    """dL/d(splats) on a black background, one tile's graph at a time: for images of any size, on any device."""
    kept = [splat.detach() for splat in _without_broken(*splats)]
    gradients = [torch.zeros_like(splat) for splat in kept]
    rows, columns = isect_offsets.shape[1:]
    margin = (0, 0, 0, columns * TILE_SIZE - v_colors.shape[2], 0, rows * TILE_SIZE - v_colors.shape[1])
    v_colors, v_alphas = (torch.nn.functional.pad(v, margin) for v in (v_colors, v_alphas))
    for tile in tiles_of(isect_offsets, flatten_ids, None, kept[0]):
        means2d, conics, colors, opacities = leaves = [splat[tile.ids].requires_grad_() for splat in kept]
        weights, rest = blend_weights(means2d, conics, opacities, tile.pixels)
        outputs = weights @ colors, 1.0 - rest
        upstream = v_colors[tile.square].flatten(0, 1), v_alphas[tile.square].flatten()
        for total, v in zip(gradients, torch.autograd.grad(outputs, leaves, upstream), strict=True):
            total.index_add_(0, tile.ids, v)
    return gradients


def decided_pixels(
    splats: tuple[Tensor, Tensor, Tensor, Tensor],  # as above
    isect_offsets: Tensor,
    flatten_ids: Tensor,
    image_width: int,
    image_height: int,
    margin: float = 1e-5,
) -> Tensor:
    """[images, H, W] bool: False where an alpha or a transmittance is so near its cut that rounding decides.

    There a float32 blend may rightly take another Gaussian than this one; everywhere else the two must agree.
    """
    means2d, conics, _, opacities = splats
    rows, columns = isect_offsets.shape[1:]
    decided = flatten_ids.new_ones((len(isect_offsets), rows * TILE_SIZE, columns * TILE_SIZE), dtype=torch.bool)
    for tile in tiles_of(isect_offsets, flatten_ids, None, means2d):
        alphas = splat_alphas(means2d[tile.ids], conics[tile.ids], opacities[tile.ids], tile.pixels)
        decided[tile.square] = ~near_cuts(alphas, margin).any(-1).reshape(TILE_SIZE, TILE_SIZE)
    return decided[:, :image_height, :image_width]


def near_cuts(alphas: Tensor, margin: float) -> Tensor:
    """[pixels, n] where an alpha, or the transmittance behind it, is within `margin` of its cut (relative).

    A transmittance gathers the rounding of many factors 1 - alpha, each the worse the nearer alpha is to 1: its margin
    is a hundred times wider.
    """
    after = torch.cumprod(1.0 - torch.where(alphas >= ALPHA_CUT, alphas, torch.zeros_like(alphas)), dim=-1)
    return ((alphas / ALPHA_CUT - 1).abs() < margin) | ((after / TRANSMITTANCE_CUT - 1).abs() < 100 * margin)


def _without_broken(means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor) -> tuple[Tensor, ...]:
    """Gaussians with a NaN or an infinity anywhere, or a conic that is not positive definite, become transparent."""
    finite = torch.isfinite(torch.cat([means2d, conics, colors, opacities[:, None]], dim=-1)).all(-1)
    a, b, c = conics.detach().unbind(-1)
    sound = finite & (a > 0) & (a * c - b * b > 0)
    kept = (torch.where(sound[:, None], t, torch.zeros_like(t)) for t in (means2d, conics, colors))
    return *kept, torch.where(sound, opacities, torch.zeros_like(opacities))


def blend_weights(means2d: Tensor, conics: Tensor, opacities: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Weights alpha_i T_i [pixels, n] of n sorted Gaussians, zero where cut, and the transmittance left [pixels]."""
    alphas = splat_alphas(means2d, conics, opacities, pixels)
    alphas = torch.where(alphas >= ALPHA_CUT, alphas, torch.zeros_like(alphas))
    after = torch.cumprod(1.0 - alphas, dim=-1)
    # A pixel is finished by the first Gaussian that would leave it too opaque; that one is not blended either.
    blended = after > TRANSMITTANCE_CUT
    alphas = torch.where(blended, alphas, torch.zeros_like(alphas))
    after = torch.cumprod(1.0 - alphas, dim=-1)
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], dim=-1)
    return alphas * before, after[:, -1]


def splat_alphas(means2d: Tensor, conics: Tensor, opacities: Tensor, pixels: Tensor) -> Tensor:
    """Alphas [pixels, n] before the cut at 1/255, capped; 0 where the exponent is not a distance."""
    dx, dy = (means2d[None] - pixels[:, None]).unbind(-1)
    sigma = 0.5 * (conics[:, 0] * dx * dx + conics[:, 2] * dy * dy) + conics[:, 1] * dx * dy
    alphas = (opacities * torch.exp(-sigma)).clamp_max(ALPHA_CAP)
    return torch.where(sigma >= 0, alphas, torch.zeros_like(alphas))
