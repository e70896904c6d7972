"""MCMC: what copies share, who is drawn, what noise and prices are, and whole trainings."""

import json
import logging
import math
from dataclasses import replace

import pytest
import torch
from demo_runs import demo_config
from memory_pressure import RunsOutAt
from random_scenes import relative_l2
from test_engines import Training
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode

from distwar_gs.config import STRATEGIES, Config, DensificationConfig, OptimConfig, config_of
from distwar_gs.config.schedule import Schedule
from distwar_gs.gaussians.optimizer import make_optimizers, step_all
from distwar_gs.rendering.renderer import RenderSettings, render, render_settings
from distwar_gs.strategies import mcmc
from distwar_gs.strategies.adaptive import Densifier
from distwar_gs.strategies.base import MAKERS, Strategy, StrategySetup, make_strategy
from distwar_gs.strategies.mcmc import Mcmc, MoveReport
from distwar_gs.training.trainer import Trainer
from distwar_kernels import Cameras, add_noise

CONFIG = config_of({"densification.strategy": "mcmc"}).densification
FAINTEST = 0.005
SHAPES = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3), "shN": (15, 3)}


def gaussians(opacities: list[float], dtype: torch.dtype = torch.float32) -> tuple[dict[str, Parameter], dict]:
    """Gaussians of these opacities, stepped once (where nothing moved) so that all have Adam moments."""
    g = torch.Generator().manual_seed(0)
    values = {name: torch.randn(len(opacities), *shape, generator=g, dtype=dtype) for name, shape in SHAPES.items()}
    values["opacities"] = torch.logit(torch.tensor(opacities, dtype=dtype))
    params = {name: Parameter(value) for name, value in values.items()}
    still = {f"{name}_lr": 0.0 for name in ("scales", "quats", "opacities", "sh0", "shN")}
    optimizers = make_optimizers(params, OptimConfig(means_lr=1e-12, **still), 1.0)
    for param in params.values():
        param.grad = torch.randn(param.shape, generator=g, dtype=dtype) + 3.0
    step_all(optimizers)
    return params, optimizers


def refined(opacities: list[float], **settings: object):
    """The Gaussians after a refinement, their Adam moments, what they were, and the report."""
    params, optimizers = gaussians(opacities)
    before = {name: param.detach().clone() for name, param in params.items()}
    config = DensificationConfig(strategy="mcmc", **({"cap_max": 1000} | settings))
    report = mcmc.refine(params, optimizers, 600, config, torch.Generator().manual_seed(1))
    moments = {name: optimizer.state[params[name]]["exp_avg"] for name, optimizer in optimizers.items()}
    return {name: param.detach() for name, param in params.items()}, moments, before, report


def sources_of(params: dict[str, Tensor], before: dict[str, Tensor]) -> list[int]:
    """Of which Gaussian each row is made, by its colour."""
    return (params["sh0"].flatten(1)[:, None] == before["sh0"].flatten(1)).all(dim=2).int().argmax(dim=1).tolist()


# ------------------------------------------------------------------------------------------------- what copies share

OPACITIES = [0.006, 0.1, 0.5, 0.9, 0.999, 1.0 - 1e-7]


@pytest.mark.parametrize("count", [1, 2, 3, 10, 50, 51])
@pytest.mark.parametrize("opacity", OPACITIES)
def test_sharing_is_equation_9_of_the_paper(opacity, count):
    """The double sum as it is printed, in exact integers and Python's floats."""
    o = 1.0 - (1.0 - opacity) ** (1.0 / count)
    terms = (
        math.comb(i - 1, k) * (-1) ** k * o ** (k + 1) / math.sqrt(k + 1) for i in range(1, count + 1) for k in range(i)
    )
    logits, factors = mcmc.share(torch.logit(torch.tensor([opacity], dtype=torch.float64)), torch.tensor([count]), 0.0)
    assert torch.sigmoid(logits).item() == pytest.approx(o, rel=1e-8)
    assert factors.item() == pytest.approx(opacity / math.fsum(terms), rel=1e-8)


