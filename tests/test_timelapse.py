"""The film of a training: when frames are due, that it changes nothing, and what is left when something fails."""

import json
import math

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from demo_runs import DENSE_SCHEDULE, demo_config
from test_hooks import state_of
from test_pictures import frames_of

from distwar_datasets import DataError
from distwar_gs.evaluation.metrics import to_8bit
from distwar_gs.training.trainer import Trainer
from distwar_gs.viewing.timelapse import FRAMES, NAME, Timelapse, frame_shares

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture
def make(demo_scene, tmp_path):
    def make(folder: str, changes: dict | None = None, frames: int | None = 8) -> Trainer:
        config = demo_config(demo_scene, tmp_path / folder, {"log.timelapse": frames, **(changes or {})})
        run = Trainer(config)
        if frames:
            film = Timelapse(run.config)
            film.watch(run)
            run.extra_hooks.append(film)
        return run

    return make


def steps_of(frames: int, iterations: int) -> list[int]:
    """When the frames are due, spelled out."""
    return sorted({max(1, math.ceil(share * iterations - 1e-6)) for share in frame_shares(frames, iterations)})


def test_frames_come_thick_at_first():
    shares = frame_shares(300, 30_000)
    assert (
        shares[0] == 1 / 30_000 and shares[-1] == 1.0 and all(np.diff(shares) > 0) and all(np.diff(np.diff(shares)) > 0)
    )
    steps = [share * 30_000 for share in shares]
    assert sum(step <= 283.3 for step in steps) == 30 and 195 < steps[-1] - steps[-2] < 205


def test_a_film_changes_no_bit_of_the_run(make):
    changes = {**DENSE_SCHEDULE, "train.iterations": 40, "train.checkpoint_every": 15}
    plain, filmed = make("plain", changes, None), make("filmed", changes)
    assert plain.run() == 0 and filmed.run() == 0
    one, two = state_of(plain), state_of(filmed)
    assert one.keys() == two.keys() and [name for name in one if not torch.equal(one[name], two[name])] == []
    frames = frames_of(filmed.folder / NAME)
    assert len(frames) == len(steps_of(8, 40)) == 8 and frames[0].shape == (60, 80, 3)
    assert not (filmed.folder / FRAMES).exists() and not (plain.folder / NAME).exists()
    photo = imageio.imread(filmed.scene.test[0].image_path).astype(float)
    errors = [float(np.square(frame - photo).mean()) for frame in frames]
    assert errors[3] < errors[0], "the first test view gets better"
    last = to_8bit(filmed.results.render_view(filmed.scene.test[0])).numpy()
    assert np.abs(frames[-1].astype(int) - last).mean() < 4  # what JPEG and H.264 leave of it


def test_it_is_asked_for_few_steps(make):
    run = make("run", {"train.iterations": 30})
    film, due = run.extra_hooks[0], []
    after = film.after_step
    film.after_step = lambda step, state: (due.append(step), after(step, state))
    assert run.run() == 0
    assert due == steps_of(8, 30)


def test_a_run_of_fewer_steps_has_a_frame_for_each(make):
    run = make("run", {"train.iterations": 5}, 300)
    assert run.run() == 0 and len(frames_of(run.folder / NAME)) == 5


def test_a_run_that_is_stopped_and_resumed_keeps_its_frames(make, tmp_path):
    changes = {**DENSE_SCHEDULE, "train.iterations": 40}
    whole = make("whole", changes)
    assert whole.run() == 0
    first = make("parts", changes)
    first.extra_hooks.append(Stop(first, 17))
    assert first.run() == 130 and len(list((tmp_path / "parts" / FRAMES).iterdir())) == sum(
        step <= 17 for step in steps_of(8, 40)
    )
    stray = tmp_path / "parts" / FRAMES / "000007_of_8.jpg"  # of a session that went farther and was killed
    stray.write_text("no picture")
    second = make("parts", changes | {"train.resume": "auto"})
    assert second.run() == 0
    assert (second.folder / NAME).read_bytes() == (whole.folder / NAME).read_bytes()


class Stop:
    """A hook that ends the run as Ctrl-C does."""

    needs_finite = False

    def __init__(self, run: Trainer, step: int) -> None:
        self.run, self.step = run, step

    def is_due(self, step: int) -> bool:
        return step == self.step

    def after_step(self, step: int, state) -> None:
        import signal

        signal.raise_signal(signal.SIGINT)


def test_a_run_of_seconds_is_filmed_by_the_clock(make):
    run = make("run", {"train.seconds": 1.0}, 4)
    assert run.run() == 0
    assert len(frames_of(run.folder / NAME)) in (3, 4)  # two frames fall into one step where the machine is busy


def test_frames_of_an_earlier_run_are_not_in_the_film(make, tmp_path):
    (tmp_path / "run" / FRAMES).mkdir(parents=True)
    (tmp_path / "run" / FRAMES / "000003_of_8.jpg").write_text("no picture")
    run = make("run", {"train.iterations": 3})
    assert run.run() == 0 and len(frames_of(run.folder / NAME)) == 3


@pytest.mark.parametrize("kind", ["ellipse", "file"])
def test_a_camera_that_moves(make, tmp_path, kind):
    path = tmp_path / "poses.json"
    run = make("first", {"train.iterations": 1}, None)
    assert run.run() == 0
    path.write_text(json.dumps(json.loads((run.folder / "cameras.json").read_text())[:3]))
    moving = make("moving", {"train.iterations": 9, "log.timelapse_path": str(path) if kind == "file" else kind}, 4)
    assert moving.run() == 0
    frames = frames_of(moving.folder / NAME)
    assert len(frames) == 4 and np.abs(frames[2].astype(int) - frames[3]).mean() > 5


def test_a_path_that_is_none_is_said_before_the_training(demo_scene, tmp_path):
    (tmp_path / "poses.json").write_text("{}")
    changes = {"log.timelapse": 5, "log.timelapse_path": str(tmp_path / "poses.json")}
    with pytest.raises(DataError, match=r"poses.json: neither a list of cameras"):
        Timelapse(demo_config(demo_scene, tmp_path / "run", changes))


def test_memory_that_is_used_up_costs_frames(make, monkeypatch, capfd):
    run, plain = make("run", {"train.iterations": 9}), make("plain", {"train.iterations": 9}, None)
    look = run.state.engine.look

    def short(step, *arguments, **options):
        if step in (1, 2):
            raise torch.OutOfMemoryError("out of memory (a test)")
        return look(step, *arguments, **options)

    monkeypatch.setattr(run.state.engine, "look", short)
    assert run.run() == 0 and plain.run() == 0
    told = [text for text in capfd.readouterr().err.splitlines() if text.startswith(NAME)]
    assert told == [f"{NAME}: no frame 0 (out of memory (a test)); the run goes on without it"]
    assert len(frames_of(run.folder / NAME)) == len(steps_of(8, 9)) - 2
    assert torch.equal(run.state.params["means"], plain.state.params["means"])


def test_a_film_that_cannot_be_written_costs_the_film(make, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))
    run = make("run", {"train.iterations": 6})
    assert run.run() == 0
    assert f"{NAME}: no film (" in capfd.readouterr().err
    assert not (run.folder / NAME).exists() and len(list((run.folder / FRAMES).iterdir())) == len(steps_of(8, 6))
    assert (run.folder / "point_cloud/iteration_6/point_cloud.ply").exists()
