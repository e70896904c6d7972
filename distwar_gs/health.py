"""NaN and infinity in a run: noticed without waiting for the device on silent steps, and mended.

The kernels leave out Gaussians that are not finite, so one of them spoils neither image nor gradients: it is lost, and
no more. A loss that is not finite, though, makes gradients that are not finite of all that its view shows.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Adam

from datasets import Scene
from distwar_gs.densification import drop_rows
from distwar_gs.engines import Engine
from distwar_gs.errors import TrainingError
from distwar_gs.rows import broken_rows
from distwar_gs.strategies import Strategy

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
    """[N] bool, the Gaussians with such a value."""
    count: int
    """How many these are."""
    losses: tuple[tuple[int, int, float], ...]
    """Step, index of the training view, and loss, where that is not finite."""

    @property
    def are_few(self) -> bool:
        """Whether dropping the broken Gaussians costs little."""
        return self.count <= FEW * len(self.broken)

    @property
    def are_all(self) -> bool:
        """Whether dropping the broken Gaussians leaves none."""
        return self.count == len(self.broken)

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
) -> Findings | None:
    """What is not finite among parameters, moments and losses (step, view, scalar on the device); None: nothing is.

    If all is well that is one pass over the tensors and one wait for the device.
    """
    tensors = _named_tensors(params, optimizers)
    norms = torch._foreach_norm(list(tensors.values()))  # not finite if a value is not, or if squares overflow
    values = torch.stack([*norms, *(loss for *_, loss in recorded)]).tolist()
    suspects = [name for name, norm in zip(tensors, values, strict=False) if not math.isfinite(norm)]
    losses = [(at, view, loss) for (at, view, _), loss in zip(recorded, values[len(norms) :], strict=True)]
    losses = [loss for loss in losses if not math.isfinite(loss[-1])]
    broken = {name: rows for name in suspects if (rows := broken_rows(tensors[name])).any()}
    if not broken and not losses:
        return None
    rows = torch.zeros(len(params["means"]), dtype=torch.bool, device=params["means"].device)
    for more in broken.values():
        rows |= more
    return Findings(since, step, _shown(broken), rows, int(rows.sum()), tuple(losses))


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


class Run(Protocol):
    """What is kept finite: a training run."""

    step: int
    params: dict[str, Parameter]
    optimizers: dict[str, Adam]
    engine: Engine
    densifier: Strategy
    scene: Scene
    last_checkpoint: Path | None
    """The last one it wrote or began from."""

    def loss_of(self, index: int) -> float:
        """The loss of a training view as the model is now."""

    def go_back(self) -> None:
        """Takes the model of the last checkpoint."""

    def save_checkpoint(self) -> Path:
        """Writes one."""


class Health:
    """Keeps a run finite: its losses wait on the device for the next look, its broken Gaussians are dropped."""

    def __init__(self, run: Run, max_repairs: int) -> None:
        """Watch a run from its next step on; drop, and go back, so many times each."""
        self._run, self._max_repairs = run, max_repairs
        self._drops, self._returns = 0, 0
        self._looked = run.step
        self._losses: list[tuple[int, int, Tensor]] = []

    def record(self, step: int, view: int, loss: Tensor) -> None:
        """Notes a step's loss (a scalar on the device) and training view; launches nothing, waits for nothing."""
        self._losses.append((step, view, loss))

    def keep(self) -> bool:
        """Drops Gaussians that are not finite. False: the run went back to its last checkpoint instead.

        Raises:
            TrainingError: that has been done `max_repairs` times, or nothing would be left, or a photo is to blame.
        """
        found = self._look()
        if found is None:
            return True
        self._check_photos(found)
        can_drop = not found.are_all and self._drops < self._max_repairs
        last = self._run.last_checkpoint
        can_return = last is not None and last.is_file() and self._returns < self._max_repairs
        if can_drop and (found.are_few or not can_return):
            self._drops += 1
            self._drop(found)
            return True
        if not can_return:
            raise self._incurable(found)
        self._returns += 1
        log.warning("%s; back to %s", found, self._run.last_checkpoint)
        self._run.go_back()
        self._looked = self._run.step
        return False

    def keep_for_saving(self) -> None:
        """Drops Gaussians that are not finite, however many; TrainingError if there are no others."""
        try:
            found = self._look()
            if found is not None and found.are_all:
                raise TrainingError(f"{found}: that is all of them, so nothing is saved. {self._way_on()}")
            if found is not None:
                self._drop(found)
        except torch.OutOfMemoryError:  # saved unseen is better than lost
            log.warning("step %d: no memory to look for what is not finite before saving", self._run.step)

    def _look(self) -> Findings | None:
        run, losses = self._run, self._losses
        since, self._looked, self._losses = min(self._looked + 1, run.step), run.step, []
        return find(since, run.step, run.params, run.optimizers, losses)

    def _check_photos(self, found: Findings) -> None:
        """Broken Gaussians are not drawn: a view that still has no finite loss must itself be to blame."""
        for step, index, loss in found.losses:
            if not math.isfinite(self._run.loss_of(index)):
                name = self._run.scene.train[index].name
                raise TrainingError(
                    f"step {step}: the loss of {name} is {loss}, and not for Gaussians that are not finite: look at "
                    f"this photo, its mask and its camera, or take it out of the dataset. {self._way_on()}"
                )

    def _drop(self, found: Findings) -> None:
        run = self._run
        run.engine.settle(run.step)
        if found.count:
            drop_rows(run.params, run.optimizers, run.densifier.state, found.broken)
        log.warning("%s; dropped, %s are left", found, f"{len(run.params['means']):,}")

    def _incurable(self, found: Findings) -> TrainingError:
        """The error to end with; a model that is good but for a few Gaussians is saved."""
        if found.are_few:
            self._drop(found)
            self._run.save_checkpoint()
        tried = f"dropped {self._drops} times and gone back {self._returns} times (train.max_repairs)"
        tried = "that is all of them" if found.are_all and not self._returns else tried
        return TrainingError(f"{found}; {tried}. {self._way_on()}; lower learning rates (optim) may help")

    def _way_on(self) -> str:
        path = self._run.last_checkpoint
        if path is None:
            return "There is no checkpoint: start anew, with earlier train.checkpoint_iterations"
        return f"The last checkpoint is {path}: continue with --resume auto"