@pytest.mark.parametrize("count", [2, 7, 51])
@pytest.mark.parametrize("opacity", OPACITIES)
def test_copies_take_as_much_light_as_the_one(opacity, count):
    """Along a line through the centre, integrated numerically: nothing of the formula is in this."""
    logits, factors = mcmc.share(torch.logit(torch.tensor([opacity], dtype=torch.float64)), torch.tensor([count]), 0.0)
    x = torch.linspace(-30, 30, 100_001, dtype=torch.float64)
    one = opacity * torch.exp(-0.5 * x**2)
    many = 1.0 - (1.0 - torch.sigmoid(logits) * torch.exp(-0.5 * (x / factors) ** 2)) ** count
    assert many.max().item() == pytest.approx(opacity, rel=1e-6)
    assert many.sum().item() == pytest.approx(one.sum().item(), rel=1e-6)


def test_sharing_is_finite_at_the_ends():
    """Saturated logits, more copies than the table has, and opacities that fall below the faintest."""
    logits = torch.tensor([-800.0, -20.0, 0.0, 40.0, 5000.0]).double()
    for count in (2, 51, 52, 100_000):
        shared, factors = mcmc.share(logits, torch.full((5,), count), FAINTEST)
        assert shared.isfinite().all() and factors.isfinite().all() and (factors >= 0).all()
        assert torch.sigmoid(shared).min() >= FAINTEST * (1 - 1e-12)
    assert torch.equal(shared, mcmc.share(logits, torch.full((5,), 51), FAINTEST)[0])


def drawn_on_screen(params: dict[str, Tensor]) -> Tensor:
    """The colours [64, 64, 3] of Gaussians about the origin, seen from 4 units away."""
    viewmat, K = torch.eye(4), torch.tensor([[200.0, 0, 32], [0, 200.0, 32], [0, 0, 1]])
    viewmat[2, 3] = 4.0
    camera = Cameras.of_matrices(viewmat[None], K[None], 64, 64)
    return render(params, camera, RenderSettings(0.1, 100.0), sh_degree=0).colors[0]


@pytest.mark.parametrize(("opacity", "count", "bound"), [(0.3, 2, 0.035), (0.6, 5, 0.055), (0.9, 20, 0.16)])
def test_copies_look_as_the_one_did(opacity, count, bound):
    """As near as one shape can: many are flatter in the middle, and faint rims are cut sooner. Plain copies are far."""
    one = {
        "means": torch.zeros(1, 3), "quats": torch.tensor([[0.9, 0.3, -0.2, 0.1]]),
        "scales": torch.tensor([[0.15, 0.08, 0.1]]).log(), "opacities": torch.logit(torch.tensor([opacity])),
        "sh0": torch.full((1, 1, 3), 1.0), "shN": torch.zeros(1, 0, 3),
    }  # fmt: skip
    plan = mcmc.unchanged(one["opacities"]).copied(torch.zeros(count, dtype=torch.int64), FAINTEST)
    copies = {name: value[plan.rows] for name, value in one.items()}
    shared = copies | {"opacities": plan.logits.float(), "scales": copies["scales"] + plan.growth.float()[:, None]}
    wanted = drawn_on_screen(one)
    error = (drawn_on_screen(shared) - wanted).abs().max() / wanted.max()
    plain = (drawn_on_screen(copies) - wanted).abs().max() / wanted.max()
    assert error < bound and error < 0.4 * plain


# ------------------------------------------------------------------------------------------------------ who is drawn


def test_draws_are_in_proportion_and_repeat():
    weights = torch.tensor([0.0, 0.5, 0.0, 0.25, 1e-3, 0.249, 0.0])
    draws = mcmc.draw(weights, 200_000, torch.Generator().manual_seed(3))
    shares = torch.bincount(draws, minlength=7) / len(draws)
    torch.testing.assert_close(shares, weights / weights.sum(), rtol=0, atol=4e-3)
    assert shares[[0, 2, 6]].sum() == 0
    assert torch.equal(draws, mcmc.draw(weights, 200_000, torch.Generator().manual_seed(3)))


def test_more_can_be_drawn_from_than_multinomial_takes():
    weights = torch.zeros(2**24 + 10)
    weights[-1] = 0.01
    with pytest.raises(RuntimeError):
        torch.multinomial(weights, 1)
    assert mcmc.draw(weights, 3, torch.Generator()).tolist() == [2**24 + 9] * 3


