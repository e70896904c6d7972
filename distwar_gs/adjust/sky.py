"""What lies behind all Gaussians, learned with them: the environment that views are rendered on.

Not of a photo but of all: a part of the model, which is saved beside its PLY (distwar_gs.formats.sky).
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from distwar_datasets import Scene
from distwar_gs.adjust.photo_values import BETAS, EPS
from distwar_gs.config import Config, SkyConfig
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
        self._moments = [torch.zeros_like(coefficients, requires_grad=False) for _ in range(2)]
        self._steps = torch.zeros((), device=device)

    def camera(self, view: int, camera: Cameras) -> Cameras:
        """The same."""
        return camera

    def image(self, view: int, image: Tensor) -> Tensor:
        """The same: it is in what was rendered."""
        return image

    def backward(self, v_image: Tensor) -> Tensor:
        """The same."""
        return v_image

    @torch.no_grad()
    def step(self, share: float) -> None:
        """See Adjustment. What is not finite in a gradient counts as 0."""
        coefficients = self.environment.coefficients
        assert coefficients.grad is not None
        gradient, coefficients.grad = coefficients.grad.nan_to_num(0.0, 0.0, 0.0), None
        adam(
            [coefficients], [gradient], self._moments[:1], self._moments[1:], [], [self._steps], fused=True,
            amsgrad=False, maximize=False, beta1=BETAS[0], beta2=BETAS[1], lr=sky_rate(self._settings, share),
            weight_decay=0.0, eps=EPS,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """See Adjustment."""
        return self._state()

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See Adjustment."""
        own = self._state()
        if not isinstance(state, dict) or set(state) != set(own):
            raise ValueError("what is learned of the sky lacks a part, or has another one")
        for name, tensor in own.items():
            if not isinstance(state[name], Tensor) or state[name].shape != tensor.shape:
                raise ValueError(f"{name} of the sky is not of shape {[*tensor.shape]}: keep sky.degree")
        for name, tensor in own.items():
            tensor.copy_(state[name])

    def _state(self) -> dict[str, Tensor]:
        first, second = self._moments
        coefficients = self.environment.coefficients.detach()
        return {"coefficients": coefficients, "exp_avg": first, "exp_avg_sq": second, "steps": self._steps}


def sky_rate(settings: SkyConfig, share: float) -> float:
    """The learning rate when a share of the run is done: falls exponentially."""
    return settings.lr * math.exp(share * math.log(settings.lr_final / settings.lr))


def make_sky(config: Config, scene: Scene, device: torch.device) -> Sky | None:
    """A row of ADJUSTMENTS."""
    return Sky(config.sky, device) if config.data.background == "learned" else None
