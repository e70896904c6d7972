"""3D Gaussian Splatting as Markov Chain Monte Carlo (Kheradmand et al. 2024): Gaussians are samples that wander.

Nothing is cloned, split or removed here. Noise moves the Gaussians that are nearly transparent; regularisation of
opacity and scale fades out unneeded Gaussians; every `every` steps those that have faded ("dead") become copies of
others, drawn in proportion to opacity, and 5 % new copies are drawn until there are `cap_max`. A Gaussian and its
copies share its opacity and shrink or grow such that together they look as it did (paper, eq. 9).

The steps are the paper's code's (ubc-vision/3dgs-mcmc, train.py and scene/gaussian_model.py); where this differs:

- Lengths in noise and regularisation are in scene extents. There they are in the units of the input, so that the same
  settings mean something else in each frame (gsplat issue 542: a scene 2009 units wide).
- Relocated Gaussians begin without Adam moments, as those they are copies of. There they keep the moments of where
  they were.
- The scale is made for the opacity after its clamp from below, not before (as gsplat's main does).
- Up to 51 copies share exactly (there 50, gsplat 51); not finite Gaussians count as dead; with fewer than 20 Gaussians
  one is added, where 5 % rounds to none; what is over the cap from the start goes, faintest first (gsplat issue 516).
- Where nothing is alive nothing is drawn from (gsplat issue 1027), and what is drawn from may be longer than the 2^24
  of torch.multinomial (gsplat PR 338).

The schedule is that of adaptive.py, with stop = 25000: first at step 600, last at 24900. Opacities are not reset.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Adam

from distwar_gs.config import PRESETS, DensificationConfig
from distwar_gs.config.schedule import MEANT_FOR, Schedule
from distwar_gs.gaussians.edits import SpatialOrder, find_dead, is_all_dead
from distwar_gs.gaussians.memory import Cap
from distwar_gs.gaussians.optimizer import edit, reserve_rows
from distwar_gs.gaussians.rows import gather_rows, scratch_for
from distwar_gs.strategies.adaptive import is_ordered, is_refined
from distwar_gs.strategies.sharing import share
from distwar_gs.system.parallel import ALONE, Ranks
from distwar_kernels import add_noise

log = logging.getLogger(__name__)

GROWTH = 20
"""Every 20th Gaussian is one more: 5 %."""
OTHER_NOISE = 0x9E3779B97F4A7C15
"""Between the seeds of two ranks' noise."""
SAMPLING_UNIT = 2.0**32
"""Opacities are drawn by as integers of this resolution: their sums are exact in any order, so draws repeat."""


@dataclass(frozen=True)
class MoveReport:
    """What a refinement did: dead Gaussians relocated, new ones added, those over the cap removed; and what is left."""

    relocated: int
    added: int
    removed: int
    total: int


@dataclass(frozen=True)
class Plan:
    """What the rows are to become, worked out before any tensor of the model is touched."""

    rows: Tensor
    """[M] int64: which Gaussian each new row is made of."""
    logits: Tensor
    """[M] float64: its opacity, as logit."""
    growth: Tensor
    """[M] float64: what is added to its log scales."""
    fresh: Tensor
    """[M] bool: begins without Adam moments."""

    def copied(self, sources: Tensor, faintest: float) -> "Plan":
        """The plan whose row i is row `sources[i]` [M'] of this one; a row that is there N times is shared by N."""
        copies = torch.bincount(sources, minlength=len(self.rows))
        shared = (copies > 1).nonzero().squeeze(1)
        logits, factors = share(self.logits[shared], copies[shared], faintest)
        whole = Plan(
            self.rows,
            self.logits.index_copy(0, shared, logits),
            self.growth.index_add(0, shared, factors.log()),
            self.fresh | (copies > 1),
        )
        return whole.only(sources)

    def only(self, rows: Tensor) -> "Plan":
        """The plan with these of its rows [M'], in this order."""
        return Plan(self.rows[rows], self.logits[rows], self.growth[rows], self.fresh[rows])


# ------------------------------------------------------------------------------------------------------ every step


@torch.no_grad()
def add_regularization(params: dict[str, Parameter], opacity_reg: float, scale_reg: float, everywhere: int = 0) -> None:
    """Add to the gradients those of opacity_reg * mean(opacities) + scale_reg * mean(scales); 5 launches, no wait.

    Args:
        params: the Gaussians, with gradients; opacities and scales behind their sigmoid and exp.
        opacity_reg, scale_reg: weights, the latter per unit of the means.
        everywhere: how many Gaussians the means are over, where there are more than these.
    """
    logits, scales = params["opacities"], params["scales"]
    assert logits.grad is not None and scales.grad is not None
    opacities, count = torch.sigmoid(logits), max(logits.numel(), everywhere, 1)
    logits.grad.addcmul_(opacities, 1.0 - opacities, value=opacity_reg / count)
    scales.grad.add_(scales.exp(), alpha=scale_reg / (3 * count))


# ------------------------------------------------------------------------------------------------------ refinement


