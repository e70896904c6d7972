"""benchmarks/bench_reduction.py: its tables and summaries; on a GPU, a whole measurement. And the rivals' cameras."""

import math
from pathlib import Path

import pytest
import torch
from demo_runs import run_program
from random_scenes import relative_l2

from benchmarks import plotting, rivals
from benchmarks import reduction_report as report
from benchmarks.measuring import integers, reductions, write_csv
from benchmarks.reduction_report import Row
from distwar_gs.config import ConfigError
from distwar_gs.viewing.render_args import RenderArgs
from distwar_gs.viewing.trained import TrainedModel


def rows_of(scene: str, step: int, atomic: float, **kernel_ms: float) -> list[Row]:
    names = {"sw_b_8": "sw_b@8", "sw_b_16": "sw_b@16", "auto": "auto (sw_b@8)"}
    times = {"atomic": atomic} | {names.get(name, name): ms for name, ms in kernel_ms.items()}
    rows = [Row(scene, step, 1000, strategy, ms, backward_ms=2 * ms + 1) for strategy, ms in times.items()]
    report.fill_in_speedups(rows)
    return rows


@pytest.fixture
def rows() -> list[Row]:
    early = rows_of("garden", 1000, 4.0, gsplat=2.0, sw_b_8=2.0, sw_b_16=1.9, auto=2.0)
    late = rows_of("garden", 30_000, 9.0, gsplat=3.0, sw_b_8=1.5, sw_b_16=1.8, auto=1.52)
    return early + late


def test_speedups(rows):
    late = {row.strategy: row for row in rows if row.step == 30_000}
    assert late["sw_b@8"].kernel_speedup_over_atomic == pytest.approx(6.0)
    assert late["sw_b@8"].kernel_speedup_over_gsplat == pytest.approx(2.0)
    assert late["sw_b@8"].backward_speedup_over_atomic == pytest.approx(19 / 4)


def test_the_table_survives_its_file(rows, tmp_path):
    write_csv(tmp_path / "rows.csv", rows, {"machine": "a, b"})
    assert report.read_rows([tmp_path / "rows.csv"]) == rows


def test_the_summary_averages_over_models_and_judges_auto(rows, capsys):
    report.print_summary(rows)
    printed = capsys.readouterr().out
    (line,) = (line.split() for line in printed.splitlines() if line.strip().startswith("sw_b@8"))
    assert line[1:4] == ["2", "4.00x", "6.00x"]  # two models: 2 and 6
    assert "garden, step 1000: auto (sw_b@8) is +5.3 % from the best, sw_b@16" in printed
    assert "garden, step 30000: auto (sw_b@8) is +1.3 % from the best, sw_b@8" in printed


def test_a_measurement_can_be_looked_at_again_without_a_gpu(rows, tmp_path):
    write_csv(tmp_path / "rows.csv", rows, {"machine": "m"})
    finished = run_program("benchmarks/bench_reduction.py", "--from", tmp_path / "rows.csv")
    assert finished.returncode == 0, finished.stderr
    assert "sw_b@16" in finished.stdout
    assert "speed-up over atomic" in finished.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [((), "no model to measure"), (("output/none",), "no CUDA GPU"), (("--from", "nowhere.csv"), "nowhere.csv")],
)
def test_what_is_missing_is_said_in_one_line(arguments, complaint):
    finished = run_program("benchmarks/bench_reduction.py", *arguments)
    assert finished.returncode == 1
    assert complaint in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


def test_a_plot_that_cannot_be_drawn_is_refused_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr(plotting, "find_spec", lambda name: None)
    plotting.check_plot(None)
    with pytest.raises(ConfigError, match="--plot needs matplotlib"):
        plotting.check_plot(Path("a.png"))


@pytest.mark.parametrize(
    ("strategies", "texts"),
    [(("gsplat", "atomic"), ["gsplat", "atomic"]), (("atomic", "sw_b"), ["atomic", "sw_b@1", "sw_b@8"])],
)
def test_only_strategies_with_a_threshold_come_at_every_one(strategies, texts):
    assert [str(reduction) for reduction in reductions(strategies, integers("1,8"))] == texts


@pytest.mark.parametrize("name", ["nobody", "inria", "distwar_sw_b_8", "faster_gs"])
def test_rivals_that_are_unknown_or_not_installed(name, demo_run):
    finished = run_program("benchmarks/rivals.py", name, demo_run.folder, fresh=name == "nobody")
    assert finished.returncode == 1
    assert len(finished.stderr.splitlines()) == 1
    assert ("unknown rival" if name == "nobody" else "cannot be imported") in finished.stderr


def test_rivals_see_the_gaussians_where_we_see_them(demo_run):
    """In the units of the input, through the matrix Inria's renderers take: the same pixels as through ours."""
    model = TrainedModel.load(RenderArgs(model=demo_run.folder, device="cpu"))
    view, scale = model.scene.train[0], model.scene.normalisation.scale
    assert not math.isclose(scale, 1.0)
    params, camera = rivals._in_input_units(model.params, scale), rivals._Camera.of(view, scale, model.device)
    matrix = rivals._projection(camera) @ camera.viewmat
    clip = torch.nn.functional.pad(params["means"], (0, 1), value=1.0) @ matrix.T
    ndc = clip[:, :2] / clip[:, 3:]
    pixels = (ndc + 1) / 2 * torch.tensor([view.width, view.height])
    splats = model.project(view)
    visible = (splats.radii[0] > 0).all(-1)
    centered = splats.means2d[0] + torch.tensor([view.width / 2 - view.K[0, 2], view.height / 2 - view.K[1, 2]])
    assert visible.sum() > 100
    assert relative_l2(pixels[visible], centered[visible]) < 1e-5
    depths = clip[:, 3] * scale
    assert relative_l2(depths[visible], splats.depths[0][visible]) < 1e-5


@pytest.mark.gpu
def test_a_measurement_on_the_gpu(demo_run, tmp_path):
    arguments = (
        "--thresholds",
        "1,8",
        "--views",
        2,
        "--repeats",
        3,
        "--compare",
        "nobody",
        "--csv",
        tmp_path / "a.csv",
    )
    finished = run_program("benchmarks/bench_reduction.py", demo_run.folder, *arguments, gpu=True)
    assert finished.returncode == 0, finished.stderr
    assert "nobody was not measured: error: unknown rival" in finished.stdout
    rows = report.read_rows([tmp_path / "a.csv"])
    assert [row.kind for row in rows] == [
        "atomic", "sw_s@1", "sw_s@8", "sw_b@1", "sw_b@8", "sw_t@1", "sw_t@8", "gsplat", "auto",
    ]  # fmt: skip
    assert all(0 < row.kernel_ms < row.backward_ms and row.forward_ms > 0 for row in rows)
    assert all(row.gradients_vs_float64 < 1e-4 for row in rows if row.kind != "gsplat")
