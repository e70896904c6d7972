"""`auto`: what the tuner measures, when, what it chooses and what that costs; on a simulated GPU and on a real one."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from random_scenes import assert_close, random_blend_scene, run_blend
from torch import Tensor

from distwar_kernels import Reduction, ReductionTuner, rasterize_to_pixels, tuner_of
from distwar_kernels.blend import blend
from distwar_kernels.constants import TILE_SIZE
from distwar_kernels.tuner import CANDIDATES, resolve

FAST, MIDDLE, SLOW = Reduction("sw_b", 8), Reduction("sw_b", 16), Reduction("atomic")
RACE = (SLOW, MIDDLE, FAST)


class FakeGpu:
    """A clock that runs on when a candidate does, and events that read it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done = True
        self.cost: Callable[[Reduction], float] = {FAST: 1.0, MIDDLE: 1.1, SLOW: 5.0}.__getitem__
        self.ran: list[Reduction] = []

    def run(self, gradient: Tensor, reduction: Reduction) -> None:
        self.now += self.cost(reduction)
        self.ran.append(reduction)

    def training_pass(self, tuner: ReductionTuner, primitives: int = 1000) -> None:
        """Forward, backward, the tuner watching; the pass itself takes 1 ms."""
        leaf = torch.ones(2, requires_grad=True)
        rendered = leaf * 2
        tuner.watch(rendered, primitives, lambda: self.run)
        rendered.sum().backward()
        self.now += 1.0


@pytest.fixture
def gpu(monkeypatch) -> FakeGpu:
    fake = FakeGpu()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.time = fake.now

        def query(self) -> bool:
            return fake.done

        def elapsed_time(self, end: "Event") -> float:
            return end.time - self.time

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return fake


def test_the_fastest_is_chosen_within_the_first_passes(gpu):
    tuner = ReductionTuner(RACE, start=SLOW, views=4)
    assert tuner.reduction == SLOW
    for _ in range(5):
        gpu.training_pass(tuner)
    assert tuner.reduction == FAST
    (outcome,) = tuner.rounds
    assert outcome.choice == FAST
    assert outcome.milliseconds == pytest.approx({FAST: 1.0, MIDDLE: 1.1, SLOW: 5.0})
    assert str(outcome) == "sw_b@8 (1.00 ms per view; sw_b@16 1.10, atomic 5.00)"


def test_slow_candidates_are_dropped_after_the_first_view(gpu):
    tuner = ReductionTuner(RACE, views=4)
    for _ in range(5):
        gpu.training_pass(tuner)
    assert [gpu.ran.count(candidate) for candidate in RACE] == [2, 5, 5]  # one run each to load the kernel
    assert tuner.rounds[0].cost_ms == pytest.approx(7.1 + 5.0 + 4 * 1.1 + 4 * 1.0)


def test_candidates_meet_on_the_same_views(gpu):
    """Views that are ten times deeper do not hurt the candidate that happened to be measured on them."""
    tuner, view = ReductionTuner(RACE, views=4), 0
    base = gpu.cost
    gpu.cost = lambda reduction: base(reduction) * (10 if view % 2 else 1)
    for view in range(5):  # noqa: B007 - read by the lambda
        gpu.training_pass(tuner)
    assert tuner.reduction == FAST
    ratios = tuner.rounds[0].milliseconds
    assert ratios[MIDDLE] / ratios[FAST] == pytest.approx(1.1)
    assert ratios[SLOW] / ratios[FAST] == pytest.approx(5.0)


def test_nobody_waits_for_the_gpu(gpu):
    tuner = ReductionTuner(RACE, start=SLOW)
    gpu.done = False
    for _ in range(20):
        gpu.training_pass(tuner)
    assert len(gpu.ran) == 2 * len(RACE)  # one view, its times not in yet
    assert tuner.reduction == SLOW
    gpu.done = True
    for _ in range(4):
        gpu.training_pass(tuner)
    assert tuner.reduction == FAST


def test_it_measures_again_when_the_scene_has_grown_and_there_is_time_for_it(gpu):
    tuner = ReductionTuner(RACE, views=4, share=0.02)
    for _ in range(5):
        gpu.training_pass(tuner)
    gpu.cost = {FAST: 2.2, MIDDLE: 2.0, SLOW: 9.0}.__getitem__
    for _ in range(660):  # the candidates took 13.4 ms: 2 % of 670 passes of 1 ms
        gpu.training_pass(tuner, primitives=1100)
    assert len(tuner.rounds) == 1
    for _ in range(30):
        gpu.training_pass(tuner, primitives=1100)
    assert len(tuner.rounds) == 2
    assert tuner.reduction == MIDDLE


