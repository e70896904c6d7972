"""Trainings of so many seconds: when they end, what time drives in them, and how they go on."""

import json
import math
import time

import pytest
import torch
from demo_runs import demo_config

from distwar_gs.checkpoints.checkpoint import load_checkpoint
from distwar_gs.config import load_config
from distwar_gs.config.schedule import Schedule
from distwar_gs.strategies.adaptive import Densifier
from distwar_gs.training import monitor
from distwar_gs.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("in_process")

STEP = 0.125
"""Seconds of a step by the clock of these tests."""


@pytest.fixture
def steady(monkeypatch):
    """A clock that goes on by `STEP` at each step of a training, and not otherwise."""
    now = [100.0]
    real = Trainer.train_step

    def train_step(self, step):
        real(self, step)
        now[0] += STEP

    monkeypatch.setattr(Trainer, "train_step", train_step)
    monkeypatch.setattr(monitor.time, "perf_counter", lambda: now[0])


@pytest.fixture
def make(demo_scene, tmp_path):
    """A Trainer on the demo scene for so many seconds: make(seconds, {"key": value})."""

    def make(seconds: float, changes: dict | None = None, folder: str = "run") -> Trainer:
        values = {"train.iterations": 1000, "train.seconds": seconds, "model.sh_degree": 2} | (changes or {})
        return Trainer(demo_config(demo_scene, tmp_path / folder, values))

    return make


def last_record(run: Trainer) -> dict:
    return json.loads((run.folder / "metrics.json").read_text())[-1]


def test_a_run_ends_on_time_and_is_measured_and_saved(make):
    run = make(2.0)
    began = time.perf_counter()
    assert run.run() == 0
    record = last_record(run)
    assert 2.0 <= record["train_seconds"] < 2.5 and time.perf_counter() - began < 20
    assert record["step"] == run.state.step > 5
    assert (run.folder / f"point_cloud/iteration_{run.state.step}/point_cloud.ply").is_file()
    assert (run.folder / f"checkpoints/step_{run.state.step}.pt").is_file()
    assert load_config(run.folder / "config.yaml") == run.config


def test_the_last_step_is_the_one_in_which_time_is_up(make, steady):
    run = make(3.0)
    run.run()
    assert run.state.step == 24 and last_record(run)["train_seconds"] == pytest.approx(3.0)


SCHEDULE = {
    "densification.strategy": "adc", "densification.start": 100, "densification.stop": 801, "densification.every": 5,
    "densification.order_every": 0, "model.sh_degree_interval": 300, "densification.opacity_reset_every": 250,
}  # fmt: skip
"""Of 1000 steps."""


def test_time_drives_what_is_counted_in_steps(make, steady, monkeypatch):
    """4 seconds are 32 steps here, each as long as 31.25 of the 1000 that the settings speak of."""
    happened = []

    def refine(self, now, *others):
        happened.append((now.step, now.position))

    monkeypatch.setattr(Densifier, "_refine", refine)
    run, rates, degrees = make(4.0, SCHEDULE), {}, {}
    real = run.state.engine.forward

    def forward(step, camera, sh_degree, background, **options):
        rates[step], degrees[step] = run.state.optimizers["means"].param_groups[0]["lr"], sh_degree
        return real(step, camera, sh_degree, background, **options)

    run.state.engine.forward = forward
    run.run()
    assert [step for step, _ in happened] == [5, 10, 15, 20, 25], "every 5th step between 10 % and 80 % of the time"
    assert [position for _, position in happened] == [125, 281.25, 437.5, 593.75, 750]
    assert [degrees[step] for step in (1, 10, 11, 20, 21, 32)] == [0, 0, 1, 1, 2, 2]
    config = run.config.optim
    span = run.config.optim.means_lr_steps
    for step in (1, 20, 32):
        t = 31.25 * (step - 1) / span
        wanted = run.scene.extent * config.means_lr ** (1 - t) * config.means_lr_final**t
        assert rates[step] == pytest.approx(wanted, rel=1e-6)


def test_opacities_are_reset_only_after_steps_enough_to_come_back(make, steady):
    run = make(4.0, SCHEDULE)
    run.run()
    assert run.state.params["opacities"].sigmoid().median() > 0.05, "32 steps after the start they are still coming up"
    schedule = Schedule(1000, 1.0)
    densifier = Densifier(3, "cpu", 1.0, run.config.densification, False, schedule=schedule)
    resets = []
    for step in range(1, 2001):
        schedule.begin(step, step / 2000)
        resets += [step] if densifier._is_reset(schedule.at(step)) else []
        densifier._reset_at = resets[-1] if resets else 0
    assert resets == [500, 1000, 1500]


def test_a_stopped_run_goes_on_for_what_is_left(make, steady, monkeypatch):
    first = make(4.0)
    real = first.train_step

    def train_step(step):
        real(step)
        if step == 12:
            first.interruption.signal = 2

    monkeypatch.setattr(first, "train_step", train_step)
    assert first.run() == 130
    log = (first.folder / "train.log").read_text()
    assert "stopped at step 12, 1.5 of 4 seconds; continue with --resume auto" in log
    second = make(4.0, {"train.resume": "auto"})
    assert second.run() == 0
    assert second.state.step == 32 and last_record(second)["train_seconds"] == pytest.approx(4.0)
    saved = load_checkpoint(second.folder / "checkpoints/step_32.pt", "cpu")
    assert saved.elapsed_seconds == pytest.approx(4.0)
    third = make(4.0, {"train.resume": "auto"})
    assert third.run() == 0 and third.state.step == 32
    assert "all 4 seconds are done already; train on with more --seconds" in (third.folder / "train.log").read_text()
    longer = make(5.0, {"train.resume": "auto"})
    assert longer.run() == 0 and longer.state.step == 40


def test_a_run_that_goes_back_when_time_is_up_makes_one_more_step(make, steady):
    """More than a few Gaussians are lost in the last step: the checkpoint before it is what is left, and measured."""
    run = make(1.0, {"train.checkpoint_iterations": [6]})
    real, broken = run.state.engine.update, []

    def update(rendered, gradients, timer):
        real(rendered, gradients, timer)
        if rendered.step == 8 and not broken:
            broken.append(rendered.step)
            run.state.params["means"].data[:1000] = math.nan

    run.state.engine.update = update
    assert run.run() == 0
    assert broken and run.state.step == 7 and last_record(run)["step"] == 7
    assert all(torch.isfinite(param).all() for param in run.state.params.values())
