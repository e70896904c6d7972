"""The fused rasteriser from the ops' own references, any dtype, differentiable by autograd: what tests compare with."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from distwar_kernels.blend.blend_reference import blend_reference
from distwar_kernels.cameras import Cameras
from distwar_kernels.fused.fused import DrawOptions
from distwar_kernels.projection.around import around
from distwar_kernels.projection.projection_torch import project_torch
from distwar_kernels.sh.sh_torch import spherical_harmonics_torch
from distwar_kernels.tiles.tiles_reference import intersect_tiles_reference


def rasterize_reference(
    params: Mapping[str, Tensor], camera: Cameras, options: DrawOptions, features: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Colours [H, W, 3 or 4] and alphas [H, W, 1] as ``rasterize``, and the projected centres means2d [N, 2], through
    which gradients flow; with features a fourth, their image [H, W, F]."""
    camera = camera.to(params["means"].device, params["means"].dtype)
    opacities = torch.sigmoid(params["opacities"])
    radii, means2d, depths, conics, compensations = project_torch(
        params["means"], params["quats"], params["scales"].exp(), opacities, camera,
        near_plane=options.near_plane, far_plane=options.far_plane, antialiased=options.antialiased,
    )  # fmt: skip
    if compensations is not None:
        opacities = opacities * compensations[0]
    colors = colors_reference(params, camera, options.sh_degree)
    background = options.padded_background()
    if options.with_depth:
        colors = torch.cat([colors, depths[0][:, None]], dim=-1)
    channels = colors.shape[1]
    if features is not None:
        colors = torch.cat([colors, features.nan_to_num(0.0, 0.0, 0.0)], dim=-1)
        background = None if background is None else pad(background, (0, features.shape[1]))
    centers, copies = means2d[0], around(camera, means2d, radii)
    drawn = centers[None]
    if copies is not None:
        drawn, radii = copies.again_at(drawn), copies.again_radii(radii)
        depths, conics, colors, opacities = (
            copies.again(values) for values in (depths, conics, colors[None], opacities[None])
        )
        colors, opacities = colors[0], opacities[0]
    lists = intersect_tiles_reference(drawn.detach(), radii, depths.detach(), camera.width, camera.height)
    image, alphas = blend_reference(
        drawn[0], conics[0], colors, opacities, camera.width, camera.height, *lists,
        None if background is None else background[None].to(colors),
    )  # fmt: skip
    outputs = image[0, ..., :channels], alphas[0], centers
    return outputs if features is None else (*outputs, image[0, ..., channels:])


def colors_reference(params: Mapping[str, Tensor], camera: Cameras, sh_degree: int) -> Tensor:
    """Colours [N, 3] as the camera sees them; negative ones are cut to 0."""
    coefficients = torch.cat([params["sh0"], params["shN"]], dim=1)
    harmonics = spherical_harmonics_torch(sh_degree, params["means"] - camera.centers[0], coefficients)
    return (harmonics + 0.5).clamp_min(0.0)
