"""benchmarks/bench_training.py: which steps are measured and how, what is printed, written, read and drawn."""

import csv
import json
from statistics import fmean

import pytest
import torch
from demo_runs import DENSE_SCHEDULE, demo_config, run_program
from scene_files import write_colmap

from benchmarks import bench_training as bench
from benchmarks import training_report
from benchmarks.bench_training import MeasuredTrainer, Window, checked_marks
from benchmarks.measuring import STAGES, stages_of
from benchmarks.training_report import ALL_STAGES, Mark, Report, draw, print_reports, read_report, write_report
from distwar_gs.config import Config, ConfigError, with_values
from distwar_gs.engines.timing import NoTimer

OTHER = {
    "name": "in the file",
    "marks": {
        "44": {"stages_ms": {"forward": 2.0, "loss": 1.0, "blend_backward": 5.0}, "step_ms": 10.0, "gaussians": 12345}
    },
}
TRAINING = ("--device", "cpu", "--iterations", 44, "--test_iterations", 20, "--sh_degree", 1, "--test_every", 4)


@pytest.fixture
def other(tmp_path):
    """Another trainer's figures, with the least that a file must have."""
    (tmp_path / "other.json").write_text(json.dumps(OTHER))
    return tmp_path / "other.json"


@pytest.fixture
def make(tmp_path, in_process):
    """Makes a MeasuredTrainer on a scene of four flat photos: make([marks], {"key": value})."""

    def make(marks: list[int], changes: dict) -> MeasuredTrainer:
        scene = tmp_path / "scene"
        if not scene.exists():
            write_colmap(scene, size=(32, 20), params=(25.0, 25.0, 16.0, 10.0))
        config = demo_config(scene, tmp_path / "run", DENSE_SCHEDULE | {"data.test_every": 4} | changes)
        return MeasuredTrainer(config, checked_marks(marks, config))

    return make


def config_of(**train) -> Config:
    return with_values(Config(), {f"train.{name}": value for name, value in train.items()})


# ------------------------------------------------------------------------------------------------------ which steps


@pytest.mark.parametrize(
    ("every", "silent"), [(100, range(6901, 6981)), (300, range(6701, 6981)), (10, range(6961, 6981))]
)
def test_a_window_is_a_refinement_interval_unless_that_is_short(every, silent):
    window = Window.before(7000, every)
    assert (window.silent, window.timed) == (silent, range(6981, 7001))
    assert window.steps == range(silent.start, 7001)


@pytest.mark.parametrize(
    ("wanted", "train", "marks"),
    [
        (None, {}, [1000, 7000, 15_000, 30_000]),
        (None, {"iterations": 8000}, [1000, 7000]),
        ([500, 200], {}, [200, 500]),
    ],
)
def test_marks(wanted, train, marks):
    assert checked_marks(wanted, config_of(**train)) == marks


@pytest.mark.parametrize(
    ("wanted", "train", "complaint"),
    [
        ([100], {}, "--at 100: measuring takes 100 steps, and they would begin before 2"),
        ([7000, 7099], {}, "--at 7099: .* before 7001"),
        ([8000], {"iterations": 7000}, "--at 8000: the training ends at --iterations 7000"),
        (None, {"resume": "auto"}, "only a whole training"),
    ],
)
def test_marks_that_cannot_be_measured(wanted, train, complaint):
    with pytest.raises(ConfigError, match=complaint):
        checked_marks(wanted, config_of(**train))


@pytest.mark.parametrize(
    ("parts", "fused"),
    [
        ({"backward": 7.0, "blend_backward": 4.0, "optimizer": 2.0}, False),  # autograd's contains the blend's
        ({"blend_backward": 4.0, "optimizer": 5.0}, True),
        ({"blend_backward": 4.0, "backward": 3.0, "optimizer": 2.0}, True),
    ],
)
def test_both_engines_have_the_same_stages(parts, fused):
    times = {"data": 9.0, "forward": 1.0, "loss": 0.5, **parts}
    assert stages_of(times, fused) == dict(zip(STAGES, (1.0, 0.5, 4.0, 5.0), strict=True))


# ------------------------------------------------------------------------------------------------------- a training


def test_windows_are_timed_and_not_published(make):
    run = make([44], {"train.iterations": 46, "log.every": 1})  # silent: 5 to 24, timed: 25 to 44
    run.monitor = monitor = run.make_monitor()
    kinds = {step: type(monitor.timer(step)) for step in range(1, 47)}
    monitor.close()
    assert {step for step in kinds if monitor.is_published(step)} == {1, 2, 3, 4, 45, 46}
    assert {step for step, kind in kinds.items() if kind is NoTimer} == {*range(5, 25)} - {11, 21}
    assert set(monitor.timers) == {11, 21, *range(25, 45)}, "step 11 begins with the refinement that step 10 made due"


