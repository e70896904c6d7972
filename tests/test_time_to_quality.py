"""benchmarks/time_to_quality.py: trainings at several times, rows that are kept, models of others, the page."""

import csv
import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from demo_runs import ROOT, run_program

from benchmarks import leaderboard, quality_series, time_to_quality
from benchmarks.quality_jobs import make_job, scene_of, variant_of
from benchmarks.quality_rows import (
    END,
    GIVEN,
    NOT_TIMED,
    TIMED,
    Row,
    Stat,
    append_rows,
    cell,
    counts,
    finals,
    read_rows,
    summaries,
    table,
)  # fmt: skip
from benchmarks.quality_runs import Mark, MarkedTrainer, ModelFile
from distwar_gs.config import ConfigError
from distwar_gs.training import results as training
from distwar_gs.training.results import Results

QUICK = ("--device", "cpu", "--set", "train.iterations=8", "model.sh_degree=1")


def run(*arguments: object) -> int:
    return time_to_quality.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(demo_scene, tmp_path_factory):
    """Two variants under two seeds, models kept, through the command line. Read only."""
    folder = tmp_path_factory.mktemp("series")
    result = run_program(
        "benchmarks/time_to_quality.py", "--scene", f"room={demo_scene}", "--variant", "adc",
        "sharp:model.antialiased=true densification.strategy=absgrad", "--seeds", 0, 1, *QUICK, "--at", "50%", 6, 1000,
        "--csv", folder / "rows.csv", "--keep", folder / "runs", "--commit", "c0ffee",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


# -------------------------------------------------------------------------------------------- scenes, variants, marks


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("mcmc", "mcmc", {"densification.strategy": "mcmc"}),
        ("mine:densification.strategy=adc", "mine", {"densification.strategy": "adc"}),
        (
            "a:train.test_iterations=[1, 2],optim.means_lr=1e-3 train.quality=best", "a",
            {"train.test_iterations": [1, 2], "optim.means_lr": "1e-3", "train.quality": "best"},
        ),
        ("{yaml}", "garden", {"densification.strategy": "mcmc", "train.iterations": 50}),
        ("b:{yaml},train.seconds=9", "b", {"densification.strategy": "mcmc", "train.seconds": 9}),
    ],
)  # fmt: skip
def test_variants(tmp_path, text, name, values):
    file = tmp_path / "garden.yaml"
    file.write_text("densification:\n  strategy: mcmc\ntrain:\n  iterations: 50\n")
    variant = variant_of(text.format(yaml=file))
    assert (variant.name, variant.values) == (name, values)


def test_scenes(tmp_path):
    (tmp_path / "fox=1").mkdir()
    (tmp_path / "fox").mkdir()
    (tmp_path / "deep.yaml").write_text(f"data:\n  source_path: {tmp_path / 'fox'}\n  images: images_4\n")
    plain, named = scene_of(str(tmp_path / "fox")), scene_of(f"b={tmp_path / 'fox=1'}:data.images=x,data.test_every=4")
    assert (plain.name, plain.values) == ("fox", {"data.source_path": str(tmp_path / "fox")})
    assert named.name == "b" and named.values == {
        "data.source_path": str(tmp_path / "fox=1"), "data.images": "x", "data.test_every": 4,
    }  # fmt: skip
    of_file = scene_of(f"{tmp_path / 'deep.yaml'}:data.images=images_2")
    assert of_file.name == "deep" and of_file.values["data.images"] == "images_2"
    with pytest.raises(ConfigError, match="--scene nowhere: nowhere: no such folder"):
        scene_of("nowhere")


def test_the_variant_wins_over_the_scene_and_the_scene_over_the_rest(tmp_path):
    scene, common = scene_of(f"{tmp_path}:data.images=a,optim.means_lr=1e-3"), {"data.images": "z", "train.seconds": 4}
    job = make_job(scene, variant_of("v:optim.means_lr=2e-3,train.quality=draft"), 3, common)
    assert (job.config.data.images, job.config.optim.means_lr) == ("a", 2e-3)
    assert (job.config.train.iterations, job.config.train.seconds, job.config.train.seed) == (10_000, None, 3)
    assert job.config.densification.stop == 8300, "schedules follow the length"
    assert job.settings == "data.images=a optim.means_lr=2e-3 train.quality=draft"


