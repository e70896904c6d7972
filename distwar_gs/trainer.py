"""Training: the loop, and what happens around it. Reads top to bottom."""

import logging
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

import distwar_kernels as kernels
from datasets import DataError, View
from datasets.errors import printable
from distwar_gs import checkpoint as checkpoints
from distwar_gs.config import Config, ConfigError, as_values, save_config
from distwar_gs.devices import resolve_device
from distwar_gs.engines import Rendered, make_engine
from distwar_gs.errors import TrainingError
from distwar_gs.export import as_reloaded, save_cameras_json, save_ply
from distwar_gs.files import read_bounded, remove_leftovers, replacing
from distwar_gs.health import Health
from distwar_gs.interruption import Interruption, StoppedError
from distwar_gs.losses import as_floats, photometric_gradients
from distwar_gs.memory import cap_of
from distwar_gs.metrics import Evaluation, append_metrics, data_protocol, evaluate, is_measured, psnr
from distwar_gs.model import active_sh_degree, as_parameters, degree_in_use, sh_degree_of
from distwar_gs.monitor import Monitor, move_log, setup_logging
from distwar_gs.near_plane import with_near_plane
from distwar_gs.optimizer import all_moments, load_state_dicts, make_optimizers, set_learning_rates, state_dicts
from distwar_gs.origins import export_origin
from distwar_gs.renderer import load_kernels, render, render_settings, view_traffic
from distwar_gs.resume import (
    check_config,
    find_checkpoint,
    open_checkpoint,
    with_its_schedule,
    with_its_strategy,
)
from distwar_gs.run_folder import RunFolder
from distwar_gs.sampler import ViewSampler
from distwar_gs.schedule import Schedule
from distwar_gs.start import find_start, first_gaussians
from distwar_gs.strategies import make_strategy, wants_score
from distwar_gs.terminal import reason_of
from distwar_gs.timing import StepTimer
from distwar_gs.views import (
    camera_of,
    cameras_of,
    evaluation_background,
    measured_images,
    open_scene,
    training_images,
)

log = logging.getLogger(__name__)

METRICS = "metrics.json"


