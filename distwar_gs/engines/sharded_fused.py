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

import distwar_kernels as kernels
from distwar_gs.engines.gradients import errors_of, image_gradient
from distwar_gs.engines.sharded import cameras_of_all, refuse_features
from distwar_gs.engines.timing import StepTimer
from distwar_gs.gaussians.optimizer import step_all
from distwar_gs.rendering.renderer import Rendering, RenderSettings
from distwar_gs.strategies.base import Strategy
from distwar_gs.system.parallel import Ranks
from distwar_kernels import Cameras
from distwar_kernels.constants import SPLAT_FLOATS
from distwar_kernels.fused import fused, joint
from distwar_kernels.fused.capacity import BufferSizes
from distwar_kernels.fused.state import BlendState, VisibleSplats

AGREE_EVERY = 16
"""Steps after which the ranks agree on the capacity of their slabs again: a host waits for the others' hosts then."""
_DEPTH = SPLAT_FLOATS - 1  # the word of a splat in which its depth travels


@dataclass(frozen=True)
class ShardedFusedRendered:
    """See distwar_gs.engines.base.Rendered."""

    step: int
    image: Tensor
    """[H, W, 3]."""
    cameras: Sequence[Cameras]
    """Of all ranks' views."""
    visible: list[VisibleSplats]
    """What each of them sees of this rank's Gaussians."""
    options: fused.DrawOptions
    splats: Tensor
    """[ranks * (capacity + 1), 12]: what this rank's view sees of all Gaussians, a slab from each rank."""
    blend: BlendState
    is_cut: Tensor
    """[1] bool: some buffer did not hold all of this rank's view."""

    @property
    def depth(self) -> None:
        """See Rendered: ranks do not exchange it."""
        return None

    def coverage(self) -> float:
        """See Rendered."""
        return float((self.blend.transmittances < 1).float().mean())


