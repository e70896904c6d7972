"""The engine of the fused rasteriser; see Engine and Rendered in distwar_gs.engines.base."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Adam

import distwar_kernels as kernels
from distwar_gs.engines.depth import expected_depth, image_and_depth_gradients, scored
from distwar_gs.engines.gradients import errors_of, image_gradient
from distwar_gs.engines.timing import StepTimer
from distwar_gs.gaussians.optimizer import moments_of, set_steps, step_all
from distwar_gs.rendering.environment import Backdrop
from distwar_gs.rendering.renderer import FUSED, Rendering, RenderSettings
from distwar_gs.strategies.base import Strategy
from distwar_kernels import Cameras
from distwar_kernels.fused import fused
from distwar_kernels.fused.capacity import BufferSizes


@dataclass(frozen=True)
class FusedRendered:
    """See Rendered."""

    step: int
    view: fused.Rendered
    adam: fused.AdamStep | None
    """The step to come, by which it was drawn; None for torch's Adam."""
    backdrop: Backdrop | None = None
    """What is behind the Gaussians, where that is an environment."""

    @property
    def image(self) -> Tensor:
        """See Rendered."""
        image = self.view.image if not self.view.options.with_depth else self.view.image[..., :3].contiguous()
        return self.backdrop.behind(image, self.view.transmittances) if self.backdrop else image

    @property
    def depth(self) -> tuple[Tensor, Tensor]:
        """See Rendered."""
        return expected_depth(self.view)

    def coverage(self) -> float:
        """See Rendered."""
        return float((self.view.transmittances < 1).float().mean())


