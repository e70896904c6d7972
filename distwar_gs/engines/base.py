"""How a training step renders and updates: by the fused rasteriser, or by the ops one after another and autograd.

Both do the same work in the same order (render; the loss gives dL/d(image); differentiate, count, update), so the
training loop does not know which one it has. What a step must remember between rendering and updating is in the
`Rendered` that the loop holds meanwhile. Of the two, read `ComposedEngine` first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Adam

import distwar_kernels as kernels
from distwar_gs.config import Config
from distwar_gs.engines.gradients import GivenGradients
from distwar_gs.engines.timing import StepTimer
from distwar_gs.gaussians.optimizer import moments_of, set_steps, step_all
from distwar_gs.rendering.renderer import COMPOSED, FUSED, ComposedRendering, Rendering, RenderSettings
from distwar_gs.strategies.base import Strategy, wants_score
from distwar_kernels import Cameras
from distwar_kernels.fused import fused
from distwar_kernels.fused.capacity import BufferSizes


class Rendered(Protocol):
    """A training view, and what the engine that has rendered it needs to make a step of its gradients."""

    @property
    def step(self) -> int:
        """The step it is for, from 1."""

    @property
    def image(self) -> Tensor:
        """[H, W, 3]."""

    def coverage(self) -> float:
        """The share of the image that any Gaussian covers; waits for the device."""


class Engine(Protocol):
    """Renders a training view, then makes of the gradients of what was rendered a step."""

    def forward(self, step: int, camera: Cameras, sh_degree: int, background: Tensor) -> Rendered:
        """What one camera sees (C = 1), for a step (from 1) whose learning rates are set."""

    def update(self, rendered: Any, gradients: Mapping[str, Tensor], timer: StepTimer) -> None:
        """Differentiates, counts for densification, and updates the parameters with the optimisers' learning rates.

        rendered: from this engine's `forward`.
        gradients: of the loss, by the name of what was rendered: `image` [H, W, 3]. And, for steps of which the
            strategy's statistics have a `score` (not looked at otherwise), `errors` [H, W]: how wrong each pixel is, at
            least 0. Each Gaussian's score grows by the root of the sum over pixels of its weight (alpha times
            transmittance) times the error.

        Raises ValueError for gradients of anything else, and where a score is asked for and there are no errors.
        """

    def look(
        self, step: int, camera: Cameras, sh_degree: int, background: Tensor, *, with_depth: bool = False,
        features: Tensor | None = None,
    ) -> Rendering:  # fmt: skip
        """What cameras see of the model after this step. Changes nothing: the run goes on as if nobody had looked.

        features: [N, F], blended as by `distwar_gs.rendering.renderer.render`.
        """

    @property
    def skipped(self) -> int:
        """Steps that changed nothing so far, because their view outgrew the buffers made for it."""

    def settle(self, step: int) -> None:
        """Brings parameters and optimisers up to this step: before they are measured, saved, or their rows change."""


def _image_gradient(gradients: Mapping[str, Tensor]) -> Tensor:
    if set(gradients) - {"errors"} != {"image"}:
        raise ValueError(f"this engine differentiates the image only, not {', '.join(sorted(gradients))}")
    return gradients["image"]


def _errors(gradients: Mapping[str, Tensor], statistics: Mapping[str, Tensor] | None, step: int) -> Tensor | None:
    """The errors [H, W] that this step's score is made of; None where the strategy's statistics have no score."""
    if statistics is None or "score" not in statistics:
        return None
    if "errors" not in gradients:
        raise ValueError(f"the strategy asks for a score at step {step}: hand the errors of the pixels on as `errors`")
    return gradients["errors"]


# ------------------------------------------------------------------------------------------------- op after op


@dataclass(frozen=True)
class ComposedRendered:
    """See Rendered."""

    step: int
    rendering: ComposedRendering
    """With its graph."""
    probe: Tensor | None
    """[N, 1] zeros, blended as one more colour: dL/d(probe) is a sum of weights, and the image the same. None where the
    step has no score."""

    @property
    def image(self) -> Tensor:
        """See Rendered; part of the graph."""
        return self.rendering.colors[0]

    def coverage(self) -> float:
        """See Rendered."""
        return float((self.rendering.alphas > 0).float().mean())

    def differentiate(self, v_image: Tensor, errors: Tensor | None) -> Tensor | None:
        """Leaves gradients in all that is trained; of errors [H, W] returns the sums by weight, [N, 1]."""
        colors, weights = self.rendering.colors, self.rendering.features
        if errors is None or weights is None or self.probe is None:
            GivenGradients.apply((v_image[None],), colors).backward()
            return None
        GivenGradients.apply((v_image[None], errors[None, ..., None]), colors, weights).backward()
        return self.probe.grad


class ComposedEngine:
    """The ops one after another, differentiated by autograd; dense Adam."""

    def __init__(
        self,
        params: dict[str, Parameter],
        optimizers: Mapping[str, Adam],
        strategy: Strategy,
        settings: RenderSettings,
    ) -> None:
        """Work on these; they stay the trainer's."""
        self.params, self.optimizers, self.strategy, self.settings = params, optimizers, strategy, settings

    def forward(self, step: int, camera: Cameras, sh_degree: int, background: Tensor) -> ComposedRendered:
        """See Engine."""
        means, probe = self.params["means"], None
        if wants_score(self.strategy, step):
            probe = torch.zeros(len(means), 1, device=means.device, requires_grad=True)
        return ComposedRendered(step, self._render(camera, sh_degree, background, features=probe), probe)

    def update(self, rendered: ComposedRendered, gradients: Mapping[str, Tensor], timer: StepTimer) -> None:
        """See Engine."""
        v_image, rendering = _image_gradient(gradients), rendered.rendering
        statistics = self.strategy.statistics(rendered.step)
        errors = _errors(gradients, statistics, rendered.step)
        timer.watch_blend_backward(rendering.colors, rendering.splat_colors)
        sums = rendered.differentiate(v_image, errors)
        if statistics is not None and sums is not None:
            statistics["score"] += sums[:, 0].sqrt()
        timer.mark("backward")
        gradient = getattr(rendering.means2d, "absgrad" if self.settings.absgrad else "grad")
        self.strategy.after_backward(rendered.step, gradient, rendering.radii, v_image.shape[1], v_image.shape[0])
        timer.mark("densify")
        self.strategy.regularize(self.params)
        step_all(self.optimizers)
        timer.mark("optimizer")

    @torch.no_grad()
    def look(
        self, step: int, camera: Cameras, sh_degree: int, background: Tensor, *, with_depth: bool = False,
        features: Tensor | None = None,
    ) -> Rendering:  # fmt: skip
        """See Engine."""
        return self._render(camera, sh_degree, background, with_depth, features)

    @property
    def skipped(self) -> int:
        """None: its buffers are made to measure."""
        return 0

    def settle(self, step: int) -> None:
        """Nothing to do: every step is whole."""

    def _render(
        self,
        camera: Cameras,
        sh_degree: int,
        background: Tensor,
        with_depth: bool = False,
        features: Tensor | None = None,
    ) -> ComposedRendering:
        return COMPOSED.render(
            self.params, camera, self.settings, sh_degree=sh_degree, background=background, with_depth=with_depth,
            features=features,
        )  # fmt: skip


