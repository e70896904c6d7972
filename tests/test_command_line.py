"""The two programs from end to end: files, exit codes and what they print."""

import json

import pytest
import yaml
from demo_runs import run_program

from distwar_gs.config import load_config
from distwar_gs.formats.export import load_ply


def test_training_leaves_a_complete_run_folder(demo_run):
    run = demo_run.folder
    assert sorted(path.name for path in run.iterdir()) == [
        "cameras.json", "checkpoints", "config.yaml", "curves.jsonl", "metrics.json", "point_cloud", "report.html",
        "tensorboard", "train.log",
    ]  # fmt: skip
    assert (run / "checkpoints/latest").read_text() == "step_60.pt\n"
    assert (run / "checkpoints/step_60.pt").is_file()
    assert len(load_ply(run / "point_cloud/iteration_60/point_cloud.ply")["means"]) == 3008
    assert len(json.loads((run / "cameras.json").read_text())) == 16
    assert [record["step"] for record in json.loads((run / "metrics.json").read_text())] == [60]
    assert len(list((run / "tensorboard").glob("events.out.tfevents.*"))) == 1


def test_the_config_of_the_run_is_what_was_asked_for(demo_run):
    config = load_config(demo_run.folder / "config.yaml")
    assert config.train.iterations == 60 and config.model.sh_degree == 2 and config.log.every == 20
    assert config.data.source_path == str(demo_run.scene)


def test_what_training_says(demo_run):
    assert demo_run.stdout == ""
    for words in ("14 training and 2 test views", "step 60: test PSNR", "saved "):
        assert words in demo_run.stderr and words in (demo_run.folder / "train.log").read_text()
    assert "Warning" not in demo_run.stderr and "Traceback" not in demo_run.stderr


def test_a_config_file_from_another_folder(demo_scene, tmp_path):
    """Relative folders are relative to where one stands; the flags and --set win over the file."""
    tree = {"data": {"source_path": "scene"}, "train": {"iterations": 9, "seed": 5}, "optim": {"lambda_dssim": 0.0}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    (tmp_path / "scene").symlink_to(demo_scene)
    flags = ("--iterations", 2, "--device", "cpu", "--quiet", "--no_eval", "--set", "log.tensorboard=false")
    result = run_program("train.py", "--config", "mine.yaml", *flags, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    config = load_config(tmp_path / "output/scene/config.yaml")
    assert (config.train.iterations, config.train.seed, config.optim.lambda_dssim) == (2, 5, 0.0)
    files = sorted(path.name for path in (tmp_path / "output/scene").iterdir())
    assert files == [
        "cameras.json",
        "checkpoints",
        "config.yaml",
        "curves.jsonl",
        "point_cloud",
        "report.html",
        "train.log",
    ]


@pytest.mark.parametrize("program", ["train.py", "render.py"])
def test_help(program):
    result = run_program(program, "--help", fresh=True)
    assert result.returncode == 0 and result.stderr == ""
    assert result.stdout.startswith(f"usage: {program}")
