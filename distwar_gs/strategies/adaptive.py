"""Adaptive density control (ADC): where the image wants more detail, Gaussians are cloned or split; useless ones go.

Follows the 3DGS reference step by step (graphdeco-inria/gaussian-splatting, train.py and scene/gaussian_model.py
densify_and_prune) rather than the paper where the two differ (Kerbl et al. 2023, section 5.2): a clone stays where its
original is, instead of moving along the gradient.

Why not gsplat's `DefaultStrategy`: in 1.5.3 its opacity reset is guarded by `step % reset_every == 0 & step > 0`, where
`&` binds before `==`, which is never true, so opacities are never reset (gsplat issue 797, fixed on its main by 776).

Steps are counted from 1. With start, every, stop = 500, 100, 15000 the first refinement is at step 600 (the reference
asks for `step > start`) and the last at 14900 (`step < stop`); the last opacity reset is at 12000 for the same reason.
"""

import logging
import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Adam

from distwar_gs.config import DensificationConfig
from distwar_gs.config.schedule import FEWEST_TO_RECOVER, MEANT_FOR, Moment, Schedule
from distwar_gs.gaussians.edits import SpatialOrder, move_rows, not_finite
from distwar_gs.gaussians.memory import Cap
from distwar_gs.gaussians.optimizer import all_moments, edit
from distwar_gs.gaussians.rows import plan_rows
from distwar_gs.system.parallel import ALONE, Ranks

log = logging.getLogger(__name__)

SPLIT_SAMPLES = 2
SPLIT_SHRINK = 1.6
"""What a split divides the standard deviations by (paper, section 5.2: phi = 1.6)."""


@dataclass(frozen=True)
class RefineReport:
    """What a refinement did: Gaussians cloned, split (each into two), pruned (of what there was then), and left."""

    cloned: int
    split: int
    pruned: int
    total: int
    out_of_memory: bool = False
    """Whether there was no memory for it, so that nothing was done."""


# ------------------------------------------------------------------------------------------------------ when


def is_accumulated(now: Moment, config: DensificationConfig) -> bool:
    """Whether a step's gradients count. From the first step on: the refinement at 600 averages over steps 1 to 600."""
    return now.position < config.stop


def is_refined(now: Moment, config: DensificationConfig) -> bool:
    """Whether Gaussians are added and removed after the backward pass of a step: multiples of `every`, both ends
    excluded."""
    return config.start < now.mark(config.every) < config.stop and now.is_each(config.every)


def is_ordered(now: Moment, config: DensificationConfig) -> bool:
    """Whether the Gaussians are put into spatial order after a step: every `order_every`, and when their number has
    become final."""
    every, ended = config.order_every, now.reaches(config.stop)
    return every > 0 and now.step > 0 and (ended or (now.position < config.stop and now.is_each(every)))


def is_reset(now: Moment, config: DensificationConfig, white_background: bool) -> bool:
    """Whether opacities are reset after a step: multiples of `opacity_reset_every` below `stop`, and, on a white
    background, step `start` as well (the reference does that against white floaters)."""
    at_start = white_background and now.reaches(config.start)
    return 0 < now.position < config.stop and (now.completes(config.opacity_reset_every) or at_start)


# ------------------------------------------------------------------------------------------------------ statistics


def new_state(count: int, device: torch.device | str) -> dict[str, Tensor]:
    """Empty statistics: `grad2d` [N], the sum of gradient norms, and `count` [N], the views they were summed over."""
    return {name: torch.zeros(count, device=device) for name in ("grad2d", "count")}


