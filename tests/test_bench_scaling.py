"""benchmarks/bench_scaling.py: its scene, its steps, its tables."""

import csv
import math

import pytest
import torch

from benchmarks import bench_scaling as bench
from benchmarks.bench_scaling import Case, Training, make_params, make_photo, make_views, measure
from distwar_gs.config import ConfigError
from distwar_gs.engines.timing import NoTimer
from distwar_gs.gaussians.model import PARAMETER_NAMES
from distwar_kernels import project_gaussians

pytestmark = pytest.mark.usefixtures("in_process")
CPU = torch.device("cpu")
TINY = ("--device", "cpu", "--engines", "composed", "--warm_up", "1", "--steps", "2")


def footprints(case: Case, view: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres and the larger radii, in pixels, of the Gaussians as a camera sees them."""
    params, camera = make_params(case.gaussians, CPU), make_views(*case.size, CPU)[view]
    projection = project_gaussians(
        params["means"], params["quats"], params["scales"].exp(), params["opacities"].sigmoid(), camera,
        near_plane=0.03, far_plane=1e10, antialiased=False,
    )  # fmt: skip
    return projection[1][0], projection[0][0].amax(dim=-1)


@pytest.mark.parametrize(("megapixels", "size"), [(1.0, (1155, 866)), (8.0, (3266, 2450)), (0.0048, (80, 60))])
def test_sizes(megapixels, size):
    assert Case(1, megapixels).size == size


def test_the_scene_is_the_same_every_time():
    first, second = make_params(500, CPU), make_params(500, CPU)
    assert set(first) == set(PARAMETER_NAMES)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(make_photo(40, 30, 1), make_photo(40, 30, 1))
    assert not torch.equal(make_photo(40, 30, 1), make_photo(40, 30, 2))


def test_the_ball_is_filled_evenly_and_seen_whole_by_every_camera():
    case = Case(4000, 0.05)
    radii = make_params(case.gaussians, CPU)["means"].norm(dim=1)
    assert radii.max() <= 1.0
    assert (radii < 0.5).float().mean() == pytest.approx(1 / 8, abs=0.02)
    width, height = case.size
    for view in range(bench.VIEWS):
        centres, pixels = footprints(case, view)
        assert ((pixels > 0) & (centres > 0).all(-1) & (centres < torch.tensor([width, height])).all(-1)).all()
        assert centres[:, 1].min() < 0.05 * height and centres[:, 1].max() > 0.95 * height


def test_the_more_gaussians_the_smaller_and_the_more_pixels_the_larger():
    few, many, fine = (footprints(case)[1].float().mean() for case in (Case(500, 4), Case(4000, 4), Case(500, 16)))
    assert many / few == pytest.approx(0.5, abs=0.03)
    assert fine / few == pytest.approx(2.0, abs=0.05)


def test_opacities_are_mostly_faint_and_some_opaque():
    opacities = make_params(4000, CPU)["opacities"].sigmoid()
    assert opacities.min() > 0.005
    assert opacities.median() == pytest.approx(1 / (1 + math.e), abs=0.03)
    assert 0.02 < (opacities > 0.9).float().mean() < 0.1


def test_photos_are_smooth_bytes():
    photo = make_photo(160, 120, 0)
    assert photo.shape == (120, 160, 3) and photo.dtype == torch.uint8
    assert photo.float().std() > 20
    assert (photo[:, 1:].float() - photo[:, :-1].float()).abs().max() <= 255 / 16


def test_the_steps_train():
    training = Training("composed", Case(300, 0.001), CPU)
    before = {name: param.detach().clone() for name, param in training.state.params.items()}
    for _ in range(3):
        training.step(NoTimer())
    assert all(not torch.equal(before[name], param) for name, param in training.state.params.items())
    assert training.state.optimizers["means"].state[training.state.params["means"]]["step"] == 3


def test_a_case_is_measured():
    row = measure("composed", Case(200, 0.001), CPU, warm_up=1, steps=3)
    stages = [row.forward_ms, row.loss_ms, row.blend_backward_ms, row.backward_and_optimizer_ms]
    assert all(ms > 0 for ms in stages)
    assert max(stages) < row.step_ms < 1e4
    assert row.peak_allocated_mib is None and row.note == ""


def test_a_case_without_enough_memory_is_an_entry(monkeypatch, tmp_path, capsys):
    """The middle one of three, and only it."""
    real = bench.make_params

    def make_params(count, device):
        if count == 200:
            raise torch.OutOfMemoryError("tried to allocate 1 TiB")
        return real(count, device)

    monkeypatch.setattr(bench, "make_params", make_params)
    sizes = ("--millions", "0.0001", "0.0002", "0.0003", "--at_megapixels", "0.0005", "--megapixels")
    bench.main([*TINY, *sizes, "--csv", str(tmp_path / "a.csv")])
    with (tmp_path / "a.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["gaussians"] for line in lines] == ["100", "200", "300"]
    assert [line["note"] for line in lines] == ["", "out of memory", ""]
    assert lines[1]["step_ms"] == "" and float(lines[2]["step_ms"]) > 0
    assert "| composed | 200 | 0.001 |  |  |  |  |  | out of memory |" in capsys.readouterr().out


def test_a_case_of_both_tables_is_measured_once(monkeypatch, capsys):
    cases = []
    real = bench.measure
    monkeypatch.setattr(bench, "measure", lambda engine, case, *rest: cases.append(case) or real(engine, case, *rest))
    both = ("--at_millions", "0.0001", "--at_megapixels", "0.0005")
    bench.main([*TINY, "--millions", "0.0001", "0.0002", "--megapixels", "0.0005", "0.001", *both])
    assert cases == [Case(100, 0.0005), Case(200, 0.0005), Case(100, 0.001)]
    tables = capsys.readouterr().out.split("\n\n")[1:]
    assert [len(table.strip().splitlines()) for table in tables] == [4, 4]


def test_engines_that_need_a_gpu_are_refused_without_one():
    with pytest.raises(ConfigError, match="without a CUDA GPU there is only composed"):
        bench.main(["--device", "cpu", "--engines", "composed", "gsplat"])


@pytest.mark.gpu
def test_every_engine_on_the_gpu():
    device = torch.device("cuda")
    rows = [measure(engine, Case(20_000, 0.1), device, warm_up=3, steps=5) for engine in bench.ENGINES]
    for row in rows:
        stages = [row.forward_ms, row.loss_ms, row.blend_backward_ms, row.backward_and_optimizer_ms]
        assert all(0 < ms < 1e3 for ms in stages) and row.note == ""
        parameters_and_moments = 20_000 * 59 * 4 * 3 / 2**20
        assert parameters_and_moments < row.peak_allocated_mib <= row.peak_reserved_mib
