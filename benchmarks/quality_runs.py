"""What benchmarks/time_to_quality.py does once: a training that is measured at marks, or a PLY that is measured."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import peak_memory_mib
from benchmarks.quality_rows import END
from distwar_datasets import View
from distwar_gs.config import Config, ConfigError, as_values, with_values
from distwar_gs.evaluation.color_fit import NAME as FIT_NAME
from distwar_gs.evaluation.metrics import MEASURES, UNFITTED, Evaluation, data_protocol, evaluate
from distwar_gs.formats.export import find_ply
from distwar_gs.rendering.views import measured_images
from distwar_gs.system.devices import resolve_device
from distwar_gs.training.hooks import Hook
from distwar_gs.training.state import TrainingState
from distwar_gs.training.trainer import Trainer
from distwar_gs.viewing.render_args import RenderArgs, render_config
from distwar_gs.viewing.trained import TrainedModel


@dataclass(frozen=True)
class Mark:
    """A moment of a run: a share of it, a step, or a time."""

    text: str
    """As it was typed."""
    number: float
    kind: str
    """%, s, or nothing for a step."""

    @classmethod
    def of(cls, text: str) -> "Mark":
        """25%, 7000 or 20s. Raises ValueError for anything else."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(%|s)?", text)
        if not match or not (number := float(match[1])) or (not match[2] and not text.isdecimal()):
            raise ValueError(f"{text}: a mark is a share of the run (25%), a step (7000) or a time (20s)")
        return cls(text, number, match[2] or "")

    def is_reached(self, step: int, share: float, seconds: float) -> bool:
        """After this step, which completes this share of the run in so many seconds."""
        now = {"%": 100.0 * share, "s": seconds, "": step}
        return now[self.kind] >= self.number - 1e-6


@dataclass(frozen=True, kw_only=True)
class Point:
    """A model, measured; its fields are those of `quality_rows.Row`."""

    at: str
    step: int
    seconds: float | None
    psnr: float
    ssim: float
    lpips: float | None
    flip: float | None
    gaussians: int
    views: int
    resolution: str
    peak_mib: float | None
    protocol: str


# ------------------------------------------------------------------------------------------------------- a training


class Marks:
    """A hook: measures at marks and at the end, and writes the model there, if asked."""

    needs_finite = True

    def __init__(self, trainer: "MarkedTrainer", marks: Sequence[Mark], *, keeps_model: bool) -> None:
        """FLIP, where the config asks for it, is measured at the end only: it takes seconds for each view."""
        self._trainer, self._waiting, self._keeps_model = trainer, list(marks), keeps_model
        self._asked, self._reached = 0, list[str]()
        self.points: list[Point] = []

    def is_due(self, step: int) -> bool:
        """See Hook."""
        if self._asked != step:  # once a step, for time goes on
            self._asked, self._reached = step, self._newly_reached(step)
        return bool(self._reached)

    def after_step(self, step: int, state: TrainingState) -> None:
        """See Hook."""
        self._trainer.interruption.check()
        self._trainer.files.write(self.measure)
        if state.is_over and self._keeps_model:
            self._trainer.interruption.check()
            self._trainer.files.write(self._trainer.results.save_model)

    def measure(self) -> None:
        """A point for each of the marks that are reached."""
        state, results = self._trainer.state, self._trainer.results
        evaluation = results.evaluate(with_flip=state.is_over and state.config.log.flip)
        assert evaluation is not None  # check_views: there are views to measure
        seconds, (allocated, _) = round(state.elapsed, 3), peak_memory_mib(state.device)
        views, count = self._trainer.scene.test, len(state.params["means"])
        point = _point(evaluation, views, END, state.step, seconds, count, allocated)
        self.points += [replace(point, at=mark) for mark in self._reached]

    def _newly_reached(self, step: int) -> list[str]:
        """The marks that this step is the first to reach."""
        state = self._trainer.state
        now = step, state.schedule.share(step), self._trainer.monitor.elapsed()
        reached = [mark for mark in self._waiting if mark.is_reached(*now)]
        self._waiting = [mark for mark in self._waiting if mark not in reached]
        return [mark.text for mark in reached] + ([END] if state.is_over else [])


