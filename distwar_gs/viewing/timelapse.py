"""timelapse.mp4: one camera that films the model while it trains.

A frame is rendered after some steps (`Engine.look`, which changes nothing) and kept as a picture in the run folder, so
that a run which is stopped and resumed goes on with its film; after the last step the pictures become the film and go.
Several ranks look together, and the first one keeps the pictures.
Whatever fails costs frames or the film, and one line in the log, never the run.
"""

from __future__ import annotations

import io
import logging
import math
import shutil
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from distwar_gs.config import Config
from distwar_gs.evaluation.metrics import to_8bit
from distwar_gs.rendering.views import camera_of
from distwar_gs.system.files import durable_write
from distwar_gs.system.interruption import StoppedError
from distwar_gs.system.terminal import one_line
from distwar_gs.viewing.path_files import read_path
from distwar_gs.viewing.path_views import own_views, path_views
from distwar_gs.viewing.render_args import CAMERA_PATHS
from distwar_gs.viewing.video_file import writing_video

if TYPE_CHECKING:
    from distwar_datasets.scene import Scene, View
    from distwar_gs.training.state import TrainingState
    from distwar_gs.training.trainer import Trainer

NAME, FRAMES = "timelapse.mp4", "timelapse"
"""The film, and the folder of its frames while there is no film yet; both in the run folder."""
FPS = 30.0
_QUALITY = 95  # of JPEG; the film itself loses more

log = logging.getLogger(__name__)


def frame_shares(frames: int, iterations: int) -> list[float]:
    """The part of a run of so many steps, from 0 to 1, by which each frame is due: the first step, the last, and
    between them so that the root of the steps grows evenly.

    Most changes at the beginning. Of 300 frames of 30,000 steps the first 30 show the first 283 steps, and the last two
    are 200 steps apart; spread evenly, 3 frames would show these first 283 steps.
    """
    first = 1 / iterations
    return [*(first + (1 - first) * (frame / (frames - 1)) ** 2 for frame in range(frames - 1)), 1.0]


class Timelapse:
    """A hook: renders the frames, and writes the film after the last step.

    Made before the training, so that a file of poses that is none is said at once; `watch` begins to film.
    """

    needs_finite = False

    def __init__(self, config: Config) -> None:
        """As log.timelapse, which is set, and log.timelapse_path say. Raises DataError for a file that is no path."""
        name = config.log.timelapse_path or "none"
        self._shares, self._kind = frame_shares(config.log.timelapse or 2, config.train.iterations), name
        self._path = None if name in CAMERA_PATHS else read_path(Path(name))
        self._next: int | None = None  # frame; None: not looked yet
        self._wake = 0  # no frame is due before this step
        self._has_complained = False

    def watch(self, run: Trainer) -> None:
        """Films this run. Raises DataError where the path does not go with its scene."""
        self._run = run
        self._views = self._cameras(run.scene, run.origin)

    def is_due(self, step: int) -> bool:
        """Whether the run has reached the next frame, or its end."""
        return step >= self._wake and (self._run.state.is_over or self._reached(step) >= self._first(step))

    def after_step(self, step: int, state: TrainingState) -> None:
        """Renders the frame; after the last step, makes the film. The clock of the training stands still."""
        with self._run.monitor.paused():
            frame = self._reached(step)
            if frame >= self._first(step):
                self._attempt(f"frame {frame}", lambda: self._film(frame, step, state))
                self._next = frame + 1
            self._wake = self._step_of(self._first(step))
            if state.is_over and state.ranks.leads:
                self._attempt("film", self._finish)

    # ----------------------------------------------------------------------------------------------- when and where

    def _reached(self, step: int) -> int:
        """The last frame that is due by a step."""
        return bisect_right(self._shares, self._run.state.schedule.share(step)) - 1

    def _first(self, step: int) -> int:
        """The next frame to take. Those of an earlier session's steps are in the folder; what lies there from later
        ones, or from another run, goes."""
        if self._next is None:
            before = step - self._run.state.views
            self._next = self._reached(before) + 1 if before > 0 else 0
            for frame, file in self._kept().items():
                if frame >= self._next and self._run.ranks.leads:
                    file.unlink(missing_ok=True)
        return self._next

    def _step_of(self, frame: int) -> int:
        """Before which a frame cannot be due: 0 where time, and not the steps, drives the run."""
        schedule = self._run.state.schedule
        if schedule.follows_clock:
            return 0
        return math.floor(self._shares[min(frame, len(self._shares) - 1)] * schedule.iterations)

    def _cameras(self, scene: Scene, origin: np.ndarray) -> Sequence[View]:
        """One for each frame."""
        count = len(self._shares)
        if self._path is not None:
            return path_views(self._path, scene, origin, count)
        if self._kind != "none":
            return own_views(self._kind, scene, count)
        return [(scene.test or scene.train)[0]] * count

    # --------------------------------------------------------------------------------------------------- the pictures

    def _film(self, frame: int, step: int, state: TrainingState) -> None:
        camera, background = camera_of(self._views[frame], state.device), self._run.batches.background
        pixels = to_8bit(state.engine.look(step, camera, state.sh_degree(step), background).colors[0])
        if not state.ranks.leads:
            return
        content = io.BytesIO()
        Image.fromarray(pixels.cpu().numpy()).save(content, "JPEG", quality=_QUALITY, subsampling=0)
        with durable_write(self._folder / f"{frame:06d}_of_{len(self._shares)}.jpg") as file:
            file.write(content.getbuffer())

    def _finish(self) -> None:
        """The film of the frames, which then go."""
        path, frames = self._run.folder / NAME, sorted(self._kept().items())
        with writing_video(path, FPS) as video:
            for _, file in frames:
                with Image.open(file, formats=["JPEG"]) as picture:
                    video.add(torch.from_numpy(np.array(picture)))
        shutil.rmtree(self._folder, ignore_errors=True)
        log.info("timelapse: %s (%d frames)", path, len(frames))

    @property
    def _folder(self) -> Path:
        return self._run.folder / FRAMES

    def _kept(self) -> dict[int, Path]:
        """The frames of a film of this length that are in the folder, by number."""
        files = self._folder.glob(f"*_of_{len(self._shares)}.jpg")
        return {int(number): file for file in files if (number := file.name.partition("_")[0]).isdecimal()}

    def _attempt(self, what: str, make: Callable[[], None]) -> None:
        """Whatever goes wrong, a full disk or memory, the run goes on. Of the frames only the first loss is told."""
        try:
            make()
        except StoppedError:
            raise
        except Exception as error:  # also what the device says
            if self._run.ranks.count > 1 and isinstance(error, RuntimeError):
                raise  # the other ranks would wait for this one
            if isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
            if what == "film" or not self._has_complained:
                log.warning("%s: no %s (%s); the run goes on without it", NAME, what, one_line(str(error)))
            self._has_complained = True
