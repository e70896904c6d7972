"""A training step by several ranks: each has some of the Gaussians and renders a view of its own.

Every rank projects its Gaussians for the views of all, and sends what each view sees of them, as splats, to the rank
whose view it is. That one blends them, compares, and differentiates down to the splats; gradients go back the way that
splats came, in the same order, and whoever has the Gaussians takes them to the parameters and makes Adam's step. So
splats travel, not parameters: a projected Gaussian is 48 bytes, its parameters and moments are 708. (The split of
Grendel, Zhao et al. 2025, with whole views; gsplat's distributed trainer has it, too.)

Gradients of the views are summed. What that means for learning rates is said in distwar_gs.gaussians.optimizer.

This module has what engines of ranks share, and the one of the ops one after another, differentiated by autograd; the
fused rasteriser's is sharded_fused.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Adam

import distwar_kernels as kernels
from distwar_gs.engines.gradients import errors_of, image_gradient
from distwar_gs.engines.timing import StepTimer
from distwar_gs.gaussians.optimizer import step_all
from distwar_gs.rendering.projected import project_gaussians
from distwar_gs.rendering.renderer import Rendering, RenderSettings, expected_depths, view_colors
from distwar_gs.strategies.base import Strategy, wants_score
from distwar_gs.system.parallel import Ranks
from distwar_kernels import Cameras
from distwar_kernels.constants import TILE_SIZE

WORDS = {"means2d": 2, "conics": 3, "opacities": 1, "colors": 3, "depths": 1, "radii": 2}
"""A splat on its way, and how many numbers each part of it is. The first four have gradients."""
_DIFFERENTIABLE = 9
"""Numbers with a gradient; in the places of the others come back two sums of absolute gradients, and an error."""


def cameras_of_all(ranks: Ranks, camera: Cameras) -> tuple[Cameras, ...]:
    """The cameras (C = 1) that the ranks look with, in their order. Waits for the device and for the others."""
    plain = (camera.model, camera.viewmats.tolist(), camera.intrinsics.tolist(), camera.width, camera.height)
    like = camera.viewmats
    return tuple(
        Cameras(model, like.new_tensor(viewmats), like.new_tensor(intrinsics), width, height)
        for model, viewmats, intrinsics, width, height in ranks.gathered(plain)
    )


def refuse_features(features: Tensor | None) -> None:
    """Raises ValueError if there are any."""
    if features is not None:
        raise ValueError("several ranks do not blend features: render the saved model with one process")


# ------------------------------------------------------------------------------------------------- op after op


@dataclass(frozen=True)
class Sent:
    """What one view sees of a rank's Gaussians."""

    camera: Cameras
    rows: Tensor
    """[V] int64: which they are; at the edges of a panorama one can be there again."""
    splats: Tensor
    """[V, 12] with their graph; see WORDS."""


@dataclass(frozen=True)
class Received:
    """A rank's view: the splats of all ranks, and what was made of them."""

    splats: Tensor
    """[M, 12], a leaf."""
    counts: list[int]
    """Of each rank, in their order."""
    means2d: Tensor
    """[1, M, 2], with the gradients of the centres."""
    probe: Tensor | None
    """[1, M, 1] zeros, blended as one more colour; see distwar_gs.engines.base.ComposedRendered."""
    colors: Tensor
    """[1, H, W, channels], with the graph down to the splats."""
    alphas: Tensor
    """[1, H, W, 1]."""


@dataclass(frozen=True)
class ShardedRendered:
    """See distwar_gs.engines.base.Rendered."""

    step: int
    sent: list[Sent]
    received: Received

    @property
    def image(self) -> Tensor:
        """See Rendered; part of the graph down to the splats."""
        return self.received.colors[0, ..., :3]

    @property
    def depth(self) -> None:
        """See Rendered: ranks do not exchange it."""
        return None

    def coverage(self) -> float:
        """See Rendered."""
        return float((self.received.alphas > 0).float().mean())


