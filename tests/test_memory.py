"""How many Gaussians memory allows, and what is said of it."""

import logging

import pytest
import torch
from demo_runs import DENSE_SCHEDULE, demo_config

from distwar_gs.config import DensificationConfig, ModelConfig, OptimConfig
from distwar_gs.gaussians import memory
from distwar_gs.gaussians.memory import Budget, Cap, bytes_per_gaussian
from distwar_gs.gaussians.model import initialise
from distwar_gs.gaussians.optimizer import all_moments, make_optimizers, step_all
from distwar_gs.gaussians.rows import with_rows
from distwar_gs.strategies.adaptive import new_state
from distwar_gs.training.trainer import Trainer

CPU = torch.device("cpu")
MIB = 2**20


@pytest.fixture
def free(monkeypatch) -> dict[str, int]:
    """Sets how many bytes are free: free["bytes"] = N."""
    left = {"bytes": 1000 * MIB}
    monkeypatch.setattr(memory, "free_memory", lambda device: left["bytes"])
    return left


# ------------------------------------------------------------------------------------------------------- the formula


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_what_a_gaussian_keeps_is_what_its_tensors_take(degree):
    points = torch.rand(100, 3)
    params = initialise(points, points, ModelConfig(sh_degree=degree), "cpu")
    optimizers = make_optimizers(params, OptimConfig(), 1.0)
    for param in params.values():
        param.grad = torch.ones_like(param)
    step_all(optimizers)
    tensors = [*params.values(), *all_moments(optimizers)]
    tensors = [with_rows(with_rows(tensor, 101), 100) for tensor in tensors]  # as growth leaves them
    statistics, of_lazy_adam = new_state(100, "cpu").values(), 4
    kept, _ = bytes_per_gaussian(degree, "fused", "lazy")
    takes = sum(tensor.untyped_storage().nbytes() for tensor in [*tensors, *statistics]) / 100 + of_lazy_adam
    assert kept == pytest.approx(takes, rel=0.03)


def test_what_works_on_a_gaussian_is_the_largest_need():
    assert bytes_per_gaussian(3, "fused", "lazy") == (791, 4 * 45 + 48)  # growth: a second shN
    assert bytes_per_gaussian(0, "fused", "lazy")[1] == 225  # the step
    assert bytes_per_gaussian(3, "fused", "dense")[1] == 225 + 4 * 59  # and its gradients
    assert bytes_per_gaussian(3, "composed", "dense")[1] == 1720


def test_what_fits_is_what_is_free_and_what_is_held_already(free):
    budget = Budget(CPU, kept=720, working=280, pixels=10_000)
    free["bytes"] = 8_000_000 + 2_000_000_000
    assert budget.gaussians(held=0) == 1_000_000
    assert budget.gaussians(held=720_000) == 1_000_720
    free["bytes"] = 1_000
    assert budget.gaussians(held=0) == 1


def test_the_host_tells_what_is_free():
    assert 2**20 < memory.free_memory(CPU) < 2**50


# --------------------------------------------------------------------------------------------------------- the cap


def test_a_cap_of_null_is_fixed_when_training_begins_and_said_once(free, caplog):
    cap = Cap(None, Budget(CPU, kept=720, working=280, pixels=0))
    free["bytes"] = 2_000_000
    with caplog.at_level(logging.INFO):
        cap.begin(25, [torch.zeros(100)])
    assert cap.now([]) == 1000 and caplog.text.count("at most 1,000 Gaussians fit into the 0.0 GiB that are free") == 1
    free["bytes"] = 9_000_000
    assert cap.now([]) == 1000, "it does not rise"
    free["bytes"] = 1_000_000
    assert cap.now([]) == 500, "but others may take the memory"
    assert cap.now([torch.zeros(25_000)]) == 600, "and what the Gaussians take is theirs"


