"""What report.html shows of a run, gathered when its last step has been made."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import torch

from distwar_gs.config import Config
from distwar_gs.evaluation.metrics import Evaluation
from distwar_gs.formats.export import find_ply, load_exactly
from distwar_gs.formats.html_page import parts
from distwar_gs.formats.sky import read_sky, with_sky
from distwar_gs.formats.table import Notes
from distwar_gs.rendering.renderer import view_traffic
from distwar_gs.rendering.views import camera_of
from distwar_gs.system.files import read_bounded
from distwar_gs.training.distributions import REDUCTIONS
from distwar_gs.viewing.report.pictures import Picture, chosen, jpeg, picture_of
from distwar_gs.viewing.tours import tour_of_run
from distwar_kernels import Reduction, TuningRound

if TYPE_CHECKING:
    from distwar_gs.training.trainer import Trainer

LARGEST_MODEL = 500_000
"""Gaussians of a model that turns in the page: some 8 MB, and seconds of a processor to pack."""
MOST_WARNINGS = 50

_TRAFFIC_VIEWS = 2
_LONGEST_LOG = 2**26  # bytes
_WARNING = re.compile(r"^\S+ \S+ (?:WARNING|ERROR) (.*)$", flags=re.MULTILINE)


@dataclass(frozen=True)
class Gathered:
    """See above."""

    config: Config
    scene: str
    """Folder of the scene."""
    made: str
    """Date and time of the report."""
    device: str
    step: int
    gaussians: int
    seconds: float
    """Of training."""
    evaluation: Evaluation | None
    """Of the test views; None: none is held out."""
    curves: Sequence[Mapping[str, float]]
    """Rows of curves.jsonl."""
    worst: Sequence[Picture]
    """Test views, the worst first."""
    sample: Sequence[Picture]
    """Other test views, spread over all; training views, where none is held out."""
    atomics: Mapping[Reduction, float]
    """Atomic additions of a view's blend backward by how a warp reduces."""
    tuning: Sequence[TuningRound]
    """What `reduction: auto` measured in this session."""
    warnings: Sequence[str]
    """Of all sessions, from train.log."""
    model: str
    """What the page's head needs to show the model (`html_page.parts`); "": it is left out."""
    poster: str
    """What is seen where the model is until it is started, a data: URL."""
    files: Mapping[str, int]
    """Bytes of what the run has written, by path within its folder."""


def gather(run: Trainer) -> Gathered:
    """Of a run after its last step, with its results written. Renders some views, waits for the device."""
    state, results = run.state, run.results
    evaluation = results.evaluations.get(state.step)
    worst, sample = chosen(len(run.scene.train), evaluation)
    return Gathered(
        config=run.config,
        scene=str(run.scene.source),
        made=time.strftime("%Y-%m-%d %H:%M"),
        device=device_name(state.device),
        step=state.step,
        gaussians=len(results.model["means"]),
        seconds=run.monitor.elapsed(),
        evaluation=evaluation,
        curves=tuple(run.monitor.rows),
        worst=[picture_of(run, index) for index in worst],
        sample=[picture_of(run, index) for index in sample],
        atomics=_atomics(run),
        tuning=tuple(run.tuner.rounds),
        warnings=warnings_in(run.folder / "train.log"),
        model=_model(run),
        poster=jpeg(results.render_view(run.scene.train[0])),
        files=_files(run.folder),
    )


def device_name(device: torch.device) -> str:
    """Of the GPU; of a CPU, how many threads work on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def warnings_in(log: Path) -> list[str]:
    """The warnings that a train.log holds, each once, in the order in which they were first given; the newest of them,
    if there are many."""
    try:
        text = read_bounded(log, _LONGEST_LOG).decode("utf-8", "replace")
    except OSError:
        return []
    return list(dict.fromkeys(_WARNING.findall(text)))[-MOST_WARNINGS:]


@torch.no_grad()
def _atomics(run: Trainer) -> dict[Reduction, float]:
    """Averaged over a few views; what the run has, and the others at their own thresholds."""
    state = run.state
    used = state.reduction
    if used.strategy == "gsplat":  # its warps are not ours
        return {}
    views = (run.scene.test or run.scene.train)[:_TRAFFIC_VIEWS]
    traffic = [view_traffic(run.results.model, camera_of(view, state.device), state.settings) for view in views]
    others = [Reduction(name) for name in REDUCTIONS if name != used.strategy]
    return {one: fmean(view.atomics(one) for view in traffic) for one in (used, *others)}


def _model(run: Trainer) -> str:
    """Of the PLY that the run has saved."""
    if len(run.results.model["means"]) > LARGEST_MODEL:
        return ""
    ply = find_ply(run.folder, run.state.step)
    (params, origin), sky = load_exactly(ply), read_sky(ply)
    if sky is not None:
        params = with_sky(params, sky)
    tour = tour_of_run(run.folder)
    assert tour is not None  # the run has written its cameras
    notes = Notes(run.state.settings.antialiased, origin)
    return parts({name: tensor.float().numpy() for name, tensor in params.items()}, tour.moved(-origin), notes)


def _files(folder: Path) -> dict[str, int]:
    """The newest model and what else a user may look for; without checkpoints of earlier steps."""
    found = [*folder.glob("point_cloud/*/*.ply"), *folder.glob("checkpoints/*.pt"), *folder.glob("*.json")]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(found) if path.is_file()}
