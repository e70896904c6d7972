"""From the light that comes to a camera to its photo, and back: exposure, white balance, vignette, response curve.

A photo's value is f(G h(c)), where c is the model's colour as a screen shows it, h the way from there to light, G the
factor of exposure, white balance and vignette, and f the camera's response, the inverse of h. h is sRGB's curve after a
curve of the camera's own: piecewise linear through (0, 0) and (1, 1), rising. So a photo of factor 1 is the model's
colour, whatever the curve is. What comes out above 1 is white, as in a photo.

Gradients are made by hand, with no graph: d(photo)/d(colour) = G h'(c) / h'(photo).
"""

from typing import NamedTuple

import torch
from torch import Tensor

TOE, TOE_SLOPE = 0.04045, 1.0 / 12.92
POWER, OFFSET = 2.4, 0.055
"""sRGB (IEC 61966-2-1): a straight toe, then a power."""


def to_light(value: Tensor) -> Tensor:
    """Light of sRGB values; a power beyond 1, straight below 0."""
    power = ((value.clamp_min(TOE) + OFFSET) / (1.0 + OFFSET)) ** POWER
    return torch.where(value <= TOE, TOE_SLOPE * value, power)


def light_slope(value: Tensor) -> Tensor:
    """The derivative of `to_light`."""
    base = (value.clamp_min(TOE) + OFFSET) / (1.0 + OFFSET)
    return torch.where(value <= TOE, TOE_SLOPE, POWER / (1.0 + OFFSET) * base ** (POWER - 1.0))


def of_light(light: Tensor) -> Tensor:
    """The inverse of `to_light`."""
    power = (1.0 + OFFSET) * light.clamp_min(TOE * TOE_SLOPE) ** (1.0 / POWER) - OFFSET
    return torch.where(light <= TOE * TOE_SLOPE, light / TOE_SLOPE, power)


class Curve(NamedTuple):
    """A rising curve of straight pieces over K equal parts of [0, 1], going on straight beyond."""

    slopes: Tensor
    """[K], above 0; their mean is 1."""
    knots: Tensor
    """[K] its values where the pieces begin."""

    @classmethod
    def of(cls, logits: Tensor) -> "Curve":
        """Of slopes [K] as logits: zeros are the straight line."""
        slopes = len(logits) * torch.softmax(logits, dim=0)
        return cls(slopes, (slopes.cumsum(dim=0) - slopes) / len(slopes))

    def at(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Its values and its slopes there."""
        count = len(self.slopes)
        piece = (value * count).nan_to_num(0.0).clamp(0, count - 1).long()
        slopes = self.slopes[piece]
        return self.knots[piece] + slopes * (value - piece / count), slopes

    def inverse(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Where it has these values, and its slopes there."""
        piece = torch.searchsorted(self.knots[1:], value.contiguous(), right=True)
        slopes = self.slopes[piece]
        return piece / len(self.slopes) + (value - self.knots[piece]) / slopes, slopes

    def v_slopes(self, value: Tensor, v_curve: Tensor) -> Tensor:
        """dL/d(slopes) [K] from dL/d(what `at` returned) at these places: how much of each piece lies below them."""
        count = len(self.slopes)
        begins = torch.arange(count, device=value.device, dtype=value.dtype) / count
        covered = value.reshape(-1, 1) - begins
        covered[:, 1:].clamp_(min=0.0)
        covered[:, :-1].clamp_(max=1.0 / count)
        return v_curve.reshape(1, -1) @ covered

    def v_logits(self, v_slopes: Tensor) -> Tensor:
        """dL/d(logits) [K] from dL/d(slopes)."""
        return self.slopes * (v_slopes - (v_slopes * self.slopes).mean())


class Developed(NamedTuple):
    """A photo as it comes of light, with what the way back needs."""

    photo: Tensor
    """[H, W, 3], at most 1."""
    colors: Tensor
    """What it was made of, [H, W, 3]."""
    light: Tensor
    """Times its factor, [H, W, 3]."""
    whole: Tensor
    """The photo before it is cut off at white."""
    slopes: tuple[Tensor, Tensor, Tensor, Tensor]
    """d(bent)/d(color), d(light)/d(bent) with the factor, d(light)/d(bent) of the photo, d(bent)/d(photo)."""

    @classmethod
    def of(cls, colors: Tensor, factors: Tensor, curve: Curve) -> "Developed":
        """Of a model's colours [H, W, 3], factors of light [H, W, 3]."""
        bent, bend = curve.at(colors)
        light = factors * to_light(bent)
        seen = of_light(light)
        whole, unbend = curve.inverse(seen)
        slopes = (bend, factors * light_slope(bent), light_slope(seen), unbend)
        return cls(whole.clamp_max(1.0), colors, light, whole, slopes)

    def backward(self, v_photo: Tensor, curve: Curve) -> tuple[Tensor, Tensor, Tensor]:
        """From dL/d(photo) to dL/d(colors) and dL/d(log of the factors), [H, W, 3] each, and dL/d(slopes) [K].

        Where white was cut off, a gradient that asks for more is 0; one that asks for less counts.
        """
        bend, lighten, seen_slope, unbend = self.slopes
        v_whole = torch.where((self.whole > 1.0) & (v_photo < 0.0), 0.0, v_photo)
        v_seen = v_whole / unbend
        v_light = v_seen / seen_slope
        v_bent = v_light * lighten
        v_slopes = curve.v_slopes(self.colors, v_bent) - curve.v_slopes(self.whole, v_seen)
        return v_bent * bend, v_light * self.light, v_slopes[0]
