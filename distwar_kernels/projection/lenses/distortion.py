"""What lenses do to the plane between their ideal image and their real one: OpenCV's radial, tangential and thin-prism
terms (OpenCV documentation, calib3d, "Detailed description"; Weng et al. 1992).

A lens has these numbers behind its focal lengths and its centre. Up to the radius `limit` the image is distorted as the
polynomials say; from there on the distorted radius goes on in a straight line. So what lies a little outside the image
is never folded back into it, as a polynomial beyond its last calibrated point would do.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

PARAMETERS = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "s1", "s2", "s3", "s4", "limit", "reach")
"""Radial, tangential and thin-prism coefficients; the radius up to which they hold; the radius beyond which nothing is
drawn. Radii are those of the ideal image at focal length 1."""


class Radial(NamedTuple):
    """The factor by which a point moves outwards, and its derivative by the squared radius."""

    factor: Tensor
    slope: Tensor


Profile = Callable[[Tensor, Tensor], Radial]
"""(squared radii [C, N], k1 to k6 [C, 1, 6]) -> the radial part."""


def rational(r2: Tensor, k: Tensor) -> Radial:
    """(1 + k1 r^2 + k2 r^4 + k3 r^6) / (1 + k4 r^2 + k5 r^4 + k6 r^6): of perspective lenses."""
    top, top_slope = _polynomial(r2, k[..., :3])
    bottom, bottom_slope = _polynomial(r2, k[..., 3:])
    return Radial(top / bottom, (top_slope - top / bottom * bottom_slope) / bottom)


def polynomial(r2: Tensor, k: Tensor) -> Radial:
    """1 + k1 r^2 + ... + k6 r^12: of fisheyes, whose radius is the angle to the axis."""
    return Radial(*_polynomial(r2, k))


def distort(q: Tensor, numbers: Tensor, profile: Profile) -> Tensor:
    """Where the ideal point q [C, N, 2] is in the real image, at focal length 1; numbers: [C, 1, 14] of PARAMETERS."""
    x, y = q.unbind(-1)
    r2 = q.square().sum(-1)
    p1, p2, s1, s2, s3, s4 = numbers[..., 6:12].unbind(-1)
    factor = _radial(r2, numbers, profile).factor
    across = factor * x + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) + r2 * (s1 + s2 * r2)
    down = factor * y + 2 * p2 * x * y + p1 * (r2 + 2 * y * y) + r2 * (s3 + s4 * r2)
    return torch.stack([across, down], dim=-1)


def distortion_jacobian(q: Tensor, numbers: Tensor, profile: Profile) -> Tensor:
    """d(distort)/dq [C, N, 2, 2]."""
    x, y = q.unbind(-1)
    r2 = q.square().sum(-1)
    p1, p2, s1, s2, s3, s4 = numbers[..., 6:12].unbind(-1)
    factor, slope = _radial(r2, numbers, profile)
    prism_x, prism_y = 2 * (s1 + 2 * s2 * r2), 2 * (s3 + 2 * s4 * r2)
    mixed = 2 * slope * x * y + 2 * (p1 * x + p2 * y)
    xx = factor + 2 * slope * x * x + 2 * p1 * y + 6 * p2 * x + prism_x * x
    yy = factor + 2 * slope * y * y + 6 * p1 * y + 2 * p2 * x + prism_y * y
    rows = [xx, mixed + prism_x * y, mixed + prism_y * x, yy]
    return torch.stack(rows, dim=-1).unflatten(-1, (2, 2))


def _radial(r2: Tensor, numbers: Tensor, profile: Profile) -> Radial:
    """Of the profile up to `limit`; from there on the distorted radius goes straight on, factor = rise + offset / r."""
    k, limit = numbers[..., :6], numbers[..., 12]
    inside = profile(torch.minimum(r2, limit.square()), k)
    edge = profile(limit.square(), k)
    rise = edge.factor + 2 * edge.slope * limit.square()
    offset = -2 * edge.slope * limit**3
    is_beyond = r2 > limit.square()
    r = torch.sqrt(torch.where(is_beyond, r2, torch.ones_like(r2)))
    factor = torch.where(is_beyond, rise + offset / r, inside.factor)
    slope = torch.where(is_beyond, -0.5 * offset / r**3, inside.slope)
    return Radial(factor, slope)


def _polynomial(r2: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """1 + c1 r^2 + c2 r^4 + ..., and its derivative by r^2."""
    value, slope = torch.zeros_like(r2), torch.zeros_like(r2)
    for c in reversed(coefficients.unbind(-1)):
        slope = slope * r2 + value
        value = value * r2 + c
    return 1 + value * r2, value + slope * r2
