"""The live viewer of a training: a hook that serves pages between two steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distwar_gs.checkpoints.checkpoint import CheckpointError
from distwar_gs.config import Config
from distwar_gs.rendering.views import camera_of, evaluation_background
from distwar_gs.system.terminal import one_line
from distwar_gs.training.state import TrainingState
from distwar_gs.viewing.live.cameras import view_of
from distwar_gs.viewing.live.desk import Desk
from distwar_gs.viewing.live.modes import depth_at, draw
from distwar_gs.viewing.live.orders import Look
from distwar_gs.viewing.live.pictures import Picture
from distwar_gs.viewing.live.server import Server
from distwar_gs.viewing.live.site import Site
from distwar_gs.viewing.live.subjects import InTraining, Subject, part_of

if TYPE_CHECKING:
    from torch import Tensor

    from distwar_gs.training.trainer import Trainer

log = logging.getLogger(__name__)

LONELY_S = 30.0
"""A paused run goes on when no page has been open for so long."""
MOST_POINTS = 600
"""Of the curves; beyond, every second one goes."""
HEARTBEAT_S = 0.25
"""Between two looks at signals while the run is paused; between two news of it."""


def serve_page(subject: Subject, desk: Desk, server: Server, site: Site, background: Tensor, told: dict[str, Any], *,
               others_wait: bool) -> None:  # fmt: skip
    """Makes one picture of a model, if one is asked for and it is time.

    told: what the page learns with it. others_wait: whether a training does.

    What goes wrong costs the picture, not the run: memory that a view takes is not there, say.
    """
    wish = desk.next_look()
    if wish is None:
        return
    (page, look), begun = wish, time.perf_counter()
    try:
        picture = take_picture(subject, look, site, background, told)
    except Exception as error:  # also what the device says
        log.warning("viewer: no picture of mode %s (%s)", look.mode, one_line(str(error)))
        server.notice(f"no picture: {one_line(str(error))}")
        desk.taken(page)
    else:
        server.deliver(page, picture)
    desk.spent(time.perf_counter() - begun, others_wait=others_wait)


def take_picture(subject: Subject, look: Look, site: Site, background: Tensor, told: dict[str, Any]) -> Picture:
    """What a page wishes to see of a model; `told`: what it learns with it."""
    camera = camera_of(view_of(look, site.views), background.device)
    part = part_of(subject, site.crop, background)
    if look.pick is not None:
        told = {**told, "picked": depth_at(part, camera, look.pick)}
    return Picture(draw(part, camera, look.mode).cpu().numpy(), look, told)


class LiveViewer:
    """A hook (distwar_gs.training.hooks.Hook): pictures for those who watch; pause, step, go, checkpoint, export.

    Made before the training, so that a port that is taken is said at once; `watch` begins to serve.
    """

    needs_finite = False

    def __init__(self, config: Config) -> None:
        """Binds the port. Raises ConfigError where that cannot be done."""
        self._desk = Desk(config.log.viewer_fps)
        self._server = self._make_server(config)
        self._every = config.log.every
        self._is_paused, self._steps_left = False, 0
        self._points: list[list[float]] = []
        self._told = 0.0
        self._commands: dict[str, Callable[[], None]] = {
            "pause": self._pause, "go": self._go, "step": self._step, "checkpoint": self._checkpoint,
            "export": self._export,
        }  # fmt: skip

    @property
    def server(self) -> Server:
        """Of the page."""
        return self._server

    def _make_server(self, config: Config) -> Server:
        return Server(config.log.viewer_host, config.log.viewer or 0, self._desk)

    def watch(self, run: Trainer) -> None:
        """Serves pages from now on; pictures come when the run is under way."""
        self._run, config = run, run.config
        self._background = run.batches.background
        self._subject: Subject = InTraining(run.state, self._background)
        self._site = Site(run.scene, run.folder, run.origin, evaluation_background(config), is_live=True)
        self._server.start(self._site)

    def close(self, words: str) -> None:
        """The training has ended."""
        self._server.close(words)

    def is_due(self, step: int) -> bool:
        """Whether a page waits, or the curves have a new point."""
        return self._is_paused or self._desk.is_due() or step % self._every == 0

    def after_step(self, step: int, state: TrainingState) -> None:
        """Serves the page that has waited longest. Raises StoppedError where a signal ends a paused run."""
        if step % self._every == 0:
            self._note_point(step)
        if self._is_paused or self._desk.is_due():
            with self._run.monitor.paused():
                self._obey()
                self._show()
            self._rest(step, state)
        self._tell()

    # -------------------------------------------------------------------------------------------------- the commands

    def _obey(self) -> None:
        while command := self._desk.next_command():
            self._commands[command.name]()
            self._tell(at_once=True)

    def _pause(self) -> None:
        self._is_paused, self._steps_left = True, 0

    def _go(self) -> None:
        self._is_paused, self._steps_left = False, 0

    def _step(self) -> None:
        self._is_paused = True
        self._steps_left = 1

    def _checkpoint(self) -> None:
        self._write(lambda: self._server.notice(f"saved {self._run.checkpoints.save()}"))

    def _export(self) -> None:
        def save() -> None:
            self._run.checkpoints.before_saving()  # Gaussians that are not finite are dropped
            self._run.results.save_model()
            self._server.notice(f"saved {self._run.files.ply(self._run.state.step)}")

        self._write(save)

    def _write(self, save: Callable[[], None]) -> None:
        """A file whose failure costs the file only, and is told to those who watch, too."""

        def told() -> None:
            try:
                save()
            except (OSError, CheckpointError) as error:
                self._server.notice(one_line(str(error)))
                raise

        self._run.files.write(told)

    # ----------------------------------------------------------------------------------------------------- serving

    def _rest(self, step: int, state: TrainingState) -> None:
        """While the run is paused: its clock stands, pages are served, signals are heard."""
        if self._rests():
            self._tell(at_once=True)
        seen = time.monotonic()
        with self._run.monitor.paused():
            while self._rests():
                self._run.interruption.check()
                if self._run.interruption.wants_save:
                    self._run.checkpoints.after_step(step, state)
                self._desk.wait(HEARTBEAT_S)
                self._obey()
                self._show(others_wait=False)
                seen = time.monotonic() if self._server.has_pages else seen
                if time.monotonic() - seen > LONELY_S:
                    self._go()
        self._steps_left = 0

    def _rests(self) -> bool:
        return self._is_paused and not self._steps_left

    def _show(self, *, others_wait: bool = True) -> None:
        serve_page(
            self._subject, self._desk, self._server, self._site, self._background, self._standing(),
            others_wait=others_wait,
        )  # fmt: skip

    def _standing(self) -> dict[str, Any]:
        state = self._run.state
        return {"step": state.step, "count": len(state.params["means"])}

    def _note_point(self, step: int) -> None:
        """Step, loss, PSNR and number of Gaussians, which have just been published."""
        last = self._run.monitor.last
        names = ("train/loss", "train/psnr", "gaussians/count")
        self._points.append([step, *(round(last[name], 6) for name in names)])
        if len(self._points) > MOST_POINTS:
            del self._points[1::2]

    def _tell(self, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if not self._server.has_pages or (not at_once and now - self._told < HEARTBEAT_S):
            return
        self._told = now
        self._site.folder = self._run.folder  # which may be another one, if it was lost
        run, last = self._run, self._run.monitor.last
        tested = {step: round(evaluation.psnr, 3) for step, evaluation in run.results.evaluations.items()}
        self._server.tell({
            **self._standing(), "paused": self._is_paused, "over": run.state.is_over,
            "seconds": round(run.state.elapsed, 1), "speed": round(last.get("time/steps_per_second", 0.0), 2),
            "points": self._points, "tested": list(tested.items()),
        })  # fmt: skip