def test_a_mark_is_what_its_window_took(make, monkeypatch):
    """What the timers and the clock say is made up."""
    run = make([44], {"train.iterations": 44})
    run.run()
    parts = {"data": 1.0, "forward": 2.0, "loss": 3.0, "backward": 9.0, "blend_backward": 5.0, "optimizer": 1.0}
    for step, timer in run.monitor.timers.items():
        densify = {11: 20.0, 21: 30.0, 31: 40.0}.get(step, 0.25)
        monkeypatch.setattr(timer, "milliseconds", lambda densify=densify: parts | {"densify": densify})
    run.clock.seconds = {5: 100.0, 25: 100.45}
    mark = run.report("ours").marks[44]
    assert mark.stages_ms.pop("other") == pytest.approx(20 - 2 - 3 - 9 - 1 - 0.25)
    assert mark.stages_ms == {
        "forward": 2.0, "loss": 3.0, "blend_backward": 5.0, "backward_and_optimizer": 5.0, "densify": 0.25 + 3.0,
    }  # fmt: skip
    assert (mark.step_ms, mark.refinement_ms) == (pytest.approx((450 - 20 - 30) / 20 + 3), 30.0)
    assert mark.gaussians == len(run.state.params["means"])


def test_without_refinements_there_is_no_refinement(make):
    run = make([42], {"train.iterations": 42, "densification.start": 0, "densification.stop": 0})
    run.run()
    mark = run.report("ours").marks[42]
    assert mark.refinement_ms is None
    timers = [timer.milliseconds()["densify"] for timer in run.monitor.timers.values()]
    assert mark.stages_ms["densify"] == pytest.approx(fmean(timers))


def test_a_training_that_breaks_off_is_reported_as_far_as_it_came(make, monkeypatch):
    run = make([42, 82], {"train.iterations": 82})
    real = MeasuredTrainer.train_step

    def breaks(self, step):
        if step == 50:
            raise KeyboardInterrupt
        real(self, step)

    monkeypatch.setattr(MeasuredTrainer, "train_step", breaks)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert list(run.report("ours").marks) == [42]


def test_the_program(tmp_path, other, in_process, capsys):
    """Trains and tells: tables, JSON, CSV and picture, beside another trainer."""
    pytest.importorskip("matplotlib")
    scene = write_colmap(tmp_path / "scene", size=(32, 20), params=(25.0, 25.0, 16.0, 10.0))
    schedule = [f"{key}={value}" for key, value in DENSE_SCHEDULE.items()]
    files = {name: tmp_path / f"out/ours.{name}" for name in ("json", "csv", "svg")}
    arguments = (
        "-s", scene, "-m", tmp_path / "run", *TRAINING, "--set", *schedule, "--at", 44, "--beside", f"theirs={other}",
        "--json", files["json"], "--csv", files["csv"], "--picture", files["svg"],
    )  # fmt: skip
    assert bench.main([str(argument) for argument in arguments]) == 0
    printed = capsys.readouterr().out
    assert "| step 44 | distwar-gs, ms | share | theirs, ms | share |" in printed
    assert "| other |" in printed and "| 2.000 | 20.0 % |" in printed

    ours = read_report(files["json"])
    mark = ours.marks[44]
    assert set(ours.psnr) == {20, 44} and set(mark.stages_ms) == set(ALL_STAGES)
    assert sum(mark.stages_ms.values()) == pytest.approx(mark.step_ms)
    assert all(mark.stages_ms[stage] > 0 for stage in STAGES) and mark.refinement_ms > 0
    assert 0 < ours.seconds < 60 and ours.first_step_seconds > 0.1
    with files["csv"].open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["trainer"], line["step"]) for line in lines] == [("distwar-gs", "44"), ("theirs", "44")]
    assert float(lines[0]["step_ms"]) == mark.step_ms and float(lines[1]["other_ms"]) == 2.0
    assert files["svg"].read_text().startswith("<?xml")


# ---------------------------------------------------------------------------------------------------------- reports


def test_reports_survive_their_file(tmp_path):
    stages = dict.fromkeys(ALL_STAGES, 1.0)
    report = Report("ours", {7000: Mark(stages, 6.0, 10, 2.0)}, 5.0, {7000: 26.0}, 1.0, 2.0, 3.0, "a GPU")
    write_report(tmp_path / "a.json", report)
    assert read_report(tmp_path / "a.json") == report
    assert read_report(tmp_path / "a.json", "mine").name == "mine"