def test_the_dead_become_copies_of_the_living():
    """At the threshold is dead (`<=`). The source and its copies are equal but for nothing; others stay bit by bit."""
    threshold = torch.sigmoid(torch.logit(torch.tensor(0.0051))).item()
    params, moments, before, report = refined([0.9, 0.0051, 0.3, 0.0001, 0.5, 0.8], prune_opacity=threshold, cap_max=6)
    assert report == MoveReport(relocated=2, added=0, removed=0, total=6)
    sources = sources_of(params, before)
    assert [sources[i] for i in (0, 2, 4, 5)] == [0, 2, 4, 5] and {sources[1], sources[3]} <= {0, 2, 4, 5}
    for row, source in enumerate(sources):
        shared = sources.count(source) > 1
        for name in ("means", "quats", "sh0", "shN"):
            assert torch.equal(params[name][row], before[name][source])
        for name in ("opacities", "scales"):
            assert torch.equal(params[name][row], params[name][source])
            assert torch.equal(params[name][row], before[name][source]) == (not shared)
        assert all(moment[row].any() == (not shared) for moment in moments.values())
    assert set(sources) != {0, 2, 4, 5} or sources.count(0) <= 3


def test_not_finite_gaussians_are_relocated():
    params, optimizers = gaussians([0.5] * 30)
    params["shN"].data[3, 2, 1], params["opacities"].data[4], params["scales"].data[5, 0] = math.nan, math.nan, math.inf
    report = mcmc.refine(params, optimizers, 600, CONFIG, torch.Generator().manual_seed(0))
    assert report == MoveReport(relocated=3, added=1, removed=0, total=31)
    assert all(param.isfinite().all() for param in params.values())


@pytest.mark.parametrize(
    ("count", "cap", "total"), [(100, 1000, 105), (119, 1000, 124), (19, 1000, 20), (100, 103, 103), (100, 100, 100)]
)
def test_growth_is_5_percent_up_to_the_cap(count, cap, total):
    params, moments, before, report = refined([0.5] * count, cap_max=cap)
    assert report == MoveReport(relocated=0, added=total - count, removed=0, total=total)
    assert all(len(tensor) == total for tensor in (*params.values(), *moments.values()))
    assert torch.equal(params["means"][:count], before["means"])
    assert not moments["means"][count:].any()


def test_without_a_cap_it_is_the_published_one():
    assert mcmc.cap_of(DensificationConfig(cap_max=0)) == 1_000_000
    assert mcmc.cap_of(DensificationConfig(cap_max=7)) == 7


def test_what_is_over_the_cap_goes_the_dead_and_the_faintest_first():
    params, _, before, report = refined([0.9, 0.001, 0.3, 0.2, 0.8, 0.7], cap_max=4)
    assert report == MoveReport(relocated=0, added=0, removed=2, total=4)
    assert torch.equal(params["means"], before["means"][[0, 2, 4, 5]])
    assert torch.equal(params["opacities"], before["opacities"][[0, 2, 4, 5]])


def test_where_nothing_is_alive_nothing_changes(caplog):
    with caplog.at_level(logging.WARNING):
        params, moments, before, report = refined([0.001, 0.002, 0.0001])
    assert report == MoveReport(0, 0, 0, 3) and "none of 3 Gaussians is above opacity 0.005" in caplog.text
    assert all(torch.equal(params[name], before[name]) for name in params)
    assert all(moment.any() for moment in moments.values())


def test_a_single_gaussian_grows():
    params, _, before, report = refined([0.75])
    assert report == MoveReport(relocated=0, added=1, removed=0, total=2)
    torch.testing.assert_close(torch.sigmoid(params["opacities"]), torch.tensor([0.5, 0.5]))
    assert torch.equal(params["means"], before["means"].expand(2, 3))


# --------------------------------------------------------------------------------------------------- noise and prices


def covariance(quat: Tensor, scales: Tensor) -> Tensor:
    """[3, 3] of a quaternion wxyz [4] of any length and standard deviations [3]."""
    w, x, y, z = (quat / quat.norm()).tolist()
    rotation = torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )
    return rotation @ scales.square().diag() @ rotation.T


def noise(count: int, opacity: float, quat: Tensor, scales: Tensor, amount: float) -> Tensor:
    """[count, 3] of one Gaussian."""
    values = {
        "means": torch.zeros(3),
        "quats": quat,
        "scales": scales.log(),
        "opacities": torch.tensor(opacity).logit(),
    }
    rows = {name: value.float().expand(count, *value.shape).clone() for name, value in values.items()}
    add_noise(*rows.values(), amount, largest=1.0, seed=5, step=1)
    return rows["means"].double()


