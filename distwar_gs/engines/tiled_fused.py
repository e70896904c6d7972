"""A training step with the fused rasteriser in which all ranks show one view, each some rows of its tiles: see tiled.py
for what that means, and sharded_fused.py for slabs, which here are of bands.

A splat that several bands show is in several slabs. Its centre is relative to the band there; the number of its tiles
is that of the whole view, which is enough: places in the lists that no tile takes stay behind all others.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from distwar_gs.engines.bands import Bands
from distwar_gs.engines.depth import add_score
from distwar_gs.engines.gradients import errors_of, image_gradient
from distwar_gs.engines.sharded_fused import Drawn, ShardedFusedEngine, unscored
from distwar_gs.engines.timing import StepTimer
from distwar_gs.gaussians.optimizer import step_all
from distwar_gs.rendering.renderer import LEAST_ALPHA
from distwar_kernels import Cameras
from distwar_kernels.constants import ALPHA_CUT, SPLAT_FLOATS
from distwar_kernels.fused import fused, joint
from distwar_kernels.fused.capacity import BufferSizes
from distwar_kernels.fused.state import VisibleSplats

_MEAN_Y, _SCALE_V, _LOG2_OPACITY = 1, 5, 6  # words of a splat (records.cuh)
_MARGIN = 1.0  # pixels, more than rounding could make of a footprint


@dataclass(frozen=True)
class TiledFusedRendered:
    """See distwar_gs.engines.base.Rendered."""

    step: int
    camera: Cameras
    bands: Bands
    visible: VisibleSplats
    """What the view shows of this rank's Gaussians."""
    places: Tensor
    """[ranks, V] int64: where in each band's slab these are; as much as the capacity: nowhere."""
    options: fused.DrawOptions
    drawn: Drawn
    """This rank's band."""
    whole: Tensor
    """[H, W, 3], of all bands; with depth [H, W, 5]: what was blended of it, and what is left of the light."""

    @property
    def image(self) -> Tensor:
        """See Rendered."""
        return self.whole[..., :3].contiguous()

    @property
    def depth(self) -> tuple[Tensor, Tensor] | None:
        """See Rendered."""
        if not self.options.with_depth:
            return None
        alphas = 1.0 - self.whole[..., 4]
        return self.whole[..., 3] / alphas.clamp_min(LEAST_ALPHA), alphas

    def coverage(self) -> float:
        """See Rendered; of this rank's band."""
        return float((self.drawn.transmittances < 1).float().mean())


