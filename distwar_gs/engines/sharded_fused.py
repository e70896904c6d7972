"""A training step by several ranks with the fused rasteriser: see sharded.py for what they exchange.

The host learns no counts: splats travel in slabs of one capacity for all ranks, in the words in which the projection
writes and the blend reads them (distwar_kernels/records.cuh), so nothing is packed. Places that no splat has are in no
tile. Behind the splats of a slab is a row that says whether it held all of them; behind the gradients that come back,
whether the view was whole. One that was not has no gradient, as with one process, and the next slabs are larger.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Adam

from distwar_gs.engines.agreed import AGREE_EVERY, AgreedReduction
from distwar_gs.engines.depth import add_score, expected_depth, image_and_depth_gradients
from distwar_gs.engines.gradients import errors_of, image_gradient
from distwar_gs.engines.sharded import cameras_of_all, refuse_features
from distwar_gs.engines.timing import StepTimer
from distwar_gs.gaussians.optimizer import step_all
from distwar_gs.rendering.renderer import Rendering, RenderSettings, expected_depths
from distwar_gs.strategies.base import Strategy
from distwar_gs.system.parallel import Ranks
from distwar_kernels import Cameras, Reduction
from distwar_kernels.constants import SPLAT_FLOATS
from distwar_kernels.fused import fused, joint
from distwar_kernels.fused.capacity import BufferSizes
from distwar_kernels.fused.state import BlendState, VisibleSplats

_DEPTH = SPLAT_FLOATS - 1  # the word of a splat in which its depth travels


@dataclass(frozen=True)
class Drawn:
    """What this rank has drawn of the splats of all; see distwar_gs.engines.depth.Drawn."""

    image: Tensor
    """[H, W, 3], with depth [H, W, 4]."""
    splats: Tensor
    """[ranks * (capacity + 1), 12]: a slab from each rank."""
    blend: BlendState
    is_cut: Tensor
    """[1] bool: some buffer did not hold all of it."""

    @property
    def transmittances(self) -> Tensor:
        """[H, W]."""
        return self.blend.transmittances


@dataclass(frozen=True)
class ShardedFusedRendered:
    """See distwar_gs.engines.base.Rendered."""

    step: int
    cameras: Sequence[Cameras]
    """Of all ranks' views."""
    visible: list[VisibleSplats]
    """What each of them sees of this rank's Gaussians."""
    options: fused.DrawOptions
    drawn: Drawn
    """This rank's view."""

    @property
    def image(self) -> Tensor:
        """See Rendered."""
        return self.drawn.image[..., :3].contiguous()

    @property
    def depth(self) -> tuple[Tensor, Tensor] | None:
        """See Rendered."""
        return expected_depth(self.drawn) if self.options.with_depth else None

    def coverage(self) -> float:
        """See Rendered."""
        return float((self.drawn.transmittances < 1).float().mean())


