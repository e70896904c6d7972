"""A model through a lens of one's own: 360-degree pictures and films, fisheyes for domes, plans, two eyes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from distwar_datasets.lenses import MOST_ANGLE, Lens
from distwar_gs.rendering.renderer import Rendering
from distwar_gs.system.errors import ConfigError
from distwar_gs.viewing.path_views import Size, asked_size

if TYPE_CHECKING:
    from distwar_datasets.scene import View
    from distwar_gs.viewing.render_args import RenderArgs

USUAL_FOV = {"pinhole": 90.0, "fisheye": 180.0}
"""Degrees across the picture, where --fov does not say."""
WIDEST_FOV = {"pinhole": 170.0, "fisheye": 355.0}
_PLAN_EXTENTS = 3.0  # scene extents across a picture of parallel rays


@dataclass(frozen=True)
class ChosenLens:
    """What `render.py --lens` and the options beside it ask for."""

    name: str
    """One of `render_args.LENSES`."""
    fov: float | None = None
    """Degrees across the picture; None: as usual."""
    apart: float | None = None
    """How far two eyes are apart, in units of the frame; None: one eye."""
    asked: Size = (None, None)

    def __post_init__(self) -> None:
        """Raises ConfigError for a field of view that the lens cannot have, and for two eyes where there is one."""
        if self.fov is not None and self.name not in WIDEST_FOV:
            raise ConfigError(f"--fov is for {' and '.join(WIDEST_FOV)}: what --lens {self.name} shows is fixed")
        if self.fov is not None and not 1.0 <= self.fov <= WIDEST_FOV[self.name]:
            raise ConfigError(f"--fov {self.fov:g}: a {self.name} lens takes 1 to {WIDEST_FOV[self.name]:g} degrees")
        if self.apart is not None and self.name == "equirectangular":
            raise ConfigError("--stereo: two panoramas side by side show no depth to the sides; use --lens fisheye")

    @classmethod
    def of(cls, args: RenderArgs) -> ChosenLens | None:
        """What the arguments ask for; None for the lens of the photos. Raises ConfigError as it is made."""
        return cls(args.lens, args.fov, args.stereo, (args.width, args.height)) if args.lens else None

    def of_frame(self, scale: float) -> ChosenLens:
        """With eyes apart in units of the training frame, of those of the input: `scale` of the former in one."""
        return self if self.apart is None else replace(self, apart=scale * self.apart)

    def view(self, view: View, extent: float) -> View:
        """What is seen from where a view is. extent: of the scene, in the training frame."""
        width, height = asked_size(self.asked, self._shape(view))
        placed = replace(view, width=width, height=height, mask=None)
        if self.name == "pinhole":
            focal = 0.5 * width / math.tan(0.5 * math.radians(self._fov))
            K = np.array([[focal, 0.0, 0.5 * width], [0.0, focal, 0.5 * height], [0.0, 0.0, 1.0]])
            return replace(placed, K=K, lens=None)
        lens = Lens(self.name, self._numbers(width, height, extent))
        return replace(placed, K=lens.K, lens=lens)

    def eyes(self, view: View) -> Sequence[View]:
        """The view, or what the left and the right eye see from there."""
        if self.apart is None:
            return [view]
        both = []
        for side in (0.5, -0.5):  # a camera farther left has everything farther right
            viewmat = view.viewmat.copy()
            viewmat[0, 3] += side * self.apart
            both.append(replace(view, viewmat=viewmat))
        return both

    @property
    def _fov(self) -> float:
        return USUAL_FOV[self.name] if self.fov is None else self.fov

    def _shape(self, view: View) -> tuple[int, int]:
        """Width and height in the shape that pictures of this lens have, as high as the photo."""
        return {"equirectangular": (2 * view.height, view.height), "fisheye": (view.height, view.height)}.get(
            self.name, (view.width, view.height)
        )

    def _numbers(self, width: int, height: int, extent: float) -> tuple[float, ...]:
        center = (0.5 * width, 0.5 * height)
        if self.name == "equirectangular":
            return (width / math.tau, height / math.pi, *center)
        if self.name == "orthographic":
            return (width / (_PLAN_EXTENTS * extent),) * 2 + center
        angle = 0.5 * math.radians(self._fov)
        focal = 0.5 * width / angle
        return (focal, focal, *center, *[0.0] * 12, math.pi, min(1.2 * angle + 0.1, MOST_ANGLE), 1.0)

    def finished(self, seen: Sequence[Rendering], view: View) -> Rendering:
        """One picture of what the eyes have seen, side by side; dark outside the circle of a fisheye."""
        circles = [self._circled(rendering, view) for rendering in seen]
        return circles[0] if len(circles) == 1 else _beside(*circles)

    def _circled(self, rendering: Rendering, view: View) -> Rendering:
        if self.name != "fisheye":
            return rendering
        device = rendering.colors.device
        across, down = (torch.arange(side, device=device) + 0.5 - 0.5 * side for side in (view.width, view.height))
        kept = (across.square() + down[:, None].square() <= (0.5 * view.width) ** 2)[None, ..., None]
        return _each(lambda images: images[0] * kept, rendering)


def _beside(left: Rendering, right: Rendering) -> Rendering:
    return _each(lambda images: torch.cat(images, dim=2), left, right)


def _each(change: Callable[[list[Tensor]], Tensor], *renderings: Rendering) -> Rendering:
    """One of all images of renderings, [1, H, W, ..] each."""

    def changed(name: str) -> Tensor | None:
        images = [getattr(rendering, name) for rendering in renderings]
        return None if images[0] is None else change(images)

    colors, alphas = (change([getattr(one, name) for one in renderings]) for name in ("colors", "alphas"))
    return Rendering(colors, alphas, changed("depths"), changed("features"))
