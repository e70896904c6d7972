"""What a gsplat user has: project, list tiles, rasterise, differentiate. test_drop_in.py changes the import."""

import torch
from gsplat import fully_fused_projection, isect_offset_encode, isect_tiles, rasterize_to_pixels


def image_and_gradients(means, quats, scales, opacities, colors, viewmats, Ks, width, height):
    leaves = [t.clone().requires_grad_() for t in (means, quats, scales, opacities, colors)]
    means, quats, scales, opacities, colors = leaves
    radii, means2d, depths, conics, _ = fully_fused_projection(means, None, quats, scales, viewmats, Ks, width, height)
    tiles = (-(-width // 16), -(-height // 16))
    _, isect_ids, flatten_ids = isect_tiles(means2d, radii, depths, 16, *tiles)
    offsets = isect_offset_encode(isect_ids, len(viewmats), *tiles)
    per_view = (t[None].expand(len(viewmats), *t.shape) for t in (colors, opacities))
    image, alphas = rasterize_to_pixels(means2d, conics, *per_view, width, height, 16, offsets, flatten_ids)
    return [image, alphas, *torch.autograd.grad(image.square().sum() + alphas.sum(), leaves)]
