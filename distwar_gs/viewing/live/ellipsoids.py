"""Gaussians as opaque ellipsoids: where each one is, how large and how it is turned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

import distwar_kernels as kernels
from distwar_gs.gaussians.model import sh_degree_of
from distwar_gs.rendering.renderer import RenderSettings, project, render, view_colors
from distwar_kernels import Cameras
from distwar_kernels.constants import ALPHA_CUT, TILE_SIZE

RADIUS = 1.5
"""Standard deviations from the centre to where an ellipsoid ends."""
_OPACITY = 1e15
"""No probability: alpha = opacity * exp(-r^2 / 2) is capped far out, and then falls so fast that the edge is sharp."""
_REACH = math.sqrt(2.0 * math.log(_OPACITY / ALPHA_CUT))  # standard deviations to where nothing is drawn
_DARKEST = 0.25


@torch.no_grad()
def draw_ellipsoids(params: Mapping[str, Tensor], camera: Cameras, settings: RenderSettings) -> Tensor:
    """Colours [H, W, 3] in [0, 1], shaded as spheres are from the front, on black.

    The fused rasteriser takes no opacity beyond 1: there they are blobs with soft edges, of one shade each.
    """
    if settings.rasterizer == "composed":
        return _with_sharp_edges(params, camera, settings)
    opaque = {**params, "opacities": torch.full_like(params["opacities"], 30.0)}
    seen = render(opaque, camera, replace(settings, antialiased=False), sh_degree=sh_degree_of(params))
    return seen.colors[0]


def _with_sharp_edges(params: Mapping[str, Tensor], camera: Cameras, settings: RenderSettings) -> Tensor:
    """By the blend, whose nearest Gaussian hides all others when it is opaque. Beside its colour a pixel learns that
    one's centre and conic, and from these how far it is from the middle of the ellipse."""
    splats = project(params, camera, replace(settings, antialiased=False))
    colors = view_colors(params, camera, splats.radii, sh_degree_of(params))
    conics = splats.conics / RADIUS**2  # 1 at the edge
    drawn, alphas = kernels.rasterize_to_pixels(
        splats.means2d, conics * _REACH**2, torch.cat([colors, splats.means2d, conics], dim=-1),
        torch.full_like(splats.opacities, _OPACITY), camera.width, camera.height, TILE_SIZE, splats.isect_offsets,
        splats.flatten_ids,
    )  # fmt: skip
    return drawn[0, ..., :3] * _shade(drawn[0, ..., 3:5], drawn[0, ..., 5:])[..., None] * alphas[0]


def _shade(centers: Tensor, conics: Tensor) -> Tensor:
    """[H, W]: 1 in the middle of an ellipse, _DARKEST at its edge, as a sphere's height above its outline is.

    centers: [H, W, 2] pixels. conics: [H, W, 3], of ellipses that end at 1.
    """
    height, width = centers.shape[:2]
    y, x = torch.meshgrid(
        torch.arange(height, device=centers.device) + 0.5, torch.arange(width, device=centers.device) + 0.5,
        indexing="ij",
    )  # fmt: skip
    dx, dy = x - centers[..., 0], y - centers[..., 1]
    outward = conics[..., 0] * dx * dx + 2.0 * conics[..., 1] * dx * dy + conics[..., 2] * dy * dy
    return _DARKEST + (1.0 - _DARKEST) * (1.0 - outward.clamp(0.0, 1.0)).sqrt()
