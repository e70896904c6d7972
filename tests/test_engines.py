"""Both engines make the same step of the same training: image, statistics, parameters, moments."""

import pytest
import torch
from demo_runs import demo_config
from fused_scenes import random_params, random_view, weights
from random_scenes import assert_below, relative_l2
from test_fused import error_map, expected_error_sums
from torch import Tensor

from distwar_gs.checkpoints.checkpoint import load_checkpoint
from distwar_gs.config import Config
from distwar_gs.engines.base import ComposedEngine, ComposedRendered, Engine
from distwar_gs.engines.fused_engine import FusedEngine
from distwar_gs.engines.timing import NoTimer
from distwar_gs.evaluation.losses import photometric_gradient, photometric_gradients
from distwar_gs.gaussians.edits import drop_rows
from distwar_gs.gaussians.model import as_parameters
from distwar_gs.gaussians.optimizer import load_state_dicts, make_optimizers, moments_of, set_steps, state_dicts
from distwar_gs.rendering.renderer import COMPOSED, RenderSettings
from distwar_gs.strategies.adaptive import Densifier
from distwar_gs.training.trainer import Trainer
from distwar_kernels.fused import capacity

WIDTH, HEIGHT = 40, 33
CONFIG = Config()


class Training:
    """A model and an engine, without scene and files."""

    def __init__(self, kind: str, device: torch.device, **options: object) -> None:
        view = random_view(1, WIDTH, HEIGHT)
        self.params = as_parameters(random_params(50, 3), device)
        self.optimizers = make_optimizers(self.params, CONFIG.optim, 1.0)
        self.strategy = Densifier(50, device, 1.0, CONFIG.densification, False)
        planes = (view.options.near_plane, view.options.far_plane)
        settings = RenderSettings(*planes, absgrad=bool(options.pop("absgrad", False)), rasterizer=kind)
        make = {"composed": ComposedEngine, "fused": FusedEngine}[kind]
        self.engine: Engine = make(self.params, self.optimizers, self.strategy, settings, **options)
        self.camera, drawing = view.to(device)
        self.background = drawing.background
        g = torch.Generator().manual_seed(7)
        self.photo = torch.randint(0, 256, (HEIGHT, WIDTH, 3), generator=g).to(torch.uint8).to(device)

    def step(self, step: int) -> Tensor:
        rendered = self.engine.forward(step, self.camera, 3, self.background)
        v_image, _ = photometric_gradient(rendered.image, self.photo, 0.2)
        self.engine.update(rendered, {"image": v_image}, NoTimer())
        return rendered.image.detach()

    def look(self, step: int) -> Tensor:
        return self.engine.look(step, self.camera, 3, self.background).colors[0]

    def optimizers_at(self, step: int) -> None:
        """As if so many steps had been made, none of which had a gradient."""
        moments_of(self.optimizers, list(self.params))
        set_steps(self.optimizers, step - 1)

    def state(self) -> dict[str, Tensor]:
        state = {name: param.detach() for name, param in self.params.items()}
        for name, optimizer in self.optimizers.items():
            moments = optimizer.state.get(self.params[name], {})
            state |= {f"{name}.{key}": moments[key] for key in ("exp_avg", "exp_avg_sq") if key in moments}
        return {name: tensor.cpu().clone() for name, tensor in (state | self.strategy.state).items()}


