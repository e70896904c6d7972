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
from distwar_gs.engines.agreed import AGREE_EVERY, AgreedReduction
from distwar_gs.engines.given import GivenGradients
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
"""A splat on its way, and how many numbers each part of it is. All but the radii have gradients."""
_DIFFERENTIABLE = 10
"""Numbers with a gradient; behind these come back two sums of absolute gradients, and an error."""


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
    """[1, H, W, channels], with the graph down to the splats: colour, depth if that was asked for, probe."""
    alphas: Tensor
    """[1, H, W, 1]."""
    depths: Tensor | None
    """[1, H, W, 1], as it is expected, with the graph."""


@dataclass(frozen=True)
class ShardedRendered:
    """See distwar_gs.engines.base.Rendered."""

    step: int
    camera: Cameras
    """Of this rank's view."""
    sent: list[Sent]
    received: Received

    @property
    def image(self) -> Tensor:
        """See Rendered; part of the graph down to the splats."""
        return self.received.colors[0, ..., :3]

    @property
    def depth(self) -> tuple[Tensor, Tensor] | None:
        """See Rendered."""
        depths, alphas = self.received.depths, self.received.alphas
        return None if depths is None else (depths.detach()[0, ..., 0], alphas.detach()[0, ..., 0])

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
        self.ranks, self._reduction = ranks, AgreedReduction(ranks, settings.reduction, params["means"].device)
        self._forwards = 0

    def forward(
        self, step: int, camera: Cameras, sh_degree: int, background: Tensor, *together: Cameras,
        with_depth: bool = False,
    ) -> ShardedRendered:  # fmt: skip
        """See distwar_gs.engines.base.Engine."""
        own = self.ranks.rank
        cameras = (*together[:own], camera, *together[own + 1 :])
        if camera.viewmats.requires_grad:  # each rank has a part in all of them
            cameras = tuple(one._replace(viewmats=one.viewmats.detach().requires_grad_()) for one in cameras)
        self._agree()
        scored = wants_score(self.strategy, step)
        return self._render(step, camera, cameras, sh_degree, background, with_depth, scored)

    def update(self, rendered: ShardedRendered, gradients: Mapping[str, Tensor], timer: StepTimer) -> None:
        """See distwar_gs.engines.base.Engine."""
        statistics = self.strategy.statistics(rendered.step)
        errors, received = errors_of(gradients, statistics, rendered.step), rendered.received
        v_image = image_gradient(gradients, received.depths is not None)
        records = self._differentiated(received, v_image, gradients.get("depth"), errors)
        timer.mark("blend_backward")
        back = self._way_back(records, received, [len(sent.rows) for sent in rendered.sent])
        timer.mark("exchange")
        self._differentiate(rendered.step, rendered.sent, back, statistics)
        self._give_pose(rendered)
        timer.mark("backward")
        self._step()
        timer.mark("optimizer")

    @torch.no_grad()
    def look(
        self, step: int, camera: Cameras, sh_degree: int, background: Tensor, *, with_depth: bool = False,
        features: Tensor | None = None,
    ) -> Rendering:  # fmt: skip
        """See distwar_gs.engines.base.Engine. All ranks look at once, each with its own camera, and not at features."""
        refuse_features(features)
        together = cameras_of_all(self.ranks, camera)
        seen = self._render(step, camera, together, sh_degree, background, with_depth, scored=False).received
        return Rendering(seen.colors[..., :3], seen.alphas, seen.depths, None)

    @property
    def skipped(self) -> int:
        """None: its buffers are made to measure."""
        return 0

    def settle(self, step: int) -> None:
        """Nothing to do: every step is whole."""

    def _render(
        self, step: int, camera: Cameras, together: Sequence[Cameras], sh_degree: int, background: Tensor,
        with_depth: bool, scored: bool,
    ) -> ShardedRendered:  # fmt: skip
        sent = [self._project(camera, sh_degree) for camera in together]
        came = self._exchange([one.splats.detach() for one in sent])
        return ShardedRendered(step, camera, sent, self._blend(camera, *came, background, with_depth, scored))

    def _agree(self) -> None:
        if self._forwards % AGREE_EVERY == 0:
            self._reduction.agree()
        self._forwards += 1

    def _exchange(self, pieces: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        """Splats [V, 12] for each rank: those that came, and how many of each."""
        counts = [len(piece) for piece in pieces]
        came = self.ranks.swap(torch.tensor(counts)).tolist()
        return self.ranks.exchange(torch.cat(list(pieces)), counts, came), came

    def _way_back(self, records: Tensor, received: Received, counts: list[int]) -> Sequence[Tensor]:
        """Records of all that came, for those who sent it: of ours, `counts` to each rank."""
        return self.ranks.exchange(records, received.counts, counts).split(counts)

    def _project(self, camera: Cameras, sh_degree: int) -> Sent:
        projected = project_gaussians(self.params, camera, self.settings)
        colors = view_colors(self.params, camera, projected.radii, sh_degree)
        rows = torch.arange(colors.shape[1], device=colors.device)
        copies = kernels.around(camera, projected.means2d, projected.radii)
        if copies is not None:
            projected, colors, rows = projected.drawn_again(copies), copies.again(colors), copies.again(rows[None])[0]
        radii = projected.radii
        visible = (radii[0] > 0).all(dim=-1).nonzero().squeeze(1)
        parts = projected._asdict() | {"colors": colors, "radii": radii.float()}
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
        channels = [words["colors"], *([words["depths"]] if with_depth else [])]
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
            reduction=self._reduction.setting, backgrounds=behind,
        )  # fmt: skip
        expected = expected_depths(colors[..., :4], alphas) if with_depth else None
        return Received(splats, counts, means2d, probe, colors, alphas, expected)

    def _differentiated(
        self, received: Received, v_image: Tensor, v_depth: Tensor | None, errors: Tensor | None
    ) -> Tensor:
        """The gradients of what came [M, 10], and behind them the sums that densification wants, [M, 3]."""
        v_colors = torch.zeros_like(received.colors)
        v_colors[0, ..., :3] = v_image
        if errors is not None:
            v_colors[0, ..., -1] = errors
        outputs, gradients = [received.colors], [v_colors]
        if received.depths is not None and v_depth is not None:
            outputs, gradients = [*outputs, received.depths], [*gradients, v_depth[None, ..., None]]
        GivenGradients.apply(tuple(gradients), *outputs).backward()
        assert received.splats.grad is not None
        sums = v_image.new_zeros(len(received.splats), 3)
        if self.settings.absgrad:
            sums[:, :2] = received.means2d.absgrad[0]  # type: ignore[attr-defined]  # the blend's
        if received.probe is not None and received.probe.grad is not None:
            sums[:, 2] = received.probe.grad[0, :, 0]
        return torch.cat([received.splats.grad[:, :_DIFFERENTIABLE], sums], dim=1)

    def _give_pose(self, rendered: ShardedRendered) -> None:
        """Leaves the gradient of this rank's camera, if that is wanted, of which all ranks have a part."""
        if not rendered.camera.viewmats.requires_grad:
            return
        parts = [sent.camera.viewmats for sent in rendered.sent]
        v_viewmats = torch.cat([torch.zeros_like(one) if one.grad is None else one.grad for one in parts])
        rendered.camera.viewmats.grad = self.ranks.swap(v_viewmats).sum(dim=0, keepdim=True)

    def _differentiate(
        self, step: int, sent: Sequence[Sent], back: Sequence[Tensor], statistics: Mapping[str, Tensor] | None
    ) -> None:
        """From records of views to gradients, and what densification counts, view by view."""
        self._count(step, sent, back, statistics)
        v_splats = [torch.nn.functional.pad(one[:, :_DIFFERENTIABLE], (0, WORDS["radii"])) for one in back]
        torch.autograd.backward([one.splats for one in sent], v_splats)

    def _step(self) -> None:
        for param in self.params.values():
            if param.grad is None:  # nobody sees any of ours
                param.grad = torch.zeros_like(param)
        self.strategy.regularize(self.params)
        step_all(self.optimizers)

    def _count(
        self, step: int, views: Sequence[Sent], back: Sequence[Tensor], statistics: Mapping[str, Tensor] | None
    ) -> None:
        count, first = len(self.params["means"]), _DIFFERENTIABLE if self.settings.absgrad else 0
        for sent, records in zip(views, back, strict=True):
            if statistics is not None and "score" in statistics:
                errors = records.new_zeros(count).index_add_(0, sent.rows, records[:, -1])
                statistics["score"] += errors.sqrt()
            gradient = records.new_zeros(1, count, 2)
            gradient[0].index_add_(0, sent.rows, records[:, first : first + 2])
            radii = torch.zeros(1, count, 2, dtype=torch.int32, device=records.device)
            radii[0, sent.rows] = sent.splats.detach()[:, -2:].int()
            self.strategy.after_backward(step, gradient, radii, sent.camera.width, sent.camera.height)
