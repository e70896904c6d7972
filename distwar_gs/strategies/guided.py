"""Guided growth: new Gaussians come where the images are still wrong, and MCMC's moves keep all of them useful.

Every step is MCMC's (mcmc.py): noise on what is nearly transparent, a price on opacity and size. Every `every` steps
Gaussians that have faded are relocated and new ones added, as there. What differs is

- who gets children: Gaussians are drawn in proportion to a score, the square of the sum over views of the root of the
  error of the pixels they have a part in, each pixel's in proportion to their part. There is no threshold in it, so
  nothing depends on exposure or resolution. A sum of roots is large where many views are somewhat wrong, rather than
  where one is very wrong: that one may have a passer-by in it. (FastGS, Ren et al. 2025, counts wrong pixels in several
  views, with thresholds; LiteGS draws in proportion to a score.)
- what children are: copies in one place (MCMC, eq. 9), the same moved apart at random, or halves side by side along the
  longest axis (Improved-GS, Deng et al. 2025). Copies in one place have nearly the same gradients and part slowly;
  halves fit noise where photos are few.
- how many there are: with `cap_max` as many more at each round as bring their number linearly there by `grow_until` of
  the run; without, a share of those that adaptive density control would have cloned or split, so that the number finds
  itself, at most 5 % at a round. The share is larger where rounds are fewer: a longer run has no more Gaussians.
- which go: those that hide behind others, and whoever else hardly changes the pixels it costs (trimming.py);
- the start: that of adaptive density control. MCMC's, opaque and tiny, is 2.7 dB worse on a scene of few photos.

A score is kept over rounds at half its value, and shared with children.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Adam

from distwar_gs.config import DensificationConfig
from distwar_gs.config.schedule import Moment, Schedule
from distwar_gs.gaussians.edits import find_dead, is_all_dead
from distwar_gs.gaussians.memory import Cap
from distwar_gs.gaussians.optimizer import all_moments
from distwar_gs.strategies.adaptive import accumulate, is_accumulated, mean_gradient, new_state, rotated
from distwar_gs.strategies.mcmc import GROWTH, Mcmc, MoveReport, Plan, carry_out, draw, unchanged, within
from distwar_gs.strategies.trimming import Look, is_trimmed, trim
from distwar_gs.system.parallel import ALONE, Ranks

log = logging.getLogger(__name__)

KEPT = 0.5
"""What is left of a score after a refinement."""
ROUNDS = 145
"""Refinements that add, of a run of 30,000 steps. Where they are fewer each adds more, so that it is as many in all."""
MOST = 10
"""How many times as many Gaussians as at first there may be where 5 % at each of few refinements are less than that."""
SHOWN = 0.2
"""Share of the views that show a point of the scene, below which opacity and size have no price. Every step asks it
of every Gaussian, and Adam makes a whole step of any gradient that is alone: a Gaussian that is seldom shown fades.
Along a wall of which each photo shows 1.5 %, prices leave 11.8 dB after 300 steps, a millionth of them 12.0, none
18.0. Captures from all sides have 0.44 (bonsai) to 0.97 (statue)."""

Made = tuple[Tensor, Mapping[str, Tensor]]
"""Rows [K], and by parameter the values [K, ...] they get."""


# ------------------------------------------------------------------------------------------------- who gets children


def chances(
    params: Mapping[str, Tensor], state: Mapping[str, Tensor], dead: Tensor, by: str, ranks: Ranks = ALONE
) -> Tensor:
    """[N], 0 to 1: what Gaussians are drawn in proportion to, by "error" or by "opacity". The dead have none.

    Where no error has been counted yet they are drawn by opacity. One must be alive, on some rank.

    Args:
        params: the Gaussians.
        state: statistics; of them `score` [N].
        dead: [N] bool.
        by: the setting `densification.draw`.
        ranks: those that hold Gaussians.
    """
    opacities = torch.sigmoid(params["opacities"].detach()).masked_fill(dead, 0.0)
    if by == "opacity":
        return opacities
    scores = state["score"].double().square().nan_to_num(nan=0.0, posinf=0.0).masked_fill(dead, 0.0)
    largest = ranks.most(scores.amax() if len(scores) else scores.sum())
    return (scores / largest).float() if largest > 0 else opacities


def draw_distinct(weights: Tensor, count: int, generator: torch.Generator, ranks: Ranks = ALONE) -> Tensor:
    """[count] int64: different places in `weights` [N], one after another in proportion to the weights that are left.
    Of several ranks each gets its own of the `count` that are drawn from the weights of all.

    The places where exponential deviates, divided by the weights, are smallest (Efraimidis and Spirakis 2006). Of
    places with a weight of 0 none is drawn: there are at most as many as there are others.
    """
    count = min(count, ranks.total(int((weights > 0).sum())))
    total, ours = ranks.span(len(weights))
    uniform = torch.rand(total, generator=generator, device=weights.device, dtype=torch.float64)[ours]
    arrivals, order = (-uniform.clamp_min_(1e-300).log_() / weights.double()).sort(stable=True)
    return order[: ranks.first(arrivals, count)]


# ----------------------------------------------------------------------------------------------- what children are


def _sharing(plan: Plan, places: Tensor, drawn: Tensor, faintest: float) -> Plan:
    """The plan [M] in which each of `drawn` is copied once more: into `places` first, then appended."""
    sources = torch.arange(len(plan.rows), device=drawn.device)
    sources[places[: len(drawn)]] = drawn[: len(places)]
    return plan.copied(torch.cat((sources, drawn[len(places) :])), faintest)


def _moved_apart(
    params: Mapping[str, Tensor], parents: Tensor, config: DensificationConfig, generator: torch.Generator, ranks: Ranks
) -> dict[str, Tensor]:
    """Means, and for halves log scales and logits, of Gaussians [K] and then of their children [K]: one is moved by an
    offset, the other by its opposite."""
    means, quats, scales = (params[name].detach()[parents] for name in ("means", "quats", "scales"))
    if config.children == "jitter":
        total, ours = ranks.span(len(scales))
        local = torch.randn(total, 3, generator=generator, device=scales.device)[ours]
        made = {}
    else:
        local = torch.zeros_like(scales).scatter_(1, scales.argmax(dim=1, keepdim=True), 1.0)
        shrink = math.log(config.split_other) + local * math.log(config.split_long / config.split_other)
        logits = _let_through(params["opacities"].detach()[parents], config.split_power, config.prune_opacity)
        made = {"scales": (scales + shrink).repeat(2, 1), "opacities": logits.repeat(2)}
    shift = rotated(quats, config.child_offset * local * scales.exp())
    return made | {"means": torch.cat((means + shift, means - shift))}


def _let_through(logits: Tensor, power: float, faintest: float) -> Tensor:
    """Logits [K] of what lets through the `power`-th power of the light that these [K] do, at least `faintest`."""
    through = power * F.logsigmoid(-logits.double())
    least = math.log(faintest / (1.0 - faintest)) if faintest > 0 else -math.inf
    return (torch.log(-torch.expm1(through)) - through).clamp_min(least).to(logits.dtype)


def with_children(
    plan: Plan,
    dead: Tensor,
    room: int,
    weights: Tensor,
    params: Mapping[str, Tensor],
    config: DensificationConfig,
    generator: torch.Generator,
    ranks: Ranks = ALONE,
) -> tuple[Plan, Made | None]:
    """The plan with children: in place of the dead, and as many more as there is room for.

    Copies that share one place are drawn with replacement. Those that are moved apart are one child each of different
    Gaussians: where there are too few of these the rest of the dead stay, and there are fewer new ones.

    Args:
        plan: [M] rows, as they are.
        dead: [M] bool.
        room: how many may be added, by all ranks.
        weights: [M], 0 to 1, one above 0: from `chances`.
        params: the Gaussians [N] that the plan's rows are of.
        config: the section `densification`.
        generator: all randomness.
        ranks: those that hold Gaussians. A child is where its parent is: where a rank has more dead than children, and
            the others make up for it, the rest of its dead go.
    """
    places = dead.nonzero().squeeze(1)
    faded = ranks.total(len(places))
    if config.children == "share":
        drawn, rows, made = draw(weights, faded + room, generator, ranks), places[:0], {}
    else:
        drawn = draw_distinct(weights, faded + room, generator, ranks)
        added = torch.arange(len(dead), len(dead) + max(len(drawn) - len(places), 0), device=dead.device)
        rows = torch.cat((drawn, places[: len(drawn)], added))
        made = _moved_apart(params, plan.rows[drawn], config, generator, ranks)
    plan = _sharing(plan, places, drawn, config.prune_opacity)
    gone = places[len(drawn) :] if ranks.total(len(drawn)) >= faded else places[:0]
    plan, rows = _without(plan, rows, gone)
    return plan, (rows, made) if made else None


def _without(plan: Plan, rows: Tensor, gone: Tensor) -> tuple[Plan, Tensor]:
    """The plan without the rows `gone` [G]; and where `rows` [K] are then, which stay."""
    stay = torch.ones_like(plan.rows).index_fill_(0, gone, 0)
    return plan.only(stay.nonzero().squeeze(1)), (stay.cumsum(0) - 1)[rows]


def inherited(state: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """The statistics of rows that are made of `rows` [M] of those before: gradients begin anew, half of a score is
    kept, and shared by all that are made of one; of one that is not finite, nothing."""
    fresh = new_state(len(rows), rows.device)
    if "score" in state:
        copies = torch.bincount(rows, minlength=len(state["score"]))
        fresh["score"] = (KEPT * (state["score"] / copies.clamp_min(1))[rows]).nan_to_num_(nan=0.0, posinf=0.0)
    return fresh


# ------------------------------------------------------------------------------------------------------ refinement


@torch.no_grad()
def refine(
    params: dict[str, Parameter],
    optimizers: dict[str, Adam],
    state: dict[str, Tensor],
    step: int,
    wanted: int,
    config: DensificationConfig,
    generator: torch.Generator,
    ranks: Ranks = ALONE,
) -> MoveReport:
    """Relocate the dead and grow once. The change is planned first, then made in one pass over each tensor.

    What is neither dead nor a parent keeps its place, its values and its Adam moments. What is over a `cap_max` goes,
    the faintest first. With nothing alive nothing changes.

    Args:
        params, optimizers, state: changed in place.
        step: counted from 1, for the log.
        wanted: how many Gaussians there are to be, on all ranks.
        config: the section `densification`.
        generator: all randomness, on the device of the parameters; on all ranks the same.
        ranks: those that hold Gaussians. The report is of all.

    Raises:
        torch.OutOfMemoryError: nothing is changed then, but random numbers are drawn.
    """
    before = ranks.total(len(params["means"]))
    dead = find_dead(params, config.prune_opacity)
    if is_all_dead(dead, step, config.prune_opacity, ranks):
        return MoveReport(0, 0, 0, before)
    weights = chances(params, state, dead, config.draw, ranks)
    plan, dead = within(unchanged(params["opacities"]), dead, config.cap_max or before, ranks)
    kept, faded = ranks.total(len(plan.rows)), ranks.total(int(dead.sum()))
    room, weights = max(wanted - kept, 0), weights[plan.rows]
    plan, made = with_children(plan, dead, room, weights, params, config, generator, ranks)
    statistics = inherited(state, plan.rows)
    carry_out(plan, params, optimizers, made)
    state.update(statistics)
    total, children = ranks.total(len(plan.rows)), ranks.total(len(plan.rows) if made is None else len(made[0]) // 2)
    return MoveReport(min(faded, children), total - kept, before - kept, total)


# ------------------------------------------------------------------------------------------------------ the whole


class Guided(Mcmc):
    """Guided growth's part in a training loop: a `distwar_gs.strategies.base.Strategy`. Its steps are MCMC's."""

    def __init__(
        self,
        count: int,
        device: torch.device | str,
        extent: float,
        config: DensificationConfig,
        cap: Cap | None = None,
        schedule: Schedule | None = None,
        shown: float = 1.0,
        look: Look | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """Start with empty statistics for `count` Gaussians; `shown` is the share of the views that show a point of the
        scene; the others as for `Densifier`."""
        if shown < SHOWN:
            config = replace(config, opacity_reg=0.0, scale_reg=0.0)
        super().__init__(extent, config, schedule, ranks, count)
        self.cap = cap or Cap(config.cap_max)
        self.state = new_state(count, device)
        if config.draw == "error":
            self.state["score"] = torch.zeros(count, device=device)
        self._look = look
        self._warned = False

    def after_backward(self, step: int, means2d_grad: Tensor, radii: Tensor, width: int, height: int) -> None:
        """Count the gradients of a step (see `adaptive.accumulate`)."""
        if is_accumulated(self.schedule.at(step), self.config):
            accumulate(self.state, means2d_grad, radii, width, height)

    def statistics(self, step: int) -> dict[str, Tensor] | None:
        """What a backward pass that counts by itself adds to; None when its step does not count."""
        return self.state if is_accumulated(self.schedule.at(step), self.config) else None

    def wanted(self, now: Moment, params: Mapping[str, Tensor], cap: int) -> int:
        """How many Gaussians there are to be after a refinement; `cap` as from `Cap.now`."""
        count, end = self.ranks.total(len(params["means"])), self._growth_end()
        least = min(count, self.config.cap_max or count)
        position = now.mark(self.config.every)
        if self.config.cap_max:  # by now as large a part of what is missing as this round is of those that are left
            every = self.config.every * now.pace
            part = every / max(end - position + every, every)
            target = count + round(part * (self.config.cap_max - count))
        elif position <= end:
            target = count + self._growth(now, count, self._wishes(params))
        else:
            target = count
        return max(min(target, cap or target), least)

    def _growth_end(self) -> float:
        """The position of the last refinement that adds."""
        config = self.config
        return min(config.grow_until * self.schedule.iterations, config.stop - config.every)

    def _growth(self, now: Moment, count: int, wishes: int) -> int:
        """How many are added at a refinement, of a run without a cap, where density control would add `wishes`."""
        rounds = max(int((self._growth_end() - self.config.start) / (self.config.every * now.pace)), 1)
        share = min(self.config.growth_share * ROUNDS / rounds, 1.0)
        most = max(1 / GROWTH, MOST ** (1 / rounds) - 1.0)
        return min(round(share * wishes), max(int(most * count), 1))

    def _wishes(self, params: Mapping[str, Tensor]) -> int:
        """How many Gaussians adaptive density control would clone or split."""
        alive = ~find_dead(params, self.config.prune_opacity)
        return self.ranks.total(int(((mean_gradient(self.state) >= self.config.grad_threshold) & alive).sum()))

    def _refine(
        self, step: int, params: dict[str, Parameter], optimizers: dict[str, Adam], generator: torch.Generator
    ) -> MoveReport:
        """Refines; where there is no memory for that, there are no more Gaussians from then on."""
        now, cap = self.schedule.at(step), self.cap.now([*params.values(), *all_moments(optimizers)])
        try:
            if self._look and is_trimmed(now, self.config):
                trim(self._look, now, params, optimizers, self.state, self.config, self.ranks)
            wanted = self.wanted(now, params, cap)
            report = refine(params, optimizers, self.state, step, wanted, self.config, generator, self.ranks)
        except self.ranks.survivable:
            report, self._warned = MoveReport(0, 0, 0, len(params["means"])), True
            self.cap.ran_out(step, report.total)
        self._tell(now, report.total, cap)
        return report

    def _tell(self, now: Moment, count: int, cap: int) -> None:
        """Says, once, that the number of Gaussians has become final."""
        is_full = not self.config.cap_max and 0 < cap <= count
        if (is_full or now.mark(self.config.every) >= self._growth_end()) and not self._warned:
            why = ", as many as memory holds" if is_full else ""
            log.info("step %d: %s Gaussians%s; no more are added", now.step, f"{count:,}", why)
            self._warned = True

    def state_dict(self) -> dict[str, Tensor]:
        """The statistics, for a checkpoint."""
        return dict(self.state)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from the statistics of a checkpoint; a score that the run had no use for until now begins at 0.

        Raises:
            ValueError: they are not the statistics of as many Gaussians as there are.
        """
        state = {name: own for name, own in self.state.items() if name == "score"} | state
        for name, own in self.state.items():
            if name not in state or state[name].shape != own.shape:
                raise ValueError(f"densification statistics {name!r} are missing or not of shape {[*own.shape]}")
        self.state = {name: state[name].to(own, copy=True) for name, own in self.state.items()}
