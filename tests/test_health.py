"""NaN and infinity in a run: found, named, dropped, gone back on, or an end with one clear message."""

import json
import math
import re
from collections.abc import Callable

import pytest
import torch
from demo_runs import DENSE_SCHEDULE, demo_config

from distwar_gs.checkpoints import checkpoint
from distwar_gs.cli import run_cli
from distwar_gs.config import OptimConfig
from distwar_gs.gaussians.optimizer import make_optimizers, step_all
from distwar_gs.training import step as training_step
from distwar_gs.training.health import find
from distwar_gs.training.trainer import Trainer, TrainingError

pytestmark = pytest.mark.usefixtures("in_process")

SHAPES = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3), "shN": (15, 3)}
VALUES = (math.nan, math.inf, -math.inf)


# ------------------------------------------------------------------------------------------------------- finding


def model(count: int = 9, degree: int = 3):
    shapes = SHAPES | {"shN": ((degree + 1) ** 2 - 1, 3)}
    params = {name: torch.nn.Parameter(torch.randn(count, *shape)) for name, shape in shapes.items()}
    optimizers = make_optimizers(params, OptimConfig(), 1.0)
    for param in params.values():
        param.grad = torch.ones_like(param)
    step_all(optimizers)
    return params, optimizers


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", SHAPES)
def test_every_parameter_is_looked_at(name, value):
    params, optimizers = model()
    assert find(1, 5, params, optimizers, []) is None
    for row in (2, 7):
        params[name].data[row].reshape(-1)[-1] = value
    found = find(1, 5, params, optimizers, [])
    assert found.tensors == (name,) and found.broken.nonzero().squeeze(1).tolist() == [2, 7] and found.count == 2
    assert str(found) == f"step 5: 2 Gaussians are not finite ({name}, since step 1 at the earliest)"