class ShardedFusedEngine:
    """The fused rasteriser in its two halves, and dense Adam."""

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
        self.ranks, self.sizes = ranks, BufferSizes()
        self._largest = 0  # pixels of an image so far
        self._capacity = 0  # splats in a slab, on all ranks the same
        self._until_agreed = 0  # steps

    def forward(
        self, step: int, camera: Cameras, sh_degree: int, background: Tensor, *together: Cameras,
        with_depth: bool = False,
    ) -> ShardedFusedRendered:  # fmt: skip
        """See distwar_gs.engines.base.Engine; without depth. Waits for the device once, to size its buffers."""
        is_first = self._largest == 0
        self._agree(max(one.width * one.height for one in together), self._most_splats(together))
        options = self.settings.draw_options(sh_degree, background)
        return self._render(step, together, options, self.sizes, self._capacity, is_whole=is_first)

    def update(self, rendered: ShardedFusedRendered, gradients: Mapping[str, Tensor], timer: StepTimer) -> None:
        """See distwar_gs.engines.base.Engine."""
        absgrad, statistics = self.settings.absgrad, self.strategy.statistics(rendered.step)
        errors = errors_of(gradients, statistics, rendered.step)
        reduction, _ = kernels.resolve(self.settings.reduction, rendered.image.device)
        v_image = image_gradient(gradients, with_depth=False)
        records = joint.blend_backward(
            rendered.splats, rendered.blend, rendered.options, v_image, absgrad, reduction, errors
        )
        timer.mark("blend_backward")
        slabs = records.view(self.ranks.count, -1, SPLAT_FLOATS)
        slabs[:, -1, 0] = rendered.is_cut.float()
        back = self.ranks.swap(slabs)
        timer.mark("exchange")
        self._differentiate(rendered, back, absgrad, statistics)
        timer.mark("backward")
        self.strategy.regularize(self.params)
        step_all(self.optimizers)
        timer.mark("optimizer")

    @torch.no_grad()
    def look(
        self, step: int, camera: Cameras, sh_degree: int, background: Tensor, *, with_depth: bool = False,
        features: Tensor | None = None,
    ) -> Rendering:  # fmt: skip
        """See distwar_gs.engines.base.Engine. All ranks look at once, each with its own camera, and at colours only."""
        refuse_features(features)
        if with_depth:
            raise ValueError("several ranks do not blend depths: render the saved model with one process")
        together, options = cameras_of_all(self.ranks, camera), self.settings.draw_options(sh_degree, background)
        capacity = max(self.ranks.numbers(self._most_splats(together)))
        seen = self._render(step, together, options, BufferSizes(), capacity, is_whole=True)
        return Rendering(seen.image[None], 1.0 - seen.blend.transmittances[None, ..., None], None, None)

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
        """On the capacity of slabs, where that is due: at the same steps on all ranks."""
        if pixels > self._largest:
            if self._largest:
                self.sizes.expect_larger(pixels / self._largest)
            self._largest, self._until_agreed = pixels, 0
        if self._until_agreed == 0:
            self._until_agreed = AGREE_EVERY if self._capacity else 1  # after the first step more is known
            self._capacity = max(self.ranks.numbers(self.sizes.capacities(most)[0]))
        self._until_agreed -= 1

    def _render(
        self, step: int, together: Sequence[Cameras], options: fused.DrawOptions, sizes: BufferSizes, capacity: int,
        is_whole: bool,
    ) -> ShardedFusedRendered:  # fmt: skip
        with_depth = replace(options, with_depth=True)  # only so that it travels with the splat
        parameters = [self.params[name].detach() for name in fused.PARAMETERS]
        visible = [joint.project(parameters, camera, with_depth, capacity) for camera in together]
        totals = torch.cat([one.total for one in visible])
        packed = _slabs(visible, totals, capacity)
        visible = [one._replace(splats=slab[:-1]) for one, slab in zip(visible, packed, strict=True)]  # once is enough
        slabs = self.ranks.swap(packed)
        is_cut, splats = slabs[:, -1, 0].any().view(1), slabs.view(-1, SPLAT_FLOATS)
        slabs[:, -1] = 0.0
        depths = splats[:, _DEPTH].clone()
        splats[:, _DEPTH] = 0.0
        camera, gaussians = together[self.ranks.rank], self._most_splats(together)
        while True:
            held = (capacity, sizes.capacities(gaussians)[1])
            image, blend = joint.blend(splats, depths, camera, options, held[1])
            counts = torch.cat([totals.max().view(1), blend.counts[1:]])
            if not is_whole or sizes.fits(counts, gaussians, held):
                break
        if not is_whole:
            sizes.watch(counts, gaussians, held)
        is_cut = is_cut | (blend.counts[1:] > held[1])
        return ShardedFusedRendered(step, image, together, visible, options, splats, blend, is_cut)

    def _differentiate(
        self, rendered: ShardedFusedRendered, back: Tensor, absgrad: bool, statistics: Mapping[str, Tensor] | None
    ) -> None:
        """From the records that came back [ranks, capacity + 1, 12] to the gradients of the parameters, and what
        densification counts."""
        parameters = [self.params[name].detach() for name in fused.PARAMETERS]
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        for camera, visible, records in zip(rendered.cameras, rendered.visible, back, strict=True):
            is_cut = records[-1, :1] != 0.0
            joint.add_gradients(
                sums, parameters, camera, rendered.options, visible, records[:-1], is_cut, absgrad, statistics
            )
        for name, gradient in zip(fused.PARAMETERS, sums, strict=True):
            self.params[name].grad = gradient


def _slabs(visible: Sequence[VisibleSplats], totals: Tensor, capacity: int) -> Tensor:
    """[views, capacity + 1, 12]: the splats, zeros where there are none, and a last row that begins with 1 where the
    capacity did not suffice."""
    slabs = totals.new_zeros(len(visible), capacity + 1, SPLAT_FLOATS, dtype=torch.float32)
    places, nothing = torch.arange(capacity, device=totals.device), slabs.new_zeros(())
    for slab, one in zip(slabs, visible, strict=True):
        torch.where((places < one.total)[:, None], one.splats, nothing, out=slab[:-1])
    slabs[:, -1, 0] = (totals > capacity).float()
    return slabs