class Trainer:
    """One training run. `Trainer(config).run()` does everything, from the files of a scene to the files of a run."""

    def __init__(self, config: Config) -> None:
        """Loads the scene and its images, makes or resumes the model. Errors of the data and the config come here."""
        self.config, self.schedule = config, Schedule(config.train.iterations, config.train.seconds)
        self.device = resolve_device(config.train.device)
        self.run_folder = RunFolder(Path(config.train.result_dir))
        self.folder = self.run_folder.path
        setup_logging(self.folder, config.log.quiet)
        _check_reduction(config, self.device)
        self.scene = open_scene(config)
        self.origin = export_origin(self.scene, config.train.export_origin)
        self.fingerprint = checkpoints.scene_fingerprint(self.scene)  # while the files of the scene are there
        self.last_checkpoint: Path | None = None
        saved = self._checkpoint()
        self.config = config = with_near_plane(self.config, self.scene, saved.config if saved else {})
        if not saved and config.model.init_ply:
            find_start(config.model.init_ply)  # what cannot be used is said before the images are decoded
        self.settings = render_settings(config, self.scene.extent, self.device)
        load_kernels(self.settings, self.device)  # so that no step has to build them
        self.tuner = kernels.tuner_of(self.device)
        self.tuner.reset()  # what an earlier run in this process measured was another scene's
        self.cameras = cameras_of(self.scene.train, self.device)
        self.images = training_images(self.scene, config, self.device)
        test_share = len(self.scene.test) / (len(self.scene.train) + len(self.scene.test))
        self.test_images = measured_images(self.scene.test, config, test_share)
        self.generators = _generators(config.train.seed, self.device)
        self.sampler = ViewSampler(len(self.scene.train), self.generators["host"])
        self.background = torch.tensor(evaluation_background(config), device=self.device)
        self.step, self._elapsed, self._is_over = 0, 0.0, False
        self.cap = cap_of(config, self.settings.rasterizer, self.scene.train, self.device)
        self.interruption = Interruption()
        self._unwritten: str | None = None  # why a file of the last step is not there
        self._shown: int | None = None  # the view of the step that is being made
        self._make_model(saved)
        if saved:
            self._continue_from(saved)
        self._saved_step: int | None = None  # of this session's newest checkpoint
        self._first_step = self.step + 1
        self.health = Health(self, config.train.max_repairs)

    # ------------------------------------------------------------------------------------------------- the loop

    def run(self) -> int:
        """Trains to the end; returns the exit code: 0, or 130 / 143 after Ctrl-C / SIGTERM (with a checkpoint).

        Raises TrainingError when the GPU's memory is used up, with a checkpoint saved; when the model cannot be kept
        finite; and when what is due after the last step could not be written. ConfigError: another training has the
        run folder.
        """
        with self.run_folder:
            return self._run()

    def _run(self) -> int:
        self._open_run_folder()
        self.cap.begin(len(self.params["means"]), [*self.params.values(), *all_moments(self.optimizers)])
        self.schedule.begin(self.step, self._elapsed)
        self._is_over = self.schedule.is_over(self.step, self._elapsed)
        if self._is_over:
            more = "--seconds" if self.schedule.follows_clock else "--iterations"
            log.warning("all %s are done already; train on with more %s", self.schedule, more)
        code = 0
        with self.interruption:
            try:
                self._train()
            except StoppedError:
                code = self._stop()
            except torch.OutOfMemoryError as error:
                raise self._out_of_memory(error) from error
            except DataError:  # an image that is decoded only now
                self._give_up_step()
                self._write(self.save_checkpoint)
                if self._is_over:
                    self._write(self.save_model)
                raise
            finally:
                self.monitor.close()
        self._report()
        if self._unwritten and code == 0:
            raise TrainingError(f"{self._unwritten}. All steps are done: --resume auto makes what is missing")
        return code

    def _train(self) -> None:
        """The steps that are left, and what is due after them. Raises StoppedError where a signal asks for it.

        A checkpoint comes before the results of the same step, so that nothing that befalls these costs steps; a run
        that was stopped between the two makes them when it goes on.
        """
        if self.step:
            self._make_results(again=False)
        while not self._is_over:
            self.train_step(self.step + 1)
            self._is_over = self.schedule.is_over(self.step, self.monitor.elapsed())
            if self._is_looked_at() and not self.health.keep():
                continue  # from the last checkpoint
            self._unwritten = None
            if self._is_saved_now():
                self._write(self.save_checkpoint)
            self._make_results()
            if not self._is_over:
                self.interruption.check()
        if self._keep_folder():  # it was lost while the last results were made
            self._write(self.save_checkpoint)
            self._make_results(again=False)

    def _is_saved_now(self) -> bool:
        """Whether a checkpoint is due after this step, asked for by a signal, or the only one there would be."""
        asked = self.interruption.takes_save()
        lost = self._is_looked_at() and self._keep_folder()
        return self._is_checkpointed(self.step) or asked or lost

    def _is_checkpointed(self, step: int) -> bool:
        train = self.config.train
        periodic = train.checkpoint_every > 0 and step % train.checkpoint_every == 0
        return periodic or step in train.checkpoint_iterations or self._is_over

    def _make_results(self, again: bool = True) -> None:
        """Measures and exports, where that is due after this step; unless `again`, only what is not there yet."""
        measured = not again and is_measured(self.folder / METRICS, self.step, "test")
        if self.is_measured() and not measured:
            self.interruption.check()
            self._write(self.evaluate)
        exported = not again and self._ply().is_file()
        if (self._is_over or self.step in self.config.train.save_iterations) and not exported:
            self.interruption.check()
            self._write(self.save_model)

    def is_measured(self) -> bool:
        """Whether the test images are rendered and measured after this step. A benchmark overrides it."""
        return self._is_over or self.step in self.config.train.test_iterations

    def _write(self, save: Callable[[], object]) -> None:
        """`save`, whose failure (a full disk) costs the file, not the run."""
        try:
            save()
        except (OSError, checkpoints.CheckpointError) as error:
            problem = f"{error.filename}: {reason_of(error)}" if getattr(error, "filename", None) else str(error)
            self._unwritten = self._unwritten or problem
            log.warning("%s; the run goes on without it", problem)

    def _stop(self) -> int:
        """Leaves a checkpoint of this step, unless there is one; returns the exit code."""
        if self._keep_folder() or self._saved_step != self.step:
            self.save_checkpoint()
        so_far = self.schedule.so_far(self.step, self.monitor.elapsed())
        log.warning("stopped at %s; continue with --resume auto", so_far)
        return self.interruption.exit_code

    def _report(self) -> None:
        self._report_tuning()
        if self.engine.skipped:
            log.info(
                "%d of %d steps changed nothing: their views outgrew their buffers", self.engine.skipped, self.step
            )

    def train_step(self, step: int) -> None:
        """One image: render, compare, differentiate, update.

        The density control that the last step made due comes first, not last: so the model that is measured and saved
        after a step has been trained with all its Gaussians (the 3DGS reference evaluates before it densifies, too).
        """
        self.schedule.begin(step, self.monitor.elapsed())
        timer = self.monitor.timer(step)
        self._refine(step - 1)
        timer.mark("densify")
        index = self._shown = self.sampler.next()
        photo, background = self.images[index], self._background()
        self.images.prefetch(self.sampler.upcoming())
        timer.mark("data")
        rates = self._set_rates(step)
        rendered = self._render_training_view(index, step, background)
        image = rendered.image
        timer.mark("forward")
        kept = self.images.mask(index)
        weight, scored = self.config.optim.lambda_dssim, wants_score(self.densifier, step)
        gradients, losses = photometric_gradients(image, photo, weight, background, kept, with_errors=scored)
        timer.mark("loss")
        self.engine.update(rendered, gradients, timer)
        image = image.detach()
        del rendered  # its buffers, and the graph
        self.densifier.perturb(step, self.params, rates["means"], self.generators["device"])
        timer.mark("optimizer")
        self.step, self._shown = step, None
        self.health.record(step, index, losses["loss"])
        self.monitor.record({f"train/{name}": value for name, value in losses.items()})
        if self.monitor.is_published(step):
            self._publish(step, timer, psnr(image, as_floats(photo, background), kept), rates)

    def _set_rates(self, step: int) -> dict[str, float]:
        position, share = self.schedule.at(step).position, self.schedule.share(step)
        return set_learning_rates(self.optimizers, position, self.config.optim, self.scene.extent, share)

    def _background(self) -> Tensor:
        """The colour [3] to render this step's view on, and to lay a photo with alpha on."""
        if self.config.data.background != "random":
            return self.background
        return torch.rand(3, generator=self.generators["host"]).to(self.device, non_blocking=True)

    def _render_training_view(self, index: int, step: int, background: Tensor) -> Rendered:
        degree_at = self.schedule.at(step).position
        sh_degree = active_sh_degree(degree_at, self.config.model, self._first_degree)
        rendered = self.engine.forward(step, self.cameras[index], sh_degree, background)
        if step == self._first_step:
            _check_coverage(self.scene.train[index], rendered.coverage())
        return rendered

    def _refine(self, step: int) -> None:
        if self.densifier.is_due(step):
            self.engine.settle(step)
        report = self.densifier.step(step, self.params, self.optimizers, self.generators["device"])
        if report:
            log.debug("after step %d: %s", step, report)

    def _publish(self, step: int, timer: StepTimer, train_psnr: Tensor, rates: dict[str, float]) -> None:
        scalars = {
            "train/psnr": float(train_psnr),
            "gaussians/count": float(len(self.params["means"])),
            "train/skipped_steps": float(self.engine.skipped),
            "reduction/threshold": float(self._reduction().balance_threshold),
            **{f"lr/{name}": rate for name, rate in rates.items()},
        }
        self.monitor.publish(step, timer, scalars)
        self.monitor.tuned(step, self.tuner.rounds)

    def _report_tuning(self) -> None:
        rounds = self.tuner.rounds
        if rounds:
            seconds = sum(outcome.cost_ms for outcome in rounds) / 1e3
            share = 100 * seconds / self.monitor.elapsed()
            log.info("reduction auto: measured %d times in %.2f s, %.2f %% of training", len(rounds), seconds, share)

    def _reduction(self) -> kernels.Reduction:
        """What the next backward pass sums with."""
        return kernels.resolve(self.settings.reduction, self.device)[0]

    # ------------------------------------------------------------------------------------- now and then: look, save

    def evaluate(self) -> Evaluation | None:
        """Measures the held-out views; metrics.json and TensorBoard get the numbers. None if no view is held out.

        What is measured is what a PLY of this step holds, so that render.py finds the same numbers to the last bit.
        """
        views = self.scene.test
        if not views:
            return None
        self.engine.settle(self.step)
        with self.monitor.paused():
            shown: dict[str, Tensor] = {}

            def observe(view: View, render8: Tensor, photo: Tensor) -> None:
                self.interruption.check()
                if len(shown) < self.config.log.images:
                    shown[f"test/{printable(view.name)}"] = _side_by_side(render8, photo)

            images, protocol = self.test_images, data_protocol(self.scene, self.config.data.background)
            saved = as_reloaded(self.params, self.scene.normalisation, self.origin)
            evaluation = evaluate(
                lambda view: self.render_view(view, saved), images, views, protocol, observe, images.mask
            )
            count, seconds = len(self.params["means"]), self.monitor.elapsed()
            extra = {"gaussians": count, "train_seconds": round(seconds, 2), "reduction": vars(self._reduction())}
            append_metrics(self.folder / METRICS, self.step, "test", evaluation, extra)
            self._measurements = _content(self.folder / METRICS)
            measured = {"psnr": evaluation.psnr, "ssim": evaluation.ssim, "lpips": evaluation.lpips}
            scalars = {f"eval/{name}": value for name, value in measured.items() if value is not None}
            scalars |= self._atomics()
            self.monitor.evaluation(self.step, scalars, shown)
        log.info(
            "step %d: test PSNR %.2f dB, SSIM %.4f (%d views), %s Gaussians, %.1f s of training",
            self.step, evaluation.psnr, evaluation.ssim, len(views), f"{count:,}", seconds,
        )  # fmt: skip
        return evaluation

    @torch.no_grad()
    def _atomics(self) -> dict[str, float]:
        """Atomic additions of a view's blend backward, averaged over the test views that TensorBoard shows."""
        views, reduction = self.scene.test[: self.config.log.images], self._reduction()
        if not views or reduction.strategy == "gsplat":  # its warps are not ours
            return {}
        return {"reduction/atomics_per_view": fmean(self._traffic(view).atomics(reduction) for view in views)}

    def _traffic(self, view: View) -> kernels.AtomicTraffic:
        return view_traffic(self.params, camera_of(view, self.device), self.settings)

    def render_view(self, view: View, params: Mapping[str, Tensor] | None = None) -> Tensor:
        """The model as a view sees it, with all its harmonics: [H, W, 3]. `params`: others than those in training."""
        params, camera = params or self.params, camera_of(view, self.device)
        rendering = render(params, camera, self.settings, sh_degree=sh_degree_of(params), background=self.background)
        return rendering.colors[0]

    def save_model(self) -> None:
        """Writes the Gaussians as PLY in the frame of the input, or relative to the origin that the file tells."""
        path = self._ply()
        self.engine.settle(self.step)
        with self.monitor.paused():
            antialiased, frame = self.settings.antialiased, self.scene.normalisation
            save_ply(path, self.params, frame, antialiased=antialiased, origin=self.origin)
        log.info("saved %s", path)

    def _ply(self) -> Path:
        return self.folder / "point_cloud" / f"iteration_{self.step}" / "point_cloud.ply"

    def save_checkpoint(self) -> Path:
        """Writes all that --resume needs, then deletes what train.keep_checkpoints does not keep.

        Gaussians that are not finite are dropped first. Raises TrainingError, and leaves the checkpoints there are
        alone, if no others are left.
        """
        self._keep_folder()
        self.engine.settle(self.step)
        self.health.keep_for_saving()
        with self.monitor.paused():
            state = checkpoints.Checkpoint(
                step=self.step, params=self.params, optimizers=state_dicts(self.optimizers),
                densification=self.densifier.state_dict(), rng=checkpoints.capture_rng(self.generators),
                sampler=self.sampler.state_dict(), config=as_values(self.config),
                scene=self.fingerprint, elapsed_seconds=self.monitor.elapsed(),
            )  # fmt: skip
            path = checkpoints.save_checkpoint(self.folder, state)
        self._saved_step = self.step
        log.info("saved %s", path)
        self.last_checkpoint = path
        train = self.config.train
        checkpoints.remove_old(self.folder, self.step, train.keep_checkpoints, train.checkpoint_iterations)
        return path

    def _give_up_step(self) -> None:
        """The step that failed has not happened: a resumed run begins with its view."""
        if self._shown is not None:
            self.sampler.put_back(self._shown)
            self._shown = None

    def _out_of_memory(self, error: torch.OutOfMemoryError) -> TrainingError:
        traceback.clear_frames(error.__traceback__)  # else what the failed step had made stays until the run has ended
        torch.cuda.empty_cache()
        self._give_up_step()
        path = self.save_checkpoint()
        return TrainingError(
            f"out of GPU memory after step {self.step} with {len(self.params['means']):,} Gaussians; saved {path}. "
            "Continue with --resume auto and --cap_max, or --set data.image_budget_gib=0"
        )

    # ------------------------------------------------------------------------------------- what keeping it finite takes

    def _is_looked_at(self) -> bool:
        """Whether to look for what is not finite after this step: the model is measured, saved or grown, or the host
        waits anyway."""
        step, train = self.step, self.config.train
        due = self._is_checkpointed(step) or self.is_measured() or step in train.save_iterations
        return due or self.monitor.is_published(step) or self.densifier.is_due(step)

    def loss_of(self, index: int) -> float:
        """The loss of a training view as the model is now."""
        photo, kept = self.images[index], self.images.mask(index)
        with torch.no_grad():
            image = self.render_view(self.scene.train[index])
        weight = self.config.optim.lambda_dssim
        _, losses = photometric_gradients(image, photo, weight, self.background, kept, with_errors=False)
        return float(losses["loss"])

    def go_back(self) -> None:
        """To the last checkpoint's model, with another order of views: the same one might end the same way."""
        saved = checkpoints.load_checkpoint(self.last_checkpoint, "cpu")
        self._make_model(saved)
        self._take_state(saved)
        self._is_over = False
        self.monitor.rewind(self.step)

    # ------------------------------------------------------------------------------------------------ to begin with

    def _checkpoint(self) -> checkpoints.Checkpoint | None:
        """The checkpoint to continue from, if one is asked for and there is one."""
        resume = self.config.train.resume
        if not resume and find_checkpoint(self.folder, "auto"):
            log.warning("%s holds an earlier run: --resume auto continues it, another -m keeps it", self.folder)
        found = open_checkpoint(self.folder, resume, self.device) if resume else None
        if found is None:
            return None
        path, saved = found
        checkpoints.check_scene(path, saved, self.fingerprint, self.scene.source)
        _check_sh_degree(path, sh_degree_of(saved.params), self.config.model.sh_degree)
        self.config = with_its_schedule(saved, with_its_strategy(saved, self.config))
        check_config(path, saved, self.config)
        log.info("resuming from %s: step %d, %s Gaussians", path, saved.step, f"{len(saved.params['means']):,}")
        self.last_checkpoint = path
        return saved

    def _make_model(self, saved: checkpoints.Checkpoint | None) -> None:
        """Parameters, optimisers and density control: from a checkpoint's Gaussians, or from the first points."""
        config, extent = self.config, self.scene.extent
        if saved:
            self.params = as_parameters(saved.params, self.device)
        else:
            self.params = first_gaussians(self.scene, config, self.generators["host"], self.device, self.cap)
        self._first_degree = degree_in_use(self.params)
        self.optimizers = make_optimizers(self.params, config.optim, extent)
        self.densifier = make_strategy(config, len(self.params["means"]), self.device, extent, self.cap, self.schedule)
        self.engine = make_engine(config, self.params, self.optimizers, self.densifier, self.settings)

    def _continue_from(self, saved: checkpoints.Checkpoint) -> None:
        try:
            self._take_state(saved)
            checkpoints.restore_rng(saved.rng, self.generators)
            self.sampler.load_state_dict(saved.sampler)
        except (ValueError, KeyError) as error:
            raise checkpoints.CheckpointError(f"the checkpoint to resume from does not fit itself: {error}") from error
        self._elapsed = saved.elapsed_seconds

    def _take_state(self, saved: checkpoints.Checkpoint) -> None:
        load_state_dicts(self.optimizers, saved.optimizers)
        self.densifier.load_state_dict(saved.densification)
        self.step = saved.step

    def _open_run_folder(self) -> None:
        places = (self.folder, self.folder / checkpoints.FOLDER, *(self.folder / "point_cloud").glob("*"))
        for path in remove_leftovers(places):
            log.info("removed %s, unfinished since an earlier session was killed", path)
        self._measurements = _content(self.folder / METRICS)
        self._save_settings()
        self.monitor = self.make_monitor()

    def _save_settings(self) -> None:
        save_config(self.config, self.folder / "config.yaml")
        views = (*self.scene.train, *self.scene.test)
        save_cameras_json(self.folder / "cameras.json", views, self.scene.normalisation, self.origin)

    def _keep_folder(self) -> bool:
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
        self._write(self._save_settings)
        if self._measurements:
            self._write(self._save_measurements)
        self.monitor.move(self.folder, self.config, self.step + 1)
        return True

    def _save_measurements(self) -> None:
        with replacing(self.folder / METRICS) as temporary:
            temporary.write_bytes(self._measurements)

    def make_monitor(self) -> Monitor:
        """What watches the run from its next step on. A benchmark overrides it, to watch more closely."""
        return Monitor(self.folder, self.config, self.device, self.step + 1, self._elapsed)


