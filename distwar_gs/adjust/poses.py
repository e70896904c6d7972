"""Poses of the training photos: a small motion of each camera (distwar_gs.adjust.rigid), learned with the Gaussians.

Motions are in the world's frame, turns in radians and shifts in scene extents: at a distance of about an extent both
move the picture alike, so they have one learning rate. Each photo has an Adam of its own (PhotoValues).

Gauge. Cameras and Gaussians turned, shifted or scaled together give the same photos, so nothing holds these seven
numbers but where everything began; left alone they drift, and test cameras, which are not refined, are left behind.
So after each step that part of all motions is taken out: the mean turn (with the shifts that go with it about the
middle of the cameras), the mean shift, and the mean growth. To hold the first camera instead would turn and shift
everything by that one camera's own error. The part is taken out exactly, by numbers that all photos share, so a step
costs the same for 100 photos and for 10,000.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distwar_datasets import Scene, View
from distwar_gs.adjust.photo_values import PhotoValues, rate_factor
from distwar_gs.adjust.rigid import motion_gradient, moved
from distwar_gs.config import Config, PosesConfig
from distwar_kernels import Cameras


class Poses:
    """An adjustment (distwar_gs.adjust.base)."""

    name = "poses"

    def __init__(self, centers: Tensor, extent: float, settings: PosesConfig) -> None:
        """Of cameras at `centers` [V, 3], in the frame of the means; `extent`: the scene's in that frame."""
        self._settings, self._extent, self._centers = settings, extent, centers
        arms = (centers.double() - centers.double().mean(dim=0)) / extent
        self._arms = arms.to(centers)
        self._spread = float(arms.square().sum()) or 1.0  # 0: all cameras at one place, which cannot grow
        self.motions = PhotoValues(torch.zeros(6, device=centers.device), len(centers))
        """[6] of each: turn and shift, before what the gauge takes out beyond their means."""
        self.growth = torch.zeros((), device=centers.device)
        """Of all motions: how much the cameras have moved away from their middle, as a share of the distance."""

    def motion(self, view: int) -> Tensor:
        """[6] of a photo: the turn (distwar_gs.adjust.rigid), and the shift in units of the means."""
        value, arm = self.motions.of(view), self._arms[view]
        shift = value[3:] - torch.linalg.cross(self.motions.shift[:3], arm) - self.growth * arm
        return torch.cat([value[:3], self._extent * shift])

    def camera(self, view: int, camera: Cameras) -> Cameras:
        """See Adjustment."""
        self._view, self._before, self._motion = view, camera.viewmats[0], self.motion(view)
        self._viewmats = moved(self._before, self._centers[view], self._motion)[None].requires_grad_()
        return camera._replace(viewmats=self._viewmats)

    def image(self, view: int, image: Tensor) -> Tensor:
        """The same."""
        return image

    def backward(self, v_image: Tensor) -> Tensor:
        """The same."""
        return v_image

    def step(self, share: float) -> None:
        """See Adjustment."""
        self.step_of(self._view, self.noted(), share)

    @torch.no_grad()
    def noted(self) -> list[Tensor]:
        """See SharedAdjustment."""
        gradient, view = self._viewmats.grad, self._view
        assert gradient is not None
        v_motion = motion_gradient(self._before, self._centers[view], self._motion, gradient[0])
        v_motion[3:] *= self._extent
        del self._viewmats, self._before
        return [v_motion]

    @torch.no_grad()
    def step_of(self, view: int, noted: Sequence[Tensor], share: float) -> None:
        """See SharedAdjustment."""
        rate = pose_rate(self._settings, share) / rate_factor(self.motions.count)
        change = self.motions.step(view, noted[0], rate)
        self.growth.add_(change[3:].dot(self._arms[view]), alpha=1.0 / self._spread)

    def refined(self, views: Sequence[View]) -> tuple[View, ...]:
        """The training views, all of them in order, with the poses as they are learned, in float64."""
        return tuple(replace(view, viewmat=self._refined(index, view)) for index, view in enumerate(views))

    def _refined(self, index: int, view: View) -> np.ndarray:
        motion = self.motion(index).double().cpu()
        return moved(torch.from_numpy(view.viewmat), torch.from_numpy(view.center), motion).numpy()

    def state_dict(self) -> dict[str, Any]:
        """See Adjustment."""
        return {"motions": self.motions.state_dict(), "growth": self.growth}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See Adjustment."""
        if not isinstance(state, dict) or set(state) != {"motions", "growth"}:
            raise ValueError("what is learned of poses lacks a part, or has another one")
        if not isinstance(state["growth"], Tensor) or state["growth"].shape != self.growth.shape:
            raise ValueError("the growth of poses is not a number")
        self.motions.load_state_dict(state["motions"])
        self.growth.copy_(state["growth"])


def pose_rate(settings: PosesConfig, share: float) -> float:
    """How far a camera may move at a step, when a share of the run is done: rises at first, falls exponentially."""
    warmth = min(share / settings.warm_up, 1.0) if settings.warm_up > 0.0 else 1.0
    return warmth * settings.lr * (settings.lr_final / settings.lr) ** share


def make_poses(config: Config, scene: Scene, device: torch.device) -> Poses | None:
    """A row of ADJUSTMENTS."""
    if not config.poses.refine:
        return None
    centers = torch.from_numpy(np.stack([view.center for view in scene.train])).float().to(device)
    return Poses(centers, scene.extent, config.poses)