def assert_near(actual: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name, tensor in wanted.items():
        scale = float(tensor.abs().max()) or 1.0
        # Adam's first steps divide a gradient by its own size: where that is next to nothing, so is what it is worth.
        torch.testing.assert_close(
            actual[name], tensor, rtol=2e-3, atol=1e-4 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("absgrad", [False, True])
@pytest.mark.parametrize("adam", ["lazy", "visible", "dense"])
def test_a_first_step_is_the_same_by_both(device, adam, absgrad):
    fused = Training("fused", device, adam=adam, absgrad=absgrad)
    composed = Training("composed", torch.device("cpu"), absgrad=absgrad)
    torch.testing.assert_close(fused.step(1).cpu(), composed.step(1), rtol=1e-4, atol=1e-5)
    actual, wanted = fused.state(), composed.state()
    # At the image's border they count others: whose box touches the image, or whose ellipse touches a tile.
    seen = wanted["grad2d"] > 0
    assert torch.equal(actual["count"][seen], wanted["count"][seen])
    del wanted["count"]
    assert_near(actual, wanted)


def test_both_know_how_much_of_an_image_is_covered(device):
    coverages = []
    for training in (Training("fused", device), Training("composed", torch.device("cpu"))):
        coverages.append(training.engine.forward(1, training.camera, 3, training.background).coverage())
    assert coverages[0] == pytest.approx(coverages[1], abs=0.01) and 0.1 < coverages[0] < 1


@pytest.mark.parametrize("adam", ["lazy", "visible", "dense"])
def test_training_goes_on_with_fewer_gaussians(device, adam):
    """As it would have without the others' light: what is dropped was not drawn."""
    trainings = [Training("fused", device, adam=adam) for _ in range(2)]
    for training, value in zip(trainings, (torch.nan, -30.0), strict=True):  # broken, or transparent
        training.step(1)
        training.engine.settle(1)
        training.params["opacities"].data[:10] = value
        training.step(2)
        training.engine.settle(2)
    gone = torch.arange(50, device=device) < 10
    drop_rows(trainings[0].params, trainings[0].optimizers, trainings[0].strategy.state, gone)
    images = [training.step(3) for training in trainings]
    torch.testing.assert_close(images[0], images[1], rtol=1e-4, atol=1e-5)
    fewer, all_of_them = (training.state() for training in trainings)
    rows = [*range(40, 50), *range(10, 40)]  # the last ones fill the places of those dropped
    assert_near(fewer, {name: tensor[rows] for name, tensor in all_of_them.items()})


def test_steps_whose_views_do_not_fit_are_told(device, monkeypatch):
    monkeypatch.setattr(capacity, "_GRAIN", 8)
    training = Training("fused", device)
    assert training.engine.skipped == 0
    training.step(1)
    monkeypatch.setattr(training.engine.sizes, "capacities", lambda gaussians: (8, 8))
    before = training.params["means"].detach().clone()
    training.step(2)
    training.engine.sizes.collect(wait=True)
    assert training.engine.skipped == 1 and torch.equal(training.params["means"], before)


def displacements(device: torch.device, adam: str, *, seen_again: bool) -> dict[str, Tensor]:
    """How far a first look, 12 steps that see nothing, and perhaps another look move the parameters.

    Late in a training, so that bias corrections stay what they are.
    """
    training = Training("fused", device, adam=adam)
    before = training.state()
    in_view = training.camera
    away = in_view.viewmats.clone()
    away[0, 2, 3] = -100.0  # behind the camera, all of them
    training.optimizers_at(5000)
    for step in range(5000, 5014 + seen_again):
        looks = step in (5000, 5013 + seen_again)
        training.camera = in_view if looks and (step == 5000 or seen_again) else in_view._replace(viewmats=away)
        training.step(step)
    training.engine.settle(step)
    return {name: value - before[name] for name, value in training.state().items() if name in training.params}


@pytest.mark.parametrize("seen_again", [False, True])
def test_lazy_adam_makes_up_for_what_dense_adam_would_have_done(device, seen_again):
    lazy, dense, visible = (displacements(device, adam, seen_again=seen_again) for adam in ("lazy", "dense", "visible"))
    for name, wanted in dense.items():
        assert relative_l2(lazy[name], wanted) < 0.003, name
        assert relative_l2(visible[name], wanted) > 0.3, "nothing to make up for"


@pytest.mark.parametrize("adam", ["lazy", "visible", "dense"])
def test_looking_shows_the_settled_model_and_changes_no_bit_of_the_run(device, adam):
    watched, alone = (Training("fused", device, adam=adam, deterministic=True) for _ in range(2))
    away = watched.camera.viewmats.clone()
    away[0, 0, 3] += 0.8  # some are seen by one camera only, and lag behind under lazy Adam
    cameras = (watched.camera, watched.camera._replace(viewmats=away))
    watched.look(0), watched.engine.look(0, cameras[1], 1, watched.background, with_depth=True)
    for step in range(1, 7):
        for training in (watched, alone):
            training.camera = cameras[step % 2]
            training.step(step)
        watched.camera = cameras[0]
        seen = [watched.look(step) for _ in range(2)]
        assert torch.equal(*seen)
    settled = alone.engine
    settled.settle(6)
    alone.camera = cameras[0]
    torch.testing.assert_close(seen[0], alone.look(6), rtol=1e-5, atol=1e-6)
    watched.engine.settle(6)
    assert torch.equal(watched.look(6), alone.look(6))
    before, after = alone.state(), watched.state()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_looking_through_the_ops_changes_nothing_either():
    watched, alone = (Training("composed", torch.device("cpu"), absgrad=True) for _ in range(2))
    for step in (1, 2, 3):
        images = [training.step(step) for training in (watched, alone)]
        assert torch.equal(*images) and not torch.equal(watched.look(step), images[0])
    before, after = alone.state(), watched.state()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_gradients_that_no_engine_can_take_are_named(device):
    training = Training("composed", torch.device("cpu"))
    rendered = training.engine.forward(1, training.camera, 3, training.background)
    with pytest.raises(ValueError, match="the image only, not depth, image"):
        training.engine.update(rendered, {"image": rendered.image, "depth": rendered.image}, NoTimer())


def test_a_state_goes_on_under_the_other_engine(device):
    training = Training("fused", device)
    for step in (1, 2, 3):
        training.step(step)
    training.engine.settle(3)
    states = state_dicts(training.optimizers)
    assert {float(state["state"][0]["step"]) for state in states.values()} == {3.0}
    other = Training("composed", torch.device("cpu"))
    for name, param in other.params.items():
        param.data.copy_(training.params[name].detach().cpu())
    load_state_dicts(other.optimizers, states)
    other.step(4)
    training.step(4)
    assert_near({"means": other.state()["means"]}, {"means": training.state()["means"]})


def test_deterministic_steps_are_near_the_others(device):
    exact, plain = Training("fused", device, deterministic=True), Training("fused", device)
    for training in (exact, plain):
        training.step(1)
    assert_near(exact.state(), plain.state())


# ------------------------------------------------------------------------------------------------------ error scores


class Scored(Densifier):
    """Asks for a score at odd steps."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(50, device, 1.0, CONFIG.densification, False)
        self.score = torch.zeros(50, device=device)

    def statistics(self, step: int) -> dict[str, Tensor] | None:
        return self.state | {"score": self.score} if step % 2 else self.state


def scored_training(kind: str, device: torch.device, **options: object) -> Training:
    training = Training(kind, device, **options)
    training.strategy = training.engine.strategy = Scored(device)
    return training


def step_with_errors(training: Training, step: int, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One step, and its image and errors."""
    rendered = training.engine.forward(step, training.camera, 3, training.background)
    image = rendered.image.detach().clone()
    gradients, _ = photometric_gradients(rendered.image, training.photo, 0.2, None, kept, with_errors=True)
    training.engine.update(rendered, gradients, NoTimer())
    return image.cpu(), gradients["errors"].cpu()


def expected_score(params: dict[str, Tensor], errors: Tensor) -> Tensor:
    """[N] float64 that a step adds."""
    values = {name: value.detach().cpu() for name, value in params.items()}
    return expected_error_sums(values, random_view(1, WIDTH, HEIGHT), errors).sqrt()


@pytest.mark.parametrize("options", [{}, {"absgrad": True}], ids=str)
@pytest.mark.parametrize("kind", ["composed", "lazy", "dense", "deterministic"])
def test_every_engine_scores_as_the_reference_does(device, kind, options):
    """Step after step; what the mask ignores has no error, and an even step has no score."""
    if kind == "composed":
        training = scored_training("composed", torch.device("cpu"), **options)
    else:
        how = {"deterministic": True} if kind == "deterministic" else {"adam": kind}
        training = scored_training("fused", device, **how, **options)
    kept = torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(3)) > 0.3
    wanted = torch.zeros(50, dtype=torch.float64)
    for step in (1, 2, 3):
        training.engine.settle(step - 1)
        params = {name: param.detach().clone() for name, param in training.params.items()}
        image, errors = step_with_errors(training, step, kept.to(training.photo.device))
        assert not errors[~kept].any() and errors[kept].mean() > 0.1
        torch.testing.assert_close(errors[kept], (image - training.photo.cpu() / 255.0).abs().mean(-1)[kept])
        if step % 2:
            wanted += expected_score(params, errors)
    assert relative_l2(training.strategy.score.cpu(), wanted) < 2e-5 and (wanted > 0).sum() > 10


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_sums_through_the_ops_are_the_references_over_many_seeds(device):
    """Large, tiny, opaque and transparent Gaussians; images of all sizes."""
    errors_of = {}
    for seed in range(16):
        params, size = random_params(50, seed), (1 + 7 * seed % 41, 1 + 11 * seed % 37)
        params["scales"][:8] += 2.5
        params["opacities"][8:16] += 6.0
        params["opacities"][16:20] = -20.0
        view, probe = random_view(seed, *size), torch.zeros(50, 1, device=device, requires_grad=True)
        errors, (camera, options) = error_map(view, seed), view.to(torch.device(device))
        settings = RenderSettings(options.near_plane, options.far_plane, absgrad=seed % 2 == 1)
        rendering = COMPOSED.render(
            as_parameters(params, torch.device(device)), camera, settings, sh_degree=options.sh_degree,
            background=options.background, with_depth=False, features=probe,
        )  # fmt: skip
        sums = ComposedRendered(1, rendering, probe).differentiate(weights(rendering.colors[0]), errors.to(device))
        wanted = expected_error_sums(params, view, errors)
        errors_of[seed] = relative_l2(sums[:, 0].cpu(), wanted) if wanted.any() else float(sums.abs().max())
    assert_below(errors_of, 1e-5)


@pytest.mark.parametrize("kind", ["composed", "fused"])
def test_a_score_changes_nothing_of_the_training(device, kind):
    where = torch.device("cpu") if kind == "composed" else device
    options = {} if kind == "composed" else {"deterministic": True}
    plain, scored = Training(kind, where, **options), scored_training(kind, where, **options)
    # The CPU blends the score in a channel more, which is compiled apart: rounding may differ.
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if kind == "composed" else {"rtol": 0.0, "atol": 0.0}
    for step in (1, 2, 3):
        image = plain.step(step).cpu()
        torch.testing.assert_close(step_with_errors(scored, step)[0], image, **tolerance)
    for training in (plain, scored):
        training.engine.settle(3)
    after = scored.state()
    for name, tensor in plain.state().items():
        torch.testing.assert_close(after[name], tensor, **tolerance, msg=lambda said, name=name: f"{name}: {said}")


@pytest.mark.parametrize("kind", ["composed", "fused"])
def test_a_score_without_errors_is_refused_and_errors_without_a_score_do_nothing(device, kind):
    training = scored_training(kind, torch.device("cpu") if kind == "composed" else device)
    with pytest.raises(ValueError, match="asks for a score at step 1: hand the errors"):
        training.step(1)
    step_with_errors(training, 2)
    assert not training.strategy.score.any()


@pytest.mark.gpu
def test_deterministic_trainings_are_bit_equal(demo_scene, tmp_path):
    changes = {
        "train.device": "cuda", "train.deterministic": True, "train.iterations": 120, "densification.start": 20,
        "densification.every": 25, "densification.opacity_reset_every": 60, "densification.stop": 110,
        "densification.order_every": 50,
    }  # fmt: skip
    saved = []
    for name in ("first", "second"):
        run = Trainer(demo_config(demo_scene, tmp_path / name, changes))
        assert run.run() == 0
        saved.append(load_checkpoint(tmp_path / name / "checkpoints" / "step_120.pt", torch.device("cpu")))
    first, second = saved
    assert len(first.params["means"]) > 0
    for name, tensor in first.params.items():
        assert torch.equal(tensor, second.params[name]), name
    for name, state in first.parts["optimizers"].items():
        for key, moments in state["state"][0].items():
            assert torch.equal(moments, second.parts["optimizers"][name]["state"][0][key]), (name, key)
