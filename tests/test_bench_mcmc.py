"""scripts/bench_mcmc.py: its steps are MCMC's, and its table."""

import csv

import pytest
import torch

from distwar_gs.config import ConfigError
from distwar_gs.mcmc import Mcmc
from distwar_gs.timing import NoTimer
from scripts import bench_mcmc as bench
from scripts.bench_mcmc import Size, Training

pytestmark = pytest.mark.usefixtures("in_process")
CPU = torch.device("cpu")
TINY = ("--device", "cpu", "--kinds", "mcmc_composed", "--size", "48x35", "--warm_up", "1", "--steps", "2")


def test_pictures_are_as_large_as_asked_for():
    training = Training("mcmc_composed", Size(200, 0.0, (48, 35)), CPU)
    assert training.photos[0].shape == (35, 48, 3) and (training.views[0].width, training.views[0].height) == (48, 35)
    assert Size(1, 0.0).size == (799, 532)


def test_a_step_pays_and_moves_the_faint():
    """Against the same step without MCMC: prices lower opacities that the image does not know of, noise moves means."""
    own = Training("mcmc_composed", Size(200, 0.0, (48, 35)), CPU)
    plain = Training("mcmc_composed", Size(200, 0.0, (48, 35)), CPU)
    plain.strategy = None
    free = {"densification.strategy": "mcmc", "densification.opacity_reg": 0.0, "densification.scale_reg": 0.0}
    plain.engine.densifier = Mcmc(1.0, bench.config_of(free).densification)
    before = own.params["means"].detach().clone()
    for training in (own, plain):
        training.params["opacities"].data[:100] = -7.0
        training.step(1, NoTimer())
    moved = (own.params["means"] - plain.params["means"]).norm(dim=1)
    assert (moved[:100] > 0).all() and moved[:100].median() > 10 * moved[100:].median()
    assert (own.params["opacities"][:100] < -7.0).all() and (plain.params["opacities"][:100] == -7.0).all()
    assert not torch.equal(own.params["means"], before)


def test_the_table(capsys, tmp_path):
    bench.main([*TINY, "--millions", "0.0002", "--csv", str(tmp_path / "mcmc.csv")])
    assert "mcmc_composed" in capsys.readouterr().out
    (row,) = csv.DictReader((tmp_path / "mcmc.csv").open())
    assert row["gaussians"] == "200" and row["size"] == "48x35"
    assert all(float(row[name]) > 0 for name in row if name.endswith("_ms"))
    parts = sum(float(row[name]) for name in row if name.endswith("_ms") and name != "steps_ms")
    assert 0.2 < parts / float(row["steps_ms"]) < 5


def test_without_a_gpu_there_is_one_kind():
    with pytest.raises(ConfigError, match="--kinds mcmc_lazy: without a CUDA GPU there is only mcmc_composed"):
        bench.main(["--device", "cpu", "--kinds", "mcmc_lazy"])
