"""How a training step renders and updates: by the fused rasteriser, or by the ops one after another and autograd.

Both do the same work in the same order (render; the loss gives dL/d(image); differentiate, count, update), so the
training loop does not know which one it has. `ComposedEngine` is the one to read first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Adam

import distwar_kernels as kernels
from distwar_gs.config import Config
from distwar_gs.optimizer import moments_of, set_steps, step_all
from distwar_gs.renderer import Rendering, RenderSettings, fused_view, render
from distwar_gs.strategies import Strategy
from distwar_gs.timing import StepTimer
from distwar_kernels.fused import fused
from distwar_kernels.fused.room import Room


@dataclass(frozen=True)
class TrainingView:
    """A training camera on the device."""

    viewmat: Tensor
    """[4, 4] world-to-camera, OpenCV axes."""
    K: Tensor
    """[3, 3], pixels."""
    width: int
    height: int


class Engine(Protocol):
    """Renders a training view, then makes of dL/d(image) a step."""

    def forward(self, step: int, view: TrainingView, sh_degree: int, background: Tensor) -> Tensor:
        """The image [H, W, 3] for a step (from 1) whose learning rates are set."""

    def update(self, step: int, v_image: Tensor, timer: StepTimer) -> None:
        """Differentiates, counts for densification, and updates the parameters with the optimisers' learning rates."""

    def coverage(self) -> float:
        """The share of the last image that any Gaussian covers; waits for the device."""

    @property
    def skipped(self) -> int:
        """Steps that changed nothing so far, because their view outgrew the buffers made for it."""

    def settle(self, step: int) -> None:
        """Brings parameters and optimisers up to this step: before they are measured, saved, or their rows change."""

    def release(self) -> None:
        """Lets go of a step that was begun and cannot be ended."""


class ComposedEngine:
    """The ops one after another, differentiated by autograd; dense Adam."""

    def __init__(
        self,
        params: dict[str, Parameter],
        optimizers: Mapping[str, Adam],
        densifier: Strategy,
        settings: RenderSettings,
    ) -> None:
        """Work on these; they stay the trainer's."""
        self.params, self.optimizers, self.densifier, self.settings = params, optimizers, densifier, settings
        self._rendering: Rendering | None = None

    def forward(self, step: int, view: TrainingView, sh_degree: int, background: Tensor) -> Tensor:
        """See Engine."""
        self._rendering = render(
            self.params, view.viewmat[None], view.K[None], view.width, view.height, self.settings,
            sh_degree=sh_degree, background=background,
        )  # fmt: skip
        return self._rendering.colors[0]

    def update(self, step: int, v_image: Tensor, timer: StepTimer) -> None:
        """See Engine."""
        rendering = self._rendering
        timer.watch_blend_backward(rendering.colors, rendering.splat_colors)
        rendering.colors.backward(v_image[None])
        timer.mark("backward")
        gradient = rendering.means2d.absgrad if self.settings.absgrad else rendering.means2d.grad
        self.densifier.after_backward(step, gradient, rendering.radii, v_image.shape[1], v_image.shape[0])
        timer.mark("densify")
        self.densifier.regularise(self.params)
        step_all(self.optimizers)
        timer.mark("optimizer")

    def coverage(self) -> float:
        """See Engine."""
        return float((self._rendering.alphas > 0).float().mean())

    @property
    def skipped(self) -> int:
        """None: its buffers are made to measure."""
        return 0

    def settle(self, step: int) -> None:
        """Nothing to do: every step is whole."""

    def release(self) -> None:
        """See Engine."""
        self._rendering = None