def test_the_digest_is_that_of_what_makes_a_difference(tmp_path):
    scene, other = scene_of(str(tmp_path)), scene_of(f"{tmp_path}:data.images=b")
    job = make_job(scene, variant_of("adc"), 0, {})
    same = make_job(scene, variant_of("named:densification.strategy=adc"), 1, {"train.device": "cpu", "log.flip": True})
    assert job.digest == same.digest
    assert len({job.digest, make_job(scene, variant_of("mcmc"), 0, {}).digest, make_job(other, variant_of("adc"), 0, {}).digest}) == 3  # fmt: skip # noqa: E501


@pytest.mark.parametrize(
    ("text", "before", "at"),
    [("25%", (24, 0.24, 9.0), (25, 0.25, 9.0)), ("7000", (6999, 1.0, 9.0), (7000, 0.1, 0.0)),
     ("20s", (9000, 1.0, 19.99), (1, 0.0, 20.0)), ("2.5s", (9, 1.0, 2.4), (9, 1.0, 2.6))],
)  # fmt: skip
def test_marks(text, before, at):
    mark = Mark.of(text)
    assert not mark.is_reached(*before) and mark.is_reached(*at)


@pytest.mark.parametrize("text", ["0%", "half", "2.5", "-3", "5m", "", "0"])
def test_what_is_no_mark(text):
    with pytest.raises(ValueError, match="a mark is a share"):
        Mark.of(text)


# ----------------------------------------------------------------------------------------------------- the trainings


def test_every_training_has_a_row_at_each_mark_it_reaches(finished):
    folder, said = finished
    rows = read_rows(folder / "rows.csv")
    assert [(row.seed, row.variant, row.at, row.step) for row in rows] == [
        (seed, variant, at, step)
        for seed in (0, 1) for variant in ("adc", "sharp") for at, step in (("50%", 4), ("6", 6), (END, 8))
    ]  # fmt: skip
    for one, next_one in zip(rows, rows[1:], strict=False):
        assert 0 < one.seconds <= next_one.seconds or one.at == END
    assert {(row.scene, row.views, row.resolution, row.timing, row.commit) for row in rows} == {
        ("room", 2, "80x60", TIMED, "c0ffee")
    }
    assert "every 8th image" in rows[0].protocol and rows[0].gaussians > 2900
    assert "| room | sharp | end | 2 |" in said and "room_adc_1: PSNR" in said


def test_rows_have_the_numbers_of_metrics_json(finished):
    folder, _ = finished
    for row in read_rows(folder / "rows.csv"):
        records = json.loads((folder / f"runs/room_{row.variant}_{row.seed}/metrics.json").read_text())
        record = next(record for record in records if record["step"] == row.step)
        assert (row.psnr, row.ssim) == (
            pytest.approx(record["psnr"], abs=1e-6),
            pytest.approx(record["ssim"], abs=1e-6),
        )
        assert row.gaussians == record["gaussians"] and row.seconds == pytest.approx(record["train_seconds"], abs=0.01)
        assert not list((folder / f"runs/room_{row.variant}_{row.seed}").glob("checkpoints/*.pt"))


def test_the_command_makes_the_rows_again(finished, demo_scene):
    row = read_rows(finished[0] / "rows.csv")[-1]
    assert row.command == (
        f"python benchmarks/time_to_quality.py --scene room={demo_scene} --variant 'sharp:model.antialiased=true "
        "densification.strategy=absgrad' --set train.iterations=8 model.sh_degree=1 --at 50% 6 1000 --device cpu"
    )
    assert row.settings == (
        "densification.strategy=absgrad model.antialiased=true model.sh_degree=1 train.iterations=8"
    )


