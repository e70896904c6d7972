"""A training run, from the files of a scene to the files of a run. Reads top to bottom."""

import logging
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

import distwar_kernels as kernels
from distwar_datasets import DataError
from distwar_gs.checkpoints.fingerprint import scene_fingerprint
from distwar_gs.checkpoints.resume import resumed
from distwar_gs.config import Config
from distwar_gs.engines.communication import Communication
from distwar_gs.formats.origins import export_origin
from distwar_gs.gaussians.start import find_start
from distwar_gs.rendering.near_plane import with_near_plane
from distwar_gs.rendering.renderer import load_kernels, render_settings
from distwar_gs.rendering.views import cameras_of, measured_images, open_scene
from distwar_gs.system.devices import resolve_device
from distwar_gs.system.errors import TrainingError
from distwar_gs.system.interruption import StoppedError
from distwar_gs.system.parallel import join
from distwar_gs.training.batches import batches_of
from distwar_gs.training.clock import clock_of
from distwar_gs.training.distributions import distributions_of
from distwar_gs.training.health import Health
from distwar_gs.training.hooks import Curves, Hook, LostFolder
from distwar_gs.training.limits import limits_of
from distwar_gs.training.monitor import Monitor
from distwar_gs.training.results import Results, say_what_was_lost
from distwar_gs.training.saving import Checkpoints
from distwar_gs.training.shared_photos import photos_of
from distwar_gs.training.split import showing, with_split
from distwar_gs.training.state import PARTS, TrainingState, check_reduction
from distwar_gs.training.step import refine, say_coverage, train_step
from distwar_gs.training.together import agreed_every, files_of, interruption_of, open_folder, own_config

log = logging.getLogger(__name__)


