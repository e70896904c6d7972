"""What a run is for: measurements of the held-out views, and the Gaussians as PLY."""

import logging
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from distwar_datasets import Scene, View
from distwar_datasets.errors import printable
from distwar_datasets.pixels.images import ImageStore
from distwar_gs.adjust.aligning import Aligner
from distwar_gs.engines.communication import Communication
from distwar_gs.evaluation.metrics import Evaluation, append_metrics, data_protocol, evaluate, is_measured
from distwar_gs.formats.export import as_reloaded, save_ply
from distwar_gs.formats.sky import save_sky
from distwar_gs.gaussians.model import sh_degree_of
from distwar_gs.rendering.renderer import render, view_traffic
from distwar_gs.rendering.views import camera_of, measures_aligned, measures_color_fit
from distwar_gs.system.interruption import Interruption
from distwar_gs.training.monitor import Monitor
from distwar_gs.training.run_files import RunFiles
from distwar_gs.training.state import TrainingState
from distwar_kernels import TuningRound

log = logging.getLogger(__name__)


class Results:
    """A hook: measures and exports, where that is due after a step."""

    needs_finite = True

    def __init__(
        self,
        state: TrainingState,
        scene: Scene,
        photos: ImageStore,
        background: Tensor,
        origin: np.ndarray,
        files: RunFiles,
        monitor: Monitor,
        interruption: Interruption,
    ) -> None:
        """`photos` of the test views, measured on `background` [3]; PLY files relative to `origin`."""
        self.state, self.scene, self.photos, self.background, self.origin = state, scene, photos, background, origin
        self.files, self._monitor, self._interruption = files, monitor, interruption
        self._gathered: Mapping[str, Tensor] | None = None
        self.evaluations: dict[int, Evaluation] = {}
        """What this session has measured, by step."""

    def is_due(self, step: int) -> bool:
        """Whether anything is measured or exported after this step."""
        return self._is_measured(step) or self._is_exported(step)

    def after_step(self, step: int, state: TrainingState) -> None:
        """Measures and exports. Raises StoppedError where a signal asks to end, before either."""
        self._make(step, measured=self._is_measured(step), exported=self._is_exported(step))

    def make_missing(self) -> None:
        """What was due after the step that a session goes on from, and is not there yet."""
        step = self.state.step
        measured = self._is_measured(step) and not is_measured(self.files.metrics, step, "test")
        self._make(step, measured=measured, exported=self._is_exported(step) and not self.files.ply(step).is_file())

    @property
    def model(self) -> Mapping[str, Tensor]:
        """The Gaussians as they are; those of all ranks on the first one, as they were last measured or exported."""
        return self._gathered or self.state.params

    def evaluate(self, with_flip: bool | None = None) -> Evaluation | None:
        """Measures the held-out views; metrics.json and TensorBoard get the numbers. None if no view is held out, and
        on all ranks but the first, which measures.

        What is measured is what a PLY of this step holds, so that render.py finds the same numbers to the last bit.

        with_flip: measure FLIP, too; None: where the config says so.
        """
        state, views = self.state, self.scene.test
        if not views:
            return None
        with self._monitor.paused():
            if not self._gather():
                return None
            state.elapsed = self._monitor.elapsed()
            shown: dict[str, Tensor] = {}
            evaluation = self._measure(shown, state.config.log.flip if with_flip is None else with_flip)
            self._tell(evaluation, shown)
        log.info(
            "step %d: test %s (%d views), %s Gaussians, %.1f s of training",
            state.step, evaluation.words(), len(views), f"{len(self.model['means']):,}", state.elapsed,
        )  # fmt: skip
        return evaluation

    def render_view(self, view: View, params: Mapping[str, Tensor] | None = None) -> Tensor:
        """The model as a view sees it, with all its harmonics: [H, W, 3]. `params`: others than those in training."""
        params, camera = params or self.model, camera_of(view, self.state.device)
        degree, background = sh_degree_of(params), self.background
        return render(params, camera, self.state.settings, sh_degree=degree, background=background).colors[0]

    def save_model(self) -> None:
        """Writes the Gaussians as PLY in the frame of the input, or relative to the origin that the file tells."""
        state = self.state
        path = self.files.ply(state.step)
        with self._monitor.paused():
            if not self._gather():
                return
            antialiased, frame = state.settings.antialiased, self.scene.normalisation
            save_ply(path, self.model, frame, antialiased=antialiased, origin=self.origin)
            save_sky(path, environment.coefficients if (environment := state.settings.environment) else None)
            self.files.save_cameras()
        log.info("saved %s", path)

    def _is_measured(self, step: int) -> bool:
        return self.state.is_over or self.state.schedule.is_one(step, self.state.config.train.test_iterations)

    def _is_exported(self, step: int) -> bool:
        return self.state.is_over or self.state.schedule.is_one(step, self.state.config.train.save_iterations)

    def _make(self, step: int, *, measured: bool, exported: bool) -> None:
        for due, make in ((measured, self.evaluate), (exported, self.save_model)):
            if due:
                self._interruption.check()
                self.files.write(make)
        if not self.state.is_over:  # then a report may follow
            self._gathered = None

    def _gather(self) -> bool:
        """Brings the Gaussians of all ranks to the first; whether this is it."""
        self.state.engine.settle(self.state.step)
        if self.state.ranks.count > 1:
            self._gathered = self.state.whole()
        return self.state.ranks.leads

    def _measure(self, shown: dict[str, Tensor], with_flip: bool) -> Evaluation:
        """`shown` gets the pictures for TensorBoard."""

        def observe(view: View, render8: Tensor, photo: Tensor) -> None:
            self._interruption.check()
            if len(shown) < self.state.config.log.images:
                shown[f"test/{printable(view.name)}"] = _side_by_side(render8, photo)

        saved = as_reloaded(self.model, self.scene.normalisation, self.origin)
        protocol = data_protocol(self.scene, self.state.config.data.background)
        aligned = self._aligner(saved) if measures_aligned(self.state.config) else None
        return evaluate(
            lambda view: self.render_view(view, saved), self.photos, self.scene.test, protocol, observe,
            self.photos.mask, with_flip=with_flip, with_color_fit=measures_color_fit(self.state.config),
            aligned=aligned,
        )  # fmt: skip

    def _aligner(self, params: Mapping[str, Tensor]) -> Aligner:
        weight = self.state.config.optim.lambda_dssim
        return Aligner(params, self.state.settings, self.background, self.state.extent, weight)

    def _tell(self, evaluation: Evaluation, shown: Mapping[str, Tensor]) -> None:
        state = self.state
        self.evaluations[state.step] = evaluation
        extra = {
            "gaussians": len(self.model["means"]),
            "train_seconds": round(state.elapsed, 2),
            "reduction": vars(state.reduction),
        }
        append_metrics(self.files.metrics, state.step, "test", evaluation, extra)
        self.files.note_measurements()
        scalars = {f"eval/{name}": value for name, value in evaluation.numbers.items() if value is not None}
        self._monitor.evaluation(state.step, scalars | self._atomics(), shown)

    @torch.no_grad()
    def _atomics(self) -> dict[str, float]:
        """Atomic additions of a view's blend backward, averaged over the test views that TensorBoard shows."""
        state = self.state
        views, reduction = self.scene.test[: state.config.log.images], state.reduction
        if not views or reduction.strategy == "gsplat":  # its warps are not ours
            return {}
        traffic = (view_traffic(self.model, camera_of(view, state.device), state.settings) for view in views)
        return {"reduction/atomics_per_view": fmean(one.atomics(reduction) for one in traffic)}


def say_what_was_lost(
    state: TrainingState, rounds: Sequence[TuningRound], seconds: float, communication: Communication
) -> None:
    """At the end of a session of so many seconds: the time that measuring reductions took, skipped steps, and what
    ranks spent in exchanges."""
    if rounds:
        tuning = sum(outcome.cost_ms for outcome in rounds) / 1e3
        share = 100 * tuning / seconds
        log.info("reduction auto: measured %d times in %.2f s, %.2f %% of training", len(rounds), tuning, share)
    if state.engine.skipped:
        skipped = state.engine.skipped
        log.info("%d of %d steps changed nothing: their views outgrew their buffers", skipped, state.step)
    if words := communication.words():
        log.info("%s", words)


def _side_by_side(render8: Tensor, photo: Tensor) -> Tensor:
    """Photo, render and absolute error [H, 3 W, 3], uint8 on the host."""
    render8, photo = render8.cpu(), photo.cpu()
    error = (render8.int() - photo.int()).abs().to(torch.uint8)
    return torch.cat([photo, render8, error], dim=1)