def test_measuring_takes_no_time_of_the_training(demo_scene, tmp_path, in_process, monkeypatch):
    real = training.evaluate

    def slow(*arguments, **options):
        time.sleep(0.5)
        return real(*arguments, **options)

    monkeypatch.setattr(training, "evaluate", slow)
    rows_file = tmp_path / "rows.csv"
    assert (
        run("--scene", demo_scene, "--variant", "adc", "--seeds", 0, *QUICK, "--at", 2, 4, 6, "--csv", rows_file) == 0
    )
    rows = read_rows(rows_file)
    assert [row.at for row in rows] == ["2", "4", "6", END] and rows[-1].seconds < 1.5


def test_marks_that_come_together_are_measured_once(demo_scene, tmp_path, in_process, monkeypatch):
    measured = []
    real = Results.evaluate
    monkeypatch.setattr(
        Results, "evaluate", lambda self, **options: measured.append(self.state.step) or real(self, **options)
    )
    rows_file = tmp_path / "rows.csv"
    run("--scene", demo_scene, "--variant", "adc", "--seeds", 0, *QUICK, "--at", "50%", 4, 8, "--csv", rows_file)
    rows = read_rows(rows_file)
    assert measured == [4, 8] and [(row.at, row.step) for row in rows] == [("50%", 4), ("4", 4), ("8", 8), (END, 8)]
    assert replace(rows[2], at=END) == rows[3]


def test_a_training_of_so_many_seconds(demo_scene, tmp_path, in_process):
    arguments = ("--device", "cpu", "--csv", tmp_path / "rows.csv", "--seeds", 0, "--at", "50%", "0.3s")
    assert run("--scene", demo_scene, "--variant", "half:train.seconds=0.6,model.sh_degree=0", *arguments) == 0
    rows = {row.at: row for row in read_rows(tmp_path / "rows.csv")}
    assert rows["0.3s"].seconds >= 0.3 and rows["50%"].seconds >= 0.3 and 0.6 <= rows[END].seconds < 2.0


def test_flip_is_measured_at_the_end(demo_scene, tmp_path, in_process, monkeypatch):
    module = ModuleType("flip_evaluator")
    module.evaluate = lambda reference, test, kind, **options: (None, float(abs(reference - test).mean()), {})
    monkeypatch.setitem(sys.modules, "flip_evaluator", module)
    rows_file = tmp_path / "rows.csv"
    run("--scene", demo_scene, "--variant", "adc", "--seeds", 0, *QUICK, "--at", 4, "--csv", rows_file, "--flip")
    middle, end = read_rows(rows_file)
    assert middle.flip is None and 0.01 < end.flip < 0.5


# -------------------------------------------------------------------------------------------------- going on, failing


def test_what_is_in_the_file_is_not_trained_again(finished, demo_scene, tmp_path, in_process, monkeypatch, capsys):
    shutil.copy(finished[0] / "rows.csv", tmp_path)
    trained = []
    real = quality_series.train
    monkeypatch.setattr(
        quality_series, "train",
        lambda config, *rest, **named: trained.append(config.train.seed) or real(config, *rest, **named),
    )  # fmt: skip
    arguments = ("--scene", f"room={demo_scene}", "--variant", "adc", *QUICK, "--csv", tmp_path / "rows.csv")
    assert run(*arguments, "--seeds", 0, 2, 1, "--commit", "beef") == 0
    assert trained == [2]
    said = capsys.readouterr().out
    assert f"2 of 3 trainings are in {tmp_path / 'rows.csv'} already, of commit c0ffee; another --csv" in said
    assert "| room | adc | end | 2 |" in said and "| room | adc | end | 1 |" in said, "a record for each commit"
    assert len(read_rows(tmp_path / "rows.csv")) == 12 + 5


def test_untimed_rows_are_trained_again_where_times_are_wanted(demo_scene, tmp_path, in_process):
    arguments = (
        "--scene",
        f"room={demo_scene}",
        "--variant",
        "adc",
        "--seeds",
        0,
        *QUICK,
        "--at",
        "--csv",
        tmp_path / "r",
    )
    timings = []
    for more in (["--untimed"], ["--untimed"], [], ["--untimed"]):
        assert run(*arguments, *more) == 0
        timings.append([row.timing for row in read_rows(tmp_path / "r")])
    assert timings == [[NOT_TIMED], [NOT_TIMED], [NOT_TIMED, TIMED], [NOT_TIMED, TIMED]]
    (summary,) = summaries(read_rows(tmp_path / "r"))
    assert summary.first.timing == TIMED and summary.stat("psnr").count == 1


