"""The camera of a test view brought to where the model sees its photo, to measure it there.

What is refined are the cameras of training photos; those of test photos stay, and are off as they were. A picture that
is shifted by a pixel costs decibels, though the model may be right. So where poses are refined, test views are measured
a second time after the pose of each was fitted to its photo, the model as it is: what BARF (Lin et al. 2021), NeRF--
(Wang et al. 2021) and their successors report. It can hide a scene that is bent, and gains a little where nothing was
off: hence both numbers, never the aligned one alone.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from distwar_datasets import View
from distwar_gs.adjust.rigid import motion_gradient, moved
from distwar_gs.evaluation.losses import photometric_gradient
from distwar_gs.gaussians.model import sh_degree_of
from distwar_gs.rendering.renderer import RenderSettings, render
from distwar_gs.rendering.views import camera_of
from distwar_kernels import Cameras

STEPS = 100
RATE, RATE_FINAL = 2e-3, 2e-5
"""Of Adam, which begins with the pose as it is: radians and scene extents."""
BETAS, EPS = (0.9, 0.999), 1e-15


class Aligner:
    """Renders views of a model from where it sees their photos."""

    def __init__(
        self,
        params: Mapping[str, Tensor],
        settings: RenderSettings,
        background: Tensor,
        extent: float,
        lambda_dssim: float,
    ) -> None:
        """Of Gaussians on `background` [3]; `extent`: the scene's, in the frame of the means. Photos are compared by
        the loss of training."""
        self._params = {name: tensor.detach() for name, tensor in params.items()}
        self._settings, self._background = settings, background
        self._extent, self._weight = extent, lambda_dssim

    def __call__(self, view: View, photo: Tensor, kept: Tensor | None) -> Tensor:
        """The view [H, W, 3] from its fitted pose; `photo` uint8 [H, W, 3], `kept` bool [H, W], which pixels count."""
        camera = camera_of(view, self._background.device)
        center = torch.from_numpy(view.center).to(camera.viewmats)
        motion = self._fitted(camera, center, photo.to(center.device), kept)
        return self._draw(camera._replace(viewmats=moved(camera.viewmats[0], center, motion)[None]))

    @torch.no_grad()
    def _fitted(self, camera: Cameras, center: Tensor, photo: Tensor, kept: Tensor | None) -> Tensor:
        """The motion [6] of the least loss of all that were tried, the pose as it is among them."""
        motion = torch.zeros(6, device=center.device)
        optimizer = torch.optim.Adam([motion], lr=RATE, betas=BETAS, eps=EPS)
        best, least = motion.clone(), torch.full((), torch.inf, device=center.device)
        for step in range(STEPS + 1):
            optimizer.param_groups[0]["lr"] = RATE * (RATE_FINAL / RATE) ** (step / STEPS)
            loss, gradient = self._loss(camera, center, motion, photo, kept)
            best, least = torch.where(loss < least, motion, best), torch.minimum(loss, least)
            motion.grad = gradient
            optimizer.step()
        return self._in_units(best)

    def _in_units(self, motion: Tensor) -> Tensor:
        """Its shift in units of the means, not in extents."""
        return torch.cat([motion[:3], self._extent * motion[3:]])

    def _loss(
        self, camera: Cameras, center: Tensor, motion: Tensor, photo: Tensor, kept: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The loss, and its gradient in the motion [6]."""
        in_units, before = self._in_units(motion), camera.viewmats[0]
        viewmats = moved(before, center, in_units)[None].requires_grad_()
        with torch.enable_grad():
            image = self._draw(camera._replace(viewmats=viewmats))
        v_image, losses = photometric_gradient(image, photo, self._weight, None, kept)
        (v_viewmats,) = torch.autograd.grad(image, viewmats, v_image)
        v_motion = motion_gradient(before, center, in_units, v_viewmats[0]).nan_to_num(0.0, 0.0, 0.0)
        v_motion[3:] *= self._extent
        return losses["loss"], v_motion

    def _draw(self, camera: Cameras) -> Tensor:
        degree = sh_degree_of(self._params)
        return render(self._params, camera, self._settings, sh_degree=degree, background=self._background).colors[0]


Aligned = Callable[[View, Tensor, Tensor | None], Tensor]
"""What `Aligner` is to who measures: view, photo, which pixels count, to an image."""
