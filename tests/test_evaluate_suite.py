"""The suite on small scenes: trains, measures, skips, goes on, reports failures; and its tables."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from demo_runs import ENVIRONMENT, ROOT, run_program
from scripts_as_modules import imported_script

from distwar_gs.config import ConfigError

STEPS = 12


@pytest.fixture(scope="module")
def suite():
    with imported_script("evaluate_suite") as module:
        yield module


def family(folder, scene_folder, **scenes):
    """A folder of configs, each with settings of `data`."""
    folder.mkdir(parents=True)
    for name, data in scenes.items():
        lines = "".join(f"  {key}: {value}\n" for key, value in ({"source_path": scene_folder} | data).items())
        (folder / f"{name}.yaml").write_text(f"data:\n{lines}train:\n  device: cpu\nlog:\n  every: 4\n")
    return folder


@pytest.fixture(scope="module")
def finished(demo_scene, tmp_path_factory):
    """A family of four, three of which cannot be trained. Read only."""
    folder = tmp_path_factory.mktemp("suite")
    scenes = {
        "absent": {"source_path": "data/none"},
        "broken": {"images": "none"},
        "good": {},
        "typo": {"imagez": 1},
    }
    configs = family(folder / "configs", demo_scene, **scenes)
    result = run_suite(configs, folder / "out", folder, fresh=True)
    return folder, result


def run_suite(configs, out, data, *arguments, steps: int = STEPS, fresh: bool = False) -> subprocess.CompletedProcess:
    command = ("scripts/evaluate_suite.py", configs, "--out", out, "--data", data, *arguments)
    return run_program(*command, "--", "--iterations", steps, "--sh_degree", 0, fresh=fresh)


def test_good_scenes_are_measured_though_others_fail(finished):
    folder, result = finished
    assert result.returncode == 1 and "Traceback" not in result.stderr
    rows = {row["scene"]: row for row in csv.DictReader((folder / "out/suite.csv").open())}
    assert list(rows) == ["absent", "broken", "good", "typo", "mean of 1"]
    assert f"{folder}/none: no such folder" in rows["absent"]["problem"]
    assert "imagez" in rows["typo"]["problem"]
    assert (
        "train.py ended with 1: error: " in rows["broken"]["problem"]
        and "no such image folder" in rows["broken"]["problem"]
    )
    measured = json.loads((folder / f"out/good/renders/iteration_{STEPS}/metrics.json").read_text())[-1]
    row = rows["good"]
    assert measured["views"] == 2 and (float(row["psnr"]), float(row["ssim"])) == (measured["psnr"], measured["ssim"])
    assert 5 < float(row["psnr"]) < 40 and float(row["gaussians"]) > 2900
    assert 0 < float(row["minutes"]) < 5 and 0.1 < float(row["memory_gib"]) < 8
    assert rows["mean of 1"]["psnr"] == row["psnr"]


def test_the_table_is_printed_and_written(finished):
    folder, result = finished
    for suffix in (".md", ".csv", ".tex"):
        assert (folder / f"out/suite{suffix}").read_text() in result.stdout
    assert "broken failed: train.py ended with 1" in (folder / "out/suite.md").read_text()


def test_what_is_done_is_not_done_again(finished, tmp_path):
    folder, _ = finished
    model = folder / f"out/good/point_cloud/iteration_{STEPS}/point_cloud.ply"
    before = model.stat().st_mtime_ns
    result = run_suite(folder / "configs", folder / "out", folder, "--scenes", "good")
    assert result.returncode == 0, result.stdout + result.stderr
    assert model.stat().st_mtime_ns == before and "train.py" not in result.stdout and "PSNR" in result.stdout


def test_a_run_with_other_settings_is_not_taken_for_this_one(finished, tmp_path):
    folder, _ = finished
    shutil.copytree(folder / "out/good", tmp_path / "good")
    result = run_suite(folder / "configs", tmp_path, folder, "--scenes", "good", steps=STEPS + 1)
    assert result.returncode == 1
    assert f"was trained with train.iterations {STEPS}, not {STEPS + 1}; choose another --out" in result.stdout


@pytest.mark.slow
def test_ctrl_c_goes_on_later(demo_scene, tmp_path):
    """The run that was interrupted leaves a checkpoint, and the next call continues it."""
    configs = family(tmp_path / "configs", demo_scene, scene={})
    command = ["scripts/evaluate_suite.py", configs, "--out", tmp_path / "out", "--", "--iterations", 120]
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    log = tmp_path / "out/scene.log"
    deadline = time.monotonic() + 120
    while not (log.is_file() and "first view" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130 and complaint == "error: interrupted\n"
    assert list((tmp_path / "out/scene/checkpoints").glob("step_*.pt"))
    result = run_program(*command)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "resuming from" in log.read_text()


# -------------------------------------------------------------------------------------------------------------- units


def test_families_and_scenes(suite):
    assert len(suite.config_files("mipnerf360", None)) == 9
    assert [file.stem for file in suite.config_files("nerf_synthetic", ["ship", "lego"])] == ["ship", "lego"]
    with pytest.raises(ConfigError, match="no configs there; give mipnerf360, "):
        suite.config_files("nerf", None)
    with pytest.raises(ConfigError, match="gardn: no scene of .*bicycle, bonsai, "):
        suite.config_files("mipnerf360", ["gardn"])


def test_data_folder(suite, tmp_path):
    (file,) = suite.config_files("deepblending", ["playroom"])
    job = suite.job_of(file, tmp_path / "disk", tmp_path / "out", ["--iterations", "7"])
    assert job.config.data.source_path == str(tmp_path / "disk/db/playroom")
    assert job.config.train.iterations == 7 and job.config.train.result_dir == str(tmp_path / "out/playroom")


def test_arguments_after_the_dashes(suite):
    assert suite._split(["tandt", "--", "-w", "--seed", "3"]) == (["tandt"], ["-w", "--seed", "3"])
    assert suite._split(["tandt"]) == (["tandt"], [])


def results(suite, **numbers):
    return [suite.Result("train", 21.5, 0.8123, **numbers), suite.Result("dr_johnson", 29.25, 0.9, **numbers)]


def test_markdown(suite):
    assert suite.markdown(results(suite, gaussians=1_200_000)) == (
        "| scene | PSNR | SSIM | Gaussians |\n| --- | ---: | ---: | ---: |\n| train | 21.50 | 0.812 | 1,200,000 |\n"
        "| dr_johnson | 29.25 | 0.900 | 1,200,000 |\n| mean | 25.38 | 0.856 | 1,200,000 |\n"
    )


def test_latex(suite):
    lines = suite.latex(results(suite, lpips=0.2)).splitlines()
    assert lines[0] == "\\begin{tabular}{lrrr}" and lines[-1] == "\\end{tabular}"
    assert "dr\\_johnson & 29.25 & 0.900 & 0.200 \\\\" in lines


def test_a_mean_needs_every_scene(suite):
    mixed = [suite.Result("a", 20.0, 0.5, 0.1), suite.Result("b", 30.0, 0.7), suite.Result("c", problem="failed: x")]
    assert suite.mean(mixed) == suite.Result("mean of 2", 25.0, pytest.approx(0.6))
    assert suite.mean([suite.Result("c", problem="failed: x")]) == suite.Result("mean of 0")
    assert "c failed: x" in suite.markdown(mixed)


@pytest.mark.slow
def test_scenes_may_train_for_so_many_seconds(demo_scene, tmp_path):
    configs = family(tmp_path / "configs", demo_scene, good={})
    for_train = ("--seconds", 0.5, "--sh_degree", 0)
    command = ("scripts/evaluate_suite.py", configs, "--out", tmp_path / "out", "--", *for_train)
    first = run_program(*command)
    assert first.returncode == 0, first.stderr
    (row, _) = csv.DictReader((tmp_path / "out/suite.csv").open())
    assert 0.5 <= 60 * float(row["minutes"]) < 5 and float(row["psnr"]) > 5
    assert "train.py" in first.stdout and "train.py" not in run_program(*command).stdout