@torch.no_grad()
def refine(
    params: dict[str, Parameter],
    optimizers: dict[str, Adam],
    step: int,
    config: DensificationConfig,
    generator: torch.Generator,
    ranks: Ranks = ALONE,
) -> MoveReport:
    """Relocate the dead and grow once. The change is planned first, then made in one pass over each tensor.

    What is neither dead nor copied keeps its place, its values and its Adam moments. With nothing alive there is
    nothing to copy: nothing changes then.

    Args:
        params, optimizers: changed in place.
        step: counted from 1, for the log.
        config: the section `densification`.
        generator: all randomness, on the device of the parameters; on all ranks the same.
        ranks: those that hold Gaussians. A copy is where its original is; the report is of all.

    Raises:
        torch.OutOfMemoryError: nothing is changed then, but random numbers are drawn.
    """
    before = ranks.total(len(params["means"]))
    dead = find_dead(params, config.prune_opacity)
    if is_all_dead(dead, step, config.prune_opacity, ranks):
        return MoveReport(0, 0, 0, before)
    plan, dead = within(unchanged(params["opacities"]), dead, cap_of(config), ranks)
    kept, relocated = ranks.total(len(plan.rows)), ranks.total(int(dead.sum()))
    plan = relocate(plan, dead, config.prune_opacity, generator, ranks)
    plan = grow(plan, cap_of(config), config.prune_opacity, generator, ranks)
    carry_out(plan, params, optimizers)
    total = ranks.total(len(plan.rows))
    return MoveReport(relocated, total - kept, before - kept, total)


def cap_of(config: DensificationConfig) -> int:
    """The cap that growth ends at. Growth does not look at the scene, so "no cap" would double it every 1500 steps:
    the published one then."""
    return config.cap_max or PRESETS["mcmc"]["densification.cap_max"]


def unchanged(logits: Tensor) -> Plan:
    """The plan that leaves every row as it is; logits [N]."""
    rows = torch.arange(len(logits), device=logits.device)
    logits = logits.detach().double()
    return Plan(rows, logits, torch.zeros_like(logits), torch.zeros_like(rows, dtype=torch.bool))


def within(plan: Plan, dead: Tensor, cap: int, ranks: Ranks = ALONE) -> tuple[Plan, Tensor]:
    """The plan and its dead [N] without what is over the cap, of all ranks: the dead go first, then the faintest."""
    if ranks.total(len(plan.rows)) <= cap:
        return plan, dead
    strongest, order = torch.where(dead, -math.inf, plan.logits).sort(descending=True, stable=True)
    stay = order[: ranks.first(-strongest, cap)].sort().values
    return plan.only(stay), dead[stay]


def relocate(plan: Plan, dead: Tensor, faintest: float, generator: torch.Generator, ranks: Ranks = ALONE) -> Plan:
    """Dead rows [N] become copies of rows that are alive, drawn in proportion to opacity; there must be one, on some
    rank. Copies are where their originals are: a rank may get more or fewer rows than it has dead ones."""
    places = dead.nonzero().squeeze(1)
    weights = torch.sigmoid(plan.logits).masked_fill(dead, 0.0)
    drawn = draw(weights, ranks.total(len(places)), generator, ranks)
    sources = torch.arange(len(dead), device=dead.device)
    sources[places[: len(drawn)]] = drawn[: len(places)]
    stay = torch.ones_like(dead).index_fill_(0, places[len(drawn) :], False)
    return plan.copied(torch.cat((sources[stay], drawn[len(places) :])), faintest)