@pytest.mark.parametrize("key", ["exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("name", SHAPES)
def test_gradients_show_in_the_moments(name, key):
    params, optimizers = model()
    optimizers[name].state[params[name]][key][4].fill_(math.nan)
    found = find(5, 5, params, optimizers, [])
    assert str(found) == f"step 5: 1 Gaussians are not finite (gradients of {name})"
    assert found.broken.nonzero().item() == 4


def test_several_tensors_of_one_gaussian_are_one_gaussian():
    params, optimizers = model()
    params["scales"].data[1], params["quats"].data[1], params["sh0"].data[3] = math.nan, math.inf, -math.inf
    found = find(1, 2, params, optimizers, [])
    assert found.tensors == ("quats", "scales", "sh0") and found.count == 2


def test_losses_are_known_by_their_step_and_view():
    params, optimizers = model()
    recorded = [(step, 10 * step, torch.tensor(0.1)) for step in range(1, 6)]
    assert find(1, 5, params, optimizers, recorded) is None
    recorded[2] = (3, 30, torch.tensor(math.nan))
    found = find(1, 5, params, optimizers, recorded)
    assert found.losses[0][:2] == (3, 30) and found.count == 0 and not found.broken.any()
    assert str(found) == "step 5: the loss of step 3 is nan"


def test_large_numbers_are_finite():
    params, optimizers = model()
    params["means"].data[0, 0] = 1e30  # its square is not
    assert find(1, 5, params, optimizers, []) is None


def test_no_harmonics_and_no_moments_yet():
    params, _ = model(degree=0)
    optimizers = make_optimizers(params, OptimConfig(), 1.0)
    assert find(0, 0, params, optimizers, []) is None


# ---------------------------------------------------------------------------------------------------- mending a run


def poison(run: Trainer, rows: slice, name: str = "scales", value: float = math.nan) -> None:
    run.state.params[name].data[rows] = value


@pytest.fixture
def make(demo_scene, tmp_path):
    def make(**changes) -> Trainer:
        dotted = {name.replace("__", "."): value for name, value in changes.items()}
        return Trainer(demo_config(demo_scene, tmp_path / "run", {"log.every": 5, "train.iterations": 20} | dotted))

    return make


@pytest.fixture
def after_step(monkeypatch):
    """Does something to a run right after a step, once: after_step(7, work)."""

    def after_step(number: int, work: Callable[[Trainer], None], times: int = 1) -> None:
        real, left = Trainer.train_step, [times]

        def spy(self, step):
            real(self, step)
            if step == number and left[0] > 0:
                left[0] -= 1
                work(self)

        monkeypatch.setattr(Trainer, "train_step", spy)

    return after_step


def log_of(run: Trainer) -> str:
    return (run.folder / "train.log").read_text()


def assert_finite(tensors: dict[str, torch.Tensor]) -> None:
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_a_few_broken_gaussians_are_dropped_and_training_goes_on(make, after_step):
    run = make()
    after_step(7, lambda run: (poison(run, slice(10, 22)), poison(run, slice(12, 15), "quats", math.inf)))
    assert run.run() == 0 and run.state.step == 20
    told = (
        r"step 10: 12 Gaussians are not finite \(.*quats, scales.*, since step 6 at the earliest\); dropped, 2,996 are"
    )
    assert len(re.findall(told, log_of(run))) == 1
    assert len(run.state.params["means"]) == len(run.state.strategy.state["count"]) == 2996
    assert_finite(run.state.params)
    assert checkpoint.load_checkpoint(run.checkpoints.last, "cpu").params["means"].shape == (2996, 3)
    assert math.isfinite(json.loads((run.folder / "metrics.json").read_text())[-1]["psnr"])


def test_the_others_train_on_as_if_the_broken_had_been_gone(make, after_step, tmp_path):
    """The same run with Gaussians that are transparent from the same step on, and so unseen, is the same run."""
    models = {}
    for kind, name, value in (("broken", "scales", math.nan), ("unseen", "opacities", -30.0)):
        run = make(train__result_dir=str(tmp_path / kind), log__every=100)
        after_step(7, lambda run, name=name, value=value: poison(run, slice(100, 110), name, value))
        run.run()
        models[kind] = run.state.params
    # The last ones fill the places of those dropped.
    rest = torch.cat([torch.arange(100), torch.arange(2998, 3008), torch.arange(110, 2998)])
    for name, param in models["broken"].items():
        assert torch.equal(param, models["unseen"][name][rest]), name


def test_growth_does_not_hide_what_is_broken(make, after_step):
    """A refinement removes what is not finite, but it is said first."""
    run = make(log__every=1000, **{key.replace(".", "__"): value for key, value in DENSE_SCHEDULE.items()})
    after_step(8, lambda run: poison(run, slice(3)))
    run.run()
    assert re.search(r"step 10: 3 Gaussians are not finite \(.*scales", log_of(run))


def test_many_broken_gaussians_send_the_run_back_to_its_checkpoint(make, after_step):
    run = make(train__checkpoint_iterations=[6])
    after_step(12, lambda run: poison(run, slice(0, 2000)))
    assert run.run() == 0 and run.state.step == 20
    assert re.search(r"step 15: 2,000 Gaussians are not finite \(.*scales, .*\); back to .*step_6\.pt", log_of(run))
    assert len(run.state.params["means"]) == 3008
    assert_finite(run.state.params)
    for name, optimizer in run.state.optimizers.items():
        state = optimizer.state[run.state.params[name]]
        assert state["step"] == 20 and state["exp_avg"].isfinite().all()
    assert sorted(path.name for path in (run.folder / "checkpoints").glob("*.pt")) == ["step_20.pt", "step_6.pt"]


def test_many_broken_gaussians_are_dropped_where_there_is_no_checkpoint(make, after_step):
    run = make()
    after_step(12, lambda run: poison(run, slice(0, 2000)))
    assert run.run() == 0
    assert len(run.state.params["means"]) == 1008 and "dropped, 1,008 are left" in log_of(run)


def test_a_checkpoint_of_another_run_in_the_folder_is_none_to_go_back_to(make, after_step):
    make(train__iterations=4).run()
    run = make()
    after_step(12, lambda run: poison(run, slice(0, 2000)))
    run.run()
    assert "back to" not in log_of(run) and len(run.state.params["means"]) == 1008


def test_if_all_are_broken_and_nothing_is_saved_the_run_ends_with_one_message(make, after_step, capsys):
    run = make()
    after_step(7, lambda run: poison(run, slice(None), "means"))
    with pytest.raises(SystemExit) as stopped:
        run_cli(lambda _: run.run(), [])
    error = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 1 and error.startswith("error: step 10: 3,008 Gaussians are not finite (means")
    assert "There is no checkpoint: start anew" in error
    assert not (run.folder / "checkpoints").exists()


def test_broken_models_never_replace_a_checkpoint(make, after_step):
    run = make(train__checkpoint_iterations=[4], train__max_repairs=0)
    after_step(7, lambda run: poison(run, slice(None), "means"))
    with pytest.raises(TrainingError, match=r"The last checkpoint is .*step_4\.pt: continue with --resume auto"):
        run.run()
    with pytest.raises(TrainingError, match="that is all of them, so nothing is saved"):
        run.checkpoints.save()
    assert (run.folder / "checkpoints/latest").read_text() == "step_4.pt\n"


def test_repairs_are_bounded_and_what_is_sound_is_saved(make, after_step):
    run = make(train__max_repairs=2, log__every=1)
    for step in (5, 6, 7):
        after_step(step, lambda run: poison(run, slice(4)))
    with pytest.raises(TrainingError, match=r"step 7: 4 .*; dropped 2 times and gone back 0 times .*step_7\.pt") as e:
        run.run()
    assert "--resume auto" in str(e.value)
    saved = checkpoint.load_checkpoint(run.checkpoints.last, "cpu")
    assert saved.step == 7 and len(saved.params["means"]) == 3008 - 12
    assert_finite(saved.params)


def test_going_back_is_bounded(make, after_step):
    run = make(train__max_repairs=2, train__checkpoint_iterations=[3], log__every=1)
    after_step(7, lambda run: poison(run, slice(2000)), times=99)
    after_step(5, lambda run: poison(run, slice(2)), times=99)
    with pytest.raises(TrainingError, match="dropped 2 times and gone back 2 times"):
        run.run()
    assert log_of(run).count("back to") == 2


# ------------------------------------------------------------------------------------------------------- the loss


def break_photo(monkeypatch, run: Trainer, index: int, value: float, from_step: int) -> None:
    """Makes loss and gradient of a training view not finite."""
    real = training_step.photometric_gradients

    def loss(image, photo, *rest, **options):
        gradients, losses = real(image, photo, *rest, **options)
        if run.state.step + 1 >= from_step and torch.equal(photo, run.batches.images[index]):
            broken = {name: gradient * value for name, gradient in gradients.items()}
            return broken, {**losses, "loss": losses["loss"] * value}
        return gradients, losses

    monkeypatch.setattr(training_step, "photometric_gradients", loss)


def test_a_photo_without_a_finite_loss_is_named(make, monkeypatch):
    run = make(train__iterations=40, train__checkpoint_iterations=[2])
    break_photo(monkeypatch, run, 3, math.nan, from_step=3)
    name = run.scene.train[3].name
    with pytest.raises(TrainingError, match=rf"step \d+: the loss of {name} is nan, .*look at this photo") as e:
        run.run()
    assert "step_2.pt" in str(e.value)
    assert (run.folder / "checkpoints/latest").read_text() == "step_2.pt\n"


def test_a_loss_that_is_not_finite_once_is_overcome(make, monkeypatch):
    """All that its view shows has no finite gradient then: that is more than a few, so the run goes back."""
    run = make(train__checkpoint_iterations=[4])
    real, calls = training_step.photometric_gradients, []

    def loss(image, photo, *rest, **options):
        gradients, losses = real(image, photo, *rest, **options)
        calls.append(run.state.step)
        factor = math.inf if calls.count(7) == 1 and run.state.step == 7 else 1.0
        broken = {name: gradient * factor for name, gradient in gradients.items()}
        return broken, {**losses, "loss": losses["loss"] * factor}

    monkeypatch.setattr(training_step, "photometric_gradients", loss)
    assert run.run() == 0
    assert re.search(r"step 10: the loss of step 8 is inf; [\d,]+ Gaussians .*back to .*step_4\.pt", log_of(run))
    assert_finite(run.state.params)
    assert run.state.step == 20


def test_the_progress_line_recovers_from_an_image_that_was_not_finite(make):
    run = make()
    run.open()
    for psnr in (math.nan, 20.0, 30.0):
        run.monitor._show(5, 0.1, psnr, 7, {"memory/resident_mib": 1.0})
    assert run.monitor._psnr == pytest.approx(21.0)
    run.monitor.close()


# ------------------------------------------------------------------------------------------------------------- GPU


def adam_of(name: str) -> dict[str, str]:
    """The settings of a run with this Adam; where what is not seen is left out, by a strategy that allows it."""
    return {"optim__adam": name, "densification__strategy": "adc" if name == "visible" else "guided"}


@pytest.mark.gpu
@pytest.mark.parametrize("adam", ["visible", "lazy", "dense"])
def test_silent_steps_never_wait(make, adam, monkeypatch):
    """With everything that is looked at at published steps on."""
    run = make(train__device="cuda", log__every=10, train__iterations=40, **adam_of(adam))
    real = Trainer.train_step

    def step(self, number):
        silent = number > 12 and not self.monitor.is_published(number) and not self.state.strategy.is_due(number - 1)
        torch.cuda.set_sync_debug_mode("error" if silent else "default")
        try:
            real(self, number)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        waited.append(not silent)

    waited: list[bool] = []
    monkeypatch.setattr(Trainer, "train_step", step)
    assert run.run() == 0 and waited.count(False) > 20


@pytest.mark.gpu
@pytest.mark.parametrize("rasterizer", ["fused", "gsplat"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_run_on_a_gpu_recovers(make, after_step, name, rasterizer):
    run = make(train__device="cuda", train__rasterizer=rasterizer)
    after_step(7, lambda run: poison(run, slice(10, 22), name))
    assert run.run() == 0
    assert "step 10: 12 Gaussians are not finite" in log_of(run) and len(run.state.params["means"]) == 2996
    assert_finite(run.state.params)


@pytest.mark.gpu
@pytest.mark.parametrize("adam", ["visible", "lazy", "dense"])
def test_a_run_on_a_gpu_goes_back(make, after_step, adam):
    run = make(train__device="cuda", train__checkpoint_iterations=[6], **adam_of(adam))
    after_step(12, lambda run: poison(run, slice(0, 2000)))
    assert run.run() == 0 and "back to" in log_of(run)
    assert len(run.state.params["means"]) == 3008 and all(param.is_cuda for param in run.state.params.values())
    assert_finite(run.state.params)