def _content(path: Path) -> bytes:
    try:
        return read_bounded(path, 2**30)
    except OSError:
        return b""


def _check_reduction(config: Config, device: torch.device) -> None:
    if config.reduction.strategy == "gsplat" and device.type == "cpu":
        raise ConfigError("reduction.strategy is gsplat, which has no CPU kernels; use sw_b (or any other) on the CPU")


def _check_sh_degree(path: Path, saved: int, wanted: int) -> None:
    if saved != wanted:
        raise checkpoints.CheckpointError(
            f"{path}: its harmonics are of degree {saved}, model.sh_degree is {wanted}; resume with --sh_degree {saved}"
        )


def _generators(seed: int, device: torch.device) -> dict[str, torch.Generator]:
    """All of a run's randomness: view order and backgrounds on the host, that of the strategy on the device."""
    torch.manual_seed(seed)
    return {"host": torch.Generator().manual_seed(seed), "device": torch.Generator(device).manual_seed(seed)}


def _check_coverage(view: View, coverage: float) -> None:
    """Says early, and once, that nothing is seen, rather than train a black image for an hour."""
    log.info("first view: Gaussians cover %.0f %% of %s", 100 * coverage, view.name)
    if coverage == 0.0:
        log.warning(
            "nothing is visible from %s: are the poses world-to-camera in OpenCV axes, do the points belong to these "
            "cameras, is model.near_plane too large?", view.name,
        )  # fmt: skip


def _side_by_side(render8: Tensor, photo: Tensor) -> Tensor:
    """Photo, render and absolute error [H, 3 W, 3], uint8 on the host."""
    render8, photo = render8.cpu(), photo.cpu()
    error = (render8.int() - photo.int()).abs().to(torch.uint8)
    return torch.cat([photo, render8, error], dim=1)
