"""What the training cameras see of each Gaussian: in how many pictures it is, what it weighs there, how near it is."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distwar_datasets import Scene
from distwar_datasets.extent import NEAR_SHARE, view_depths
from distwar_gs.rendering.renderer import RenderSettings
from distwar_gs.rendering.views import camera_of
from distwar_gs.rendering.weights import summed_weights
from distwar_kernels import Cameras

REACH = 3.4
"""Standard deviations to which a Gaussian is drawn, rounded up (alpha of 1 is 1/255 at 3.33)."""
_BENT = 3.0
"""Times that a lens which is no pinhole may show a thing as large as in its middle: a fisheye does 115 degrees off."""
BLUR = 2.0
"""Pixels beyond: the blur in screen space, and rounding up."""


@dataclass(frozen=True)
class Sight:
    """What V cameras together see of N Gaussians. Weights are alpha times transmittance, summed over pixels."""

    cameras: int
    """V."""
    counts: Tensor
    """[N] int64, how many have it in their picture, between the near and the far plane, hidden or not."""
    weights: Tensor
    """[N], over all pictures."""
    squares: Tensor
    """[N], of each picture's sum the square, over all pictures."""
    near_weights: Tensor
    """[N], over the pictures in which it is nearer than the nearest things."""
    near_widths: Tensor
    """[N] its longest standard deviation in that one of these pictures where it is widest, a share of the diagonal."""

    @property
    def effective_cameras(self) -> Tensor:
        """[N] how many cameras see it, those that see less of it counting less (inverse Simpson index): 1 where one
        has all its weight, V where all have the same; 0 where none draws it."""
        return self.weights.square() / self.squares.clamp_min(1e-30)

    @property
    def near_share(self) -> Tensor:
        """[N] how much of its weight is in pictures in which it is nearer than the nearest things."""
        return self.near_weights / self.weights.clamp_min(1e-30)


@torch.no_grad()
def look_at(params: Mapping[str, Tensor], scene: Scene, settings: RenderSettings) -> Sight:
    """What the training cameras see of the Gaussians [N], which are in the training frame.

    The nearest things of a view begin where 1 % of the scene's points in its picture are nearer
    (`distwar_datasets.extent.view_depths`); where too few points tell, where 1 % of the centers in its picture are.
    """
    widest = params["scales"].amax(dim=1).exp()
    counts = torch.zeros(len(widest), dtype=torch.int64, device=widest.device)
    weights, squares, near_weights, near_widths = (torch.zeros_like(widest) for _ in range(4))
    for view, nearest in zip(scene.train, view_depths(scene.train, scene.points)[:, 0], strict=True):
        camera = camera_of(view, widest.device)
        depths, pixels, seen = in_picture(params["means"], widest, camera, settings)
        near = seen & (depths < (float(nearest) if np.isfinite(nearest) else _near_quantile(depths[seen])))
        summed = summed_weights(params, camera, settings)
        counts += seen
        weights += summed
        squares += summed.square()
        near_weights += summed * near
        near_widths = near_widths.maximum(pixels / float(np.hypot(view.width, view.height)) * near)
    return Sight(len(scene.train), counts, weights, squares, near_weights, near_widths)


def in_picture(
    means: Tensor, widest: Tensor, camera: Cameras, settings: RenderSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Depths [N] of the centers [N, 3]; pixels [N] that the longest standard deviations [N] take; and which Gaussians
    reach into the picture of a camera (C = 1), bool [N]: rather one too many, since each is taken for a ball."""
    in_camera = means @ camera.viewmats[0, :3, :3].T + camera.viewmats[0, :3, 3]
    if camera.model != "pinhole":
        return _in_bent_picture(in_camera, widest, camera, settings)
    x, y, z = in_camera.unbind(-1)
    fx, fy, cx, cy = camera.intrinsics[0].tolist()
    seen, depth = (z > settings.near_plane) & (z < settings.far_plane), z.clamp_min(1e-12)
    tangent = (camera.width / fx) ** 2 + (camera.height / fy) ** 2  # squared, of far beyond a corner
    pixels = max(fx, fy) * widest / depth
    reach = REACH * pixels * (1.0 + tangent) ** 0.5 + BLUR
    for place, focal, middle, side in ((x, fx, cx, camera.width), (y, fy, cy, camera.height)):
        pixel = focal * place / depth + middle
        seen = seen & (pixel > -reach) & (pixel < side + reach)
    return z, pixels, seen


def _in_bent_picture(
    in_camera: Tensor, widest: Tensor, camera: Cameras, settings: RenderSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """As `in_picture`, through a lens that is no pinhole, of points [N, 3] in camera axes."""
    lens, (xy, z) = camera.lens, (in_camera[None, :, :2], in_camera[None, :, 2])
    depth = lens.depth(xy, z)[0]
    seen = (depth > settings.near_plane) & (depth < settings.far_plane) & lens.sees(xy, z, camera.intrinsics)[0]
    pixels = camera.intrinsics[0, :2].amax() * widest / depth.clamp_min(1e-12)
    if lens.period is not None:
        return depth, pixels, seen
    reach = REACH * _BENT * pixels + BLUR
    x, y = lens.project(xy, z, camera.intrinsics)[0].unbind(-1)
    for place, side in ((x, camera.width), (y, camera.height)):
        seen = seen & (place > -reach) & (place < side + reach)
    return depth, pixels, seen


def _near_quantile(depths: Tensor) -> float:
    """The depth that NEAR_SHARE of these are nearer than; 0 of none."""
    return float(depths.kthvalue(1 + int(NEAR_SHARE * (len(depths) - 1))).values) if len(depths) else 0.0