def test_other_settings_under_one_name_are_refused(finished, demo_scene, in_process):
    rows_file = finished[0] / "rows.csv"
    before = rows_file.read_bytes()
    arguments = ("--scene", f"room={demo_scene}", "--variant", "adc:optim.means_lr=1e-3", *QUICK, "--csv", rows_file)
    with pytest.raises(ConfigError, match="has adc on room with other settings .* give the variant another name"):
        run(*arguments)
    assert rows_file.read_bytes() == before


def test_a_training_that_fails_costs_no_other(demo_scene, tmp_path, in_process, capsys):
    (tmp_path / "broken.ply").write_text("no model")
    variants = (f"bad:model.init_ply={tmp_path / 'broken.ply'}", "adc")
    arguments = ("--seeds", 0, *QUICK, "--at", "--csv", tmp_path / "rows.csv")
    assert run("--scene", f"room={demo_scene}", "--variant", *variants, *arguments) == 1
    assert [row.variant for row in read_rows(tmp_path / "rows.csv")] == ["adc"]
    assert re.search(r"room_bad_0: failed: .*broken\.ply", capsys.readouterr().out)


def test_a_scene_without_held_out_views_says_so(demo_scene, tmp_path, in_process, capsys):
    arguments = ("--variant", "adc", "--seeds", 0, *QUICK, "--csv", tmp_path / "rows.csv")
    assert run("--scene", f"{demo_scene}:data.eval=false", *arguments) == 1
    assert "no view is held out to measure; set data.eval=true" in capsys.readouterr().out


def test_ctrl_c_ends_the_series(demo_scene, tmp_path, in_process, monkeypatch):
    monkeypatch.setattr(MarkedTrainer, "run", lambda self: 130)
    with pytest.raises(KeyboardInterrupt):
        run("--scene", demo_scene, "--variant", "adc", "mcmc", *QUICK, "--csv", tmp_path / "rows.csv")
    assert not (tmp_path / "rows.csv").exists()


class Forked:
    """subprocess.Popen, but for that it forks this process, and waits for the child."""

    def __init__(self, command, stdout, stderr):
        finished = run_program("benchmarks/time_to_quality.py", *command[2:])
        stdout.write(finished.stdout + finished.stderr)
        self.returncode = finished.returncode

    def poll(self):
        return self.returncode


@pytest.mark.parametrize(
    "apart", [pytest.param(False, id="forked"), pytest.param(True, id="started", marks=pytest.mark.slow)]
)
def test_trainings_side_by_side_are_not_timed(demo_scene, tmp_path, monkeypatch, capsys, apart):
    if not apart:
        monkeypatch.setattr(subprocess, "Popen", Forked)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    variants = ("adc", f"bad:model.init_ply={tmp_path / 'none.ply'}")
    arguments = ("--seeds", 0, *QUICK, "--at", 4, "--csv", tmp_path / "rows.csv", "--parallel", 2, "--commit", "c0ffee")
    assert run("--scene", f"room={demo_scene}", "--variant", *variants, *arguments) == 1
    rows = read_rows(tmp_path / "rows.csv")
    assert [(row.variant, row.at, row.timing, row.commit) for row in rows] == [
        ("adc", "4", NOT_TIMED, "c0ffee"), ("adc", END, NOT_TIMED, "c0ffee"),
    ]  # fmt: skip
    said = capsys.readouterr().out
    assert re.search(r"room_bad_0: failed: ended with 1: .*none\.ply", said) and "(not timed)" in said
    assert rows[1].command.endswith("--set train.iterations=8 model.sh_degree=1 --at 4 --device cpu")


