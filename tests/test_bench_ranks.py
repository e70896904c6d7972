"""benchmarks/bench_ranks.py: a row alone, and one by two ranks."""

import csv

import pytest
import torch
from rank_processes import on_ranks

from benchmarks import bench_ranks as bench
from benchmarks.bench_scaling import Case, make_params
from distwar_gs.system.parallel import Ranks

pytestmark = pytest.mark.usefixtures("in_process")
TINY = ("--device", "cpu", "--millions", "0.0005", "--megapixels", "0.003", "--warm_up", "1", "--steps", "2")


def _row(ranks: Ranks, split: str) -> dict[str, object]:
    row = bench.of_made_scene(Case(501, 0.003), ranks, torch.device("cpu"), 1, 2, split)
    assert "swap" not in vars(ranks)  # it is not timed any longer
    return vars(row)


@pytest.mark.parametrize("split", ["views", "tiles"])
def test_two_ranks_share_the_gaussians_and_talk(tmp_path, split):
    first, second = on_ranks(2, tmp_path, _row, split)
    assert first["split"] == split
    assert first["gaussians"] == second["gaussians"] == 501 and first["ranks"] == 2
    assert first["communication_ms"] > 0 and 0 < first["communication_share"] < 1
    assert first["forward_ms"] == second["forward_ms"] > 0 and first["skipped"] == 0


def test_rows_are_appended(tmp_path, capsys):
    for _ in range(2):
        bench.main([*TINY, "--csv", str(tmp_path / "rows.csv")])
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and rows[0]["ranks"] == "1" and float(rows[0]["communication_ms"]) == 0.0
    assert float(rows[0]["views_per_second"]) > 0 and "views_per_second" in capsys.readouterr().out


def test_a_scene_folder(demo_scene, tmp_path):
    bench.main(["--device", "cpu", "-s", str(demo_scene), "--warm_up", "1", "--steps", "1",
                "--csv", str(tmp_path / "rows.csv")])  # fmt: skip
    with (tmp_path / "rows.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["scene"] == "demo" and row["megapixels"] == "0.005" and int(row["gaussians"]) > 100


def test_parts_of_a_made_scene_are_others_and_as_large_as_in_the_whole():
    one, two = (make_params(400, torch.device("cpu"), seed=seed, of=800) for seed in (0, 1))
    whole = make_params(800, torch.device("cpu"))
    assert not torch.equal(one["means"], two["means"])
    assert one["scales"].median() == pytest.approx(float(whole["scales"].median()), abs=0.1)
