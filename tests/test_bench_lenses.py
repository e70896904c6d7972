"""benchmarks/bench_lenses.py: every lens shows the same scene as large, and the table."""

import csv

import pytest
import torch

from benchmarks import bench_lenses as bench
from benchmarks.bench_scaling import DISTANCE, make_views
from distwar_gs.config import ConfigError
from distwar_kernels import MODELS

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.mark.parametrize("lens", MODELS)
def test_every_lens_is_as_large_in_the_middle(lens):
    camera = make_views(400, 300, torch.device("cpu"))[0]
    points = torch.tensor([[[0.1, 0.05, DISTANCE], [-0.1, 0.1, DISTANCE], [0.0, 0.0, DISTANCE]]])
    places = [
        one.lens.project(points[..., :2], points[..., 2], one.intrinsics)
        for one in (camera, bench.through(lens, camera))
    ]
    torch.testing.assert_close(places[1], places[0], atol=0.2, rtol=0)


def test_table(tmp_path, capsys):
    flags = ["--device", "cpu", "--lenses", "fisheye", "--millions", "0.0005", "--megapixels", "0.002", "--rounds", "1"]
    bench.main([*flags, "--warm_up", "1", "--steps", "2", "--csv", str(tmp_path / "lenses.csv")])
    rows = list(csv.DictReader((tmp_path / "lenses.csv").open()))
    assert [row["lens"] for row in rows] == ["pinhole", "fisheye"] and float(rows[0]["of_pinhole"]) == 1.0
    assert all(float(row["step_ms"]) > 0 for row in rows) and "| fisheye |" in capsys.readouterr().out


def test_an_engine_that_has_no_lenses():
    with pytest.raises(ConfigError, match="gsplat"):
        bench.main(["--device", "cpu", "--engine", "gsplat"])