@pytest.mark.parametrize(("how", "at_once", "timing"), [(["--fresh"], 1, TIMED), (["--parallel", 3], 3, NOT_TIMED)])
def test_as_many_at_once_as_asked_for(tmp_path, monkeypatch, how, at_once, timing):
    """Processes that only say so, and write a row."""
    running, most = [], []

    class Process:
        def __init__(self, command, stdout, stderr):
            place, seed = command[command.index("--csv") + 1], int(command[command.index("--seeds") + 1])
            append_rows(Path(place), [replace(ROW, seed=seed, timing=NOT_TIMED if "--untimed" in command else TIMED)])
            self.polls, self.returncode = 0, 0
            running.append(self)
            most.append(len(running))

        def poll(self):
            self.polls += 1
            if self.polls == 3:
                running.remove(self)
            return 0 if self.polls >= 3 else None

    monkeypatch.setattr(subprocess, "Popen", Process)
    arguments = ("--seeds", *range(7), "--csv", tmp_path / "r.csv", "--commit", "c0ffee", *how)
    assert run("--scene", tmp_path, "--variant", "adc", *arguments) == 0
    rows = read_rows(tmp_path / "r.csv")
    assert sorted(row.seed for row in rows) == [*range(7)] and {row.timing for row in rows} == {timing}
    assert max(most) == at_once and not running


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--variant", "adc"), "--csv FILE is needed"),
        (("--csv", "{tmp}/a.csv"), "nothing to do: give --scene"),
        (("--variant", "abc", "--csv", "{tmp}/a.csv"), "densification.strategy is .abc.*did you mean adc"),
        (("--variant", "adc", "adc", "--csv", "{tmp}/a.csv"), "--variant adc: there are two of the name adc"),
        (("--variant", "a:optim.nothing=3", "--csv", "{tmp}/a.csv"), "unknown key optim.nothing"),
        (
            ("--variant", "a:optim.adam=visible,densification.strategy=mcmc", "--csv", "{tmp}/a.csv"),
            "optim.adam is vis",
        ),
        (("--ply", "x:other:1:{tmp}", "--csv", "{tmp}/a.csv"), "no --scene of the name other"),
        (("--ply", "x:room:1:{tmp}/none", "--csv", "{tmp}/a.csv"), "none: no such file or folder"),
        (("--variant", "adc", "--csv", "{tmp}/a.csv", "--parallel", "0"), "--parallel 0: must be at least 1"),
        (
            ("--variant", "adc", "--csv", "{tmp}/a.csv", "--parallel", "2", "--at", "3s"),
            "marks in seconds mean nothing",
        ),
        (("--variant", "a:train.seconds=3", "--csv", "{tmp}/a.csv", "--parallel", "2"), "a trains for so many seconds"),
        (("--variant", "adc", "--csv", "{tmp}/a.csv", "--picture", "a.jpeg"), "--picture a.jpeg"),
        (("--variant", "adc", "--csv", "{tmp}/other.csv"), "other.csv: has other rows than"),
    ],
)
def test_mistakes_are_said_before_anything_is_trained(tmp_path, arguments, complaint):
    (tmp_path / "room").mkdir()
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=complaint):
        run("--scene", tmp_path / "room", *(text.format(tmp=tmp_path) for text in arguments))


# ----------------------------------------------------------------------------------------------------- other's models


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("fast:room:134:a/b.ply", ("fast", "room", 134.0, "a/b.ply", None)),
        ("fast:room:13.4:out:30000", ("fast", "room", 13.4, "out", 30_000)),
        ("fast:room::out", ("fast", "room", None, "out", None)),
        ("fast:room:1:odd:name/out:7", ("fast", "room", 1.0, "odd:name/out", 7)),
    ],
)
def test_models_as_they_are_typed(text, values):
    model = ModelFile.of(text)
    assert (model.variant, model.scene, model.seconds, str(model.path), model.iteration) == values


@pytest.mark.parametrize("text", ["room:1:out", "fast:room:soon:out", "fast:room:1:", ""])
def test_what_is_no_model(text):
    with pytest.raises(ValueError, match="expected NAME:SCENE:SECONDS:PATH"):
        ModelFile.of(text)


