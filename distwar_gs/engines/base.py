"""How a training step renders and updates: by the fused rasteriser, or by the ops one after another and autograd.

Both do the same work in the same order (render; the loss gives dL/d(image); differentiate, count, update), so the
training loop does not know which one it has. What a step must remember between rendering and updating is in the
`Rendered` that the loop holds meanwhile. Of the two, read `ComposedEngine` first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Adam

from distwar_gs.engines.given import GivenGradients
from distwar_gs.engines.gradients import errors_of, image_gradient
from distwar_gs.engines.timing import StepTimer
from distwar_gs.gaussians.optimizer import step_all
from distwar_gs.rendering.renderer import COMPOSED, ComposedRendering, Rendering, RenderSettings
from distwar_gs.strategies.base import Strategy, wants_score
from distwar_kernels import Cameras


class Rendered(Protocol):
    """A training view, and what the engine that has rendered it needs to make a step of its gradients."""

    @property
    def step(self) -> int:
        """The step it is for, from 1."""

    @property
    def image(self) -> Tensor:
        """[H, W, 3]."""

    @property
    def depth(self) -> tuple[Tensor, Tensor] | None:
        """Expected depth along the camera's axis, 0 where nothing is seen, and alpha: [H, W] both; no graph. Asked for
        only where it was rendered with depth; None by an engine that cannot."""

    def coverage(self) -> float:
        """The share of the image that any Gaussian covers; waits for the device."""


class Engine(Protocol):
    """Renders a training view, then makes of the gradients of what was rendered a step."""

    def forward(
        self, step: int, camera: Cameras, sh_degree: int, background: Tensor, *together: Cameras,
        with_depth: bool = False,
    ) -> Rendered:  # fmt: skip
        """What one camera sees (C = 1), for a step (from 1) whose learning rates are set. Where several ranks make the
        step, all their cameras follow, in their order. Where its viewmats require a gradient, `update` leaves it in
        their `grad`; likewise that of the coefficients of the settings' environment."""

    def update(self, rendered: Any, gradients: Mapping[str, Tensor], timer: StepTimer) -> None:
        """Differentiates, counts for densification, and updates the parameters with the optimisers' learning rates.

        rendered: from this engine's `forward`.
        gradients: of the loss, by the name of what was rendered: `image` [H, W, 3]; where it was rendered with depth,
            there may be `depth`, of the expected depth [H, W]. And, for steps of which the strategy's statistics have a
            `score` (not looked at otherwise), `errors` [H, W]: how wrong each pixel is, at least 0. Each Gaussian's
            score grows by the root of the sum over pixels of its weight (alpha times transmittance) times the error.

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

    @property
    def depth(self) -> tuple[Tensor, Tensor]:
        """See Rendered."""
        assert self.rendering.depths is not None
        return self.rendering.depths.detach()[0, ..., 0], self.rendering.alphas.detach()[0, ..., 0]

    def coverage(self) -> float:
        """See Rendered."""
        return float((self.rendering.alphas > 0).float().mean())

    def differentiate(self, v_image: Tensor, errors: Tensor | None, v_depth: Tensor | None = None) -> Tensor | None:
        """Leaves gradients in all that is trained; of errors [H, W] returns the sums by weight, [N, 1]."""
        rendering, outputs, gradients = self.rendering, [self.rendering.colors], [v_image[None]]
        if v_depth is not None and rendering.depths is not None:
            outputs, gradients = [*outputs, rendering.depths], [*gradients, v_depth[None, ..., None]]
        if errors is None or rendering.features is None or self.probe is None:
            GivenGradients.apply(tuple(gradients), *outputs).backward()
            return None
        gradients.append(errors[None, ..., None])
        GivenGradients.apply(tuple(gradients), *outputs, rendering.features).backward()
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

    def forward(
        self,
        step: int,
        camera: Cameras,
        sh_degree: int,
        background: Tensor,
        *together: Cameras,
        with_depth: bool = False,
    ) -> ComposedRendered:
        """See Engine."""
        means, probe = self.params["means"], None
        if wants_score(self.strategy, step):
            probe = torch.zeros(len(means), 1, device=means.device, requires_grad=True)
        return ComposedRendered(step, self._render(camera, sh_degree, background, with_depth, probe), probe)

    def update(self, rendered: ComposedRendered, gradients: Mapping[str, Tensor], timer: StepTimer) -> None:
        """See Engine."""
        rendering = rendered.rendering
        v_image = image_gradient(gradients, rendering.depths is not None)
        statistics = self.strategy.statistics(rendered.step)
        errors = errors_of(gradients, statistics, rendered.step)
        timer.watch_blend_backward(rendering.colors, rendering.splat_colors)
        sums = rendered.differentiate(v_image, errors, gradients.get("depth"))
        if statistics is not None and sums is not None:
            statistics["score"] += sums[:, 0].sqrt()
        timer.mark("backward")
        gradient = rendering.center_gradients(self.settings.absgrad)
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