class MarkedTrainer(Trainer):
    """A trainer whose results are those of `Marks`, and which writes a checkpoint only where a signal asks for it."""

    def __init__(self, config: Config, marks: Sequence[Mark], *, keeps_model: bool) -> None:
        """Raises ConfigError where no view is held out; else as Trainer."""
        super().__init__(config)
        check_views(self.scene.test, config)
        self.marks = Marks(self, marks, keeps_model=keeps_model)

    def make_hooks(self) -> list[Hook]:
        """See Trainer."""
        rows = super().make_hooks()
        return [row for row in rows if row not in (self.checkpoints, self.results)] + [self.marks]


def _point(
    evaluation: Evaluation, views: Sequence[View], at: str, step: int, seconds: float | None, count: int,
    peak_mib: float | None,
) -> Point:  # fmt: skip
    means = ((name, evaluation.numbers[name]) for name in UNFITTED)
    numbers = {name: value if value is None else round(value, 6) for name, value in means}
    return Point(
        at=at, step=step, seconds=seconds, gaussians=count, views=len(views), resolution=_resolution(views),
        peak_mib=peak_mib, protocol=_protocol(evaluation), **dict[str, Any](numbers),
    )  # fmt: skip


def _protocol(evaluation: Evaluation) -> str:
    """What the data decide. How numbers are made of it is the same for all."""
    data = {name: text for name, text in evaluation.protocol.items() if name not in {*MEASURES, FIT_NAME}}
    return "; ".join(f"{name.replace('_', ' ')}: {text}" for name, text in data.items())


def _resolution(views: Sequence[View]) -> str:
    """799x532; of views of several sizes the smallest and the largest."""
    sizes = sorted({(view.width, view.height) for view in views}, key=lambda size: (size[0] * size[1], size))
    ends = dict.fromkeys((sizes[0], sizes[-1]))
    return " to ".join(f"{width}x{height}" for width, height in ends)


def check_views(views: Sequence[View], config: Config) -> None:
    """Raises ConfigError where there is nothing to measure."""
    if not views:
        raise ConfigError(f"{config.data.source_path}: no view is held out to measure; set data.eval=true")


def train(config: Config, marks: Sequence[Mark], *, keeps_model: bool) -> list[Point]:
    """Trains from the first step to the last, and returns what was measured at the marks and at the end.

    Raises KeyboardInterrupt where a signal has ended the run; else as Trainer.
    """
    device = resolve_device(config.train.device)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # of the training before
        torch.cuda.reset_peak_memory_stats(device)
    trainer = MarkedTrainer(config, marks, keeps_model=keeps_model)
    if trainer.run() != 0:
        raise KeyboardInterrupt
    return trainer.marks.points


# ------------------------------------------------------------------------------------------------------------ a PLY


@dataclass(frozen=True)
class ModelFile:
    """A model that somebody has trained, and the time it took."""

    text: str
    """As it was typed."""
    variant: str
    scene: str
    seconds: float | None
    path: Path
    iteration: int | None

    @classmethod
    def of(cls, text: str) -> "ModelFile":
        """NAME:SCENE:SECONDS:PATH[:ITERATION]; no seconds, between two colons: not timed. Raises ValueError."""
        match = re.fullmatch(r"([^:]+):([^:]+):(\d+(?:\.\d*)?)?:(.+?)(?::(\d+))?", text)
        if not match:
            raise ValueError(f"{text}: expected NAME:SCENE:SECONDS:PATH or NAME:SCENE:SECONDS:PATH:ITERATION")
        variant, scene, seconds, path, iteration = match.groups()
        number = None if iteration is None else int(iteration)
        return cls(text, variant, scene, float(seconds) if seconds else None, Path(path), number)


def measure(model_file: ModelFile, config: Config) -> Point:
    """Renders and measures a model as render.py does, over the test views of a scene's config.

    Whether it is antialiased, and the near plane, are the model's own: the run's, or what the file says.
    """
    ply = find_ply(model_file.path, None if model_file.path.is_file() else model_file.iteration)
    args = RenderArgs(model=ply)
    ours = {key: value for key, value in as_values(config).items() if key.startswith(("data.", "log."))}
    model = TrainedModel.of(args, with_values(render_config(args), ours | {"train.device": config.train.device}))
    views, settings = model.scene.test, model.config
    check_views(views, settings)
    images, protocol = measured_images(views, settings), data_protocol(model.scene, settings.data.background)
    render: Callable = lambda view: model.render(view).colors[0]  # noqa: E731
    evaluation = evaluate(render, images, views, protocol, None, images.mask, settings.log.flip)
    step = model.step or model_file.iteration or 0
    at = f"step {step}" if step else END
    return _point(evaluation, views, at, step, model_file.seconds, len(model.params["means"]), None)