def test_models_of_a_run_are_measured_as_the_run_was(finished, demo_scene, tmp_path, in_process):
    """Each as its config says: one antialiased, one not."""
    models = [
        f"{variant}2:room:9:{finished[0] / 'runs' / f'room_{variant}_{seed}'}"
        for variant in ("adc", "sharp") for seed in (0, 1)
    ]  # fmt: skip
    arguments = ("--scene", f"room={demo_scene}", "--device", "cpu", "--csv", tmp_path / "rows.csv", "--ply", *models)
    assert run(*arguments) == 0 and run(*arguments) == 0
    rows = read_rows(tmp_path / "rows.csv")
    trained = [row for row in read_rows(finished[0] / "rows.csv") if row.at == END]
    assert [(row.variant, row.seed, row.at) for row in rows] == [
        ("adc2", 0, "step 8"), ("adc2", 1, "step 8"), ("sharp2", 0, "step 8"), ("sharp2", 1, "step 8"),
    ]  # fmt: skip
    expected = {(row.variant + "2", row.seed): (row.psnr, row.ssim, row.gaussians, row.protocol) for row in trained}
    assert {(row.variant, row.seed): (row.psnr, row.ssim, row.gaussians, row.protocol) for row in rows} == expected
    assert {(row.seconds, row.timing) for row in rows} == {(9.0, GIVEN)}
    assert [len(one.rows) for one in summaries(rows)] == [2, 2]


def test_a_file_of_gaussians_is_measured_as_render_does(finished, demo_scene, tmp_path, in_process):
    """It says that it is antialiased; the scene's own settings choose its test views."""
    (source,) = (finished[0] / "runs/room_sharp_0").rglob("point_cloud.ply")
    model = shutil.copy(source, tmp_path / "rival.ply")
    scene = f"room={demo_scene}:data.test_list={tmp_path / 'test.txt'}"
    (tmp_path / "test.txt").write_text("\n".join(sorted(path.name for path in (demo_scene / "images").iterdir())[:3]))
    run("--scene", scene, "--csv", tmp_path / "rows.csv", "--ply", f"x:room::{model}:700", "--device", "cpu")
    (row,) = read_rows(tmp_path / "rows.csv")
    rendered = run_program(
        "render.py", model, "-s", demo_scene, "--test_list", tmp_path / "test.txt", "--out", tmp_path / "out",
        "--device", "cpu",
    )  # fmt: skip
    assert rendered.returncode == 0, rendered.stderr
    (file,) = (tmp_path / "out").rglob("metrics.json")
    record = json.loads(file.read_text())[-1]
    assert row.views == record["views"] == 3
    assert (row.psnr, row.ssim) == (pytest.approx(record["psnr"], abs=1e-6), pytest.approx(record["ssim"], abs=1e-6))
    assert (row.at, row.step, row.seconds, row.timing) == ("step 700", 700, None, NOT_TIMED)


def test_the_folder_of_another_trainer(finished, demo_scene, tmp_path, in_process, capsys):
    (source,) = (finished[0] / "runs/room_adc_0").rglob("point_cloud.ply")
    for step in (7000, 30_000):
        (tmp_path / f"rival/point_cloud/iteration_{step}").mkdir(parents=True)
        shutil.copy(source, tmp_path / f"rival/point_cloud/iteration_{step}/point_cloud.ply")
    models = [
        f"x:room:{text}" for text in (f"12:{tmp_path}/rival:7000", f"50:{tmp_path}/rival", f"9:{tmp_path}/rival:1")
    ]
    arguments = ("--device", "cpu", "--csv", tmp_path / "rows.csv", "--card", "Other GPU", "--ply", *models)
    assert run("--scene", f"room={demo_scene}", *arguments) == 1
    rows = read_rows(tmp_path / "rows.csv")
    assert [(row.step, row.seconds, row.card) for row in rows] == [
        (7000, 12.0, "Other GPU"),
        (30_000, 50.0, "Other GPU"),
    ]
    assert [one.first.at for one in finals(summaries(rows))] == ["step 30000"]
    assert re.search(r"failed: .*no .*iteration 1; there are: iterations 7000, 30000", capsys.readouterr().out)


