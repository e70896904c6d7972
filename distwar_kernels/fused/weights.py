"""What Gaussians weigh in the picture of the fused rasteriser, and how many pixels each takes part in."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from distwar_kernels.cameras import Cameras
from distwar_kernels.constants import ALPHA_CUT
from distwar_kernels.fused.capacity import shared_sizes
from distwar_kernels.fused.fused import DrawOptions, blend_backward, checked, render_whole
from distwar_kernels.reduction import Reduction

_SCALE_U, _SKEW, _SCALE_V, _LOG2_OPACITY = 2, 3, 5, 6  # words of a splat (records.cuh)
_GRAD_COLOR = 8  # of a gradient record


def uses(params: Mapping[str, Tensor], camera: Cameras, options: DrawOptions) -> tuple[Tensor, Tensor]:
    """For each Gaussian the sum over a picture's pixels of its weight (alpha times transmittance), and the area in
    pixels where its alpha would be above the cut, hidden or not: [N] each, 0 where it is culled. Waits for the GPU.

    The gradient of the sum of all pixels in a colour is the sum of its weights. It is summed as integers, so that it
    repeats to the bit.

    Args:
        params, camera: as for `fused.rasterize`.
        options: how the view is drawn; the colours do not matter.
    """
    view = render_whole(checked(params, camera), camera, options, shared_sizes(params["means"].device))
    records = blend_backward(view, torch.ones_like(view.image), False, Reduction(), deterministic=True)
    visible = view.state.visible
    count = int(visible.total)
    ids, found = visible.gaussian_ids[:count].long(), params["means"].new_zeros(2, len(params["means"]))
    # A Gaussian has one splat, but at the edge of a panorama.
    found[0].index_add_(0, ids, records[:count, _GRAD_COLOR])
    found[1].index_add_(0, ids, _areas(visible.splats[:count], camera))
    return found[0], found[1]


def _areas(splats: Tensor, camera: Cameras) -> Tensor:
    """[V]: of the ellipses u^2 + v^2 <= log2(opacity / cut) of splats [V, 12], the part that is in the image."""
    mean, (scale_u, skew, scale_v) = splats[:, :2], splats[:, [_SCALE_U, _SKEW, _SCALE_V]].unbind(1)
    reach = (splats[:, _LOG2_OPACITY] - math.log2(ALPHA_CUT)).clamp_min(0.0)
    variances = torch.stack((scale_u**-2 + (skew / scale_v) ** 2, scale_v**-2), dim=1)
    return area_within(mean, variances, (scale_u * scale_v).reciprocal(), reach, (camera.width, camera.height))


def area_within(means: Tensor, variances: Tensor, deviation: Tensor, reach: Tensor, size: tuple[int, int]) -> Tensor:
    """[V] px^2: of the ellipses d' C^-1 d <= reach the share of their bounding boxes that is in an image.

    Args:
        means: [V, 2] px.
        variances: [V, 2] of C in x and y, px^2.
        deviation: [V] root of C's determinant, px^2.
        reach: [V].
        size: width and height of the image.
    """
    half = (reach[:, None] * variances).sqrt().clamp_min(1e-6)
    ends = torch.tensor(size, device=means.device, dtype=means.dtype)
    low, high = (means - half).clamp_min(0.0), torch.minimum(means + half, ends)
    inside = ((high - low) / (2.0 * half)).clamp_min(0.0).prod(dim=1)
    return (math.pi * reach * deviation * inside).nan_to_num(nan=0.0, posinf=0.0)