@pytest.mark.parametrize("configured", [0, 77])
def test_a_number_does_not_depend_on_memory(free, configured, caplog):
    cap = Cap(configured, Budget(CPU, kept=720, working=280, pixels=0))
    free["bytes"] = 1
    with caplog.at_level(logging.INFO):
        cap.begin(0, [])
    assert cap.now([]) == configured and not caplog.records


@pytest.mark.parametrize("configured", [None, 0, 77])
def test_where_memory_ran_out_is_the_cap_and_said_once(free, configured, caplog):
    cap = Cap(configured, Budget(CPU, kept=720, working=280, pixels=0))
    cap.begin(0, [])
    with caplog.at_level(logging.WARNING):
        cap.ran_out(600, 50)
        cap.ran_out(700, 49)
    assert cap.now([]) == 49 and caplog.text.count("growth is skipped") == 1


def test_more_to_begin_with_than_fit_is_said(free, caplog):
    free["bytes"] = 2_000_000
    with caplog.at_level(logging.WARNING):
        Cap(None, Budget(CPU, kept=720, working=280, pixels=0)).begin(1001, [])
    assert "there are 1,001 Gaussians already: memory may run out" in caplog.text


def test_the_default_leaves_it_to_memory():
    assert DensificationConfig().cap_max is None


@pytest.mark.usefixtures("in_process")
def test_a_run_stays_within_what_is_free(demo_scene, tmp_path, free):
    """It would grow from 3,008 to some 5,300."""
    free["bytes"] = 21 * MIB
    run = Trainer(demo_config(demo_scene, tmp_path, {**DENSE_SCHEDULE, "train.iterations": 40}))
    assert run.run() == 0
    held = 3008 * 59 * 4
    cap = int((0.5 * (21 * MIB - 800 * 80 * 60) + held) / (791 + 1720))
    text = (tmp_path / "train.log").read_text()
    assert text.count(f"at most {cap:,} Gaussians fit into the 0.0 GiB that are free") == 1
    assert text.count(f"{cap:,} Gaussians, as many as densification.cap_max or memory allow") == 1
    assert 3500 < len(run.state.params["means"]) <= cap


# ------------------------------------------------------------------------------------------------------------- GPU


@pytest.mark.gpu
def test_a_gpu_tells_what_is_free_to_this_process():
    cuda = torch.device("cuda")
    torch.cuda.empty_cache()
    before = memory.free_memory(cuda)
    block = torch.empty(256 * MIB, dtype=torch.uint8, device=cuda)
    assert before - memory.free_memory(cuda) == pytest.approx(256 * MIB, abs=64 * MIB)
    del block
    assert memory.free_memory(cuda) == pytest.approx(before, abs=64 * MIB), "what torch keeps is free"
    torch.cuda.set_per_process_memory_fraction(0.01)
    try:
        limit = 0.01 * torch.cuda.mem_get_info()[1]
        assert memory.free_memory(cuda) == pytest.approx(limit - torch.cuda.memory_allocated(), abs=MIB)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.gpu
@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("adam", ["lazy", "dense"])
def test_a_run_grows_to_its_cap_in_little_memory(demo_scene, tmp_path, adam):
    """Every visible Gaussian grows, ten times over: without a cap that is more than fits."""
    torch.cuda.empty_cache()
    room = 768 * MIB
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + room) / torch.cuda.mem_get_info()[1])
    changes = {
        **DENSE_SCHEDULE, "train.device": "cuda", "train.iterations": 160, "densification.stop": 150,
        "densification.grad_threshold": 1e-9, "densification.opacity_reset_every": 1000, "optim.adam": adam,
    }  # fmt: skip
    try:
        run = Trainer(demo_config(demo_scene, tmp_path, changes))
        assert run.run() == 0
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    text = (tmp_path / "train.log").read_text()
    assert "out of memory" not in text and text.count("as many as densification.cap_max or memory allow") == 1
    assert 0.5 * room / 950 < len(run.state.params["means"]) < room / 720