# ------------------------------------------------------------------------------------------------- all at once


@dataclass(frozen=True)
class FusedRendered:
    """See Rendered."""

    step: int
    view: fused.Rendered
    adam: fused.AdamStep | None
    """The step to come, by which it was drawn; None for torch's Adam."""

    @property
    def image(self) -> Tensor:
        """See Rendered."""
        return self.view.image

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

    def forward(self, step: int, camera: Cameras, sh_degree: int, background: Tensor) -> FusedRendered:
        """See Engine. Synchronises once to size its buffers, and at every step in deterministic mode, where overflow
        must be detected at a fixed step."""
        options, adam = self.settings.draw_options(sh_degree, background), None
        if self._adam != "dense":
            adam = self._step_of_adam(step, self._missing_since(step) if self._adam == "lazy" else None)
        is_first = self._note_size(camera.width * camera.height)
        if not is_first and not self._deterministic:
            view = fused.render_what_fits(self._parameters(), camera, options, self.sizes, adam)
        else:
            view = fused.render_whole(fused.checked(self.params, camera), camera, options, self.sizes, adam)
        return FusedRendered(step, view, adam)

    def update(self, rendered: FusedRendered, gradients: Mapping[str, Tensor], timer: StepTimer) -> None:
        """See Engine. The time from the blend to the new parameters is `optimizer`'s."""
        absgrad = self.settings.absgrad
        statistics = self.strategy.statistics(rendered.step)
        errors = _errors(gradients, statistics, rendered.step)
        records = self._blend_backward(rendered.view, _image_gradient(gradients), errors)
        timer.mark("blend_backward")
        if rendered.adam is None:
            dense = fused.gradients(rendered.view, records, absgrad, statistics)
            for name, gradient in zip(fused.PARAMETERS, dense, strict=True):
                self.params[name].grad = gradient
            timer.mark("backward")
            self.strategy.regularize(self.params)
            step_all(self.optimizers)
        else:
            fused.step(rendered.view, records, absgrad, statistics, rendered.adam)
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

    def _blend_backward(self, view: fused.Rendered, v_image: Tensor, errors: Tensor | None) -> Tensor:
        absgrad = self.settings.absgrad
        reduction, tuner = kernels.resolve(self.settings.reduction, v_image.device)
        if tuner:
            tuner.watch_gradient(
                v_image, len(view.parameters[0]), lambda v, r: fused.blend_backward(view, v, absgrad, r)
            )
        return fused.blend_backward(view, v_image, absgrad, reduction, self._deterministic, errors)

    def _step_of_adam(self, step: int, last_steps: Tensor | None) -> fused.AdamStep:
        groups = [self.optimizers[name].param_groups[0] for name in fused.PARAMETERS]
        # Where Adam leaves out what is not seen there is nobody to pay.
        prices = self.strategy.prices(len(self.params["means"])) if self._adam == "lazy" else (0.0, 0.0)
        rates = fused.adam_rates([group["lr"] for group in groups], groups[0]["betas"], groups[0]["eps"], step, prices)
        return fused.AdamStep(moments_of(self.optimizers, fused.PARAMETERS), rates, last_steps, step)


def make_engine(
    config: Config,
    params: dict[str, Parameter],
    optimizers: Mapping[str, Adam],
    strategy: Strategy,
    settings: RenderSettings,
) -> Engine:
    """The engine of these settings' rasteriser."""
    run = (params, optimizers, strategy, settings)
    if settings.rasterizer == FUSED.name:
        return FusedEngine(*run, adam=config.optim.adam, deterministic=config.train.deterministic)
    return ComposedEngine(*run)