def grow(plan: Plan, cap: int, faintest: float, generator: torch.Generator, ranks: Ranks = ALONE) -> Plan:
    """One copy for every 20 rows of all ranks (at least one) is appended, as far as the cap allows, drawn as for
    `relocate`."""
    count = ranks.total(len(plan.rows))
    wanted = max(min(count + max(count // GROWTH, 1), cap) - count, 0)
    drawn = draw(torch.sigmoid(plan.logits), wanted, generator, ranks)
    return plan.copied(torch.cat((torch.arange(len(plan.rows), device=drawn.device), drawn)), faintest)


def draw(weights: Tensor, count: int, generator: torch.Generator, ranks: Ranks = ALONE) -> Tensor:
    """[count] int64: places in `weights` [N] (0 to 1, one of them above 0), each drawn in proportion to its weight. Of
    several ranks each gets its own of the `count` that are drawn from the weights of all."""
    ends = (weights.double() * SAMPLING_UNIT).long().cumsum(0)
    total, ours = ranks.span(int(ends[-1:].sum()))
    marks = torch.randint(total, (count,), generator=generator, device=weights.device)
    marks = marks[(marks >= ours.start) & (marks < ours.stop)] - ours.start
    return torch.searchsorted(ends, marks, right=True)


def carry_out(
    plan: Plan,
    params: dict[str, Parameter],
    optimizers: dict[str, Adam],
    made: tuple[Tensor, Mapping[str, Tensor]] | None = None,
) -> None:
    """Makes of parameters and moments what the plan says.

    Args:
        plan: for the rows as they are.
        params, optimizers: changed in place.
        made: new rows [K], and by parameter the values [K, ...] they get instead of what the plan makes of them.

    Raises:
        torch.OutOfMemoryError: nothing is changed then.
    """
    places, given = made if made is not None else (plan.rows[:0], {})
    logits, growth = (values.to(params["means"].dtype) for values in (plan.logits, plan.growth))
    scratch = scratch_for(params.values(), len(plan.rows))
    reserve_rows(params, optimizers, len(plan.rows))

    def value(name: str, old: Tensor) -> Tensor:
        values = gather_rows(old, plan.rows, scratch)
        if name == "opacities":
            values.copy_(logits)
        if name == "scales":
            values.add_(growth[:, None])
        return values.index_copy_(0, places, given[name]) if name in given else values

    def moments(key: str, old: Tensor) -> Tensor:
        taken = gather_rows(old, plan.rows, scratch)
        return taken.masked_fill_(plan.fresh.view(-1, *[1] * (taken.dim() - 1)), 0.0)

    edit(params, optimizers, list(params), value, moments)


# ------------------------------------------------------------------------------------------------------ the whole


class Mcmc:
    """MCMC's part in a training loop: a `distwar_gs.strategies.base.Strategy`. It keeps no statistics."""

    def __init__(
        self,
        extent: float,
        config: DensificationConfig,
        schedule: Schedule | None = None,
        ranks: Ranks = ALONE,
        count: int = 0,
    ) -> None:
        """For a scene of this extent, in the frame of the means; `schedule` where seconds are the run's length; `ranks`
        that hold Gaussians, this one `count`."""
        self.extent, self.config, self.ranks = extent, config, ranks
        self._note_count(count)
        self.schedule = schedule or Schedule(MEANT_FOR)
        self.cap = Cap(cap_of(config))
        self.state: dict[str, Tensor] = {}
        self._order = SpatialOrder()

    def after_backward(self, step: int, means2d_grad: Tensor, radii: Tensor, width: int, height: int) -> None:
        """Nothing: gradients do not count."""

    def statistics(self, step: int) -> dict[str, Tensor] | None:
        """None: gradients do not count."""
        return None

    def regularize(self, params: dict[str, Parameter]) -> None:
        """See `add_regularization`: for each view of the step."""
        opacity_reg, scale_reg = self.config.opacity_reg, self.config.scale_reg / self.extent
        views = self.schedule.views
        add_regularization(params, views * opacity_reg, views * scale_reg, self._everywhere)

    def prices(self, count: int) -> tuple[float, float]:
        """What `regularize` asks for, by Gaussian; where one process has them all."""
        return self.config.opacity_reg / max(count, 1), self.config.scale_reg / self.extent / max(3 * count, 1)

    def perturb(self, step: int, params: dict[str, Parameter], means_lr: float, generator: torch.Generator) -> None:
        """Noise (`distwar_kernels.add_noise`), whose numbers follow from the generator's seed, the step and the row.

        Under lazy Adam a Gaussian's parameters may be some steps old. Displacements of its mean add up in any order;
        the gate and the covariance are those of the values as they are.
        """
        add_noise(
            params["means"].detach(), params["quats"].detach(), params["scales"].detach(), params["opacities"].detach(),
            self.config.noise_lr * means_lr / self.extent**2, largest=self.extent,
            seed=generator.initial_seed() + OTHER_NOISE * self.ranks.rank, step=step,
        )  # fmt: skip

    def is_due(self, step: int) -> bool:
        """Whether `step` will change anything after this step."""
        now = self.schedule.at(step)
        return is_refined(now, self.config) or is_ordered(now, self.config)

    def step(
        self, step: int, params: dict[str, Parameter], optimizers: dict[str, Adam], generator: torch.Generator
    ) -> MoveReport | None:
        """Refine and put in order where that is due; the report of a refinement, else None."""
        report, now = None, self.schedule.at(step)
        if is_refined(now, self.config):
            report = self._refine(step, params, optimizers, generator)
        if is_ordered(now, self.config):
            self._order.apply(step, params, optimizers, self.state)
        if self.is_due(step):
            self._note_count(len(params["means"]))
        return report

    def _note_count(self, count: int) -> None:
        """So many are ours: how many all ranks have is asked only now, since the answer takes time."""
        self._everywhere = self.ranks.total(count) if self.ranks.count > 1 else 0  # 0: ours are all there are

    def _refine(
        self, step: int, params: dict[str, Parameter], optimizers: dict[str, Adam], generator: torch.Generator
    ) -> MoveReport:
        """Refines; where there is no memory for that, there are no more Gaussians from then on."""
        try:
            config = replace(self.config, cap_max=self.cap.now([]))
            return refine(params, optimizers, step, config, generator, self.ranks)
        except self.ranks.survivable:
            self.cap.ran_out(step, len(params["means"]))
            return MoveReport(0, 0, 0, len(params["means"]))

    def state_dict(self) -> dict[str, Tensor]:
        """Empty: all of its state is in the parameters and the generator."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Nothing to take."""