class ShardedFusedEngine:
    """The fused rasteriser in its two halves, and dense Adam."""

    def __init__(
        self,
        params: dict[str, Parameter],
        optimizers: Mapping[str, Adam],
        strategy: Strategy,
        settings: RenderSettings,
        ranks: Ranks,
        *,
        deterministic: bool = False,
    ) -> None:
        """Work on these, this rank's; they stay the trainer's. `deterministic`: no view is ever cut short, since when
        that is noticed hangs on the clock, and the blend's gradients are summed as integers. All other sums have a
        fixed order: by view, and by the places of splats in their slabs."""
        self.params, self.optimizers, self.strategy, self.settings = params, optimizers, strategy, settings
        self.ranks, self.sizes, self._deterministic = ranks, BufferSizes(), deterministic
        self._reduction = AgreedReduction(ranks, settings.reduction, params["means"].device)
        self._largest = 0  # pixels of an image so far
        self._capacity = 0  # splats in a slab, on all ranks the same
        self._until_agreed = 0  # steps

    def forward(
        self, step: int, camera: Cameras, sh_degree: int, background: Tensor, *together: Cameras,
        with_depth: bool = False,
    ) -> ShardedFusedRendered:  # fmt: skip
        """See distwar_gs.engines.base.Engine. Waits for the device once, to size its buffers, and at every step in
        deterministic mode."""
        is_whole = self._largest == 0 or self._deterministic
        self._agree(max(one.width * one.height for one in together), self._most_splats(together))
        options = self.settings.draw_options(sh_degree, background, with_depth)
        own = self.ranks.rank
        return self._render(
            step, (*together[:own], camera, *together[own + 1 :]), options, self.sizes, self._capacity, is_whole
        )

    def update(self, rendered: ShardedFusedRendered, gradients: Mapping[str, Tensor], timer: StepTimer) -> None:
        """See distwar_gs.engines.base.Engine."""
        statistics = self.strategy.statistics(rendered.step)
        errors, with_depth = errors_of(gradients, statistics, rendered.step), rendered.options.with_depth
        v_image = image_gradient(gradients, with_depth)
        records = self._blend_backward(rendered.drawn, rendered.options, v_image, gradients.get("depth"), errors)
        timer.mark("blend_backward")
        back = self._way_back(rendered.drawn, records)
        timer.mark("exchange")
        if with_depth and errors is not None and statistics is not None:
            sums = self._sums_of_errors(rendered.drawn, rendered.options, errors)[:, :-1]
            for visible, of_view, is_cut in zip(rendered.visible, sums, back[:, -1, 0] != 0.0, strict=True):
                held = torch.arange(len(of_view), device=of_view.device) < visible.total
                add_score(statistics["score"], visible.gaussian_ids, of_view, held & ~is_cut)
        self._differentiate(rendered, back, statistics)
        timer.mark("backward")
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
        together = cameras_of_all(self.ranks, camera)
        options = self.settings.draw_options(sh_degree, background, with_depth)
        capacity = max(self.ranks.numbers(self._most_splats(together)))
        seen = self._render(step, together, options, BufferSizes(), capacity, is_whole=True)
        alphas = 1.0 - seen.drawn.transmittances[None, ..., None]
        return Rendering(seen.image[None], alphas, expected_depths(seen.drawn.image[None], alphas), None)

    @property
    def skipped(self) -> int:
        """See distwar_gs.engines.base.Engine: of this rank's views, and of those that its own Gaussians outgrew."""
        return self.sizes.overflows

    def settle(self, step: int) -> None:
        """Nothing to do: every step is whole."""

    # ------------------------------------------------------------------------------------------------ inside

    def _most_splats(self, cameras: Sequence[Cameras]) -> int:
        """That this rank's Gaussians can have in one of these views."""
        return len(self.params["means"]) * max(camera.lens.most_splats for camera in cameras)

    def _agree(self, pixels: int, most: int) -> None:
        """On the capacity of slabs and the reduction, where that is due: at the same steps on all ranks. A view has at
        most so many splats of this rank's."""
        if pixels > self._largest:
            if self._largest:
                self.sizes.expect_larger(pixels / self._largest)
            self._largest, self._until_agreed = pixels, 0
        if self._until_agreed == 0:
            self._until_agreed = AGREE_EVERY if self._capacity else 1  # after the first step more is known
            self._capacity = self._agreed(self.sizes, most)
            self._reduction.agree()
        self._until_agreed -= 1

    def _agreed(self, sizes: BufferSizes, most: int) -> int:
        """The capacity of slabs that is enough for all ranks, as far as they know by now; `most` as for `_agree`."""
        return max(self.ranks.numbers(sizes.capacities(most)[0]))

    def _render(
        self, step: int, together: Sequence[Cameras], options: fused.DrawOptions, sizes: BufferSizes, capacity: int,
        is_whole: bool,
    ) -> ShardedFusedRendered:  # fmt: skip
        visible, totals, capacity = self._project(together, options, sizes, capacity, is_whole)
        packed = _slabs(visible, totals, capacity)
        visible = [one._replace(splats=slab[:-1]) for one, slab in zip(visible, packed, strict=True)]  # once is enough
        drawn = self._draw(packed, totals, together[self.ranks.rank], options, sizes, is_whole)
        return ShardedFusedRendered(step, together, visible, options, drawn)

    def _draw(
        self, packed: Tensor, totals: Tensor, camera: Cameras, options: fused.DrawOptions, sizes: BufferSizes,
        is_whole: bool,
    ) -> Drawn:  # fmt: skip
        """Slabs [ranks, capacity + 1, 12] go where they belong, and what has come is blended to an image of the
        camera's size; `totals` [ranks] of ours are for `sizes`."""
        slabs = self.ranks.swap(packed)
        is_cut, splats = slabs[:, -1, 0].any().view(1), slabs.view(-1, SPLAT_FLOATS)
        slabs[:, -1] = 0.0
        depths = splats[:, _DEPTH].clone()
        if not options.with_depth:
            splats[:, _DEPTH] = 0.0
        most, capacity = self._most_splats([camera]), packed.shape[1] - 1
        while True:
            held = (capacity, sizes.capacities(most)[1])
            image, blend = joint.blend(splats, depths, camera, options, held[1])
            counts = torch.cat([totals.max().view(1), blend.counts[1:]])
            if not is_whole or sizes.fits(counts, most, held):
                break
        if not is_whole:
            sizes.watch(counts, most, held)
        return Drawn(image, splats, blend, is_cut | (blend.counts[1:] > held[1]))

    def _project(
        self, together: Sequence[Cameras], options: fused.DrawOptions, sizes: BufferSizes, capacity: int, is_whole: bool
    ) -> tuple[list[VisibleSplats], Tensor, int]:
        """What each view sees of ours, how many splats that are [views], and the capacity, which is enough for all
        ranks' if the views are to be whole."""
        with_depth = replace(options, with_depth=True)  # only so that it travels with the splat
        parameters = [self.params[name].detach() for name in fused.PARAMETERS]
        while True:
            visible = [joint.project(parameters, camera, with_depth, capacity) for camera in together]
            totals = torch.cat([one.total for one in visible])
            if not is_whole:
                return visible, totals, capacity
            largest, most = totals.max().view(1), self._most_splats(together)
            fits = sizes.fits(torch.cat([largest, torch.zeros_like(largest)]), most, (capacity, 0))
            if self.ranks.all(fits):
                return visible, totals, capacity
            capacity = self._capacity = self._agreed(sizes, most)

    def _blend_backward(
        self, drawn: Drawn, options: fused.DrawOptions, v_image: Tensor, v_depth: Tensor | None, errors: Tensor | None
    ) -> Tensor:
        """A record of gradients for each splat; errors are summed apart where there is depth (`_sums_of_errors`)."""
        v_transmittances = None
        if options.with_depth:
            v_depth = torch.zeros_like(drawn.transmittances) if v_depth is None else v_depth
            v_image, v_transmittances = image_and_depth_gradients(drawn, v_image, v_depth)
            errors = None

        def run(v_image: Tensor, reduction: Reduction) -> Tensor:
            return joint.blend_backward(
                drawn.splats, drawn.blend, options, v_image, self.settings.absgrad, reduction, errors,
                self._deterministic, v_transmittances,
            )  # fmt: skip

        return run(v_image, self._reduction.watched(v_image, len(self.params["means"]), run))

    def _way_back(self, drawn: Drawn, records: Tensor) -> Tensor:
        """Gradients for those who have the Gaussians: ours, [ranks, capacity + 1, 12], as the slabs were packed."""
        slabs = records.view(self.ranks.count, -1, SPLAT_FLOATS)
        slabs[:, -1, 0] = drawn.is_cut.float()
        return self.ranks.swap(slabs)

    def _sums_of_errors(self, drawn: Drawn, options: fused.DrawOptions, errors: Tensor) -> Tensor:
        """Of our splats [ranks, capacity + 1], as distwar_gs.engines.depth.scored: by a pass of their own, where
        gradients of depth have their place."""
        splats, plain = drawn.splats.clone(), replace(options, with_depth=False)
        splats[:, _DEPTH] = 0.0
        v_image = torch.zeros_like(drawn.image[..., :3])
        records = joint.blend_backward(splats, drawn.blend, plain, v_image, False, Reduction(), errors, True)
        return self.ranks.swap(records[:, -1].reshape(self.ranks.count, -1))

    def _differentiate(
        self, rendered: ShardedFusedRendered, back: Tensor, statistics: Mapping[str, Tensor] | None
    ) -> None:
        """From the records that came back [views, capacity + 1, 12] to the gradients of the parameters and of this
        rank's camera, and what densification counts."""
        statistics = unscored(statistics) if rendered.options.with_depth else statistics
        parameters, options = [self.params[name].detach() for name in fused.PARAMETERS], rendered.options
        sums, own = [torch.zeros_like(parameter) for parameter in parameters], rendered.cameras[self.ranks.rank]
        v_viewmats = []
        for camera, visible, records in zip(rendered.cameras, rendered.visible, back, strict=True):
            view = (parameters, camera, options, visible, records[:-1], records[-1, :1] != 0.0)
            joint.add_gradients(sums, *view, self.settings.absgrad, statistics)
            if own.viewmats.requires_grad:
                v_viewmats.append(joint.pose_gradient(*view))
        for name, gradient in zip(fused.PARAMETERS, sums, strict=True):
            self.params[name].grad = gradient
        if v_viewmats:
            own.viewmats.grad = self.ranks.swap(torch.cat(v_viewmats)).sum(dim=0, keepdim=True)


def unscored(statistics: Mapping[str, Tensor] | None) -> Mapping[str, Tensor] | None:
    """What is left to count where errors were summed apart."""
    return statistics and {name: value for name, value in statistics.items() if name != "score"}


def _slabs(visible: Sequence[VisibleSplats], totals: Tensor, capacity: int) -> Tensor:
    """[views, capacity + 1, 12]: the splats, zeros where there are none, and a last row that begins with 1 where the
    capacity did not suffice."""
    slabs = totals.new_zeros(len(visible), capacity + 1, SPLAT_FLOATS, dtype=torch.float32)
    places, nothing = torch.arange(capacity, device=totals.device), slabs.new_zeros(())
    for slab, one in zip(slabs, visible, strict=True):
        torch.where((places < one.total)[:, None], one.splats, nothing, out=slab[:-1])
    slabs[:, -1, 0] = (totals > capacity).float()
    return slabs