@pytest.mark.parametrize("opacity", [0.001, 0.005, 0.03])
def test_noise_has_the_covariance_of_the_paper(opacity):
    """Sigma x scaled by the gate: with Sigma from a rotation matrix in float64, its covariance is (gate Sigma)^2."""
    quat, scales = 3.0 * torch.tensor([0.9, -0.3, 0.5, 0.2]).double(), torch.tensor([0.5, 0.2, 0.1]).double()
    moved = noise(200_000, opacity, quat, scales, amount=2.0)
    gate = 1.0 / (1.0 + math.exp(-100.0 * ((1.0 - opacity) - 0.995)))
    whitened = moved @ torch.linalg.inv(2.0 * gate * covariance(quat, scales)).T
    torch.testing.assert_close(whitened.mean(0), torch.zeros(3).double(), rtol=0, atol=0.01)
    torch.testing.assert_close(whitened.T @ whitened / len(whitened), torch.eye(3).double(), rtol=0, atol=0.02)


def test_opaque_gaussians_stay():
    """At an opacity of 0.5 the gate is 3e-22; a zero quaternion is no rotation."""
    scales = torch.tensor([1.0, 1.0, 1.0])
    assert noise(100, 0.5, torch.tensor([1.0, 0, 0, 0]), scales, 100.0).abs().max() == 0
    assert noise(100, 0.001, torch.zeros(4), scales, 1.0).abs().mean() == pytest.approx(0.6 * 0.7979, rel=0.1)


def test_noise_and_prices_do_not_depend_on_the_frame():
    """The same scene 5 times as large is moved 5 times as far, and pays the same for its size."""
    moved, paid = [], []
    for extent in (1.0, 5.0):
        params, _ = gaussians([0.001, 0.002, 0.004])
        params["scales"].data += math.log(extent)
        before = params["means"].detach().clone()
        strategy = Mcmc(extent, CONFIG)
        strategy.perturb(3, params, 1.6e-4 * extent, torch.Generator().manual_seed(0))
        moved.append((params["means"].detach() - before) / extent)
        params["scales"].grad, params["opacities"].grad = torch.zeros(3, 3), torch.zeros(3)
        strategy.regularize(params)
        paid.append(params["scales"].grad)
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(paid[0], paid[1])
    assert moved[0].abs().max() > 1e-3


def test_prices_are_what_autograd_says():
    params, _ = gaussians([0.001, 0.2, 0.7, 0.99], torch.float64)
    for param in params.values():
        param.grad = torch.ones_like(param)
    loss = 0.3 * torch.sigmoid(params["opacities"]).mean() + 0.2 * torch.exp(params["scales"]).mean()
    wanted = torch.autograd.grad(loss, [params["opacities"], params["scales"]])
    mcmc.add_regularization(params, 0.3, 0.2)
    torch.testing.assert_close(params["opacities"].grad, 1.0 + wanted[0])
    torch.testing.assert_close(params["scales"].grad, 1.0 + wanted[1])
    assert all((params[name].grad == 1).all() for name in ("means", "quats", "sh0", "shN"))


class Launches(TorchDispatchMode):
    """Counts the operations that are more than another look at the same memory."""

    VIEWS = ("slice", "select", "unsqueeze", "detach", "expand", "view", "alias", "t.default")

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not any(view in str(func) for view in self.VIEWS):
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_noise_follows_from_seed_and_step():
    """A generator that has been used, or was brought back from a checkpoint, has the seed that it had."""
    params, _ = gaussians([0.001, 0.002, 0.004])
    strategy, start = Mcmc(1.0, CONFIG), params["means"].detach().clone()

    def moved(step: int, generator: torch.Generator) -> Tensor:
        params["means"].data.copy_(start)
        strategy.perturb(step, params, 1.6e-4, generator)
        return params["means"].detach() - start

    used, restored = torch.Generator().manual_seed(9), torch.Generator()
    first = moved(4, used)
    torch.rand(100, generator=used)
    restored.set_state(used.get_state())
    assert first.abs().min() > 0 and torch.equal(first, moved(4, used)) and torch.equal(first, moved(4, restored))
    assert (first != moved(5, used)).all() and (first != moved(4, torch.Generator().manual_seed(8))).all()


