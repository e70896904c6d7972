"""scripts/bench_sharing.py: what it sets, and what it prints and writes."""

import csv
import subprocess
import sys

import pytest

from distwar_gs.config import ConfigError
from scripts import bench_sharing as bench


def test_only_the_way_of_waiting_differs(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    asleep, spinning = bench.environment("asleep"), bench.environment("spinning")
    assert not [name for name in asleep if name.startswith(("OMP_", "GOMP_", "KMP_"))]
    assert spinning == asleep | {"GOMP_SPINCOUNT": "300000"}


WRITES = """
import json, pathlib, sys
run = pathlib.Path(sys.argv[1])
run.mkdir()
(run / "metrics.json").write_text(json.dumps([{"train_seconds": 0.01 * (1 + int(run.name))}]))
"""


def test_tables(tmp_path, capsys, monkeypatch):
    """The longest of the trainings at once is theirs."""
    monkeypatch.setattr(
        bench, "_started", lambda _, run, *others: subprocess.Popen([sys.executable, "-c", WRITES, run])
    )
    bench.main(["--scene", str(tmp_path), "--steps", "2", "--repeats", "1", "--csv", str(tmp_path / "sharing.csv")])
    header, *lines = capsys.readouterr().out.splitlines()[2:]
    assert header.split() == ["waiting", "at_once", "loop_s", "steps_per_second", "all_s"]
    rows = list(csv.DictReader((tmp_path / "sharing.csv").open()))
    assert [(row["waiting"], row["at_once"]) for row in rows] == [tuple(line.split()[:2]) for line in lines]
    assert [float(row["loop_s"]) for row in rows] == [0.01, 0.01, 0.02, 0.02]
    assert [float(row["steps_per_second"]) for row in rows] == pytest.approx([200, 200, 100, 100])
    assert all(float(row["all_s"]) > float(row["loop_s"]) for row in rows)


def test_a_training(demo_scene):
    loop, everything = bench.train(demo_scene, "asleep", 1, 2)
    assert 0 < loop < everything


def test_a_training_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "_started", lambda *_: subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]))
    with pytest.raises(OSError, match="ended with code 3"):
        bench.train(tmp_path, "asleep", 1, 1)


def test_no_scene(tmp_path):
    with pytest.raises(ConfigError, match="nowhere: no such folder; make it with"):
        bench.main(["--scene", str(tmp_path / "nowhere")])
