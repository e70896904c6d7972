"""What a run tells: TensorBoard, train.log, the terminal."""

import logging

import numpy as np
import pytest
import torch
from clock import Clock
from demo_runs import demo_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distwar_gs.engines.timing import NoTimer, PartTimer
from distwar_gs.training import monitor
from distwar_gs.training.monitor import Monitor, setup_logging
from distwar_kernels import Reduction, TuningRound

CPU = torch.device("cpu")
PARTS = ("data", "forward", "loss", "backward", "blend_backward", "optimizer", "densify")
PARAMETERS = ("means", "quats", "scales", "opacities", "sh0", "shN")
MEASURED = {"eval/psnr", "eval/ssim", "reduction/atomics_per_view", "reduction/mean_lanes",
            *(f"reduction/atomics/{name}" for name in ("atomic", "sw_s", "sw_b", "sw_t"))}  # fmt: skip
SCALARS = {
    "time/iteration_ms", "time/steps_per_second", *(f"time/{part}_ms" for part in PARTS),
    "train/loss", "train/l1", "train/ssim", "train/psnr", "train/skipped_steps", "gaussians/count",
    "memory/resident_mib",
    *(f"lr/{name}" for name in PARAMETERS), "reduction/threshold", *MEASURED,
}  # fmt: skip


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(monitor, "time", clock)
    return clock


@pytest.fixture
def make(tmp_path):
    """Makes a Monitor that publishes every 3 steps: make(first_step, elapsed); events go to tmp_path."""

    def make(first_step: int = 1, elapsed: float = 0.0, **changes) -> Monitor:
        log = {"log.every": 3, "log.tensorboard": True, **changes}
        return Monitor(tmp_path, demo_config(tmp_path, tmp_path, log), CPU, first_step, elapsed)

    return make


def events(folder) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard")).Reload()


def curve(accumulator: EventAccumulator, tag: str) -> dict[int, float]:
    return {event.step: event.value for event in accumulator.Scalars(tag)}


def publish(watch: Monitor, step: int) -> None:
    watch.publish(step, watch.timer(step), {"train/psnr": 20.0, "gaussians/count": 5.0})


# ------------------------------------------------------------------------------------------- the events of a real run


@pytest.fixture(scope="module")
def demo_events(demo_run) -> EventAccumulator:
    return events(demo_run.folder)


def test_the_scalars_of_a_run(demo_events, demo_run):
    assert set(demo_events.Tags()["scalars"]) == SCALARS
    for tag in SCALARS:
        steps = [60] if tag in MEASURED else [20, 40, 60]
        assert list(curve(demo_events, tag)) == steps, tag
        assert all(np.isfinite(value) for value in curve(demo_events, tag).values()), tag
    for step in (20, 40, 60):
        times = {tag: curve(demo_events, tag)[step] for tag in SCALARS if tag.startswith("time/")}
        assert all(value >= 0 for value in times.values())
        assert 0 < times["time/blend_backward_ms"] < times["time/backward_ms"]
        assert times["time/iteration_ms"] * times["time/steps_per_second"] == pytest.approx(1000.0, rel=1e-4)
        loss, l1, ssim = (curve(demo_events, f"train/{name}")[step] for name in ("loss", "l1", "ssim"))
        assert loss == pytest.approx(0.8 * l1 + 0.2 * (1 - ssim), rel=1e-4)
    assert curve(demo_events, "train/loss")[60] < curve(demo_events, "train/loss")[20]
    assert curve(demo_events, "gaussians/count")[60] == 3008
    assert curve(demo_events, "lr/means")[60] < curve(demo_events, "lr/means")[20] < 1.6e-4
    assert curve(demo_events, "lr/scales") == pytest.approx(dict.fromkeys((20, 40, 60), 5e-3))
    assert curve(demo_events, "reduction/threshold")[20] == Reduction().balance_threshold


def test_the_pictures_and_the_text_of_a_run(demo_events):
    assert set(demo_events.Tags()["images"]) == {"test/view_000.png", "test/view_008.png"}
    image = demo_events.Images("test/view_000.png")[0]
    assert (image.step, image.width, image.height) == (60, 3 * 80, 60)
    texts = {
        tag: demo_events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in demo_events.Tags()["tensors"]
    }
    assert "train.iterations: 60" in texts["config/text_summary"]
    assert texts["reduction/text_summary"] == str(Reduction())


# --------------------------------------------------------------------------------------------------------- the monitor


def test_means_are_over_the_interval(make, tmp_path, clock):
    watch = make()
    for step, loss in enumerate([1.0, 2.0, 6.0, 10.0, 20.0, 60.0], start=1):
        clock.now += 0.1 if step <= 3 else 0.2
        watch.record({"train/loss": torch.tensor(loss), "train/l1": torch.tensor(2 * loss)})
        assert watch.is_published(step) == (step in (3, 6))
        if watch.is_published(step):
            publish(watch, step)
    watch.close()
    seen = events(tmp_path)
    assert curve(seen, "train/loss") == pytest.approx({3: 3.0, 6: 30.0})
    assert curve(seen, "train/l1") == pytest.approx({3: 6.0, 6: 60.0})
    assert curve(seen, "time/iteration_ms") == pytest.approx({3: 100.0, 6: 200.0})
    assert curve(seen, "time/steps_per_second") == pytest.approx({3: 10.0, 6: 5.0})


def test_parts_are_timed_only_when_published(make):
    watch = make()
    assert [type(watch.timer(step)) for step in (1, 2, 3)] == [NoTimer, NoTimer, PartTimer]


