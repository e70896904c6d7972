"""What differs in a run by several ranks: what they refuse, who writes, and how they agree to end.

The first rank has the run folder, the log, TensorBoard, the measurements and the model; the others write their
Gaussians into checkpoints, and nothing else.
"""

import logging
from pathlib import Path
from signal import Signals

import numpy as np

from distwar_datasets import Scene
from distwar_gs.config import Config, ConfigError, with_values
from distwar_gs.engines.agreed import AGREE_EVERY
from distwar_gs.system.interruption import Interruption
from distwar_gs.system.parallel import Ranks
from distwar_gs.training.monitor import Monitor, setup_logging
from distwar_gs.training.run_files import Refined, RunFiles
from distwar_gs.training.run_folder import RunFolder

log = logging.getLogger(__name__)

REFUSED = {
    "optim.adam": (lambda value: value == "visible", "leave it at lazy, or set dense"),
    "appearance.model": (lambda value: value not in ("none", "exposure", "bilateral"), "use one of these"),
    "data.background": (lambda value: value == "learned", "give black, white or random, or train with one process"),
    "depth.normals": (lambda value: value is not None, "train with one process for that"),
}
"""Settings that several ranks do not have yet, by when they are refused and what to do."""


def own_config(config: Config, ranks: Ranks) -> Config:
    """The config of this rank. Raises ConfigError for what several do not have."""
    if ranks.count == 1:
        return config
    for key, (is_refused, remedy) in REFUSED.items():
        section, name = key.split(".")
        value = getattr(getattr(config, section), name)
        if is_refused(value):
            raise ConfigError(f"{key} is {value}, which {ranks.count} ranks do not have; {remedy}")
    silent = {"log.tensorboard": False, "log.report": False, "log.quiet": True}
    return config if ranks.leads else with_values(config, silent)


def open_folder(config: Config, ranks: Ranks) -> RunFolder:
    """The folder of the run, and its log. Raises ConfigError as RunFolder does."""
    path = Path(config.train.result_dir or "output")
    if ranks.leads:
        folder = RunFolder(path)
        setup_logging(folder.path, config.log.quiet)
    else:
        folder = NotOurs(path)
        logging.disable(logging.CRITICAL)
    ranks.told(None)  # from here on it is there
    return folder


class NotOurs(RunFolder):
    """The run folder, for ranks that neither hold it nor make it again."""

    def __init__(self, path: Path) -> None:
        """Touches nothing."""
        self.path, self._handle = path, None

    def __enter__(self) -> "NotOurs":
        """Nothing."""
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing."""


class SharedFiles(RunFiles):
    """The files of a run, which the first rank writes."""

    def __init__(
        self, ranks: Ranks, run_folder: RunFolder, config: Config, scene: Scene, origin: np.ndarray, refined: Refined
    ) -> None:
        """See RunFiles."""
        self._ranks = ranks
        if ranks.leads:
            super().__init__(run_folder, config, scene, origin, refined)
        else:
            self.run_folder, self.folder, self.unwritten = run_folder, run_folder.path, None

    def come_back(self, monitor: Monitor, next_step: int) -> bool:
        """See RunFiles; on all ranks the same."""
        came = self._ranks.leads and super().come_back(monitor, next_step)
        came, self.folder = self._ranks.told((came, self.folder))
        return came


def files_of(
    ranks: Ranks, run_folder: RunFolder, config: Config, scene: Scene, origin: np.ndarray, refined: Refined
) -> RunFiles:
    """Those of this rank; `refined` as for RunFiles."""
    if ranks.count == 1:
        return RunFiles(run_folder, config, scene, origin, refined)
    return SharedFiles(ranks, run_folder, config, scene, origin, refined)


class SharedInterruption(Interruption):
    """A signal that reaches one rank, or some, or all at different steps, is for all of them after the same step."""

    def __init__(self, ranks: Ranks, every: int) -> None:
        """The ranks ask each other at every so-many-th `agree`: hosts wait for each other then, and no GPU."""
        super().__init__()
        self._ranks, self._every, self._asked = ranks, every, 0
        self._agreed, self._save_agreed = False, False

    @property
    def requested(self) -> bool:
        """See Interruption; once all know."""
        return self._agreed

    @property
    def wants_save(self) -> bool:
        """See Interruption; once all know."""
        return self._save_agreed

    def takes_save(self) -> bool:
        """See Interruption."""
        asked, self._save_agreed = self._save_agreed, False
        return asked

    def agree(self) -> None:
        """See Interruption."""
        self._asked += 1
        if self._asked % self._every == 0:
            self._ask()
        self.check()

    def meet(self) -> None:
        """See Interruption."""
        self._ask()
        self.check()

    def _ask(self) -> None:
        own = (self.signal or 0) + _SAVE * self._save_asked
        self._save_asked = False
        asked = self._ranks.numbers(own)
        self._save_agreed = any(one >= _SAVE for one in asked)
        number = max(one % _SAVE for one in asked)
        if number:
            self._agreed, self.signal = True, self.signal or Signals(number)


_SAVE = 1000  # beyond all signals


def interruption_of(ranks: Ranks, every: int) -> Interruption:
    """What asks a run to end; `every`: as for SharedInterruption."""
    return Interruption() if ranks.count == 1 else SharedInterruption(ranks, every)


def agreed_every(device: str) -> int:
    """At which steps hosts agree on what is not the devices': on a GPU seldom, since steps are short there."""
    return AGREE_EVERY if device == "cuda" else 1
