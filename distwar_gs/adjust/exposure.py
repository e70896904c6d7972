"""Exposure: a colour matrix and an offset for each photo, as the exposure compensation of 3DGS
(graphdeco-inria/gaussian-splatting, October 2024; Kerbl et al. 2024, "A Hierarchical 3D Gaussian Representation").

Gradients are made by hand: no graph, two small products of matrices.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distwar_datasets import Scene
from distwar_gs.adjust.photo_values import PhotoValues
from distwar_gs.config import AppearanceConfig, Config
from distwar_kernels import Cameras


def affine(image: Tensor, matrix: Tensor) -> Tensor:
    """`matrix` [3, 4] @ (r, g, b, 1) of each pixel of an image [H, W, 3]."""
    pixels = image.reshape(-1, 3)
    return torch.addmm(matrix[:, 3], pixels, matrix[:, :3].T).reshape(image.shape)


def affine_backward(image: Tensor, matrix: Tensor, v_image: Tensor) -> tuple[Tensor, Tensor]:
    """From dL/d(what `affine` returned) [H, W, 3] to dL/d(image) [H, W, 3] and dL/d(matrix) [3, 4]."""
    pixels, v_pixels = image.reshape(-1, 3), v_image.reshape(-1, 3)
    v_matrix = torch.cat([v_pixels.T @ pixels, v_pixels.sum(dim=0)[:, None]], dim=1)
    return (v_pixels @ matrix[:, :3]).reshape(image.shape), v_matrix


def exposure_rate(settings: AppearanceConfig, share: float) -> float:
    """The learning rate when a share of the run is done: falls exponentially."""
    return settings.exposure_lr * (settings.exposure_lr_final / settings.exposure_lr) ** share


class Exposure:
    """An adjustment (distwar_gs.adjust.base)."""

    name = "exposure"

    def __init__(self, photos: int, settings: AppearanceConfig, device: torch.device) -> None:
        """Of so many photos."""
        self._settings = settings
        self.matrices = PhotoValues(torch.eye(3, 4, device=device), photos)
        """[3, 4] of each: the colour matrix, and the offset as the last column."""

    def camera(self, view: int, camera: Cameras) -> Cameras:
        """The same."""
        return camera

    @torch.no_grad()
    def image(self, view: int, image: Tensor) -> Tensor:
        """See Adjustment."""
        self._view, self._image, self._matrix = view, image, self.matrices.of(view)
        return affine(image, self._matrix)

    @torch.no_grad()
    def backward(self, v_image: Tensor) -> Tensor:
        """See Adjustment."""
        v_rendered, self._v_matrix = affine_backward(self._image, self._matrix, v_image)
        del self._image
        return v_rendered

    def step(self, share: float) -> None:
        """See Adjustment."""
        self.step_of(self._view, self.noted(), share)

    def noted(self) -> list[Tensor]:
        """See SharedAdjustment."""
        return [self._v_matrix]

    @torch.no_grad()
    def step_of(self, view: int, noted: Sequence[Tensor], share: float) -> None:
        """See SharedAdjustment."""
        self.matrices.step(view, noted[0], exposure_rate(self._settings, share))

    def state_dict(self) -> dict[str, Any]:
        """See Adjustment."""
        return self.matrices.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See Adjustment."""
        self.matrices.load_state_dict(state)


def make_exposure(config: Config, scene: Scene, device: torch.device) -> Exposure | None:
    """A row of ADJUSTMENTS."""
    if config.appearance.model != "exposure":
        return None
    return Exposure(len(scene.train), config.appearance, device)