def test_the_training_clock_excludes_pauses(make, clock):
    watch = make(first_step=8, elapsed=50.0)
    clock.now += 2.0
    with watch.paused():
        clock.now += 1000.0
        assert watch.elapsed() == pytest.approx(52.0)
    clock.now += 3.0
    assert watch.elapsed() == pytest.approx(55.0)
    with pytest.raises(ZeroDivisionError), watch.paused():
        clock.now += 1000.0
        raise ZeroDivisionError
    clock.now += 1.0
    assert watch.elapsed() == pytest.approx(56.0)


def test_a_pause_does_not_slow_the_published_steps(make, tmp_path, clock):
    watch = make(first_step=4, elapsed=70.0)
    for _ in range(3):
        clock.now += 0.1
        watch.record({"train/loss": torch.tensor(1.0)})
        with watch.paused():
            clock.now += 9.0
    publish(watch, 6)
    watch.close()
    assert curve(events(tmp_path), "time/iteration_ms") == pytest.approx({6: 100.0})


def test_a_resumed_run_replaces_the_steps_it_repeats(make, tmp_path):
    for first_step, loss in ((1, 1.0), (4, 2.0)):
        watch = make(first_step)
        for step in range(first_step, 10):
            watch.record({"train/loss": torch.tensor(loss)})
            if watch.is_published(step):
                publish(watch, step)
        watch.close()
    seen = [(event.step, event.value) for event in events(tmp_path).Scalars("train/loss")]
    assert seen == [(3, 1.0), (6, 2.0), (9, 2.0)]


def test_what_auto_measured_is_written_once(make, tmp_path):
    times = {Reduction("sw_b", 8): 1.0, Reduction("atomic"): 4.0}
    first = TuningRound(5, 1000, times, Reduction("sw_b", 8), 20.0)
    second = TuningRound(900, 2000, {Reduction("sw_b", 8): 2.0, Reduction("atomic"): 1.5}, Reduction("atomic"), 30.0)
    watch = make()
    watch.tuned(3, [first])
    watch.tuned(6, [first])
    watch.tuned(9, [first, second])
    watch.close()
    accumulator = events(tmp_path)
    assert curve(accumulator, "reduction/auto_sw_b@8_ms") == {3: 1.0, 9: 2.0}
    assert curve(accumulator, "reduction/auto_atomic_ms") == {3: 4.0, 9: 1.5}
    assert curve(accumulator, "reduction/auto_cost_ms") == {3: 20.0, 9: 30.0}
    texts = [event.tensor_proto.string_val[0].decode() for event in accumulator.Tensors("reduction/text_summary")]
    chosen = ["sw_b@8 (1.00 ms per view; atomic 4.00)", "atomic (1.50 ms per view; sw_b@8 2.00)"]
    assert texts == [str(Reduction()), *chosen]


def test_without_tensorboard(make, tmp_path):
    watch = make(**{"log.tensorboard": False})
    watch.record({"train/loss": torch.tensor(1.0)})
    publish(watch, 3)
    watch.evaluation(3, {"eval/psnr": 20.0}, {"test/a": torch.zeros(2, 2, 3)})
    watch.tuned(3, [TuningRound(1, 1, {Reduction(): 1.0}, Reduction(), 1.0)])
    watch.close()
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("quiet", [False, True])
def test_messages_go_to_the_terminal_and_the_file(tmp_path, quiet, capsys):
    setup_logging(tmp_path, quiet)
    log = logging.getLogger("distwar_gs.test")
    log.debug("detail")
    log.info("news")
    log.warning("danger")
    assert capsys.readouterr().err.splitlines() == (["danger"] if quiet else ["news", "danger"])
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line.split()[2:] for line in lines] == [["INFO", "news"], ["WARNING", "danger"]]


def test_without_a_terminal_a_line_now_and_then_tells_how_it_goes(make, clock, caplog):
    watch = make(first_step=4, elapsed=70.0)
    with caplog.at_level(logging.INFO):
        for step in range(4, 11):
            clock.now += 3.0
            watch.record({"train/loss": torch.tensor(0.25)})
            if watch.is_published(step):
                publish(watch, step)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("step 9 of 10, 88 s: loss 0.2500, PSNR 20.00, 5 Gaussians, ")


def test_no_progress_bar_in_a_file(demo_run):
    assert "step/s" not in demo_run.stderr


def test_a_full_disk_costs_the_curves_not_the_run(make, tmp_path, file_limit, capsys, in_process):
    setup_logging(tmp_path, quiet=True)
    watch = make()
    watch._writer.flush()
    (written,) = (tmp_path / "tensorboard").iterdir()
    file_limit(written.stat().st_size)
    logging.info("x" * written.stat().st_size)
    logging.info("more")
    for step in range(1, 2000):
        watch._write(step, {"train/loss": 1.0})
    watch.close()
    assert watch._writer is None
    error = capsys.readouterr().err
    assert error.count("train.log: cannot be written ([Errno 27] File too large); lines are lost") == 1
    assert error.count("TensorBoard's file cannot be written ([Errno 27] File too large); the run goes on") == 1
    assert "Traceback" not in error


def test_a_folder_whose_name_is_not_utf8_costs_the_curves_only(tmp_path, caplog):
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    watch = Monitor(folder, demo_config(tmp_path, folder, {"log.tensorboard": True}), CPU, 1, 0.0)
    watch.evaluation(1, {"eval/psnr": 20.0}, {})
    watch.close()
    assert "TensorBoard needs a path that is UTF-8" in caplog.text and not list(folder.iterdir())
