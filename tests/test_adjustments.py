"""The seam for what is learned beside the Gaussians: a step walks through adjustments, checkpoints keep them."""

import pytest
import torch
from demo_runs import demo_config
from torch import Tensor

from distwar_gs.adjust import base
from distwar_gs.checkpoints.checkpoint import load_checkpoint
from distwar_gs.training.trainer import Trainer
from distwar_kernels import Cameras

pytestmark = pytest.mark.usefixtures("in_process")


class Gain:
    """A factor for each photo, learned by plain gradient descent."""

    name = "gain"

    def __init__(self, views: int, rate: float = 0.5) -> None:
        self.gains, self.rate = torch.ones(views), rate
        self.calls: list[str] = []

    def camera(self, view: int, camera: Cameras) -> Cameras:
        self.calls.append("camera")
        return camera

    def image(self, view: int, image: Tensor) -> Tensor:
        self.calls.append("image")
        self._last = view, image
        return self.gains[view] * image

    def backward(self, v_image: Tensor) -> Tensor:
        self.calls.append("backward")
        view, image = self._last
        self._v_gain = (v_image * image).sum()
        return self.gains[view] * v_image

    def step(self, share: float) -> None:
        self.calls.append("step")
        view, _ = self._last
        self.gains[view] -= self.rate * self._v_gain

    def state_dict(self) -> dict[str, Tensor]:
        return {"gains": self.gains}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if state["gains"].shape != self.gains.shape:
            raise ValueError(f"gains of {len(state['gains'])} photos, there are {len(self.gains)}")
        self.gains = state["gains"].clone()


@pytest.fixture
def make(demo_scene, tmp_path, monkeypatch):
    """A run with these adjustments: make("folder", [make_adjustment], {"key": value})."""

    def make(folder: str, makers: list, changes: dict | None = None) -> Trainer:
        monkeypatch.setattr(base, "ADJUSTMENTS", tuple(makers))
        return Trainer(demo_config(demo_scene, tmp_path / folder, {"train.iterations": 12} | (changes or {})))

    return make


def gain(rate: float = 0.5):
    return lambda config, scene, device: Gain(len(scene.train), rate)


def log_of(run: Trainer) -> str:
    return (run.folder / "train.log").read_text()


def same_models(one: Trainer, two: Trainer) -> bool:
    return all(torch.equal(param, two.state.params[name]) for name, param in one.state.params.items())


def test_a_step_walks_through_the_adjustments_and_back(make):
    run = make("run", [lambda *_: None, gain()], {"train.iterations": 2})
    run.run()
    (adjustment,) = run.state.adjustments
    assert adjustment.calls == ["camera", "image", "backward", "step"] * 2


def test_gains_that_do_not_move_change_nothing(make):
    assert same_models(*(run for run in (make("a", []), make("b", [gain(0.0)])) if run.run() == 0))


def test_two_gains_are_their_product(make):
    """Each hands the gradient on: with factors 2 and 0.5 the run is the one without."""

    def fixed(factor: float):
        def maker(config, scene, device):
            made = Gain(len(scene.train), 0.0)
            made.gains.fill_(factor)
            made.name = f"gain_{factor}"
            return made

        return maker

    plain, both, one = make("plain", []), make("both", [fixed(2.0), fixed(0.5)]), make("one", [fixed(2.0)])
    for run in (plain, both, one):
        run.run()
    assert same_models(plain, both) and not same_models(plain, one)


def test_the_camera_of_a_view_may_be_another(make):
    """A run whose adjustment shows each view through the camera of the next is not the run without."""

    class Moved(Gain):
        def camera(self, view, camera):
            return run.batches.cameras[(view + 1) % len(run.batches.cameras)]

    run = make("moved", [lambda config, scene, device: Moved(len(scene.train), 0.0)])
    run.run()
    plain = make("plain", [])
    plain.run()
    assert not same_models(plain, run)


def test_gains_are_learned_and_go_on_with_the_run(make):
    """12 steps are 6 and 6 more, gains included; dark photos get smaller ones."""
    adc = {"densification.strategy": "adc"}  # of which no rate follows the length of the run
    whole = make("whole", [gain()], adc)
    whole.run()
    make("parts", [gain()], adc | {"train.iterations": 6}).run()
    second = make("parts", [gain()], adc | {"train.resume": "auto"})
    assert second.state.step == 6 and second.run() == 0
    gains = whole.state.adjustments[0].gains
    assert gains.std() > 1e-4 and torch.equal(gains, second.state.adjustments[0].gains)
    assert same_models(whole, second)
    saved = load_checkpoint(whole.folder / "checkpoints/step_12.pt", "cpu")
    assert torch.equal(saved.parts["adjust.gain"]["gains"], gains)


def test_an_adjustment_that_comes_later_starts_anew_and_one_that_goes_is_ignored(make):
    make("run", [], {"train.iterations": 4}).run()
    later = make("run", [gain()], {"train.iterations": 8, "train.resume": "auto"})
    assert later.run() == 0
    assert log_of(later).count("adjust.gain starts anew: the checkpoint of step 4 has none") == 1
    without = make("run", [], {"train.resume": "auto"})
    assert without.run() == 0 and without.state.step == 12
    assert log_of(without).count("the checkpoint's part adjust.gain is ignored: this run has none") == 1


def test_an_adjustment_of_other_photos_is_refused(make):
    make("run", [gain()], {"train.iterations": 4}).run()
    fewer = [lambda config, scene, device: Gain(3)]
    with pytest.raises(ValueError, match="does not fit itself: gains of 14 photos, there are 3"):
        make("run", fewer, {"train.resume": "auto"})


def test_going_back_takes_the_gains_too(make):
    """More than a few Gaussians break after step 8: model and gains are again those of step 6."""
    seen: dict[str, Tensor] = {}

    class Breaking:
        needs_finite = False

        def is_due(self, step):
            return step in (6, 8) and len(seen) < 2

        def after_step(self, step, state):
            seen[str(step)] = state.adjustments[0].gains.clone()
            if step == 8:
                state.params["means"].data[:2000] = torch.nan

    changes = {"train.checkpoint_iterations": [6], "train.iterations": 9, "log.every": 3}
    run = make("run", [gain()], changes)
    run.open = lambda real=run.open: (real(), run.hooks.append(Breaking()))
    real, after = run.state.go_back, []
    run.state.go_back = lambda saved: (real(saved), after.append(run.state.adjustments[0].gains.clone()))
    assert run.run() == 0 and "back to" in log_of(run)
    assert torch.equal(after[0], seen["6"]) and not torch.equal(after[0], seen["8"])
