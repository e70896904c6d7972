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
from distwar_kernels.constants import ALPHA_CAP, ALPHA_CUT, TILE_SIZE

RADIUS = 1.5
"""Standard deviations from the centre to where an ellipsoid ends."""
FAINT = 0.1
"""Opacity below which Gaussians are left out: opaque, the haze of a scene would hide all that is behind it."""
_OPAQUE = 30.0  # logit
_OPACITY = 1e15
"""No probability: alpha = opacity * exp(-r^2 / 2) is capped far out, and then falls so fast that the edge is sharp."""
_REACH = math.sqrt(2.0 * math.log(_OPACITY / ALPHA_CUT))  # standard deviations to where nothing is drawn
_DARKEST = 0.25
_BASE, _DIGITS = 128, 4


@torch.no_grad()
def draw_ellipsoids(params: Mapping[str, Tensor], camera: Cameras, settings: RenderSettings) -> Tensor:
    """Colours [H, W, 3] in [0, 1], shaded as spheres are from the front, on black.

    The fused rasteriser takes no opacity beyond 1: there they are blobs with soft edges, of one shade each.
    """
    logits = params["opacities"]
    shown = torch.where(torch.sigmoid(logits) >= FAINT, _OPAQUE, -_OPAQUE).to(logits.dtype)
    opaque, settings = {**params, "opacities": shown}, replace(settings, antialiased=False)
    if settings.rasterizer == "composed" and len(logits):
        return _with_sharp_edges(opaque, camera, settings)
    return render(opaque, camera, settings, sh_degree=sh_degree_of(params)).colors[0]


def _with_sharp_edges(params: Mapping[str, Tensor], camera: Cameras, settings: RenderSettings) -> Tensor:
    """By the blend, whose nearest Gaussian hides all others when it is opaque. Beside its colour a pixel learns that
    one's number, and from it how far it is from the middle of the ellipse."""
    splats = project(params, camera, settings)
    colors = view_colors(params, camera, splats.radii, sh_degree_of(params))
    conics = splats.conics / RADIUS**2  # 1 at the edge
    drawn, _ = kernels.rasterize_to_pixels(
        splats.means2d, conics * _REACH**2, torch.cat([colors, _digits(len(conics[0]), colors)[None]], dim=-1),
        torch.full_like(splats.opacities, _OPACITY), camera.width, camera.height, TILE_SIZE, splats.isect_offsets,
        splats.flatten_ids,
    )  # fmt: skip
    numbers, is_known = _numbers(drawn[0, ..., 3:] / ALPHA_CAP, len(conics[0]))
    shade = torch.where(is_known, _shade(splats.means2d[0][numbers], conics[0][numbers]), _DARKEST)
    return drawn[0, ..., :3] * shade[..., None]


def _digits(count: int, like: Tensor) -> Tensor:
    """[N, _DIGITS], the numbers 0 to N - 1 in digits: what is behind, a thousandth of a pixel, does not alter those."""
    numbers = torch.arange(count, device=like.device)
    return torch.stack([numbers // _BASE**place % _BASE for place in range(_DIGITS)], dim=-1).to(like.dtype)


def _numbers(digits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Whose digits [..., _DIGITS] these are, int64, and whether they are one's: at edges several are mixed."""
    whole = digits.round()
    places = torch.tensor([_BASE**place for place in range(_DIGITS)], device=digits.device)
    numbers = (whole.long() * places).sum(dim=-1)
    is_known = ((digits - whole).abs() < 0.2).all(dim=-1) & (numbers < count)
    return numbers.clamp(0, count - 1), is_known


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