def test_a_scene_that_does_not_grow_is_measured_again_after_a_while(gpu):
    tuner = ReductionTuner(RACE, views=4)
    for _ in range(2500):
        gpu.training_pass(tuner)
    assert [2000 < outcome.passes < 2020 for outcome in tuner.rounds[1:]] == [True]


def test_its_cost_stays_within_its_share(gpu):
    tuner = ReductionTuner(RACE, views=4, share=0.02)
    passes = 20_000
    for step in range(passes):
        gpu.training_pass(tuner, primitives=1000 + step)  # it grows all the time
    first, *others = tuner.rounds
    assert len(others) >= 5
    assert sum(outcome.cost_ms for outcome in others) <= 0.02 * passes * 1.0


def test_without_gradients_nothing_is_measured(gpu):
    tuner = ReductionTuner(RACE)
    tuner.watch(torch.ones(2), 1000, lambda: gpu.run)
    assert not gpu.ran
    assert tuner._passes == 0


def test_while_a_graph_is_captured_nothing_is_measured(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    tuner = ReductionTuner(RACE)
    gpu.training_pass(tuner)
    assert not gpu.ran


def test_reset_forgets(gpu):
    tuner = ReductionTuner(RACE, start=SLOW)
    for _ in range(5):
        gpu.training_pass(tuner)
    tuner.reset()
    assert (tuner.reduction, tuner.rounds) == (SLOW, [])


def test_only_auto_has_a_tuner_and_only_on_a_gpu():
    assert resolve(FAST, torch.device("cuda", 0)) == (FAST, None)
    assert resolve(Reduction("auto"), torch.device("cpu")) == (Reduction(), None)
    device = torch.device("cuda", 7)
    assert resolve(Reduction("auto"), device) == (Reduction(), tuner_of(device))
    assert tuner_of(device) is tuner_of(torch.device("cuda", 7))


class Witnessed(torch.autograd.Function):
    """The identity, in a graph node that holds an object, to tell when the graph is freed."""

    @staticmethod
    def forward(ctx, tensor, witness):
        ctx.witness = witness
        return tensor * 1.0

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def test_a_measured_pass_leaves_no_memory_behind(gpu, monkeypatch):
    """The hook that waits for the gradient belongs to the graph: it must not hold the graph in turn."""
    tuner = ReductionTuner(RACE)
    monkeypatch.setattr(blend, "resolve", lambda reduction, device: (Reduction(), tuner))
    scene = random_blend_scene(0)
    witness = torch.nn.Identity()
    kept = weakref.ref(witness)
    means2d = Witnessed.apply(scene.means2d.clone().requires_grad_(), witness)
    gc.disable()  # the collector does not see through autograd's C++ objects
    try:
        image, alphas = rasterize_to_pixels(
            means2d, scene.conics, scene.colors, scene.opacities, scene.width, scene.height, TILE_SIZE,
            scene.isect_offsets, scene.flatten_ids, scene.backgrounds,
        )  # fmt: skip
        image.sum().backward()
        assert tuner._round.waits  # it was measured
        del image, alphas, means2d, witness
        assert kept() is None
    finally:
        gc.enable()


@pytest.mark.gpu
def test_auto_on_the_gpu_chooses_and_changes_no_gradient():
    scene = random_blend_scene(31, n=5000, width=320, height=240, size=(0.5, 6.0))
    expected = run_blend(scene, rasterize_to_pixels, absgrad=True)
    tuner = tuner_of(torch.device("cuda"))
    assert tuner is tuner_of(scene.to("cuda").means2d.device)
    tuner.reset()
    memory = 0
    for step in range(8):
        result = run_blend(scene.to("cuda"), rasterize_to_pixels, absgrad=True, reduction=Reduction("auto"))
        assert_close(result, expected, 1e-4)
        torch.cuda.synchronize()
        memory = torch.cuda.memory_allocated() if step == 2 else memory
    assert torch.cuda.memory_allocated() <= memory
    (outcome,) = tuner.rounds
    assert tuner.reduction == outcome.choice
    assert set(outcome.milliseconds) == set(CANDIDATES)
    assert min(outcome.milliseconds.values()) > 0
    assert outcome.milliseconds[outcome.choice] == min(outcome.milliseconds.values())
    tuner.reset()
