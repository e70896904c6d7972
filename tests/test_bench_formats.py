"""The benchmark of formats, on the demo run."""

import csv

import pytest
from scripts_as_modules import imported_script

from distwar_gs.formats.table import FORMATS


def test_every_format_has_a_row(demo_run, tmp_path, capsys):
    with imported_script("bench_formats", "benchmarks") as bench:
        file = tmp_path / "formats.csv"
        bench.main([str(demo_run.folder), "--views", "2", "--device", "cpu", "--csv", str(file)])
    printed = capsys.readouterr().out
    assert "point_cloud.ply: 3,008 Gaussians, harmonics of degree 2; 2 views of " in printed
    rows = {row["format"]: row for row in csv.DictReader(file.open())}
    assert list(rows) == [row.suffix for row in FORMATS]
    assert float(rows[".ply"]["psnr"]) == 100.0 and float(rows[".ply"]["times_smaller"]) == 1.0
    for name, least in ((".compressed.ply", 35.0), (".splat", 35.0), (".spz", 35.0), (".sog", 45.0)):
        assert least < float(rows[name]["psnr_least"]) <= float(rows[name]["psnr"]) < 100.0
        assert float(rows[name]["times_smaller"]) > 2.0
    assert rows[".html"]["psnr"] == rows[".html"]["read_s"] == ""
    assert float(rows[".html"]["mb"]) == pytest.approx(float(rows[".sog"]["mb"]) * 4 / 3 + 1.03, abs=0.03)