def test_what_other_trainers_leave_out_is_filled_in_or_blank(other, capsys):
    report = read_report(other, "theirs")
    assert report.marks[44].stages_ms["other"] == pytest.approx(2.0)
    print_reports([report])
    lines = capsys.readouterr().out.splitlines()
    assert "| densify |  |  |" in lines
    assert "| blend backward | 5.000 | 50.0 % |" in lines
    assert "| theirs |  |  |  |  |" in lines


def test_marks_that_one_trainer_lacks_are_tables_without_it(other, capsys):
    ours = Report("ours", {7: Mark.of({"forward": 1.0}, 2.0, 5)}, psnr={7: 20.0})
    print_reports([ours, read_report(other)])
    lines = capsys.readouterr().out.splitlines()
    assert "| step 7 | ours, ms | share |" in lines and "| step 44 | in the file, ms | share |" in lines
    assert "| ours |  | 20.00 |  |  |  |" in lines


def test_the_bars_are_as_long_as_the_stages(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    figures = []
    monkeypatch.setattr(training_report, "save_plot", lambda figure, path: figures.append(figure))
    marks = {7: Mark.of({"forward": 1.0, "loss": 2.0}, 2.5, 5), 9: Mark.of({"forward": 3.0}, 4.0, 5)}
    draw([Report("ours", marks), Report("theirs", {7: Mark.of({"loss": 1.0}, 1.5, 5)})], tmp_path / "a.svg")
    (axis,) = figures[0].axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["ours, step 7", "theirs, step 7", "ours, step 9"]
    widths = {bars.get_label(): [bar.get_width() for bar in bars] for bars in axis.containers}
    assert widths["forward"] == [1.0, 0.0, 3.0] and widths["loss"] == [2.0, 1.0, 0.0]
    assert widths["other"] == [0.0, 0.5, 1.0], "noise below zero has no bar"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not the report"),
        ("[]", "not the report"),
        ('{"name": "a"}', "marks"),
        ('{"name": "a", "marks": {"7": {"step_ms": 1.0, "gaussians": 1}}}', "stages_ms"),
        ('{"marks": {"7": {"stages_ms": {"sort": 1}, "step_ms": 1, "gaussians": 1}}}', "stage 'sort' is none of"),
    ],
)
def test_files_that_are_no_reports(text, complaint, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ConfigError, match=complaint) as caught:
        read_report(tmp_path / "a.json", "theirs")
    assert str(tmp_path / "a.json") in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        ((), 1, "no scene to train on"),
        (("-s", "nowhere", "--beside", "theirs=nowhere.json"), 1, "nowhere.json"),
        (("-s", "nowhere", "--beside", "theirs"), 2, "NAME=FILE"),
        (("-s", "nowhere", "--picture", "a.jpeg"), 1, "--picture a.jpeg"),
    ],
)
def test_mistakes_are_said_before_anything_is_trained(arguments, code, complaint, capsys):
    with pytest.raises(SystemExit) as ended:
        bench.run_cli(bench.main, arguments)
    assert ended.value.code == code
    assert complaint in capsys.readouterr().err


def test_it_runs_as_a_program(tmp_path):
    finished = run_program("benchmarks/bench_training.py", "-s", tmp_path, "--iterations", 100, "--at", 200, fresh=True)
    assert (finished.returncode, finished.stderr) == (1, "error: --at 200: the training ends at --iterations 100\n")


@pytest.mark.gpu
@pytest.mark.parametrize("rasterizer", ["fused", "gsplat"])
def test_a_training_on_the_gpu(demo_scene, tmp_path, rasterizer):
    schedule = [f"{key}={value}" for key, value in DENSE_SCHEDULE.items()]
    finished = run_program(
        "benchmarks/bench_training.py", "-s", demo_scene, "-m", tmp_path / "run", "--rasterizer", rasterizer,
        "--iterations", 90, "--at", 44, 90, "--json", tmp_path / "a.json", "--set", *schedule, gpu=True,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    report = read_report(tmp_path / "a.json")
    assert list(report.marks) == [44, 90] and list(report.psnr) == [90]
    for mark in report.marks.values():
        assert all(0 < mark.stages_ms[stage] < 100 for stage in STAGES)
    assert report.marks[44].refinement_ms > 0 and report.marks[90].refinement_ms is None
    assert 0 < report.peak_allocated_mib <= report.peak_reserved_mib
    assert torch.cuda.get_device_name() in report.machine
