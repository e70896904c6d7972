"""What a camera does to light, learned in its own terms: of each photo exposure and white balance, of each camera the
vignette, of all the response curve (distwar_gs.adjust.developing).

Goldman 2010, "Vignette and Exposure Calibration and Compensation" (PAMI), has this model: an exposure, a radial
polynomial, a curve. Three numbers a photo, where a matrix has 12 and a bilateral grid 24,588: little that Gaussians
should learn can go there. Factors of light are learned as logarithms: log G = e + a1 r^2 + a2 r^4 + a3 r^6, with r from
the principal point, 1 half a diagonal away.

What photos cannot tell is held: the mean of e over the photos is 0, G is 1 in the middle of a photo of mean exposure,
the curve goes through (0, 0) and (1, 1), and a pull holds vignette and curve near none where little is known.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distwar_datasets import Scene, View
from distwar_gs.adjust.developing import Curve, Developed
from distwar_gs.adjust.exposure import exposure_rate
from distwar_gs.adjust.photo_values import PhotoValues
from distwar_gs.adjust.shared_values import SharedValues
from distwar_gs.config import AppearanceConfig, Config
from distwar_kernels import Cameras

PIECES = 8
"""Of the response curve."""
TERMS = 3
"""Of the vignette's polynomial in r^2, from the first power on."""
LIGHT = 8.0
"""A step of the logarithm of light is as large as so many of a number in a matrix: values are about the root of light,
and of a matrix four numbers move together."""
WAIT, WARM_UP = 0.05, 0.05
"""Shares of the run in which vignette and curve stay none, and in which their rate rises: at first Gaussians cover the
middle of photos better than their corners, which would be taken for a vignette."""
FINAL = 0.1
"""What the rate of vignette and curve falls to by the end, as a share."""


class Physical:
    """An adjustment (distwar_gs.adjust.base)."""

    name = "physical"

    def __init__(self, views: Sequence[View], settings: AppearanceConfig, device: torch.device) -> None:
        """Of these photos."""
        self._settings = settings
        ids = sorted({view.camera_id for view in views})
        self._cameras = [ids.index(view.camera_id) for view in views]
        self._centers = [(view.K[0, 2] / view.width, view.K[1, 2] / view.height) for view in views]
        self.exposures = PhotoValues(torch.zeros(3, device=device), len(views))
        """[3] of each: logarithms of the factors of red, green and blue."""
        self.vignettes = SharedValues(torch.zeros(len(ids), TERMS, device=device), "the vignettes of cameras")
        self.response = SharedValues(torch.zeros(PIECES, device=device), "the response curve")

    def camera(self, view: int, camera: Cameras) -> Cameras:
        """The same."""
        return camera

    @torch.no_grad()
    def image(self, view: int, image: Tensor) -> Tensor:
        """See Adjustment."""
        self._view, self._powers = view, radial_powers(image, *self._centers[view])
        falloff = self._powers @ self.vignettes.values[self._cameras[view]]
        factors = (falloff[..., None] + self.exposures.of(view)).exp()
        self._curve = Curve.of(self.response.values)
        self._made = Developed.of(image, factors, self._curve)
        return self._made.photo

    @torch.no_grad()
    def backward(self, v_image: Tensor) -> Tensor:
        """See Adjustment."""
        v_rendered, v_logs, v_slopes = self._made.backward(v_image, self._curve)
        self._v_exposure = v_logs.sum(dim=(0, 1))
        self._v_vignette = v_logs.sum(dim=-1).reshape(1, -1) @ self._powers.reshape(-1, TERMS)
        self._v_response = self._curve.v_logits(v_slopes)
        del self._made, self._powers
        return v_rendered

    @torch.no_grad()
    def step(self, share: float) -> None:
        """See Adjustment."""
        settings = self._settings
        self.exposures.step(self._view, self._v_exposure, LIGHT * exposure_rate(settings, share))
        v_vignettes = settings.physical_pull * self.vignettes.values
        v_vignettes[self._cameras[self._view]] += self._v_vignette[0]
        rate = settings.physical_lr * shared_rate(share)
        self.vignettes.step(v_vignettes, rate)
        self.response.step(self._v_response + settings.physical_pull * self.response.values, rate)

    def state_dict(self) -> dict[str, Any]:
        """See Adjustment."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See Adjustment."""
        if not isinstance(state, dict) or set(state) != set(self._parts()):
            raise ValueError("what is learned of cameras lacks a part, or has another one")
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, PhotoValues | SharedValues]:
        return {"exposures": self.exposures, "vignettes": self.vignettes, "response": self.response}


def shared_rate(share: float) -> float:
    """The rate of vignette and curve as a share of the one that is set, when a share of the run is done."""
    return min(max(share - WAIT, 0.0) / WARM_UP, 1.0) * FINAL**share


def radial_powers(image: Tensor, x: float, y: float) -> Tensor:
    """r^2, r^4, r^6 of each pixel of an image [H, W, 3]: [H, W, TERMS]; r from the principal point, which lies at these
    shares of width and height, in half diagonals."""
    height, width = image.shape[:2]
    options: dict[str, Any] = {"dtype": image.dtype, "device": image.device}
    across = torch.arange(width, **options) + (0.5 - x * width)
    down = torch.arange(height, **options) + (0.5 - y * height)
    squares = (across.square() + down.square()[:, None]) * (4.0 / (width**2 + height**2))
    return torch.stack([squares**power for power in range(1, TERMS + 1)], dim=-1)


def make_physical(config: Config, scene: Scene, device: torch.device) -> Physical | None:
    """A row of ADJUSTMENTS."""
    if config.appearance.model != "physical":
        return None
    return Physical(scene.train, config.appearance, device)