class Trainer:
    """One training run: `Trainer(config).run()`. Afterwards `state` holds the model."""

    def __init__(self, config: Config, hooks: Sequence[Hook] = ()) -> None:
        """Loads the scene and its images, makes or resumes the model; `hooks` follow each step, behind those that every
        run has (`make_hooks`). Errors of the data and the config come here."""
        self.ranks = ranks = join(config.train.device)
        config = own_config(config, ranks)
        device = resolve_device(config.train.device)
        self.run_folder = open_folder(config, ranks)
        check_reduction(config, device)
        self.scene = scene = open_scene(config)
        self.origin = export_origin(scene, config.train.export_origin)
        self.fingerprint = scene_fingerprint(scene)  # while the files of the scene are there
        run = (self.fingerprint, scene.source, device, ranks)
        self._resumed_from, saved, config = resumed(self.folder, config, PARTS, *run)
        config = with_split(with_near_plane(config, scene, saved.config if saved else {}), scene, ranks)
        self.config = config
        if not saved and config.model.init_ply:
            find_start(config.model.init_ply)  # what cannot be used is said before the images are decoded
        settings = render_settings(config, scene.extent, device)
        load_kernels(settings, device)  # so that no step has to build them
        self.tuner = kernels.tuner_of(device)
        self.tuner.reset()  # what an earlier run in this process measured was another scene's
        cameras, images = cameras_of(scene.train, device), photos_of(scene, config, device, ranks)
        measured = scene.test if ranks.leads else ()
        self.test_images = measured_images(measured, config, len(scene.test) / (len(scene.train) + len(scene.test)))
        parts = (scene, config, settings, device, ranks)
        self.state = TrainingState.from_checkpoint(saved, *parts) if saved else TrainingState.from_points(*parts)
        shown = showing(config, ranks)
        self.batches = batches_of(config, cameras, images, self.state.sampler, self.state.generators["host"], shown)
        self.agreed_every = agreed_every(device.type)
        self.interruption = interruption_of(ranks, self.agreed_every)
        self.communication = Communication(ranks, device)
        self.training_clock = clock_of(ranks, config.train.seconds, self.agreed_every)
        self._first_step = self.state.step + self.state.views
        self.extra_hooks = list(hooks)  # to which more may be added before `run`

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.run_folder.path

    def run(self) -> int:
        """Trains to the end; returns the exit code: 0, or 130 / 143 after Ctrl-C / SIGTERM (with a checkpoint).

        Raises TrainingError when the GPU's memory is used up, with a checkpoint saved; when the model cannot be kept
        finite; when what is due at the end could not be written. ConfigError: another training has the run folder.
        """
        with self.run_folder:
            self.open()
            with self.interruption:
                code = self._train_or_stop()
            say_what_was_lost(self.state, self.tuner.rounds, self.monitor.elapsed(), self.communication)
        self.ranks.leave()
        if self.files.unwritten and code == 0:
            raise TrainingError(f"{self.files.unwritten}. All steps are done: --resume auto makes what is missing")
        return code

    def open(self) -> None:
        """What a session begins with: the files of the run folder, the monitor, what follows each step."""
        refined = self.state.refined
        self.files = files_of(self.ranks, self.run_folder, self.config, self.scene, self.origin, refined)
        self.monitor = self.make_monitor()
        self.hooks = self.make_hooks()
        self.state.begin()

    def make_monitor(self) -> Monitor:
        """What watches the run from its next step on. A benchmark overrides it, to watch more closely."""
        state = self.state
        return Monitor(self.folder, self.config, state.device, state.step + 1, state.elapsed, self.ranks)

    def make_hooks(self) -> list[Hook]:
        """What follows each step, in this order. A benchmark overrides it, to add rows or to leave some out.

        A checkpoint comes before the results of the same step, so that a failure in these loses no training; a run
        that was stopped between the two makes them when it goes on.
        """
        state, scene, files, monitor = self.state, self.scene, self.files, self.monitor
        shared, names = (files, monitor, self.interruption), [view.name for view in scene.train]
        self.checkpoints = Checkpoints(state, self.fingerprint, *shared, self._resumed_from)
        self.health = Health(state, self.batches, names, self.checkpoints, monitor, self._is_checked)
        self.results = Results(state, scene, self.test_images, self.batches.background, self.origin, *shared)
        return [
            *limits_of(self.config, state),
            Curves(monitor, self.tuner),
            self.health,
            LostFolder(self.health, files, monitor, self.checkpoints),
            self.checkpoints,
            self.results,
            *distributions_of(monitor, self.config, scene, state),
            *self.extra_hooks,
        ]

    def _train_or_stop(self) -> int:
        try:
            self._train()
        except StoppedError:
            return self._stop()
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory(error) from error
        except DataError:  # an image that is decoded only now
            self.batches.give_up()
            self.files.write(self.checkpoints.rescue)
            if self.state.is_over and self.ranks.count == 1:
                self.files.write(self.results.save_model)
            raise
        finally:
            self.monitor.close()
        return 0

    def _train(self) -> None:
        """The steps that are left, and what is due after them. Raises StoppedError where a signal asks for it."""
        state = self.state
        if state.is_over:
            log.warning("all %s are done already; train on with more %s", state.schedule, state.schedule.option)
        if state.step:
            self.results.make_missing()
        while not state.is_over:
            self.train_step(state.step + state.views)
            self._follow(state.step)
            if not state.is_over:
                self.interruption.agree()
        if self.files.come_back(self.monitor, state.step + 1):  # it was lost while the last results were made
            self.files.write(self.checkpoints.save)
            self.results.make_missing()

    def train_step(self, step: int) -> None:
        """The density control that the last step made due, the next view, a step."""
        state, monitor = self.state, self.monitor
        state.schedule.begin(step, self.training_clock.begins(monitor.elapsed()))
        timer = monitor.timer(step)
        refine(state)
        timer.mark("densify")
        batch = self.batches.next(state.schedule.share(step))
        timer.mark("data")
        if step == self._first_step:
            say_coverage(state, batch, self.scene.train[batch.view].name)
        if is_timed := self.ranks.count > 1 and monitor.is_published(step):
            self.communication.begin()
        state.made = train_step(state, batch, timer)
        if is_timed:
            self.communication.end()
        self.batches.made()

    def _follow(self, step: int) -> None:
        """What is due after a step, unless health sends the run back to an earlier one."""
        state = self.state
        state.note_time(self.training_clock.ends(self.monitor.elapsed()))
        self.files.unwritten = None
        for hook in self.hooks:
            if state.step == step and hook.is_due(step):
                hook.after_step(step, state)
        state.made = None

    def _is_checked(self, step: int) -> bool:
        """Whether to look for what is not finite: the model is measured, saved or grown, or the host waits anyway."""
        due = self.monitor.is_published(step) or self.state.strategy.is_due(step)
        return due or any(hook.needs_finite and hook.is_due(step) for hook in self.hooks)

    def _stop(self) -> int:
        """Leaves a checkpoint of this step, unless there is one; returns the exit code."""
        if self.files.come_back(self.monitor, self.state.step + 1) or not self.checkpoints.has_saved:
            self.checkpoints.save()
        so_far = self.state.schedule.so_far(self.state.step, self.monitor.elapsed())
        log.warning("stopped at %s; continue with --resume auto", so_far)
        return self.interruption.exit_code

    def _out_of_memory(self, error: torch.OutOfMemoryError) -> TrainingError:
        self.state.made = None
        traceback.clear_frames(error.__traceback__)  # else what the failed step had made stays until the run has ended
        torch.cuda.empty_cache()
        self.batches.give_up()
        saved, state = self.checkpoints.rescue(), self.state
        where = f"{self.ranks.place} after step {state.step} with {len(state.params['means']):,} Gaussians"
        return TrainingError(
            f"out of GPU memory{where}; {saved}. "
            "Continue with --resume auto and --cap_max, or --set data.image_budget_gib=0"
        )
