"""How the Gaussians are distributed, and what their gradients cost, as training goes: for TensorBoard and report."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distwar_datasets import Scene
from distwar_gs.config import Config
from distwar_gs.rendering.renderer import view_traffic
from distwar_gs.rendering.views import camera_of
from distwar_gs.training.monitor import Monitor
from distwar_gs.training.state import TrainingState
from distwar_kernels import AtomicTraffic, Cameras, Reduction

EVERY = 10
"""Points of the curves between two distributions."""

log = logging.getLogger(__name__)

_BINS = 64
REDUCTIONS = ("atomic", "sw_s", "sw_b", "sw_t")
"""Whose atomic additions are compared: those that the kernels make themselves."""


@dataclass(frozen=True)
class Histogram:
    """Of some values, as SummaryWriter.add_histogram_raw takes it."""

    min: float
    max: float
    num: int
    sum: float
    sum_squares: float
    bucket_limits: list[float]
    """The upper end of each bucket."""
    bucket_counts: list[float]


def histogram(values: Tensor, low: float, high: float) -> Histogram:
    """Of finite values, in 64 even buckets; what lies beyond the bounds is counted at them. Waits for the device."""
    limits = [low + (high - low) * (index + 1) / _BINS for index in range(_BINS)]
    if not values.numel():
        return Histogram(math.inf, -math.inf, 0, 0.0, 0.0, limits, [0.0] * _BINS)
    values = values.detach().flatten().float().clamp(low, high)
    buckets = ((values - low) * (_BINS / (high - low))).long().clamp_max(_BINS - 1)
    counts = torch.bincount(buckets, minlength=_BINS)  # unlike histc the same at every run, also on a GPU
    stats = torch.stack([values.min(), values.max(), values.double().sum(), values.double().square().sum()])
    least, most, total, squares, *counted = torch.cat([stats.double(), counts.double()]).tolist()
    return Histogram(least, most, values.numel(), total, squares, limits, counted)


def merged(parts: Sequence[Histogram]) -> Histogram:
    """Of the values of all parts, whose buckets are the same."""
    return Histogram(
        min(part.min for part in parts), max(part.max for part in parts), sum(part.num for part in parts),
        math.fsum(part.sum for part in parts), math.fsum(part.sum_squares for part in parts), parts[0].bucket_limits,
        [sum(counts) for counts in zip(*(part.bucket_counts for part in parts), strict=True)],
    )  # fmt: skip


class Distributions:
    """A hook: now and then and after the last step, histograms of opacities, sizes and gradients, and the atomic
    additions of a view under each reduction. It changes nothing in the run, and the clock of the training stands still.
    Several ranks all have it: histograms are of the Gaussians of all, and views are drawn by one process only.

    With lazy Adam, Gaussians that no view has shown lately are seen as they were then.
    """

    needs_finite = True

    def __init__(self, monitor: Monitor, every: int, state: TrainingState, camera: Cameras) -> None:
        """`every`: steps between two of them; `camera`: of the view whose atomic additions are counted."""
        self._monitor, self._every, self._state, self._camera = monitor, every, state, camera

    def is_due(self, step: int) -> bool:
        """At every so many steps, and at the end."""
        return self._state.schedule.is_each(step, self._every) or self._state.is_over

    def after_step(self, step: int, state: TrainingState) -> None:
        """Waits for the device. Where its memory does not suffice, nothing is told: the run may still fit."""
        with self._monitor.paused():
            try:
                found, scalars = histograms(state), {}
                if state.ranks.count == 1:
                    scalars = traffic_scalars(state, self._camera)
            except state.ranks.survivable:
                log.info("step %d: no histograms, as the memory of the GPU does not suffice", step)
            else:
                self._monitor.distributed(step, found, scalars)


def distributions_of(monitor: Monitor, config: Config, scene: Scene, state: TrainingState) -> list[Distributions]:
    """The hook of a run, with its first test view; none where nobody would see what it finds, on any rank."""
    if not state.ranks.any(config.log.tensorboard or config.log.report):
        return []
    camera = camera_of((scene.test or scene.train)[0], state.device)
    return [Distributions(monitor, EVERY * config.log.every, state, camera)]


def histograms(state: TrainingState) -> dict[str, Histogram]:
    """By name: opacities; the longest axis of each Gaussian in scene extents, as a power of ten; and the length of
    Adam's mean gradient of each position, as a power of ten, in the training frame."""
    params = state.params
    sizes = params["scales"].detach().amax(dim=1) / math.log(10.0) - math.log10(state.extent)
    found = {
        "gaussians/opacity": histogram(params["opacities"].detach().sigmoid(), 0.0, 1.0),
        "gaussians/log10_size": histogram(sizes, -6.0, 1.0),
    }
    moments = state.optimizers["means"].state.get(params["means"], {})
    if "exp_avg" in moments:
        lengths = moments["exp_avg"].norm(dim=1).clamp_min(1e-20).log10()
        found["gaussians/log10_position_gradient"] = histogram(lengths, -14.0, 0.0)
    every = state.ranks.gathered(found)
    return {name: merged([one[name] for one in every]) for name in found}


@torch.no_grad()
def traffic_scalars(state: TrainingState, camera: Cameras) -> dict[str, float]:
    """What the backward pass of one view sends to the atomic units under each reduction, that of the run at its own
    threshold; and how many lanes of a warp have a part in an average visit."""
    used = state.reduction
    if used.strategy == "gsplat":  # its warps are not ours
        return {}
    traffic: AtomicTraffic = view_traffic(state.params, camera, state.settings)
    wanted = [used if name == used.strategy else Reduction(name) for name in REDUCTIONS]
    counts = {f"reduction/atomics/{one.strategy}": float(traffic.atomics(one)) for one in wanted}
    return counts | {"reduction/mean_lanes": traffic.mean_lanes}