class FusedEngine:
    """The fused rasteriser, and no autograd.

    Unless `adam` is "dense" the way back from the blend and Adam are one kernel, and no gradient is ever stored.
    """

    def __init__(
        self,
        params: dict[str, Parameter],
        optimizers: Mapping[str, Adam],
        strategy: Strategy,
        settings: RenderSettings,
        *,
        adam: str = "lazy",
        deterministic: bool = False,
    ) -> None:
        """Work on these; they stay the trainer's."""
        self.params, self.optimizers, self.strategy, self.settings = params, optimizers, strategy, settings
        self.sizes = BufferSizes()
        self._adam, self._deterministic = adam, deterministic
        self._largest = 0  # pixels of an image so far
        self._last_steps: Tensor | None = None  # of lazy Adam; None: all Gaussians are up to the last step

    def forward(
        self, step: int, camera: Cameras, sh_degree: int, background: Tensor, *together: Cameras,
        with_depth: bool = False,
    ) -> FusedRendered:  # fmt: skip
        """See Engine. Synchronises once to size its buffers, and at every step in deterministic mode, where overflow
        must be detected at a fixed step."""
        options, adam = self.settings.draw_options(sh_degree, background, with_depth), None
        if self._adam != "dense":
            adam = self._step_of_adam(step, self._missing_since(step) if self._adam == "lazy" else None)
        is_first = self._note_size(camera.width * camera.height)
        if not is_first and not self._deterministic:
            view = fused.render_what_fits(self._parameters(), camera, options, self.sizes, adam)
        else:
            view = fused.render_whole(fused.checked(self.params, camera), camera, options, self.sizes, adam)
        return FusedRendered(step, view, adam, self._backdrop(camera))

    def update(self, rendered: FusedRendered, gradients: Mapping[str, Tensor], timer: StepTimer) -> None:
        """See Engine. The time from the blend to the new parameters is `optimizer`'s."""
        absgrad = self.settings.absgrad
        statistics = self.strategy.statistics(rendered.step)
        errors, with_depth = errors_of(gradients, statistics, rendered.step), rendered.view.options.with_depth
        v_image = image_gradient(gradients, with_depth)
        v_behind = self._environment_backward(rendered, v_image)
        if with_depth:
            records = self._blend_backward_with_depth(rendered.view, v_image, gradients.get("depth"), v_behind)
            statistics = scored(rendered.view, statistics, errors)
        else:
            records = self._blend_backward(rendered.view, v_image, v_behind, errors)
        timer.mark("blend_backward")
        viewmats = rendered.view.camera.viewmats
        v_viewmats = torch.empty_like(viewmats) if viewmats.requires_grad else None
        if rendered.adam is None:
            dense = fused.gradients(rendered.view, records, absgrad, statistics, v_viewmats)
            for name, gradient in zip(fused.PARAMETERS, dense, strict=True):
                self.params[name].grad = gradient
            timer.mark("backward")
            self.strategy.regularize(self.params)
            step_all(self.optimizers)
        else:
            fused.step(rendered.view, records, absgrad, statistics, rendered.adam, v_viewmats)
        viewmats.grad = v_viewmats
        timer.mark("optimizer")

    @torch.no_grad()
    def look(
        self, step: int, camera: Cameras, sh_degree: int, background: Tensor, *, with_depth: bool = False,
        features: Tensor | None = None,
    ) -> Rendering:  # fmt: skip
        """See Engine. Gaussians are drawn where dense Adam would have them; the steps they lack are not written."""
        pending = None
        if self._last_steps is not None:
            made = self._step_of_adam(step, self._last_steps)  # its rates and bias corrections are those of `settle`
            pending = replace(made, t=step + 1)
        return FUSED.render(
            self.params, camera, self.settings, sh_degree=sh_degree, background=background, with_depth=with_depth,
            features=features, adam=pending,
        )  # fmt: skip

    @property
    def skipped(self) -> int:
        """See Engine; those whose counts have reached the host."""
        return self.sizes.overflows

    def settle(self, step: int) -> None:
        """See Engine."""
        if self._adam == "dense" or step == 0:
            return
        if self._last_steps is not None:
            fused.catch_up(self._parameters(), self._step_of_adam(step, self._last_steps))
            self._last_steps = None
        set_steps(self.optimizers, step)

    def _note_size(self, pixels: int) -> bool:
        """Prepares the buffers for an image of so many pixels; whether it is the first."""
        is_first = self._largest == 0
        if pixels > self._largest:
            if not is_first:
                self.sizes.expect_larger(pixels / self._largest)
            self._largest = pixels
        return is_first

    def _parameters(self) -> list[Tensor]:
        return [self.params[name] for name in fused.PARAMETERS]

    def _missing_since(self, step: int) -> Tensor:
        if self._last_steps is None:
            means = self.params["means"]
            self._last_steps = torch.full((len(means),), step - 1, dtype=torch.int32, device=means.device)
        return self._last_steps

    @torch.no_grad()
    def _backdrop(self, camera: Cameras) -> Backdrop | None:
        environment = self.settings.environment
        return environment.backdrop(camera) if environment else None

    @torch.no_grad()
    def _environment_backward(self, rendered: FusedRendered, v_image: Tensor) -> Tensor | None:
        """Leaves dL/d(coefficients) in the environment's; returns dL/d(transmittances), if there is one."""
        if rendered.backdrop is None or self.settings.environment is None:
            return None
        v_coefficients, v_transmittances = rendered.backdrop.backward(v_image, rendered.view.transmittances)
        self.settings.environment.coefficients.grad = v_coefficients
        return v_transmittances

    def _blend_backward_with_depth(
        self, view: fused.Rendered, v_image: Tensor, v_depth: Tensor | None, v_behind: Tensor | None
    ) -> Tensor:
        v_depth = torch.zeros_like(view.transmittances) if v_depth is None else v_depth
        v_blended, v_transmittances = image_and_depth_gradients(view, v_image, v_depth)
        v_transmittances = v_transmittances if v_behind is None else v_transmittances + v_behind
        return self._blend_backward(view, v_blended, v_transmittances, None)

    def _blend_backward(
        self, view: fused.Rendered, v_image: Tensor, v_transmittances: Tensor | None, errors: Tensor | None
    ) -> Tensor:
        absgrad = self.settings.absgrad
        reduction, tuner = kernels.resolve(self.settings.reduction, v_image.device)
        if tuner:
            tuner.watch_gradient(
                v_image, len(view.parameters[0]), lambda v, r: fused.blend_backward(view, v, absgrad, r)
            )
        return fused.blend_backward(view, v_image, absgrad, reduction, self._deterministic, errors, v_transmittances)

    def _step_of_adam(self, step: int, last_steps: Tensor | None) -> fused.AdamStep:
        groups = [self.optimizers[name].param_groups[0] for name in fused.PARAMETERS]
        # Where Adam leaves out what is not seen there is nobody to pay.
        prices = self.strategy.prices(len(self.params["means"])) if self._adam == "lazy" else (0.0, 0.0)
        rates = fused.adam_rates([group["lr"] for group in groups], groups[0]["betas"], groups[0]["eps"], step, prices)
        return fused.AdamStep(moments_of(self.optimizers, fused.PARAMETERS), rates, last_steps, step)