class FusedEngine:
    """The fused rasteriser, and no autograd.

    Unless `adam` is "dense" the way back from the blend and Adam are one kernel, and no gradient is ever stored.
    """

    def __init__(
        self,
        params: dict[str, Parameter],
        optimizers: Mapping[str, Adam],
        densifier: Strategy,
        settings: RenderSettings,
        *,
        adam: str = "lazy",
        deterministic: bool = False,
    ) -> None:
        """Work on these; they stay the trainer's."""
        self.params, self.optimizers, self.densifier, self.settings = params, optimizers, densifier, settings
        self.room = Room()
        self._adam, self._deterministic = adam, deterministic
        self._rendered: fused.Rendered | None = None
        self._knows_room = False
        self._adam_step: fused.AdamStep | None = None
        self._last_steps: Tensor | None = None  # of lazy Adam; None: all Gaussians are up to the last step

    def forward(self, step: int, view: TrainingView, sh_degree: int, background: Tensor) -> Tensor:
        """See Engine. Waits for the device the first time only, to know what room a view takes; a deterministic one
        always, since when it hears of a view that did not fit depends on time."""
        camera = fused_view(view.viewmat, view.K, view.width, view.height, self.settings, sh_degree, background)
        if self._adam != "dense":
            self._adam_step = self._step_of_adam(step, self._missing_since(step) if self._adam == "lazy" else None)
        if self._knows_room and not self._deterministic:
            self._rendered = fused.render_what_fits(self._parameters(), camera, self.room, self._adam_step)
        else:
            self._rendered = fused.render_whole(fused.checked(self.params, camera), camera, self.room, self._adam_step)
            self._knows_room = True
        return self._rendered.image

    def update(self, step: int, v_image: Tensor, timer: StepTimer) -> None:
        """See Engine. The time from the blend to the new parameters is `optimizer`'s."""
        records = self._blend_backward(v_image)
        timer.mark("blend_backward")
        statistics = self.densifier.statistics(step)
        if self._adam == "dense":
            gradients = fused.gradients(self._rendered, records, self.settings.absgrad, statistics)
            for name, gradient in zip(fused.PARAMETERS, gradients, strict=True):
                self.params[name].grad = gradient
            timer.mark("backward")
            self.densifier.regularise(self.params)
            step_all(self.optimizers)
        else:
            fused.step(self._rendered, records, self.settings.absgrad, statistics, self._adam_step)
        self._rendered = self._adam_step = None  # or they would keep what is replaced before the next step
        timer.mark("optimizer")

    def coverage(self) -> float:
        """See Engine."""
        return float((self._rendered.transmittances < 1).float().mean())

    @property
    def skipped(self) -> int:
        """See Engine; those that the host has heard of."""
        return self.room.cut_short

    def settle(self, step: int) -> None:
        """See Engine."""
        if self._adam == "dense" or step == 0:
            return
        if self._last_steps is not None:
            fused.catch_up(self._parameters(), self._step_of_adam(step, self._last_steps))
            self._last_steps = None
        set_steps(self.optimizers, step)

    def release(self) -> None:
        """See Engine."""
        self._rendered = self._adam_step = None

    def _parameters(self) -> list[Tensor]:
        return [self.params[name] for name in fused.PARAMETERS]

    def _missing_since(self, step: int) -> Tensor:
        if self._last_steps is None:
            means = self.params["means"]
            self._last_steps = torch.full((len(means),), step - 1, dtype=torch.int32, device=means.device)
        return self._last_steps

    def _blend_backward(self, v_image: Tensor) -> Tensor:
        rendered, absgrad = self._rendered, self.settings.absgrad
        reduction, tuner = kernels.resolve(self.settings.reduction, v_image.device)
        if tuner:
            tuner.watch_gradient(
                v_image, len(rendered.parameters[0]), lambda v, r: fused.blend_backward(rendered, v, absgrad, r)
            )
        return fused.blend_backward(rendered, v_image, absgrad, reduction, self._deterministic)

    def _step_of_adam(self, step: int, last_steps: Tensor | None) -> fused.AdamStep:
        groups = [self.optimizers[name].param_groups[0] for name in fused.PARAMETERS]
        rates = fused.adam_rates([group["lr"] for group in groups], groups[0]["betas"], groups[0]["eps"], step)
        return fused.AdamStep(moments_of(self.optimizers, fused.PARAMETERS), rates, last_steps, step)


def make_engine(
    config: Config,
    params: dict[str, Parameter],
    optimizers: Mapping[str, Adam],
    densifier: Strategy,
    settings: RenderSettings,
) -> Engine:
    """The engine for these settings (whose rasteriser is decided already)."""
    if settings.rasterizer == "fused":
        choices = {"adam": config.optim.adam, "deterministic": config.train.deterministic}
        return FusedEngine(params, optimizers, densifier, settings, **choices)
    return ComposedEngine(params, optimizers, densifier, settings)
