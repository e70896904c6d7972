"""What a renderer has blended, as pictures: depth, normals, alpha. For films, test views and the live viewer."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from distwar_gs.rendering.renderer import Rendering
from distwar_kernels import Cameras
from distwar_kernels.projection.projection_torch import rotation_matrices

_SAMPLE = 50_000  # pixels of a picture that the range of depths is taken from
_QUANTILES = (0.02, 0.98)
_OPAQUE = 0.5

# Oklab to cone responses, and these to linear sRGB (B. Ottosson, "A perceptual color space for image processing").
_TO_CONES = np.array([[0.3963377774, 0.2158037573], [-0.1055613458, -0.0638541728], [-0.0894841775, -1.2914855480]])
_TO_RGB = np.array([[4.0767416621, -3.3077115913, 0.2309699292], [-1.2684380046, 2.6097574011, -0.3413193965],
                    [-0.0041960863, -0.7034186147, 1.7076147010]])  # fmt: skip
_STEPS = 256


class DepthRange(NamedTuple):
    """Inverse depths that the colors begin and end at."""

    far: float
    near: float


# ------------------------------------------------------------------------------------------------------------ colors


def ramp(values: Tensor) -> Tensor:
    """Colors [..., 3] in [0, 1] of values [...] in [0, 1]: dark violet, blue, green, yellow."""
    table = torch.from_numpy(ramp_table()).to(values.device)
    place = values.nan_to_num(0.0).clamp(0.0, 1.0) * (len(table) - 1)
    below = place.long().clamp_max(len(table) - 2)
    return torch.lerp(table[below], table[below + 1], (place - below)[..., None])


@functools.cache
def ramp_table() -> np.ndarray:
    """float32 [256, 3], sRGB in [0, 1]: a straight line of lightness in Oklab, from 0.28 to 0.95, while the hue turns
    from 295 to 105 degrees. Equal steps look equally large, and brighter is more for those who see no hues, too. The
    chroma is what sRGB has room for: less in the greens than at the ends."""
    share = np.linspace(0.0, 1.0, _STEPS)
    lightness, hue = 0.28 + 0.67 * share, np.radians(295.0 - 190.0 * share)
    chroma = 0.12 + 0.03 * share - 0.05 * np.sin(np.pi * share)
    opponents = chroma[:, None] * np.stack([np.cos(hue), np.sin(hue)], axis=1)
    linear = ((lightness[:, None] + opponents @ _TO_CONES.T) ** 3 @ _TO_RGB.T).clip(0.0, 1.0)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).astype(np.float32)


# ------------------------------------------------------------------------------------------------------------- depth


def depth_sample(seen: Rendering) -> Tensor:
    """Inverse depths [M] of the opaque pixels of a picture (C = 1), not more than 50,000 of them."""
    assert seen.depths is not None
    values = (1.0 / seen.depths[0, ..., 0].clamp_min(1e-10))[seen.alphas[0, ..., 0] > _OPAQUE]
    return values[:: len(values) // _SAMPLE + 1]


def depth_range(samples: Sequence[Tensor]) -> DepthRange:
    """What 2 % and 98 % of the sampled inverse depths (`depth_sample`) lie below; 0 and 1 where there are none.

    One range for all pictures of a film: with one for each, the colors of what stands still would change.
    """
    values = torch.cat(list(samples)) if samples else torch.empty(0)
    if not len(values):
        return DepthRange(0.0, 1.0)
    far, near = np.quantile(values.cpu().numpy(), _QUANTILES).tolist()
    return DepthRange(far, near)


def depth_image(seen: Rendering, within: DepthRange) -> Tensor:
    """[H, W, 3] in [0, 1] of a picture (C = 1): inverse depth as colors, near is bright; black where hardly anything
    is."""
    assert seen.depths is not None
    inverse, opaque = 1.0 / seen.depths[0, ..., 0].clamp_min(1e-10), seen.alphas[0] > _OPAQUE
    return ramp((inverse - within.far) / max(within.near - within.far, 1e-12)) * opaque


# --------------------------------------------------------------------------------------------------- normals and alpha


def facing_normals(params: Mapping[str, Tensor], camera: Cameras) -> Tensor:
    """[N, 3] in the world: the shortest axis of each Gaussian, turned towards the camera (C = 1)."""
    shortest = params["scales"].argmin(dim=-1)
    rotations = rotation_matrices(params["quats"])
    normals = torch.take_along_dim(rotations, shortest[:, None, None], dim=2)[..., 0]
    towards = camera.centers[0] - params["means"]
    return torch.where((normals * towards).sum(dim=-1, keepdim=True) < 0.0, -normals, normals)


def normals_image(seen: Rendering) -> Tensor:
    """[H, W, 3] in [0, 1] of a picture with `facing_normals` for its features: x, y, z of the world as red, green, blue
    from -1 to 1, on black."""
    assert seen.features is not None
    normals = torch.nn.functional.normalize(seen.features[0], dim=-1)
    return (0.5 + 0.5 * normals) * seen.alphas[0]


def alpha_image(seen: Rendering) -> Tensor:
    """[H, W, 3] in [0, 1]: how opaque each pixel is; white is all."""
    return seen.alphas[0].expand(-1, -1, 3)
