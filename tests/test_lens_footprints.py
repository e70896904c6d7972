"""benchmarks/lens_footprints.py: small Gaussians are ellipses, large ones of fisheyes more so than of pinholes."""

import csv

import pytest

from benchmarks import lens_footprints as footprints
from benchmarks.lens_footprints import measure


@pytest.mark.parametrize("lens", footprints.LENSES)
def test_a_small_gaussian_has_the_footprint_of_the_jacobian(lens):
    row = measure(lens, 40.0, 0.01, 40_000)
    assert row.center_off < 0.03 and row.covariance_off < 0.03 and row.unscented_covariance_off < 0.03


def test_a_large_one_is_drawn_better_through_a_fisheye_than_through_a_pinhole():
    pinhole, fisheye = (measure(lens, 40.0, 0.15, 40_000) for lens in ("pinhole", "fisheye"))
    assert fisheye.covariance_off < 0.03 < 0.1 < pinhole.covariance_off
    assert fisheye.covariance_off < fisheye.unscented_covariance_off


@pytest.mark.usefixtures("in_process")
def test_table(tmp_path, capsys):
    footprints.main(["--points", "500", "--csv", str(tmp_path / "f.csv")])
    rows = list(csv.DictReader((tmp_path / "f.csv").open()))
    assert len(rows) == 3 * (2 + 2 + 4 + 4) and capsys.readouterr().out.count("| fisheye |") == 12