class ShardedComposedEngine:
    """The ops one after another; splats of any number, which the host learns; dense Adam."""

    def __init__(
        self,
        params: dict[str, Parameter],
        optimizers: Mapping[str, Adam],
        strategy: Strategy,
        settings: RenderSettings,
        ranks: Ranks,
    ) -> None:
        """Work on these, this rank's; they stay the trainer's."""
        self.params, self.optimizers, self.strategy, self.settings = params, optimizers, strategy, settings
        self.ranks = ranks

    def forward(
        self, step: int, camera: Cameras, sh_degree: int, background: Tensor, *together: Cameras,
        with_depth: bool = False,
    ) -> ShardedRendered:  # fmt: skip
        """See distwar_gs.engines.base.Engine; without depth."""
        return self._render(step, together, sh_degree, background, scored=wants_score(self.strategy, step))

    def update(self, rendered: ShardedRendered, gradients: Mapping[str, Tensor], timer: StepTimer) -> None:
        """See distwar_gs.engines.base.Engine."""
        statistics = self.strategy.statistics(rendered.step)
        errors = errors_of(gradients, statistics, rendered.step)
        records = self._differentiated(rendered.received, image_gradient(gradients, with_depth=False), errors)
        timer.mark("blend_backward")
        counts = [len(sent.rows) for sent in rendered.sent]
        back = self.ranks.exchange(records, rendered.received.counts, counts).split(counts)
        timer.mark("exchange")
        self._count(rendered, back, statistics)
        torch.autograd.backward([sent.splats for sent in rendered.sent], [_with_gradients(one) for one in back])
        timer.mark("backward")
        for param in self.params.values():
            if param.grad is None:  # nobody sees any of ours
                param.grad = torch.zeros_like(param)
        self.strategy.regularize(self.params)
        step_all(self.optimizers)
        timer.mark("optimizer")

    @torch.no_grad()
    def look(
        self, step: int, camera: Cameras, sh_degree: int, background: Tensor, *, with_depth: bool = False,
        features: Tensor | None = None,
    ) -> Rendering:  # fmt: skip
        """See distwar_gs.engines.base.Engine. All ranks look at once, each with its own camera, and not at features."""
        refuse_features(features)
        received = self._render(step, cameras_of_all(self.ranks, camera), sh_degree, background, with_depth).received
        colors, alphas = received.colors, received.alphas
        return Rendering(colors[..., :3], alphas, expected_depths(colors, alphas), None)

    @property
    def skipped(self) -> int:
        """None: its buffers are made to measure."""
        return 0

    def settle(self, step: int) -> None:
        """Nothing to do: every step is whole."""

    def _render(
        self, step: int, together: Sequence[Cameras], sh_degree: int, background: Tensor, with_depth: bool = False,
        scored: bool = False,
    ) -> ShardedRendered:  # fmt: skip
        sent = [self._project(camera, sh_degree) for camera in together]
        counts = [len(one.rows) for one in sent]
        came = self.ranks.swap(torch.tensor(counts)).tolist()
        splats = self.ranks.exchange(torch.cat([one.splats.detach() for one in sent]), counts, came)
        camera = together[self.ranks.rank]
        return ShardedRendered(step, sent, self._blend(camera, splats, came, background, with_depth, scored))

    def _project(self, camera: Cameras, sh_degree: int) -> Sent:
        projected = project_gaussians(self.params, camera, self.settings)
        colors = view_colors(self.params, camera, projected.radii, sh_degree)
        rows = torch.arange(colors.shape[1], device=colors.device)
        copies = kernels.around(camera, projected.means2d, projected.radii)
        if copies is not None:
            projected, colors, rows = projected.drawn_again(copies), copies.again(colors), copies.again(rows[None])[0]
        radii = projected.radii
        visible = (radii[0] > 0).all(dim=-1).nonzero().squeeze(1)
        parts = projected._asdict() | {"colors": colors, "depths": projected.depths.detach(), "radii": radii.float()}
        words = [parts[name][0].reshape(len(radii[0]), size)[visible] for name, size in WORDS.items()]
        return Sent(camera, rows[visible], torch.cat(words, dim=1))

    def _blend(
        self, camera: Cameras, splats: Tensor, counts: list[int], background: Tensor, with_depth: bool, scored: bool
    ) -> Received:
        splats = splats.requires_grad_(torch.is_grad_enabled())
        words = dict(zip(WORDS, splats[None].split(list(WORDS.values()), dim=-1), strict=True))
        means2d, probe = words["means2d"].contiguous(), None
        if means2d.requires_grad:
            means2d.retain_grad()
        channels = [words["colors"], *([words["depths"].detach()] if with_depth else [])]
        if scored:
            probe = splats.new_zeros(1, len(splats), 1).requires_grad_()
            channels.append(probe)
        blended = torch.cat(channels, dim=-1)
        depths, radii = words["depths"].detach()[..., 0].contiguous(), words["radii"].detach().int()
        lists = kernels.intersect_tiles(means2d.detach(), radii, depths, camera.width, camera.height)
        behind = torch.nn.functional.pad(background, (0, blended.shape[-1] - len(background)))[None]
        colors, alphas = kernels.rasterize_to_pixels(
            means2d, words["conics"].contiguous(), blended, words["opacities"][..., 0].contiguous(),
            camera.width, camera.height, TILE_SIZE, *lists, absgrad=self.settings.absgrad,
            reduction=self.settings.reduction, backgrounds=behind,
        )  # fmt: skip
        return Received(splats, counts, means2d, probe, colors, alphas)

    def _differentiated(self, received: Received, v_image: Tensor, errors: Tensor | None) -> Tensor:
        """The gradients of what came [M, 12], with the sums that densification wants in the last three places."""
        v_colors = v_image[None]
        if errors is not None:
            v_colors = torch.cat([v_colors, errors[None, ..., None]], dim=-1)
        received.colors.backward(v_colors)
        assert received.splats.grad is not None
        records = received.splats.grad
        records[:, _DIFFERENTIABLE:] = 0.0
        if self.settings.absgrad:
            records[:, _DIFFERENTIABLE:-1] = received.means2d.absgrad[0]  # type: ignore[attr-defined]  # the blend's
        if received.probe is not None and received.probe.grad is not None:
            records[:, -1] = received.probe.grad[0, :, 0]
        return records

    def _count(
        self, rendered: ShardedRendered, back: Sequence[Tensor], statistics: Mapping[str, Tensor] | None
    ) -> None:
        """What densification counts, view by view."""
        count, first = len(self.params["means"]), _DIFFERENTIABLE if self.settings.absgrad else 0
        for sent, records in zip(rendered.sent, back, strict=True):
            if statistics is not None and "score" in statistics:
                errors = records.new_zeros(count).index_add_(0, sent.rows, records[:, -1])
                statistics["score"] += errors.sqrt()
            gradient = records.new_zeros(1, count, 2)
            gradient[0].index_add_(0, sent.rows, records[:, first : first + 2])
            radii = torch.zeros(1, count, 2, dtype=torch.int32, device=records.device)
            radii[0, sent.rows] = sent.splats.detach()[:, -2:].int()
            self.strategy.after_backward(rendered.step, gradient, radii, sent.camera.width, sent.camera.height)


def _with_gradients(records: Tensor) -> Tensor:
    """Gradients [V, 12] of splats, of records [V, 12]: places that have none are zero."""
    return torch.cat([records[:, :_DIFFERENTIABLE], torch.zeros_like(records[:, _DIFFERENTIABLE:])], dim=1)
