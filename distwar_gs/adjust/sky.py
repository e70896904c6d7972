"""What lies behind all Gaussians, learned with them: the environment that views are rendered on.

Not of a photo but of all: a part of the model, which is saved beside its PLY (distwar_gs.formats.sky).
"""

from typing import Any

import torch
from torch import Tensor

from distwar_datasets import Scene
from distwar_gs.adjust.shared_values import SharedValues
from distwar_gs.config import Config, ConfigError, SkyConfig
from distwar_gs.rendering.environment import Environment
from distwar_kernels import Cameras


class Sky:
    """An adjustment (distwar_gs.adjust.base) of which engines know: they leave its gradient in its coefficients."""

    name = "sky"

    def __init__(self, settings: SkyConfig, device: torch.device) -> None:
        """Gray all around."""
        self._settings = settings
        coefficients = torch.zeros((settings.degree + 1) ** 2, 3, device=device, requires_grad=True)
        self.environment = Environment(coefficients)
        self._learned = SharedValues(coefficients, "the sky (sky.degree must stay)")

    def camera(self, view: int, camera: Cameras) -> Cameras:
        """The same."""
        return camera

    def image(self, view: int, image: Tensor) -> Tensor:
        """The same: it is in what was rendered."""
        return image

    def backward(self, v_image: Tensor) -> Tensor:
        """The same."""
        return v_image

    def step(self, share: float) -> None:
        """See Adjustment."""
        gradient, self.environment.coefficients.grad = self.environment.coefficients.grad, None
        assert gradient is not None
        self._learned.step(gradient, sky_rate(self._settings, share))

    def state_dict(self) -> dict[str, Any]:
        """See Adjustment."""
        return self._learned.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See Adjustment."""
        self._learned.load_state_dict(state)


def sky_rate(settings: SkyConfig, share: float) -> float:
    """The learning rate when a share of the run is done: falls exponentially."""
    return settings.lr * (settings.lr_final / settings.lr) ** share


def make_sky(config: Config, scene: Scene, device: torch.device) -> Sky | None:
    """A row of ADJUSTMENTS. Raises ConfigError where photos are not pinhole images: every step would wait for the host,
    which works out where the pixels of a lens look."""
    if config.data.background != "learned":
        return None
    if any(view.lens for view in scene.train):
        raise ConfigError(
            "data.background is learned, which takes pinhole images, and the lens of these photos bends: add --set "
            "data.undistort=always, or give black, white or random"
        )
    return Sky(config.sky, device)