class TiledFusedEngine(ShardedFusedEngine):
    """The fused rasteriser in its two halves. Looks are those of ShardedFusedEngine: each rank with its own camera."""

    def __init__(self, *run: Any, **options: Any) -> None:
        """As ShardedFusedEngine."""
        super().__init__(*run, **options)
        self._own_sizes = BufferSizes()  # of what views show of this rank's Gaussians; `sizes` are of bands

    def forward(  # type: ignore[override]  # what it returns is for its own `update`
        self, step: int, camera: Cameras, sh_degree: int, background: Tensor, *together: Cameras,
        with_depth: bool = False,
    ) -> TiledFusedRendered:  # fmt: skip
        """See ShardedFusedEngine; all ranks show the same view."""
        bands, is_whole = Bands.of(camera, self.ranks), self._largest == 0 or self._deterministic
        self._agree(camera.width * camera.height, self._most_splats([camera]))
        options = self.settings.draw_options(sh_degree, background, with_depth)
        visible = self._project_once(camera, options, is_whole)
        packed, places, totals = self._part(visible, camera, bands, is_whole)
        drawn = self._draw(packed, totals, bands.size(camera), options, self.sizes, is_whole)
        parts = [drawn.image, drawn.transmittances[..., None]] if with_depth else [drawn.image]
        whole = bands.whole(torch.cat(parts, dim=-1))
        return TiledFusedRendered(step, camera, bands, visible, places, options, drawn, whole)

    def update(  # type: ignore[override]
        self, rendered: TiledFusedRendered, gradients: Mapping[str, Tensor], timer: StepTimer
    ) -> None:
        """See distwar_gs.engines.base.Engine."""
        statistics, own, options = self.strategy.statistics(rendered.step), rendered.bands.own, rendered.options
        errors, v_depth = errors_of(gradients, statistics, rendered.step), gradients.get("depth")
        errors = None if errors is None else own(errors).contiguous()
        v_image = own(image_gradient(gradients, options.with_depth)).contiguous()
        v_depth = None if v_depth is None else own(v_depth)
        records = self._blend_backward(rendered.drawn, options, v_image, v_depth, errors)
        timer.mark("blend_backward")
        back = self._way_back(rendered.drawn, records)
        timer.mark("exchange")
        is_cut = (back[:, -1, 0] != 0.0).any().view(1)
        if options.with_depth and errors is not None and statistics is not None:
            sums = self._sums_of_errors(rendered.drawn, options, errors)
            held = torch.arange(len(rendered.visible.splats), device=sums.device) < rendered.visible.total
            of_view = _summed(sums[..., None], rendered.places)[:, 0]
            add_score(statistics["score"], rendered.visible.gaussian_ids, of_view, held & ~is_cut)
            statistics = dict(unscored(statistics) or {})
        self._take(rendered, _summed(back, rendered.places), is_cut, statistics)
        timer.mark("backward")
        self.strategy.regularize(self.params)
        step_all(self.optimizers)
        timer.mark("optimizer")

    @property
    def skipped(self) -> int:
        """See ShardedFusedEngine."""
        return self.sizes.overflows + self._own_sizes.overflows

    # ------------------------------------------------------------------------------------------------ inside

    def _agree(self, pixels: int, most: int) -> None:
        if 0 < self._largest < pixels:
            self._own_sizes.expect_larger(pixels / self._largest)
        super()._agree(pixels, most)

    def _project_once(self, camera: Cameras, options: fused.DrawOptions, is_whole: bool) -> VisibleSplats:
        with_depth, sizes = replace(options, with_depth=True), self._own_sizes  # so that it travels with the splat
        parameters = [self.params[name].detach() for name in fused.PARAMETERS]
        most = self._most_splats([camera])
        while True:
            capacity = sizes.capacities(most)[0]
            visible = joint.project(parameters, camera, with_depth, capacity)
            counts = torch.cat([visible.total, torch.zeros_like(visible.total)])
            if not is_whole:
                sizes.watch(counts, most, (capacity, 0))
            if not is_whole or sizes.fits(counts, most, (capacity, 0)):
                return visible

    def _part(
        self, visible: VisibleSplats, camera: Cameras, bands: Bands, is_whole: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Slabs [ranks, capacity + 1, 12], each splat's places in them, and how many each should hold [ranks]."""
        shown, most = _shown(visible, bands), self._most_splats([camera])
        totals = shown.sum(dim=1).int()
        while is_whole:
            largest = totals.max().view(1)
            fits = self.sizes.fits(torch.cat([largest, torch.zeros_like(largest)]), most, (self._capacity, 0))
            if self.ranks.all(fits):
                break
            self._capacity = self._agreed(self.sizes, most)
        places = (shown.cumsum(dim=1) - 1).clamp_max(self._capacity).masked_fill(~shown, self._capacity)
        slabs = _filled(visible.splats, places, bands, self._capacity)
        slabs[:, -1] = 0.0
        slabs[:, -1, 0] = ((totals > self._capacity) | (visible.total > len(visible.splats))).float()
        return slabs, places, totals

    def _take(
        self, rendered: TiledFusedRendered, records: Tensor, is_cut: Tensor, statistics: Mapping[str, Tensor] | None
    ) -> None:
        """From the view's records [V, 12] to the gradients of the parameters and of the camera."""
        parameters, viewmats = [self.params[name].detach() for name in fused.PARAMETERS], rendered.camera.viewmats
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        view = (parameters, rendered.camera, rendered.options, rendered.visible, records, is_cut)
        joint.add_gradients(sums, *view, self.settings.absgrad, statistics)
        for name, gradient in zip(fused.PARAMETERS, sums, strict=True):
            self.params[name].grad = gradient
        if viewmats.requires_grad:
            viewmats.grad = rendered.bands.summed(joint.pose_gradient(*view))


def _shown(visible: VisibleSplats, bands: Bands) -> Tensor:
    """[ranks, V] bool: which splats each band shows, by the footprints that tile lists are made of (footprint.cuh)."""
    reach = (visible.splats[:, _LOG2_OPACITY] - math.log2(ALPHA_CUT)).clamp_min(0.0)
    middle, half = visible.splats[:, _MEAN_Y], reach.sqrt() / visible.splats[:, _SCALE_V] + _MARGIN
    held = torch.arange(len(middle), device=middle.device) < visible.total
    return bands.touched(middle - half, middle + half) & held


def _filled(splats: Tensor, places: Tensor, bands: Bands, capacity: int) -> Tensor:
    """[ranks, capacity + 1, 12]: splats [V, 12] at their places [ranks, V]; the last row is what has none."""
    tops = bands.tops(splats)
    slabs = splats.new_zeros(len(tops), capacity + 1, SPLAT_FLOATS)
    for slab, at, top in zip(slabs, places, tops, strict=True):
        moved = splats.clone()
        moved[:, _MEAN_Y] -= top
        slab.index_copy_(0, at, moved)
    return slabs


def _summed(back: Tensor, places: Tensor) -> Tensor:
    """[V, k]: over the bands, of what came back for the splats [ranks, capacity + 1, k] that have places [ranks, V]."""
    capacity = back.shape[1] - 1
    total = back.new_zeros(places.shape[1], back.shape[2])
    for of_band, at in zip(back, places, strict=True):
        total += torch.where((at < capacity)[:, None], of_band[at], 0.0)
    return total
