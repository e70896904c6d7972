"""Adjustments: what is learned beside the Gaussians, between camera and render, and between render and photo.

Appearance (a gain for each photo, a bilateral grid) changes the image that is compared; poses change the camera.
Neither is part of the model that is exported: test views are rendered without them. A sky is: it is what they have
behind them.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from distwar_datasets import Scene
from distwar_gs.adjust.bilateral import make_bilateral
from distwar_gs.adjust.exposure import make_exposure
from distwar_gs.adjust.physical import make_physical
from distwar_gs.adjust.poses import make_poses
from distwar_gs.adjust.sky import make_sky
from distwar_gs.config import Config
from distwar_kernels import Cameras


class Adjustment(Protocol):
    """What a training step walks through. A step calls, in this order: `camera`, `image`, `backward`, `step`."""

    name: str
    """Of its part in a checkpoint, `adjust.NAME`."""

    def camera(self, view: int, camera: Cameras) -> Cameras:
        """The camera (C = 1) to render a training view with, by the view's index. If its viewmats are a leaf that
        requires a gradient, `grad` has dL/d(viewmats) [1, 4, 4] when `step` is called."""

    def image(self, view: int, image: Tensor) -> Tensor:
        """What is compared with the photo, of what was rendered: [H, W, 3] both; `image` is not changed."""

    def backward(self, v_image: Tensor) -> Tensor:
        """From dL/d(what `image` returned last) [H, W, 3] to dL/d(what was rendered); notes its own gradients."""

    def step(self, share: float) -> None:
        """Changes its own parameters by the gradients that it has noted, with its own learning rate. `share`: of the
        run that is done when the step is, from 0 to 1."""

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: plain values. It is the same on all ranks."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a checkpoint. Raises ValueError if it is another run's."""


class SharedAdjustment(Adjustment, Protocol):
    """An adjustment that several ranks can have: each has a copy of all values, and makes the steps of all views."""

    def noted(self) -> list[Tensor]:
        """The gradients that this rank's view has left, of shapes that are the same for all views. Once a step."""

    def step_of(self, view: int, noted: Sequence[Tensor], share: float) -> None:
        """A step by what the rank that shows `view` has noted; `share` as for `step`."""


Maker = Callable[[Config, Scene, torch.device], Adjustment | None]
"""Of a config and a scene: the adjustment, or None where the config does not ask for it."""

ADJUSTMENTS: tuple[Maker, ...] = (make_poses, make_sky, make_exposure, make_bilateral, make_physical)
"""In the order in which a step walks through them; backward in the opposite one."""


def make_adjustments(config: Config, scene: Scene, device: torch.device) -> list[Adjustment]:
    """Those that a configuration asks for."""
    made = (make(config, scene, device) for make in ADJUSTMENTS)
    return [adjustment for adjustment in made if adjustment is not None]
