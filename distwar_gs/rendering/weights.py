"""What Gaussians weigh in a picture: alpha times transmittance, the factor of their color in a pixel.

The blend is linear in what it blends, so the gradient of a sum of pixels in a number of each Gaussian is the sum of its
weights in these pixels: the blend's backward pass adds them up.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

import distwar_kernels as kernels
from distwar_gs.rendering.projected import project_gaussians
from distwar_gs.rendering.renderer import FUSED, RenderSettings, render
from distwar_kernels import Cameras
from distwar_kernels.constants import ALPHA_CUT
from distwar_kernels.fused import weights as fused_weights

SPACING = 4
"""Pixels from one to the next of a sparse picture (`largest_weights`), in both directions."""


def summed_weights(params: Mapping[str, Tensor], camera: Cameras, settings: RenderSettings) -> Tensor:
    """[N] each Gaussian's weights, summed over the pixels of a picture; arguments as for `largest_weights`."""
    everything = torch.ones(camera.height, camera.width, 1, device=params["means"].device)
    return _weights(params, camera, settings, everything)[:, 0]


@torch.no_grad()
def uses(params: Mapping[str, Tensor], camera: Cameras, settings: RenderSettings) -> tuple[Tensor, Tensor]:
    """What each Gaussian does for a picture and what it costs: its weights, summed over the pixels, and the area in
    pixels in which it is blended, hidden or not: [N] each. Arguments as for `largest_weights`. Repeats to the bit, but
    not with gsplat's rasteriser."""
    if settings.rasterizer == FUSED.name:
        return fused_weights.uses(params, camera, settings.draw_options(0, None))
    splats = project_gaussians(params, camera, settings)
    xx, xy, yy = splats.conics[0].unbind(1)
    determinant = (xx * yy - xy * xy).clamp_min(1e-20)
    reach = 2.0 * (splats.opacities[0] / ALPHA_CUT).clamp_min(1.0).log()
    variances = torch.stack((yy, xx), dim=1) / determinant[:, None]
    size = (camera.width, camera.height)
    areas = fused_weights.area_within(splats.means2d[0], variances, determinant.rsqrt(), reach, size)
    return summed_weights(params, camera, settings), areas.masked_fill((splats.radii[0] == 0).any(dim=1), 0.0)


def largest_weights(params: Mapping[str, Tensor], camera: Cameras, settings: RenderSettings) -> Tensor:
    """[N] the largest weight that each Gaussian has in any pixel of a picture, or more, never less.

    The backward pass adds weights up over pixels, it does not compare them. So the picture is taken apart into
    SPACING^2 sparse ones, each with every SPACING-th pixel in both directions. A Gaussian of a few pixels has one pixel
    in each of these, and the largest of its sums is its largest weight. Of a wider one several pixels add up: it counts
    for the more, the more it covers.

    Args:
        params: as in distwar_gs.gaussians.model, on the device.
        camera: C = 1.
        settings: of the rendering.
    """
    rows, columns = (
        torch.arange(side, device=params["means"].device) % SPACING for side in (camera.height, camera.width)
    )
    sparse = torch.nn.functional.one_hot(rows[:, None] * SPACING + columns, SPACING**2).float()
    return _weights(params, camera, settings, sparse).amax(dim=1)


def _weights(params: Mapping[str, Tensor], camera: Cameras, settings: RenderSettings, pixels: Tensor) -> Tensor:
    """[N, F] the sum of each Gaussian's weight times each of F values of the pixels [H, W, F]."""
    means = params["means"]
    probe = torch.zeros(len(means), pixels.shape[-1], device=means.device, requires_grad=True)
    settings = replace(settings, absgrad=False, reduction=kernels.Reduction())  # auto would measure itself
    with torch.enable_grad():
        seen = render(params, camera, settings, sh_degree=0, features=probe)
        assert seen.features is not None
        return torch.autograd.grad(seen.features[0], probe, pixels)[0]
