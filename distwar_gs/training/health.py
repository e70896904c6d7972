"""NaN and infinity in a run: noticed without waiting for the device on silent steps, and mended.

The kernels leave out Gaussians that are not finite, so one of them spoils neither image nor gradients: it is lost, and
no more. A loss that is not finite, though, makes gradients that are not finite of all that its view shows.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Adam

from distwar_gs.checkpoints.checkpoint import load_checkpoint
from distwar_gs.gaussians.edits import drop_rows
from distwar_gs.gaussians.rows import broken_rows
from distwar_gs.system.errors import TrainingError
from distwar_gs.system.parallel import ALONE, Ranks
from distwar_gs.training.batches import Batches
from distwar_gs.training.monitor import Monitor
from distwar_gs.training.saving import Checkpoints
from distwar_gs.training.state import PARTS, TrainingState
from distwar_gs.training.step import loss_of

log = logging.getLogger(__name__)

FEW = 0.1
"""Share of the Gaussians up to which the model is much the same without them; beyond it, a checkpoint is better."""


# ------------------------------------------------------------------------------------------------------ finding


@dataclass(frozen=True)
class Findings:
    """What is not finite."""

    since: int
    step: int
    """The steps of which one brought it, the last one of them now."""
    tensors: tuple[str, ...]
    """Where: names of parameters, or "gradients of scales" where only Adam's moments show it."""
    broken: Tensor
    """[N] bool, the Gaussians with such a value; of several ranks, this one's."""
    count: int
    """How many these are, on all ranks."""
    of: int
    """How many there are."""
    losses: tuple[tuple[int, int, float], ...]
    """Step, index of the training view, and loss, where that is not finite."""

    @property
    def are_few(self) -> bool:
        """Whether dropping the broken Gaussians costs little."""
        return self.count <= FEW * self.of

    @property
    def are_all(self) -> bool:
        """Whether dropping the broken Gaussians leaves none."""
        return self.count == self.of

    def __str__(self) -> str:
        """Step, tensors and numbers, for messages."""
        parts = [f"the loss of step {step} is {loss}" for step, _, loss in self.losses[:3]]
        if self.count:
            since = "" if self.since == self.step else f", since step {self.since} at the earliest"
            parts.append(f"{self.count:,} Gaussians are not finite ({', '.join(self.tensors)}{since})")
        return f"step {self.step}: " + "; ".join(parts)


@torch.no_grad()
def find(
    since: int,
    step: int,
    params: Mapping[str, Tensor],
    optimizers: Mapping[str, Adam],
    recorded: list[tuple[int, int, Tensor]],
    ranks: Ranks = ALONE,
) -> Findings | None:
    """What is not finite among parameters, moments and losses (step, view, scalar on the device); None: nothing is, on
    any rank.

    If all is well that is one pass over the tensors and one wait for the device.
    """
    tensors = _named_tensors(params, optimizers)
    norms = torch._foreach_norm(list(tensors.values()))  # not finite if a value is not, or if squares overflow
    values = torch.stack([*norms, *(loss for *_, loss in recorded)]).tolist()
    suspects = [name for name, norm in zip(tensors, values, strict=False) if not math.isfinite(norm)]
    losses = [(at, view, loss) for (at, view, _), loss in zip(recorded, values[len(norms) :], strict=True)]
    losses = [loss for loss in losses if not math.isfinite(loss[-1])]
    broken = {name: rows for name in suspects if (rows := broken_rows(tensors[name])).any()}
    if not ranks.any(bool(broken or losses)):
        return None
    rows = torch.zeros(len(params["means"]), dtype=torch.bool, device=params["means"].device)
    for more in broken.values():
        rows |= more
    names, losses = sum(ranks.gathered(list(broken)), []), sum(ranks.gathered(losses), [])
    counts = ranks.total(int(rows.sum())), ranks.total(len(rows))
    return Findings(since, step, _shown(dict.fromkeys(names)), rows, *counts, tuple(losses))


def _named_tensors(params: Mapping[str, Tensor], optimizers: Mapping[str, Adam]) -> dict[str, Tensor]:
    """Parameters by name, and the moments there are by name and key."""
    tensors = dict(params)
    for name, optimizer in optimizers.items():
        state = optimizer.state.get(params[name], {})
        tensors |= {f"{name}.{key}": value for key, value in state.items() if key != "step"}
    return tensors


def _shown(names: Iterable[str]) -> tuple[str, ...]:
    """Parameters, and gradients where the moments alone tell."""
    parameters = [name for name in names if "." not in name]
    others = dict.fromkeys(name.partition(".")[0] for name in names)
    return (*parameters, *(f"gradients of {name}" for name in others if name not in parameters))


# ------------------------------------------------------------------------------------------------------ mending