@torch.no_grad()
def accumulate(state: dict[str, Tensor], means2d_grad: Tensor, radii: Tensor, width: int, height: int) -> None:
    """Add one backward pass to the statistics, in place and without waiting for the GPU.

    Args:
        state: from `new_state`.
        means2d_grad: [C, N, 2], gradient of the loss in the projected centres, per pixel; for the `absgrad` strategy
            the sums of absolute gradients (AbsGS, Ye et al. 2024). Made relative to normalised device coordinates
            here, as the reference's threshold expects: one unit is half the image.
        radii: [C, N, 2], pixels; a Gaussian was visible where both are positive.
        width, height: of the image, pixels.
    """
    visible = (radii > 0).all(dim=-1)
    norm = torch.hypot(means2d_grad[..., 0] * (width / 2.0), means2d_grad[..., 1] * (height / 2.0))
    state["grad2d"] += torch.where(visible, norm, 0.0).sum(dim=0)
    state["count"] += visible.sum(dim=0)


# ------------------------------------------------------------------------------------------------------ refinement


@torch.no_grad()
def refine(
    params: dict[str, Parameter],
    optimizers: dict[str, Adam],
    state: dict[str, Tensor],
    step: float,
    extent: float,
    config: DensificationConfig,
    generator: torch.Generator,
    ranks: Ranks = ALONE,
) -> RefineReport:
    """Clone, split and prune once; afterwards the statistics start anew.

    The whole change is planned first and then made in place (distwar_gs.gaussians.rows). What stays keeps its Adam
    moments, new Gaussians start with none. Not finite Gaussians are removed and never grow; a refinement that would
    leave nothing is skipped.

    Args:
        params, optimizers, state: changed in place.
        step: counted from 1 (a run's position, distwar_gs.config.schedule); decides whether oversized Gaussians are
            pruned.
        extent: of the scene, in the frame of the means.
        config: the section `densification`.
        generator: all randomness, on the device of the parameters; on all ranks the same.
        ranks: those that hold Gaussians. The report is of all.

    Raises:
        torch.OutOfMemoryError: nothing is changed then, but random numbers are drawn.
    """
    count = ranks.total(len(params["means"]))
    unfit = _unfit(params, config.prune_opacity)
    large = _largest_scale(params["scales"]) > config.clone_scale * extent
    grown = _wants_growth(state, unfit, config, ranks)
    clone, split = grown & ~large, grown & large

    gone = unfit | split | _oversized(params["scales"], step, extent, config)
    sources, cloned = _sources(clone, split)
    scales = _shrunk(params["scales"].detach()[sources], cloned)
    alive = ~_oversized(scales, step, extent, config)
    if ranks.all(bool(gone.all() and not alive.any())):
        log.warning("step %d: all %d Gaussians would be pruned; nothing is changed", step, count)
        state.update(new_state(count, unfit.device))
        return RefineReport(0, 0, 0, count)

    means = _scattered(params, sources, cloned, generator, ranks)
    plan = plan_rows(gone, sources[alive])
    statistics = new_state(plan.count, unfit.device)
    move_rows(params, optimizers, plan, {"means": means[alive], "scales": scales[alive]})
    state.update(statistics)
    halves, total = ranks.total((len(sources) - cloned) // SPLIT_SAMPLES), ranks.total(plan.count)
    cloned = ranks.total(cloned)
    return RefineReport(cloned, halves, count + cloned + halves - total, total)


@torch.no_grad()
def reset_opacity(params: dict[str, Parameter], optimizers: dict[str, Adam], value: float) -> None:
    """Cap every opacity at `value` and forget its Adam moments, so that only Gaussians the images need come back."""
    cap = math.log(value / (1.0 - value))
    # In place: it takes no memory.
    edit(params, optimizers, ["opacities"], lambda name, logits: logits.clamp_max_(cap), lambda key, old: old.zero_())


def _unfit(params: dict[str, Parameter], prune_opacity: float) -> Tensor:
    """[N] bool: transparent or not finite. Neither cloning nor splitting changes that, so these need not grow first
    to be pruned after, as they do in the reference."""
    return (torch.sigmoid(params["opacities"]) < prune_opacity) | not_finite(params)


def _largest_scale(scales: Tensor) -> Tensor:
    """[N]: the standard deviation along the longest axis, of log scales [N, 3]."""
    return scales.amax(dim=1).exp()


def _wants_growth(state: dict[str, Tensor], unfit: Tensor, config: DensificationConfig, ranks: Ranks = ALONE) -> Tensor:
    """[N] bool: mean gradient at or above the threshold; under a cap, the largest of those that there is room for."""
    gradient = mean_gradient(state)
    grown = (gradient >= config.grad_threshold) & ~unfit
    if not config.cap_max:
        return grown
    room = max(config.cap_max - ranks.total(int((~unfit).sum())), 0)  # a clone and a split both add one
    if ranks.total(int(grown.sum())) <= room:
        return grown
    wishes, ranked = torch.where(grown, gradient, -1.0).sort(descending=True, stable=True)
    room = ranks.first(-wishes, room)
    return torch.zeros_like(grown).index_fill_(0, ranked[:room], True) & grown


def mean_gradient(state: dict[str, Tensor]) -> Tensor:
    """[N], over the views that a Gaussian was visible in; what is not finite as 0."""
    return (state["grad2d"] / state["count"].clamp_min(1.0)).nan_to_num(nan=0.0, posinf=0.0)


def _sources(clone: Tensor, split: Tensor) -> tuple[Tensor, int]:
    """Of which Gaussian [K] each new one is made, and how many at the front are clones; the halves follow."""
    cloned, halved = (mask.nonzero().squeeze(1) for mask in (clone, split))
    return torch.cat((cloned, halved.repeat(SPLIT_SAMPLES))), len(cloned)


def _shrunk(scales: Tensor, first: int) -> Tensor:
    """Log scales [M, 3], those from row `first` on divided by 1.6; in place."""
    scales[first:] -= math.log(SPLIT_SHRINK)
    return scales


def _scattered(
    params: dict[str, Parameter], rows: Tensor, first: int, generator: torch.Generator, ranks: Ranks
) -> Tensor:
    """Means [M, 3] of the rows, those from `first` on drawn from the Gaussian they split: N(mean, R S S^T R^T)."""
    means, sources = params["means"].detach()[rows], rows[first:]
    total, ours = ranks.span(len(sources))
    normal = torch.randn(total, 3, generator=generator, device=means.device)[ours]
    means[first:] += rotated(params["quats"][sources], normal * params["scales"][sources].exp())
    return means


def rotated(quats: Tensor, vectors: Tensor) -> Tensor:
    """Vectors [M, 3] turned by quaternions [M, 4] (wxyz, any length): v + 2 w (u x v) + 2 u x (u x v)."""
    w, u = F.normalize(quats, dim=1).split((1, 3), dim=1)
    twice = 2.0 * torch.linalg.cross(u, vectors)
    return vectors + w * twice + torch.linalg.cross(u, twice)


def _oversized(scales: Tensor, step: float, extent: float, config: DensificationConfig) -> Tensor:
    """[M] bool: larger than `prune_scale` extents, after the first opacity reset.

    The reference also means to prune what is large on the screen, but zeroes its max_radii2D just before it looks at it
    (graphdeco-inria/gaussian-splatting issue 123): no published result has that rule, and neither have we.
    """
    if step <= config.opacity_reset_every:
        return torch.zeros(len(scales), dtype=torch.bool, device=scales.device)
    return _largest_scale(scales) > config.prune_scale * extent


# ------------------------------------------------------------------------------------------------------ the whole


class Densifier:
    """Statistics and schedule in one hand: a `distwar_gs.strategies.base.Strategy`."""

    def __init__(
        self,
        count: int,
        device: torch.device | str,
        extent: float,
        config: DensificationConfig,
        white_background: bool,
        cap: Cap | None = None,
        schedule: Schedule | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """Start with empty statistics for `count` Gaussians; `extent` in the frame of the means; `cap` if it depends on
        memory, `schedule` if the length of the run is given in seconds, `ranks` that hold Gaussians."""
        self.config, self.schedule, self.ranks = config, schedule or Schedule(MEANT_FOR), ranks
        self.cap = cap or Cap(config.cap_max)
        self._order = SpatialOrder()
        self.extent = extent
        self.white_background = white_background
        self.state = new_state(count, device)
        self._reset_at = 0

    def after_backward(self, step: int, means2d_grad: Tensor, radii: Tensor, width: int, height: int) -> None:
        """Count the gradients of a step (see `accumulate`)."""
        if is_accumulated(self.schedule.at(step), self.config):
            accumulate(self.state, means2d_grad, radii, width, height)

    def statistics(self, step: int) -> dict[str, Tensor] | None:
        """What a backward pass that counts by itself adds to; None when its step's gradients do not count."""
        return self.state if is_accumulated(self.schedule.at(step), self.config) else None

    def regularize(self, params: dict[str, Parameter]) -> None:
        """Nothing: the loss is the image's alone."""

    def prices(self, count: int) -> tuple[float, float]:
        """None."""
        return 0.0, 0.0

    def perturb(self, step: int, params: dict[str, Parameter], means_lr: float, generator: torch.Generator) -> None:
        """Nothing: only the optimisers move Gaussians."""

    def is_due(self, step: int) -> bool:
        """Whether `step` will change anything after this step."""
        now = self.schedule.at(step)
        return self._is_reset(now) or is_refined(now, self.config) or is_ordered(now, self.config)

    def step(
        self, step: int, params: dict[str, Parameter], optimizers: dict[str, Adam], generator: torch.Generator
    ) -> RefineReport | None:
        """Refine, reset opacities and put in order where that is due; the report of a refinement, else None.

        Call it after the optimisers' step: parameters replaced here have no gradient, so a step right after would leave
        them alone (the reference refines first and so loses that update).
        """
        report, now = None, self.schedule.at(step)
        if is_refined(now, self.config):
            report = self._refine(now, params, optimizers, generator)
        if self._is_reset(now):
            reset_opacity(params, optimizers, self.config.opacity_reset_value)
            self._reset_at = step
        if is_ordered(now, self.config):
            self._order.apply(step, params, optimizers, self.state)
        return report

    def _is_reset(self, now: Moment) -> bool:
        """As `is_reset`; where time drives the schedule, opacities are first given the steps to come back."""
        has_recovered = now.step - self._reset_at >= FEWEST_TO_RECOVER or not self.schedule.follows_clock
        return has_recovered and is_reset(now, self.config, self.white_background)

    def _refine(
        self, now: Moment, params: dict[str, Parameter], optimizers: dict[str, Adam], generator: torch.Generator
    ) -> RefineReport:
        """Refines under the cap; where memory runs out, that becomes the cap."""
        cap = self.cap.now([*params.values(), *all_moments(optimizers)])
        config = replace(self.config, cap_max=cap)
        try:
            report = refine(params, optimizers, self.state, now.position, self.extent, config, generator, self.ranks)
        except self.ranks.survivable:
            report = RefineReport(0, 0, 0, len(params["means"]), out_of_memory=True)
        if report.out_of_memory:
            self.cap.ran_out(now.step, report.total)
        elif report.total == cap:
            self.cap.reached(now.step, report.total)
        return report

    def state_dict(self) -> dict[str, Tensor]:
        """The statistics, for a checkpoint."""
        return dict(self.state)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from the statistics of a checkpoint.

        Raises:
            ValueError: they are not the statistics of as many Gaussians as there are.
        """
        for name, own in self.state.items():
            if name not in state or state[name].shape != own.shape:
                raise ValueError(f"densification statistics {name!r} are missing or not of shape {[*own.shape]}")
        self.state = {name: state[name].to(own, copy=True) for name, own in self.state.items()}
