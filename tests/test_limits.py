"""Limits to the shapes of Gaussians: what is shortened, and runs."""

import pytest
import torch
from demo_runs import demo_config
from torch import Tensor

from distwar_gs.formats.export import load_ply
from distwar_gs.training.limits import EVERY, limit_scales
from distwar_gs.training.trainer import Trainer


def ratios(scales: Tensor) -> Tensor:
    """Longest axis over the middle one."""
    ordered = scales.detach().sort(dim=1).values
    return (ordered[:, 2] - ordered[:, 1]).exp()


def test_needles_are_shortened_and_disks_stay():
    scales = torch.tensor([[1.0, 20.0, 2.0], [3.0, 3.0, 0.001], [50.0, 0.1, 0.1], [1.0, 1.0, 1.0]]).log()
    limit_scales(scales, 5.0, 0.0)
    expected = torch.tensor([[1.0, 10.0, 2.0], [3.0, 3.0, 0.001], [0.5, 0.1, 0.1], [1.0, 1.0, 1.0]])
    torch.testing.assert_close(scales.exp(), expected)


def test_giants_are_made_smaller():
    scales = torch.tensor([[1.0, 0.2, 0.1], [0.3, 0.3, 0.3]]).log()
    limit_scales(scales, 0.0, 0.4)
    torch.testing.assert_close(scales.exp(), torch.tensor([[0.4, 0.2, 0.1], [0.3, 0.3, 0.3]]))


def test_none_and_no_limit():
    scales = torch.randn(5, 3)
    before = scales.clone()
    limit_scales(scales, 0.0, 0.0)
    assert torch.equal(scales, before)
    limit_scales(torch.zeros(0, 3), 2.0, 1.0)


@pytest.fixture
def make(demo_scene, tmp_path, in_process):
    """A run on the CPU: make("folder", {"key": value})."""

    def make(folder: str, changes: dict) -> Trainer:
        values = {"train.iterations": EVERY + 6, "data.resolution": 2, "model.init_scale": 3.0} | changes
        return Trainer(demo_config(demo_scene, tmp_path / folder, values))

    return make


def test_off_there_is_no_hook(make):
    run = make("run", {"train.iterations": 2})
    run.open()
    assert "Limits" not in [type(hook).__name__ for hook in run.hooks]


@pytest.mark.parametrize(
    "strategy", ["guided", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mcmc", "adc"))]
)
def test_models_keep_to_the_limits_and_go_on_to_the_same_bits(make, strategy):
    """What a run saves and what it measured are within the limits; with a break it is the same."""
    changes = {
        "densification.strategy": strategy, "limits.needle": 1.1, "limits.size": 0.1, "optim.scales_lr": 0.05,
        "train.checkpoint_iterations": [EVERY - 3],
    }  # fmt: skip
    whole = make("whole", changes)
    assert whole.run() == 0
    second = make("second", changes | {"train.resume": str(whole.folder / f"checkpoints/step_{EVERY - 3}.pt")})
    assert second.state.step == EVERY - 3 and float(ratios(second.state.params["scales"]).max()) > 1.1
    assert second.run() == 0
    assert all(torch.equal(param, second.state.params[name]) for name, param in whole.state.params.items())
    ply = next(whole.folder.glob("point_cloud/*/point_cloud.ply"))
    saved = load_ply(ply, whole.scene.normalisation)["scales"]
    assert float(ratios(saved).max()) == pytest.approx(1.1, abs=1e-4)
    assert float(saved.exp().max()) < 0.1001 * whole.state.extent


def test_the_fused_engine_keeps_to_them_too(make, monkeypatch, emulated_fused_ops):
    """With lazy Adam, whose Gaussians lack steps, also those that no view has shown."""
    import emulated_fused

    from distwar_gs.engines.fused_engine import FusedEngine
    from distwar_kernels.fused import capacity

    emulated_fused.pretend_cuda(monkeypatch)
    monkeypatch.setattr(capacity, "_GRAIN", 64)
    run = make("run", {"train.iterations": 3, "data.resolution": 4, "limits.needle": 1.01, "optim.scales_lr": 0.05})
    state = run.state
    state.engine = FusedEngine(state.params, state.optimizers, state.strategy, state.settings)
    assert run.run() == 0
    assert float(ratios(state.params["scales"]).max()) == pytest.approx(1.01, abs=1e-4)