# ------------------------------------------------------------------------------------------------------ rows, numbers

ROW = Row(
    date="2026-11-28", commit="abc", card="a GPU", torch="2.11", cuda="13.0", scene="room", variant="adc", seed=0,
    at=END, step=30_000, seconds=25.0, timing=TIMED, psnr=30.0, ssim=0.9, lpips=None, flip=None, gaussians=100_000,
    views=7, resolution="80x60", peak_mib=None, config="0123", settings="", command="python x", protocol="every 8th",
)  # fmt: skip


def seeds(variant: str, *psnr: float, **values) -> list[Row]:
    changes = {"variant": variant, "config": variant} | values
    return [replace(ROW, seed=seed, psnr=value, ssim=value / 40, **changes) for seed, value in enumerate(psnr)]


def test_rows_come_back_equal(tmp_path):
    rows = [ROW, replace(ROW, seconds=None, flip=0.125, peak_mib=10.5, command='a "b", c', settings="x=[1, 2]")]
    append_rows(tmp_path / "new/rows.csv", rows[:1])
    append_rows(tmp_path / "new/rows.csv", rows[1:])
    assert read_rows(tmp_path / "new/rows.csv") == rows
    assert len(list(csv.reader((tmp_path / "new/rows.csv").open()))) == 3
    assert read_rows(tmp_path / "none.csv") == []


@pytest.mark.parametrize("change", ["cut", "word", "column"])
def test_damaged_rows(tmp_path, change):
    append_rows(tmp_path / "rows.csv", [ROW])
    text = (tmp_path / "rows.csv").read_text()
    changed = {"cut": text[:-30], "word": text.replace("30.0", "much"), "column": text.replace("psnr", "mse")}
    (tmp_path / "rows.csv").write_text(changed[change])
    with pytest.raises(ConfigError, match="rows.csv: has other rows"):
        read_rows(tmp_path / "rows.csv")


def test_mean_and_spread():
    stat = Stat.of([30.0, 31.0, 32.5])
    assert (stat.mean, stat.spread, stat.deviation) == (
        pytest.approx(31.1667, abs=1e-4),
        2.5,
        pytest.approx(1.2583, abs=1e-4),
    )
    assert cell(stat, ".2f") == "31.17 (2.50; 1.26)" and cell(Stat.of([3.0]), ".1f") == "3.0" and cell(None, "") == "–"


@pytest.mark.parametrize(
    ("mine", "theirs", "verdict"),
    [
        ([31.0, 31.1, 31.2], [30.0, 30.2, 30.4], True),
        ([30.0, 30.2, 30.4], [31.0, 31.1, 31.2], True),
        ([30.3, 30.4, 30.5], [30.0, 30.2, 30.4], False),
        ([30.1, 31.0, 32.0], [30.0, 30.0, 30.0], False),
        ([31.0, 31.1], [30.0, 30.2, 30.4], None),
    ],
)
def test_a_difference_counts_outside_the_spread_of_three_seeds(mine, theirs, verdict):
    assert counts(Stat.of(mine), Stat.of(theirs)) is verdict


def test_seconds_are_those_of_timed_rows():
    rows = seeds("adc", 30.0, 31.0, 32.0)
    rows = [
        replace(rows[0], timing=NOT_TIMED, seconds=99.0),
        replace(rows[1], seconds=20.0),
        replace(rows[2], seconds=22.0),
    ]
    (summary,) = summaries(rows)
    assert summary.stat("psnr").count == 3 and summary.stat("seconds").mean == 21.0


def test_marks_are_in_the_order_of_steps_and_commits_apart():
    rows = [ROW, replace(ROW, at="25%", step=7500), replace(ROW, commit="def", psnr=31.0)]
    assert [(one.first.at, one.first.commit) for one in summaries(rows)] == [("25%", "abc"), (END, "abc"), (END, "def")]
    assert [line[2] for line in table(summaries(rows))] == ["at", "25%", END, END]


# ----------------------------------------------------------------------------------------------------------- the page


