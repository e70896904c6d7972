"""Checkpoints of a run: when they are due, and what is done around writing one."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distwar_gs.checkpoints import checkpoint as checkpoints
from distwar_gs.system.interruption import Interruption
from distwar_gs.training.monitor import Monitor
from distwar_gs.training.run_files import RunFiles
from distwar_gs.training.state import TrainingState

log = logging.getLogger(__name__)


class Checkpoints:
    """A hook: writes a checkpoint where one is due, or asked for by a signal, or the only one there would be."""

    needs_finite = True

    def __init__(
        self,
        state: TrainingState,
        fingerprint: Mapping[str, Any],
        files: RunFiles,
        monitor: Monitor,
        interruption: Interruption,
        last: Path | None,
    ) -> None:
        """`fingerprint` of the scene; `last`: the checkpoint that the run goes on from."""
        self.state, self.last = state, last
        """`last` is the one it wrote, or began from, last."""
        self.before_saving: Callable[[], None] = lambda: None
        self._fingerprint, self._files, self._monitor, self._interruption = fingerprint, files, monitor, interruption
        state.ranks.end_with(self.where)
        self._saved_step: int | None = None  # of this session's newest one

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is due after this step, which has been made."""
        train, schedule = self.state.config.train, self.state.schedule
        periodic = train.checkpoint_every > 0 and schedule.is_each(step, train.checkpoint_every)
        named = schedule.is_one(step, train.checkpoint_iterations)
        return periodic or named or self.state.is_over or self._interruption.wants_save

    def after_step(self, step: int, state: TrainingState) -> None:
        """Writes it; a failure is said, and costs the file only."""
        self._interruption.takes_save()
        self._files.write(self.save)

    @property
    def has_saved(self) -> bool:
        """Whether this session has written one of the step that the run is at."""
        return self._saved_step == self.state.step

    def save(self) -> Path:
        """Writes all that --resume needs, then deletes what train.keep_checkpoints does not keep.

        Gaussians that are not finite are dropped first. Raises TrainingError, and leaves the checkpoints there are
        alone, if no others are left; CheckpointError if it cannot be written.
        """
        state, train = self.state, self.state.config.train
        self._files.come_back(self._monitor, state.step + 1)
        state.engine.settle(state.step)
        self.before_saving()
        with self._monitor.paused():
            state.elapsed = self._monitor.elapsed()
            checkpoint = state.checkpoint(self._fingerprint)
            path = checkpoints.save_checkpoint(self._files.folder, checkpoint, state.ranks)
        self._saved_step = state.step
        log.info("saved %s", path)
        self.last = path
        if state.ranks.leads:
            checkpoints.remove_old(self._files.folder, state.step, train.keep_checkpoints, train.checkpoint_iterations)
        return path

    def rescue(self) -> str:
        """Saves what there is after a failure; what to say of it. Of several ranks the others do not know of it, and
        nobody can save for all."""
        return f"saved {self.save()}" if self.state.ranks.count == 1 else self.where()

    def where(self) -> str:
        """What a run that ends now goes on from."""
        return "there is no checkpoint" if self.last is None else f"the last checkpoint is {self.last}"
