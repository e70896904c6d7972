"""What follows a step: hooks in the order of one list; and a hook that looks at the model without changing the run."""

import pytest
import torch
from demo_runs import DENSE_SCHEDULE, demo_config
from torch import Tensor

from distwar_gs.training.hooks import Hook
from distwar_gs.training.state import TrainingState
from distwar_gs.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("in_process")

MCMC = {"densification.strategy": "mcmc", "densification.cap_max": 3300}


class Noting:
    """Notes when it is called."""

    def __init__(self, every: int = 1, *, needs_finite: bool = False) -> None:
        self.every, self.needs_finite = every, needs_finite
        self.steps: list[int] = []

    def is_due(self, step: int) -> bool:
        return step % self.every == 0

    def after_step(self, step: int, state: TrainingState) -> None:
        assert state.step == step and state.result.batch.view in range(14)
        self.steps.append(step)


class Looking(Noting):
    """Renders the first training view."""

    def __init__(self, every: int) -> None:
        super().__init__(every)
        self.pictures: list[Tensor] = []

    def after_step(self, step: int, state: TrainingState) -> None:
        super().after_step(step, state)
        camera = self.run.batches.cameras[0]
        seen = state.engine.look(step, camera, state.sh_degree(step), self.run.batches.background)
        self.pictures.append(seen.colors[0])


@pytest.fixture
def make(demo_scene, tmp_path):
    def make(folder: str, changes: dict | None = None, hooks: list[Hook] | None = None) -> Trainer:
        return Trainer(demo_config(demo_scene, tmp_path / folder, changes), hooks or ())

    return make


def state_of(run: Trainer) -> dict[str, Tensor]:
    """Everything that the next step depends on."""
    parts = run.state.parts()
    state = {name: param.detach() for name, param in run.state.params.items()}
    for name, optimizer in run.state.optimizers.items():
        state |= {f"{name}.{key}": value for key, value in optimizer.state[run.state.params[name]].items()}
    state |= parts["densification"] | {name: rng["state"] for name, rng in parts["rng"]["generators"].items()}
    return state | {"order": torch.tensor(parts["sampler"]["order"]), "torch": parts["rng"]["torch"]}


@pytest.mark.parametrize("strategy", [{}, MCMC])
def test_a_hook_that_looks_every_10_steps_changes_no_bit_of_the_run(make, strategy):
    """With refinements, an opacity reset (of ADC) and a checkpoint among them."""
    changes = {**DENSE_SCHEDULE, **strategy, "train.iterations": 40, "train.checkpoint_every": 15}
    looking = Looking(10)
    plain, watched = make("plain", changes), make("watched", changes, [looking])
    looking.run = watched
    assert plain.run() == 0 and watched.run() == 0
    assert looking.steps == [10, 20, 30, 40] and len(plain.state.params["means"]) > 3008
    one, two = state_of(plain), state_of(watched)
    assert one.keys() == two.keys() and [name for name in one if not torch.equal(one[name], two[name])] == []
    ply = "point_cloud/iteration_40/point_cloud.ply"
    assert (plain.folder / ply).read_bytes() == (watched.folder / ply).read_bytes()
    photo = watched.batches.images[0].float() / 255
    errors = [float((picture - photo).square().mean()) for picture in looking.pictures]
    assert errors[1] < errors[0], "the model gets better between looks"
    last = watched.results.render_view(watched.scene.train[0])
    assert torch.equal(looking.pictures[-1], last)


def test_a_hook_is_called_after_the_steps_that_are_due(make):
    noting = Noting(3)
    run = make("run", hooks=[noting])
    assert run.run() == 0
    assert noting.steps == [3, 6, 9] and run.hooks[-1] is noting


def test_hooks_run_in_the_order_of_their_list(make):
    """Results of a step come after its checkpoint, and both after the look for what is not finite."""
    run, order = make("run", {"train.iterations": 3}), []
    run.open()
    names = [type(hook).__name__ for hook in run.hooks]
    run.monitor.close()
    assert names == ["Curves", "Health", "LostFolder", "Checkpoints", "Results"]
    hooks = [Noting(), Noting()]
    for hook in hooks:
        hook.after_step = lambda step, state, hook=hook: order.append(hooks.index(hook))
    make("ordered", {"train.iterations": 3}, hooks).run()
    assert order == [0, 1] * 3


@pytest.mark.parametrize("needs_finite", [False, True])
def test_what_is_not_finite_is_found_before_a_hook_that_needs_it(make, needs_finite):
    """Three Gaussians break in step 4; the next look is that of the last step, unless the hook asks for one."""
    noting = Noting(5, needs_finite=needs_finite)
    run = make("run", {"log.every": 1000}, [noting])
    real = run.state.engine.update

    def update(rendered, gradients, timer):
        real(rendered, gradients, timer)
        if rendered.step == 4:
            run.state.params["scales"].data[:3] = torch.nan

    run.state.engine.update = update
    assert run.run() == 0
    found = "step 5: 3 Gaussians" if needs_finite else "step 10: 3 Gaussians"
    assert found in (run.folder / "train.log").read_text() and noting.steps == [5, 10]


def test_an_earlier_hook_that_sends_the_run_back_ends_the_step(make):
    """Later rows are not called after a step that has been undone."""
    noting = Noting()
    run = make("run", {"train.checkpoint_iterations": [4], "log.every": 2, "train.iterations": 8}, [noting])
    real, broken = run.state.engine.update, []

    def update(rendered, gradients, timer):
        real(rendered, gradients, timer)
        if rendered.step == 5 and not broken:
            broken.append(5)
            run.state.params["means"].data[:2000] = torch.nan

    run.state.engine.update = update
    assert run.run() == 0
    assert noting.steps == [1, 2, 3, 4, 5, 5, 6, 7, 8]