def test_the_prices_are_what_regularize_adds():
    params, _ = gaussians([0.001, 0.2, 0.7, 0.99], torch.float64)
    strategy = Mcmc(2.5, CONFIG)
    of_opacity, of_scale = strategy.prices(4)
    loss = of_opacity * torch.sigmoid(params["opacities"]).sum() + of_scale * params["scales"].exp().sum()
    wanted = torch.autograd.grad(loss, [params["opacities"], params["scales"]])
    for name in ("opacities", "scales"):
        params[name].grad = torch.zeros_like(params[name])
    strategy.regularize(params)
    torch.testing.assert_close(params["opacities"].grad, wanted[0])
    torch.testing.assert_close(params["scales"].grad, wanted[1])
    assert strategy.prices(0) == (CONFIG.opacity_reg, CONFIG.scale_reg / 2.5)


def test_a_silent_step_is_few_launches_and_never_waits():
    """What would wait is named: it reads a value, or makes a tensor as long as a mask says."""
    params, _ = gaussians([0.001, 0.2])
    strategy = Mcmc(1.0, CONFIG)
    for param in params.values():
        param.grad = torch.zeros_like(param)
    with Launches() as prices:
        strategy.regularize(params)
    with Launches() as moves:
        strategy.perturb(1, params, 1e-4, torch.Generator())
    assert len(prices.names) <= 5 and len(moves.names) == 1, (prices.names, moves.names)
    assert not [
        n for n in prices.names + moves.names if any(w in n for w in ("item", "scalar_dense", "nonzero", "index"))
    ]


@pytest.mark.parametrize("number", [0, 3])
def test_without_memory_for_spatial_order_they_keep_theirs(caplog, number):
    """As under density control; a run goes on, and hears of it once."""
    params, optimizers = gaussians([0.1, 0.2, 0.3])
    before = {name: param.detach().clone() for name, param in params.items()}
    strategy = Mcmc(1.0, DensificationConfig(stop=CONFIG.stop, start=9000, order_every=10))
    with caplog.at_level(logging.WARNING):
        for step in (10, 20):
            with RunsOutAt(number) as pressure:
                strategy.step(step, params, optimizers, torch.Generator())
            assert pressure.hit
    assert caplog.text.count("no memory to bring the Gaussians into spatial order") == 1
    assert all(torch.equal(param, before[name]) for name, param in params.items())


