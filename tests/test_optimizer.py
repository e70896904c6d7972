"""Learning rates, and that surgery on parameters never lets the Adam state get out of step."""

import copy
import math

import pytest
import torch
from torch.nn import Parameter

from distwar_gs.config import OptimConfig
from distwar_gs.gaussians.optimizer import (
    edit,
    load_state_dicts,
    make_optimizers,
    means_lr,
    set_learning_rates,
    state_dicts,
    step_all,
)

SHAPES = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3), "shN": (15, 3)}


def gaussians(count: int = 7, seed: int = 0) -> dict[str, Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {name: Parameter(torch.randn(count, *shape, generator=generator)) for name, shape in SHAPES.items()}


def train(params, optimizers, steps: int, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for param in params.values():
            param.grad = torch.randn(param.shape, generator=generator)
        step_all(optimizers)


def test_means_lr_is_log_linear_between_its_ends():
    config = OptimConfig(means_lr=1e-2, means_lr_final=1e-4, means_lr_steps=100)
    assert means_lr(0, config, 2.0) == pytest.approx(2e-2)
    assert means_lr(50, config, 2.0) == pytest.approx(2e-3)
    assert means_lr(25, config, 1.0) == pytest.approx(10**-2.5)
    assert means_lr(100, config, 2.0) == means_lr(5000, config, 2.0) == pytest.approx(2e-4)


def test_every_parameter_gets_its_own_rate():
    config = OptimConfig()
    optimizers = make_optimizers(gaussians(), config, extent=3.0)
    rates = set_learning_rates(optimizers, config.means_lr_steps, config, extent=3.0)
    assert rates == pytest.approx(
        {"means": 4.8e-6, "quats": 1e-3, "scales": 5e-3, "opacities": 2.5e-2, "sh0": 2.5e-3, "shN": 1.25e-4}
    )
    assert all(optimizer.param_groups[0]["eps"] == 1e-15 for optimizer in optimizers.values())


def test_all_rates_but_the_positions_fall_over_the_end_of_a_run():
    config = OptimConfig(rates_final=0.01, rates_decay_start=0.6)
    optimizers = make_optimizers(gaussians(), config, extent=3.0)
    whole = set_learning_rates(optimizers, 1, config, 3.0)
    for share, factor in ((0.0, 1.0), (0.6, 1.0), (0.8, 0.1), (1.0, 0.01), (0.3, 1.0)):
        rates = set_learning_rates(optimizers, 1, config, 3.0, share)
        wanted = {name: rate if name == "means" else factor * rate for name, rate in whole.items()}
        assert rates == pytest.approx(wanted, rel=1e-12), share
        assert rates == {name: optimizer.param_groups[0]["lr"] for name, optimizer in optimizers.items()}
    for stays in (OptimConfig(), OptimConfig(rates_final=0.5, rates_decay_start=1.0)):
        assert set_learning_rates(optimizers, 1, stays, 3.0, 1.0) == whole


def test_the_first_step_moves_by_the_rate():
    params = gaussians()
    before = params["means"].detach().clone()
    optimizers = make_optimizers(params, OptimConfig(), extent=2.0)
    train(params, optimizers, 1)
    torch.testing.assert_close((params["means"] - before).abs(), torch.full((7, 3), 3.2e-4), rtol=1e-2, atol=0)
    assert params["means"].grad is None


def test_edit_before_the_first_step():
    params = gaussians()
    optimizers = make_optimizers(params, OptimConfig(), 1.0)
    rows = torch.tensor([3, 3, 0])
    edit(params, optimizers, params, lambda name, old: old[rows], lambda key, old: old[rows])
    assert all(len(param) == 3 and param.requires_grad and param.is_leaf for param in params.values())
    assert all(optimizer.param_groups[0]["params"][0] is params[name] for name, optimizer in optimizers.items())
    train(params, optimizers, 2)


def test_edit_equals_training_the_rows_alone():
    """Removing rows and going on must give what those rows would have become anyway: moments and step count kept."""
    whole, part = gaussians(), gaussians()
    of_whole, of_part = (make_optimizers(params, OptimConfig(), 1.0) for params in (whole, part))
    train(whole, of_whole, 5)
    train(part, of_part, 5)
    rows = torch.tensor([6, 2, 4])
    edit(part, of_part, list(part), lambda name, old: old[rows], lambda key, old: old[rows])
    for name in whole:
        whole[name].grad = torch.arange(whole[name].numel(), dtype=torch.float32).reshape(whole[name].shape).sin()
        part[name].grad = whole[name].grad[rows]
    step_all(of_whole)
    step_all(of_part)
    for name in whole:
        torch.testing.assert_close(part[name].detach(), whole[name].detach()[rows], rtol=0, atol=0)
        state = of_part[name].state[part[name]]
        assert state["step"].item() == 6 and len(of_part[name].state) == 1


def test_edited_parameters_wait_for_a_gradient():
    params = gaussians()
    optimizers = make_optimizers(params, OptimConfig(), 1.0)
    train(params, optimizers, 2)
    params["opacities"].grad = torch.ones(7)
    edit(params, optimizers, ["opacities"], lambda name, old: old - 1, lambda key, old: torch.zeros_like(old))
    edited = params["opacities"].detach().clone()
    step_all(optimizers)
    assert torch.equal(params["opacities"].detach(), edited)


def test_moments_of_another_shape_are_refused():
    params = gaussians()
    optimizers = make_optimizers(params, OptimConfig(), 1.0)
    train(params, optimizers, 1)
    with pytest.raises(ValueError, match="sh0: exp_avg"):
        edit(params, optimizers, ["sh0"], lambda name, old: old[:2], lambda key, old: old[:3])


def test_no_higher_harmonics():
    params = gaussians()
    params["shN"] = Parameter(torch.zeros(7, 0, 3))
    optimizers = make_optimizers(params, OptimConfig(), 1.0)
    train(params, optimizers, 2)
    edit(params, optimizers, params, lambda name, old: old[:2], lambda key, old: old[:2])
    train(params, optimizers, 1)


def test_states_continue_under_the_own_config():
    first, second = gaussians(), gaussians()
    of_first = make_optimizers(first, OptimConfig(), 1.0)
    train(first, of_first, 3)
    second = {name: Parameter(param.detach().clone()) for name, param in first.items()}
    of_second = make_optimizers(second, OptimConfig(sh0_lr=1.0), 1.0)
    load_state_dicts(of_second, copy.deepcopy(state_dicts(of_first)))
    assert of_second["sh0"].param_groups[0]["lr"] == 1.0
    train(first, of_first, 2, seed=9)
    train(second, of_second, 2, seed=9)
    for name in SHAPES:
        assert torch.equal(first[name], second[name]) == (name != "sh0")


def test_states_of_other_parameters_are_refused():
    small, large = gaussians(3), gaussians(4)
    of_small, of_large = (make_optimizers(params, OptimConfig(), 1.0) for params in (small, large))
    train(small, of_small, 1)
    with pytest.raises(ValueError, match="means .* shape"):
        load_state_dicts(of_large, state_dicts(of_small))
    with pytest.raises(ValueError, match="do not fit"):
        load_state_dicts(of_large, {"means": state_dicts(of_small)["means"]})


def test_log_of_the_schedule_is_straight():
    config = OptimConfig()
    logs = [math.log(means_lr(step, config, 1.0)) for step in (0, 10_000, 20_000, 30_000)]
    steps = [b - a for a, b in zip(logs, logs[1:], strict=False)]
    assert max(steps) - min(steps) < 1e-9 and steps[0] < 0
