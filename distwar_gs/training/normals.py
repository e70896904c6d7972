"""How far the surfaces that the rendered depth shows are from a normal map: a part of the loss.

Depth is unprojected to points before the camera; two differences of neighbours, across and down, span the surface, and
their cross product is its normal, towards the camera. Compared is the mean of 1 - n . m over the pixels that the map
knows. Pixels whose neighbours are hardly covered, or lie at an edge of the depth, have no surface to speak of.

The gradient goes from the normal to the depths of the four neighbours, by hand.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distwar_datasets import View

LEAST_ALPHA = 0.05
"""Pixels that are covered less than this say nothing of depth."""
EDGE = 1.25
"""Of neighbours the farther may be as many times as far as the nearer; beyond, there is an edge."""


@dataclass(frozen=True)
class NormalMap:
    """The normals of a photo."""

    normals: Tensor
    """[H, W, 3] of length 1, towards the camera, in its axes (OpenCV); NaN where nothing is known."""
    rays: Tensor
    """[H, W, 3] the point at depth 1 that each pixel's middle shows."""

    def gradient(self, depth: Tensor, alpha: Tensor) -> Tensor:
        """dL/d(depth) [H, W] of the mean of 1 - n . m; arguments [H, W]."""
        v_depth = torch.zeros_like(depth)
        if min(depth.shape) < 3:
            return v_depth
        across, down = self._spans(depth)
        cross = torch.linalg.cross(down, across)
        length = cross.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        normal, wanted = cross / length, self._inner(self.normals)
        counted = self._counted(depth, alpha)
        v_normal = torch.where(counted[..., None], -wanted, 0.0) / counted.sum().clamp_min(1)
        v_cross = (v_normal - normal * (normal * v_normal).sum(dim=-1, keepdim=True)) / length
        v_across, v_down = torch.linalg.cross(v_cross, down), torch.linalg.cross(across, v_cross)
        v_points = torch.zeros_like(self.rays)
        v_points[1:-1, 2:] += v_across
        v_points[1:-1, :-2] -= v_across
        v_points[2:, 1:-1] += v_down
        v_points[:-2, 1:-1] -= v_down
        return (v_points * self.rays).sum(dim=-1)

    def error(self, depth: Tensor, alpha: Tensor) -> Tensor:
        """The mean of 1 - n . m itself."""
        across, down = self._spans(depth)
        normal = torch.nn.functional.normalize(torch.linalg.cross(down, across), dim=-1)
        counted = self._counted(depth, alpha)
        terms = 1.0 - (normal * self._inner(self.normals)).sum(dim=-1)
        return torch.where(counted, terms, 0.0).sum() / counted.sum().clamp_min(1)

    def _spans(self, depth: Tensor) -> tuple[Tensor, Tensor]:
        """[H - 2, W - 2, 3] of each inner pixel: from the left neighbour to the right one, from upper to lower."""
        points = depth[..., None] * self.rays
        return points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]

    def _counted(self, depth: Tensor, alpha: Tensor) -> Tensor:
        """bool [H - 2, W - 2]."""
        there = torch.where((alpha > LEAST_ALPHA) & (depth > 0.0), depth, torch.nan)
        around = torch.stack([there[1:-1, 2:], there[1:-1, :-2], there[2:, 1:-1], there[:-2, 1:-1]])
        is_smooth = around.amax(dim=0) < EDGE * around.amin(dim=0)  # NaN is not
        return is_smooth & self._inner(self.normals).isfinite().all(dim=-1)

    @staticmethod
    def _inner(pixels: Tensor) -> Tensor:
        return pixels[1:-1, 1:-1]


def rays_of(view: View) -> np.ndarray:
    """float32 [H, W, 3] the points at depth 1 of the pixels' middles; 0 where the view's lens has no ray."""
    if view.lens is None:
        places = np.stack(np.meshgrid(np.arange(view.width) + 0.5, np.arange(view.height) + 0.5), axis=-1)
        rays = np.concatenate([(places - view.K[:2, 2]) / view.K[[0, 1], [0, 1]], np.ones_like(places[..., :1])], -1)
    else:
        unit = view.lens.pixel_rays(view.width, view.height)
        rays = np.nan_to_num(unit / view.lens.depths(unit.reshape(-1, 3)).reshape(view.height, view.width, 1))
    return rays.astype(np.float32)


def facing_share(normals: Tensor, rays: Tensor) -> Tensor:
    """Which share of the known normals looks towards the camera; 1 where none is known. Arguments [H, W, 3]."""
    known = normals.isfinite().all(dim=-1)
    facing = known & ((normals * rays).sum(dim=-1) < 0.0)
    return torch.where(known.any(), facing.sum() / known.sum().clamp_min(1), 1.0)
