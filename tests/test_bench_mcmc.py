"""benchmarks/bench_mcmc.py: its steps are MCMC's, and its table."""

import csv

import pytest
import torch

from benchmarks import bench_mcmc as bench
from benchmarks.bench_mcmc import Size, Training
from distwar_gs.config import ConfigError
from distwar_gs.engines.timing import NoTimer
from distwar_gs.strategies.mcmc import Mcmc

pytestmark = pytest.mark.usefixtures("in_process")
CPU = torch.device("cpu")
TINY = ("--device", "cpu", "--kinds", "mcmc_composed", "--size", "48x35", "--warm_up", "1", "--steps", "2")


def test_pictures_are_as_large_as_asked_for():
    training = Training("mcmc_composed", Size(200, 0.0, (48, 35)), CPU)
    assert training.batches[0].photo.shape == (35, 48, 3)
    assert (training.batches[0].camera.width, training.batches[0].camera.height) == (48, 35)
    assert Size(1, 0.0).size == (799, 532)


class Free(Mcmc):
    """Without noise, too."""

    def perturb(self, *_) -> None:
        pass


def test_a_step_pays_and_moves_the_faint():
    """Against the same step without MCMC: prices lower opacities that the image does not know of, noise moves means."""
    own = Training("mcmc_composed", Size(200, 0.0, (48, 35)), CPU)
    plain = Training("mcmc_composed", Size(200, 0.0, (48, 35)), CPU)
    plain.strategy = None
    free = {"densification.strategy": "mcmc", "densification.opacity_reg": 0.0, "densification.scale_reg": 0.0}
    plain.state.strategy = plain.state.engine.strategy = Free(1.0, bench.config_of(free).densification)
    before = own.state.params["means"].detach().clone()
    for training in (own, plain):
        training.state.params["opacities"].data[:100] = -7.0
        training.step(NoTimer())
    moved = (own.state.params["means"] - plain.state.params["means"]).norm(dim=1)
    assert (moved[:100] > 0).all() and moved[:100].median() > 10 * moved[100:].median()
    assert (own.state.params["opacities"][:100] < -7.0).all() and (plain.state.params["opacities"][:100] == -7.0).all()
    assert not torch.equal(own.state.params["means"], before)


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
