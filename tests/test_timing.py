"""Where the time of a step goes."""

import time

import pytest
import torch
from clock import Clock
from test_renderer import SETTINGS, cameras, random_params
from torch import Tensor

from distwar_gs.engines import timing
from distwar_gs.engines.timing import NoTimer, PartTimer
from distwar_gs.rendering import renderer

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def test_parts_follow_each_other(clock):
    timer = PartTimer(CPU)
    for part, seconds in {"data": 0.002, "forward": 0.03, "loss": 0.0}.items():
        clock.now += seconds
        timer.mark(part)
    assert timer.milliseconds() == pytest.approx({"data": 2.0, "forward": 30.0, "loss": 0.0})
    assert list(timer.milliseconds()) == ["data", "forward", "loss"]


def slow(clock: Clock, seconds: float) -> type[torch.autograd.Function]:
    """A sum of two tensors whose backward pass takes so long."""

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, first: Tensor, second: Tensor) -> Tensor:
            return first + second

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, Tensor]:
            clock.now += seconds
            return gradient, gradient

    return Slow


def test_the_blend_alone_is_timed(clock):
    means, harmonics = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    means2d = slow(clock, 0.5).apply(means, means)  # projection
    splat_colors = slow(clock, 0.25).apply(harmonics, harmonics)  # harmonics: made after the projection, as in render
    rendered = slow(clock, 0.125).apply(means2d, splat_colors)  # the blend
    loss = slow(clock, 1.0).apply(rendered, rendered).sum()
    timer = PartTimer(CPU)
    timer.watch_blend_backward(rendered, splat_colors)
    loss.backward()
    timer.mark("backward")
    assert timer.milliseconds() == pytest.approx({"backward": 1875.0, "blend_backward": 125.0})


def test_the_blend_of_a_render_is_timed_without_the_harmonics(monkeypatch):
    harmonics = renderer.kernels.spherical_harmonics

    def slow_harmonics(*arguments: object, **options: object) -> Tensor:
        result = harmonics(*arguments, **options)
        return slow_down.apply(result)

    class slow_down(torch.autograd.Function):  # noqa: N801
        @staticmethod
        def forward(ctx: object, values: Tensor) -> Tensor:
            return values.clone()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            time.sleep(0.5)
            return gradient

    monkeypatch.setattr(renderer.kernels, "spherical_harmonics", slow_harmonics)
    rendering = renderer.render(random_params(0), cameras(1), SETTINGS, sh_degree=3)
    timer = PartTimer(CPU)
    timer.watch_blend_backward(rendering.colors, rendering.splat_colors)
    rendering.colors.sum().backward()
    timer.mark("backward")
    milliseconds = timer.milliseconds()
    assert milliseconds["backward"] > 500.0
    assert 0.0 < milliseconds["blend_backward"] < milliseconds["backward"] - 499.0


def test_no_blend_time_without_a_backward_pass():
    timer = PartTimer(CPU)
    leaf = torch.ones(2, requires_grad=True)
    timer.watch_blend_backward(leaf * 2, leaf)
    timer.mark("forward")
    assert list(timer.milliseconds()) == ["forward"]


def test_the_silent_timer_hooks_nothing():
    leaf = torch.ones(2, requires_grad=True)
    rendered = leaf * 2
    timer = NoTimer()
    timer.mark("data")
    timer.watch_blend_backward(rendered, leaf)
    assert not rendered._backward_hooks and not leaf._backward_hooks


@pytest.mark.gpu
def test_parts_on_the_gpu_are_the_gpus_time():
    timer = PartTimer(torch.device("cuda"))
    matrix = torch.ones(4096, 4096, device="cuda")
    for _ in range(10):
        matrix = matrix @ matrix * 1e-4
    timer.mark("work")
    timer.mark("nothing")
    milliseconds = timer.milliseconds()
    assert milliseconds["work"] > 10 * milliseconds["nothing"] >= 0.0