class Health:
    """A hook: keeps a run finite. Losses wait on the device for the next look, broken Gaussians are dropped."""

    needs_finite = False

    def __init__(
        self,
        state: TrainingState,
        batches: Batches,
        names: Sequence[str],
        checkpoints: Checkpoints,
        monitor: Monitor,
        is_checked: Callable[[int], bool],
    ) -> None:
        """Watches a run from its next step on; drops, and goes back, train.max_repairs times each.

        Args:
            state: of the run.
            batches, names: of the training views: a photo without a finite loss is named.
            checkpoints: to go back to; whatever they save is looked at first.
            monitor: what it has recorded is forgotten when the run goes back.
            is_checked: whether to look for what is not finite after a step.
        """
        self.state, self._batches, self._names = state, batches, names
        self._checkpoints, self._monitor, self._is_checked = checkpoints, monitor, is_checked
        self._max_repairs = state.config.train.max_repairs
        self._drops, self._returns = 0, 0
        self.looked = state.step
        """The last step after which it looked."""
        self._losses: list[tuple[int, int, Tensor]] = []
        checkpoints.before_saving = self.repair_for_saving

    def is_due(self, step: int) -> bool:
        """At every step: it notes the loss, launches nothing and waits for nothing, unless it looks."""
        return True

    def after_step(self, step: int, state: TrainingState) -> None:
        """Where the model is looked at, drops Gaussians that are not finite, or goes back to the last checkpoint, which
        is another step then.

        Raises:
            TrainingError: that has been done `max_repairs` times, or nothing would be left, or a photo is to blame.
        """
        self._losses.append((step, state.result.batch.view, state.result.losses["loss"]))
        if self._is_checked(step):
            self._repair()

    def repair_for_saving(self) -> None:
        """Drops Gaussians that are not finite, however many; TrainingError if there are no others."""
        try:
            found = self._look()
            if found is not None and found.are_all:
                raise TrainingError(f"{found}: that is all of them, so nothing is saved. {self._way_on()}")
            if found is not None:
                self._drop(found)
        except self.state.ranks.survivable:  # saved unseen is better than lost
            log.warning("step %d: no memory to look for what is not finite before saving", self.state.step)

    def _repair(self) -> None:
        found = self._look()
        if found is None:
            return
        self._check_photos(found)
        can_drop = not found.are_all and self._drops < self._max_repairs
        last = self._checkpoints.last
        can_return = last is not None and last.is_file() and self._returns < self._max_repairs
        if can_drop and (found.are_few or not can_return):
            self._drops += 1
            self._drop(found)
            return
        if last is None or not can_return:
            raise self._incurable(found)
        self._returns += 1
        self._go_back(found, last)

    def _go_back(self, found: Findings, last: Path) -> None:
        log.warning("%s; back to %s", found, last)
        self.state.go_back(load_checkpoint(last, "cpu", PARTS, self.state.ranks))
        self._monitor.rewind(self.state.step)
        self.looked = self.state.step

    def _look(self) -> Findings | None:
        state, losses = self.state, self._losses
        since, self.looked, self._losses = min(self.looked + 1, state.step), state.step, []
        return find(since, state.step, state.params, state.optimizers, losses, state.ranks)

    def _check_photos(self, found: Findings) -> None:
        """Broken Gaussians are not drawn: a view that still has no finite loss must itself be to blame."""
        for step, index, loss in found.losses:
            if not math.isfinite(loss_of(self.state, self._batches.one(index))):
                raise TrainingError(
                    f"step {step}: the loss of {self._names[index]} is {loss}, and not for Gaussians that are not "
                    f"finite: look at this photo, its mask and its camera, or take it out of the dataset. "
                    f"{self._way_on()}"
                )

    def _drop(self, found: Findings) -> None:
        state = self.state
        state.engine.settle(state.step)
        if found.count:
            drop_rows(state.params, state.optimizers, state.strategy.state, found.broken)
        log.warning("%s; dropped, %s are left", found, f"{state.count:,}")

    def _incurable(self, found: Findings) -> TrainingError:
        """The error to end with; a model that is good but for a few Gaussians is saved."""
        if found.are_few:
            self._drop(found)
            self._checkpoints.save()
        tried = f"dropped {self._drops} times and gone back {self._returns} times (train.max_repairs)"
        tried = "that is all of them" if found.are_all and not self._returns else tried
        return TrainingError(f"{found}; {tried}. {self._way_on()}; lower learning rates (optim) may help")

    def _way_on(self) -> str:
        path = self._checkpoints.last
        if path is None:
            return "There is no checkpoint: start anew, with earlier train.checkpoint_iterations"
        return f"The last checkpoint is {path}: continue with --resume auto"
