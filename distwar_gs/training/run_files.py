"""What a run writes into its folder: a file that cannot be written costs the file, not the run."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from distwar_datasets import Scene, View
from distwar_gs.checkpoints import checkpoint as checkpoints
from distwar_gs.config import Config, save_config
from distwar_gs.formats.export import save_cameras_json
from distwar_gs.formats.sparse_model import save_colmap_text
from distwar_gs.system.files import read_bounded, remove_leftovers, replacing
from distwar_gs.system.terminal import reason_of
from distwar_gs.training.monitor import Monitor, move_log
from distwar_gs.training.run_folder import RunFolder

log = logging.getLogger(__name__)

METRICS = "metrics.json"
REFINED = "refined"
"""Folder of a COLMAP model, as that of a scene: the training cameras with the poses that were learned."""

Refined = Callable[[Sequence[View]], Sequence[View]] | None
"""The training views with the poses that are learned, as they are now; None where none are."""


class RunFiles:
    """The files of a run; its settings, cameras and measurements are kept in mind, so that they can be made again."""

    def __init__(
        self,
        run_folder: RunFolder,
        config: Config,
        scene: Scene,
        origin: np.ndarray,
        refined: Refined = None,
    ) -> None:
        """In a folder that the run holds. What an earlier session left half written goes, the settings are written.
        `refined`: the training views with the poses that are learned as they are now; None: none are."""
        self.run_folder, self.folder = run_folder, run_folder.path
        self.unwritten: str | None = None
        """Why a file of the last step is not there."""
        self._config, self._scene, self._origin, self._refined = config, scene, origin, refined
        places = (self.folder, self.folder / checkpoints.FOLDER, *(self.folder / "point_cloud").glob("*"))
        for path in remove_leftovers(places):
            log.info("removed %s, unfinished since an earlier session was killed", path)
        self.note_measurements()
        self._save_settings()

    @property
    def metrics(self) -> Path:
        """The file of the measurements."""
        return self.folder / METRICS

    def ply(self, step: int) -> Path:
        """The file of the Gaussians after a step."""
        return self.folder / "point_cloud" / f"iteration_{step}" / "point_cloud.ply"

    def write(self, save: Callable[[], object]) -> None:
        """`save`, whose failure (a full disk) costs the file, not the run."""
        try:
            save()
        except (OSError, checkpoints.CheckpointError) as error:
            filename = getattr(error, "filename", None)
            problem = f"{filename}: {reason_of(error)}" if filename else str(error)
            self.unwritten = self.unwritten or problem
            log.warning("%s; the run goes on without it", problem)

    def note_measurements(self) -> None:
        """Keeps in mind what metrics.json holds."""
        try:
            self._measurements = read_bounded(self.metrics, 2**30)
        except OSError:
            self._measurements = b""

    def come_back(self, monitor: Monitor, next_step: int) -> bool:
        """Makes the run folder again if it was deleted or renamed, and returns whether it was. Settings, cameras, log
        and measurements are whole again, curves begin anew; a checkpoint is left to the caller."""
        if not self.run_folder.come_back():
            return False
        self.folder = self.run_folder.path
        move_log(self.folder)
        log.warning(
            "the run folder was deleted or renamed; %s is there again, without earlier checkpoints, models and curves",
            self.folder,
        )
        self.write(self._save_settings)
        if self._measurements:
            self.write(self._save_measurements)
        monitor.move(self.folder, self._config, next_step)
        return True

    def save_cameras(self) -> None:
        """Writes the cameras anew, where their poses are learned."""
        if self._refined:
            self._save_cameras()
            sparse = self.folder / REFINED / "sparse" / "0"
            save_colmap_text(sparse, self._training_views(), self._scene.points, self._scene.normalisation)

    def _save_settings(self) -> None:
        save_config(self._config, self.folder / "config.yaml")
        self._save_cameras()

    def _save_cameras(self) -> None:
        views = (*self._training_views(), *self._scene.test)
        save_cameras_json(self.folder / "cameras.json", views, self._scene.normalisation, self._origin)

    def _training_views(self) -> Sequence[View]:
        return self._refined(self._scene.train) if self._refined else self._scene.train

    def _save_measurements(self) -> None:
        with replacing(self.metrics) as temporary:
            temporary.write_bytes(self._measurements)