@pytest.mark.gpu
@pytest.mark.parametrize("adam", ["lazy", "dense"])
def test_a_training_step_never_waits(adam):
    device = torch.device("cuda")
    training = Training("fused", device, adam=adam)
    strategy, generator = Mcmc(1.0, CONFIG), torch.Generator(device).manual_seed(0)
    training.engine.strategy = strategy
    training.step(1)  # learns the room a view takes, and makes the moments
    before = training.params["means"].detach().clone()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        training.step(2)
        strategy.perturb(2, training.params, 1e-4, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert training.params["means"].isfinite().all() and not torch.equal(training.params["means"], before)


@pytest.mark.gpu
def test_a_refinement_on_the_gpu_repeats_and_stays_in_step():
    results = []
    for _ in range(2):
        params, optimizers = gaussians([0.9, 0.001, 0.3, 0.5, math.nan] * 2000)
        params = {name: Parameter(param.detach().cuda()) for name, param in params.items()}
        optimizers = make_optimizers(params, OptimConfig(), 1.0)
        report = mcmc.refine(params, optimizers, 600, CONFIG, torch.Generator("cuda").manual_seed(0))
        assert report == MoveReport(relocated=4000, added=500, removed=0, total=10_500)
        results.append({name: param.detach().cpu() for name, param in params.items()})
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


# ---------------------------------------------------------------------------------------------------------- engines


@pytest.mark.parametrize("kind", ["lazy", "dense", "composed"])
def test_engines_add_the_prices_to_the_gradients(device, kind):
    """A first step of Adam is as long as its learning rate, against the gradient's sign: where the image has none, a
    price decides."""
    moved = {}
    for priced in (False, True):
        composed = kind == "composed"
        training = Training(*("composed", torch.device("cpu")) if composed else ("fused", device),
                            **{} if composed else {"adam": kind})  # fmt: skip
        if priced:
            training.engine.strategy = Mcmc(1.0, CONFIG)
        before = training.state()
        training.step(1)
        training.engine.settle(1)
        moved[priced] = {name: training.state()[name] - before[name] for name in ("opacities", "scales", "sh0")}
    unseen = (moved[False]["opacities"] == 0) & (moved[False]["scales"] == 0).all(dim=1)
    assert unseen.any()
    torch.testing.assert_close(moved[True]["opacities"][unseen], torch.full((int(unseen.sum()),), -0.025))
    assert (moved[True]["scales"][unseen] < 0).all()
    torch.testing.assert_close(moved[True]["sh0"], moved[False]["sh0"])


def displacements(device: torch.device, adam: str, strategy: Mcmc | None, steps: int) -> dict[str, Tensor]:
    """How far steps of two cameras, one of which sees nothing most of the time, move opacities and scales.

    Late in a training, so that bias corrections stay what they are.
    """
    training = Training("fused", device, adam=adam)
    if strategy:
        training.engine.strategy = strategy
    before, in_view = training.state(), training.camera
    away = in_view.viewmats.clone()
    away[0, 2, 3] = -100.0  # behind the camera, all of them
    training.optimizers_at(5000)
    for step in range(5000, 5000 + steps):
        training.camera = in_view if step % 9 == 5 else in_view._replace(viewmats=away)
        training.step(step)
    looked = training.look(step)  # as if all were up to date
    training.engine.settle(step)
    torch.testing.assert_close(looked, training.look(step), rtol=1e-4, atol=1e-5)
    after = training.state()
    names = [
        *training.params,
        *(f"{name}.{key}" for name in ("scales", "opacities") for key in ("exp_avg", "exp_avg_sq")),
    ]
    return {name: after[name] - before.get(name, 0.0) for name in names}


@pytest.mark.parametrize("steps", [2, 9, 22])
def test_lazy_adam_pays_what_dense_adam_pays(device, steps):
    """Gaussians that are seen now and then, and those that never are; all moments begin at 0."""
    strategy = Mcmc(1.0, CONFIG)
    lazy, dense = (displacements(device, adam, strategy, steps) for adam in ("lazy", "dense"))
    for name, wanted in dense.items():
        assert relative_l2(lazy[name], wanted) < 0.01, name
    free = displacements(device, "lazy", None, steps)
    for name in ("opacities", "scales"):
        assert relative_l2(free[name], dense[name]) > 0.1, "nothing to pay"


def test_a_strategy_without_prices_leaves_lazy_adam_its_bits(device):
    """A price of exactly 0 runs the kernels that know of none."""
    nothing = Mcmc(1.0, replace(CONFIG, opacity_reg=0.0, scale_reg=0.0))
    plain, priced = (displacements(device, "lazy", strategy, 12) for strategy in (None, nothing))
    for name, wanted in plain.items():
        torch.testing.assert_close(priced[name], wanted, rtol=1e-4, atol=1e-7)


# --------------------------------------------------------------------------------------------------------- trainings

SCHEDULE = {
    "densification.strategy": "mcmc", "densification.start": 5, "densification.every": 10, "densification.stop": 190,
    "densification.cap_max": 3300, "densification.order_every": 35, "model.sh_degree_interval": 25,
}  # fmt: skip
START_OF_ADC = {"model.init_opacity": 0.1, "model.init_scale": 1.0}


@pytest.fixture
def trained(demo_scene, tmp_path, in_process):
    """Trains on the demo scene: trained("folder", {"key": value})."""

    def trained(folder: str, changes: dict) -> Trainer:
        run = Trainer(demo_config(demo_scene, tmp_path / folder, changes))
        assert run.run() == 0
        return run

    return trained


def last_metrics(run: Trainer) -> dict:
    return json.loads((run.folder / "metrics.json").read_text())[-1]


@pytest.mark.slow
def test_a_training_is_as_good_as_by_adc_at_the_same_count(trained):
    """Both from the same start, within 120 steps: MCMC's own, tiny and opaque, takes longer to fill the image."""
    common = {**SCHEDULE, **START_OF_ADC, "train.iterations": 120, "densification.opacity_reset_every": 1000}
    adc = trained("adc", {**common, "densification.strategy": "adc", "densification.grad_threshold": 1e-3})
    own = trained("mcmc", common)
    assert len(adc.state.params["means"]) == len(own.state.params["means"]) == 3300
    assert last_metrics(own)["psnr"] > last_metrics(adc)["psnr"] - 0.1
    assert last_metrics(own)["psnr"] > 21


def test_50_steps_are_25_and_25_more(trained):
    """With relocations and spatial orders before and after the break, and some steps after the last of them."""
    often = {"densification.every": 5, "densification.order_every": 17, "densification.stop": 48}
    changes = {**SCHEDULE, **often, "train.iterations": 50}
    whole = trained("whole", changes)
    first = trained("parts", {**changes, "train.iterations": 25})
    assert first.state.strategy.state_dict() == {}
    second = trained("parts", {**changes, "train.resume": "auto"})
    assert len(whole.state.params["means"]) == 3300
    for name, param in whole.state.params.items():
        assert torch.equal(param, second.state.params[name]), name
        one, two = (run.state.optimizers[name].state[run.state.params[name]] for run in (whole, second))
        assert all(torch.equal(one[key], two[key]) for key in one), name


@pytest.mark.gpu
def test_deterministic_trainings_on_the_gpu_are_bit_equal(trained):
    changes = {**SCHEDULE, "train.device": "cuda", "train.deterministic": True, "train.iterations": 60}
    first, second = trained("first", changes), trained("second", changes)
    assert len(first.state.params["means"]) == 3300
    for name, param in first.state.params.items():
        assert torch.equal(param, second.state.params[name]), name


def test_the_count_never_passes_the_cap_and_steps_move_what_is_faint(demo_scene, tmp_path, in_process):
    run = Trainer(demo_config(demo_scene, tmp_path, {**SCHEDULE, "densification.cap_max": 2000}))
    run.open()
    for step in range(1, 13):
        run.train_step(step)
        assert len(run.state.params["means"]) == (3008 if step <= 10 else 2000)
    run.state.params["opacities"].data[:10] = -8.0
    run.state.params["scales"].data[:10] = math.log(0.1)
    means = run.state.params["means"].detach().clone()
    run.state.strategy.perturb(13, run.state.params, 1.6e-4, run.state.generators["device"])
    moved = (run.state.params["means"].detach() - means).norm(dim=1)
    assert moved[:10].min() > 0.01 and moved[10:].median() == 0
    run.monitor.close()


def test_another_strategys_checkpoint_is_refused(demo_scene, tmp_path, in_process):
    Trainer(demo_config(demo_scene, tmp_path, {"densification.strategy": "mcmc", "train.iterations": 2})).run()
    with pytest.raises(ValueError, match="resume with --set densification.strategy=mcmc"):
        others = {"densification.strategy": "adc", "train.iterations": 4, "train.resume": "auto"}
        Trainer(demo_config(demo_scene, tmp_path, others))


# ------------------------------------------------------------------------------------------------- which one it is


KINDS = [("adc", Densifier), ("default", Densifier), ("absgrad", Densifier), ("mcmc", Mcmc)]


def made(config: Config) -> Strategy:
    return make_strategy(StrategySetup(config, 5, "cpu", 2.0, Schedule(config.train.iterations)))


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_the_config_chooses(name, kind):
    strategy = made(config_of({"densification.strategy": name}))
    assert type(strategy) is kind and strategy.extent == 2.0


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_row_says_what_is_true_of_its_strategy(name):
    """What it counts, and whether every step changes every Gaussian."""
    row, config = STRATEGIES[name], config_of({"densification.strategy": name})
    strategy = made(config)
    assert set(strategy.state_dict()) == set(row.statistics) == set(strategy.statistics(1) or ())
    assert (strategy.prices(5) != (0.0, 0.0)) == row.needs_all_updated
    assert render_settings(config, 1.0, torch.device("cpu")).absgrad == row.absgrad


def test_every_row_has_a_maker():
    assert list(MAKERS) == list(STRATEGIES)


def test_the_schedule_is_the_published_one():
    strategy = Mcmc(1.0, DensificationConfig(stop=CONFIG.stop, order_every=0))
    assert [step for step in range(1, 30_001) if strategy.is_due(step)] == list(range(600, 25_000, 100))
