"""What follows a step: rows of one list (distwar_gs.training.trainer.Trainer.make_hooks), in the order of the list."""

from typing import Protocol

import distwar_kernels as kernels
from distwar_gs.evaluation.losses import as_floats
from distwar_gs.evaluation.metrics import psnr
from distwar_gs.training.health import Health
from distwar_gs.training.monitor import Monitor
from distwar_gs.training.run_files import RunFiles
from distwar_gs.training.saving import Checkpoints
from distwar_gs.training.state import TrainingState


class Hook(Protocol):
    """Something that is done after some steps.

    It may change the run only where that is what it is for. `state.engine.look` renders the model and changes nothing.
    """

    needs_finite: bool
    """Whether it keeps or measures the model: then Gaussians that are not finite are found before it is called."""

    def is_due(self, step: int) -> bool:
        """Whether `after_step` is to be called after this step. Asked once or more at each step, so it must be quick,
        and give the same answer."""

    def after_step(self, step: int, state: TrainingState) -> None:
        """Called after a step that is due. Raises StoppedError where a signal asks to end the run."""


class Curves:
    """A hook: the losses of every step go to the monitor; now and then it writes them and all that goes with them."""

    needs_finite = False

    def __init__(self, monitor: Monitor, tuner: kernels.ReductionTuner) -> None:
        """`tuner` of the run's device."""
        self._monitor, self._tuner = monitor, tuner

    def is_due(self, step: int) -> bool:
        """At every step."""
        return True

    def after_step(self, step: int, state: TrainingState) -> None:
        """Waits for the device on published steps only."""
        self._monitor.record({f"train/{name}": value for name, value in state.result.losses.items()})
        if self._monitor.is_published(step):
            self._publish(step, state)

    def _publish(self, step: int, state: TrainingState) -> None:
        batch, image, _, rates, timer = state.result
        scalars = {
            "train/psnr": float(psnr(image, as_floats(batch.photo, batch.background), batch.mask)),
            "gaussians/count": float(state.count),
            "train/skipped_steps": float(state.engine.skipped),
            "reduction/threshold": float(state.reduction.balance_threshold or 0),
            **{f"lr/{name}": rate for name, rate in rates.items()},
        }
        self._monitor.publish(step, timer, scalars)
        self._monitor.tuned(step, self._tuner.rounds)


class LostFolder:
    """A hook: a run folder that was deleted or renamed is made again, with a checkpoint in it."""

    needs_finite = False

    def __init__(self, health: Health, files: RunFiles, monitor: Monitor, checkpoints: Checkpoints) -> None:
        """Looks for the folder when `health` has looked at the model."""
        self._health, self._files, self._monitor, self._checkpoints = health, files, monitor, checkpoints

    def is_due(self, step: int) -> bool:
        """Where the model was looked at."""
        return self._health.looked == step

    def after_step(self, step: int, state: TrainingState) -> None:
        """Makes it again if it is gone."""
        if self._files.come_back(self._monitor, step + 1) and not self._checkpoints.is_due(step):
            self._files.write(self._checkpoints.save)