def test_the_page(tmp_path, capsys):
    mine = [
        *seeds("adc", 30.0, 30.2, 30.4), *seeds("new", 31.0, 31.1, 31.2, flip=0.05), *seeds("two", 33.0, 33.1),
        *seeds("near", 30.3, 30.4, 30.5, timing=NOT_TIMED), *seeds("worse", 20.0, 20.1, 20.2),
        *seeds("rival", 32.0, 32.1, 32.2, config="", timing=GIVEN, at="step 30000", command="python --ply r"),
    ]  # fmt: skip
    append_rows(tmp_path / "results/one.csv", [*mine, *[replace(row, at="50%", psnr=50.0, step=9) for row in mine]])
    append_rows(tmp_path / "results/two.csv", seeds("adc", 28.0, 28.0, 28.0, card="another GPU"))
    (tmp_path / "results/others.csv").write_text("strategy,ms\nsw_t,1\n")
    assert run("--report", "--results", tmp_path / "results", "--page", tmp_path / "docs/board.md") == 0
    assert "7 records of 37 rows" in capsys.readouterr().out
    text = (tmp_path / "docs/board.md").read_text()
    tables = text.split("\n## ")
    assert [part.partition("\n")[0] for part in tables[1:]] == [
        "room, 80x60, a GPU",
        "room, 80x60, another GPU",
        "Records",
    ]
    lines = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", tables[1], re.MULTILINE))
    assert list(lines) == ["two", "rival", "new", "near", "adc", "worse"], "the best picture first"
    assert "33.05 (0.10; 0.07)" in lines["two"] and "+2.85, needs 3 seeds" in lines["two"]
    assert "31.10 (0.20; 0.10)" in lines["new"] and "+0.90, **counts**" in lines["new"] and "0.0500" in lines["new"]
    assert "+0.20, within the spread" in lines["near"] and "| – |" in lines["near"]
    assert "-10.10, counts" in lines["worse"] and "25.00 (0.00; 0.00)* |" in lines["rival"] and "*" not in lines["adc"]
    assert "67.02 pixels per degree" in text and "LPIPS" not in text
    assert "3. `new` on room, seeds 0, 1, 2: commit abc, a GPU, torch 2.11, CUDA 13.0, 2026-11-28" in text
    assert "       python x --seeds 0 1 2\n" in text and "       python --ply r\n" in text


def test_the_page_of_this_project_is_what_its_rows_say():
    text = (ROOT / "docs/leaderboard.md").read_text()
    rows = [
        row
        for file in sorted((ROOT / "docs/results").glob("*.csv"))
        if leaderboard.is_rows(file)
        for row in read_rows(file)
    ]
    picture = re.search(r"^!\[[^]]*\]\((.*)\)$", text, re.MULTILINE)
    baseline = re.search(r"PSNR against (\S+)", text)
    expected = leaderboard.page_text(rows, "results", picture and picture[1], baseline[1] if baseline else "adc")
    assert text == expected, "python benchmarks/time_to_quality.py --report writes it"
    assert not picture or (ROOT / "docs" / picture[1]).is_file()


def test_the_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    rows = [*seeds("adc", 30.0, 30.2), *seeds("new", 31.0), *seeds("adc", 20.0, 21.0, at="50%", step=5, seconds=9.0)]
    leaderboard.draw([*rows, replace(ROW, scene="other")], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    leaderboard.draw([replace(row, timing=NOT_TIMED) for row in rows], tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists() and "none of the rows is timed" in capsys.readouterr().out


def test_the_commit(tmp_path):
    def git(*words):
        identity = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True)

    assert quality_series.commit_of(tmp_path / "nowhere") == "unknown"
    git("init")
    for name in ("docs/rows.csv", "code.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    clean = quality_series.commit_of(tmp_path)
    assert re.fullmatch(r"[0-9a-f]{10}", clean)
    (tmp_path / "docs/rows.csv").write_text("2")
    assert quality_series.commit_of(tmp_path) == clean, "rows that are added are no change of the code"
    (tmp_path / "code.py").write_text("2")
    assert quality_series.commit_of(tmp_path) == clean + "+"
