"""Guided growth: who gets children, what these are, how many there are, and whole trainings."""

import logging
import math
import shutil

import numpy as np
import pytest
import torch
from demo_runs import demo_config
from memory_pressure import RunsOutAt
from PIL import Image
from test_mcmc import covariance, drawn_on_screen, gaussians, sources_of
from torch import Tensor

from distwar_gs.config import ConfigError, DensificationConfig, config_of, validate
from distwar_gs.config.schedule import Moment, Schedule
from distwar_gs.gaussians.memory import Cap, cap_of
from distwar_gs.strategies import guided
from distwar_gs.strategies.base import StrategySetup, make_strategy
from distwar_gs.strategies.guided import Guided
from distwar_gs.strategies.mcmc import MoveReport
from distwar_gs.training import monitor
from distwar_gs.training.health import drop_rows
from distwar_gs.training.trainer import Trainer

CPU = torch.device("cpu")
CONFIG = config_of({"densification.strategy": "guided"}).densification
KINDS = ("share", "jitter", "split")


def statistics(scores: list[float]) -> dict[str, Tensor]:
    """Of Gaussians of these scores, whose gradients have been counted, too."""
    count = len(scores)
    return {"grad2d": torch.full((count,), 3.0), "count": torch.full((count,), 2.0), "score": torch.tensor(scores)}


def refined(opacities: list[float], scores: list[float], wanted: int = 0, seed: int = 1, **settings: object):
    """The Gaussians after a refinement, their Adam moments, statistics, what they were, and the report."""
    params, optimizers = gaussians(opacities)
    before, state = {name: param.detach().clone() for name, param in params.items()}, statistics(scores)
    config = DensificationConfig(strategy="guided", **({"children": "share"} | settings))
    generator = torch.Generator().manual_seed(seed)
    report = guided.refine(params, optimizers, state, 600, wanted or len(opacities), config, generator)
    moments = {name: optimizer.state[params[name]]["exp_avg"] for name, optimizer in optimizers.items()}
    return {name: param.detach() for name, param in params.items()}, moments, state, before, report


# ------------------------------------------------------------------------------------------------- who gets children


def test_chances_are_the_squares_of_the_scores():
    params, _ = gaussians([0.1, 0.9, 0.5, 0.5, 0.5, 0.001])
    dead = torch.tensor([False] * 5 + [True])
    state = statistics([3.0, 1.0, math.nan, 0.0, math.inf, 9.0])
    got = guided.chances(params, state, dead, "error")
    torch.testing.assert_close(got, torch.tensor([1.0, 1 / 9, 0.0, 0.0, 0.0, 0.0]))
    by_opacity = torch.tensor([0.1, 0.9, 0.5, 0.5, 0.5, 0.0])
    torch.testing.assert_close(guided.chances(params, state, dead, "opacity"), by_opacity)
    torch.testing.assert_close(guided.chances(params, statistics([0.0] * 6), dead, "error"), by_opacity)


@pytest.mark.parametrize("exposure", [1e-18, 1e-3, 1.0, 1e15])
def test_chances_have_no_unit(exposure):
    """An image n times as bright is n times as wrong, a scene with more views has larger sums."""
    params, _ = gaussians([0.5, 0.5, 0.5])
    state = statistics([exposure * score for score in (0.2, 0.8, 0.4)])
    got = guided.chances(params, state, torch.zeros(3, dtype=torch.bool), "error")
    torch.testing.assert_close(got, torch.tensor([1 / 16, 1.0, 1 / 4]))


def test_draws_without_replacement_are_in_proportion_to_what_is_left():
    """Of three, the probabilities of all ordered pairs are known."""
    weights, counts, draws = torch.tensor([0.0, 0.5, 0.0, 0.25, 0.25]), {}, 20_000
    generator = torch.Generator().manual_seed(0)
    for _ in range(draws):
        pair = tuple(guided.draw_distinct(weights, 2, generator).tolist())
        counts[pair] = counts.get(pair, 0) + 1
    wanted = {(1, 3): 0.25, (1, 4): 0.25, (3, 1): 1 / 6, (4, 1): 1 / 6, (3, 4): 1 / 12, (4, 3): 1 / 12}
    assert set(counts) == set(wanted)
    assert all(counts[pair] / draws == pytest.approx(share, abs=0.012) for pair, share in wanted.items())


def test_no_more_are_drawn_than_have_a_weight():
    weights = torch.tensor([0.0, 1e-30, 1.0, 0.0, 1e-12])
    for seed in range(20):
        drawn = guided.draw_distinct(weights, 9, torch.Generator().manual_seed(seed)).tolist()
        assert sorted(drawn) == [1, 2, 4]


@pytest.mark.parametrize("children", KINDS)
def test_the_wrong_ones_get_the_children(children):
    """A hundred more: three of five hundred have nearly all of the error, and are too faint to be drawn by opacity."""
    opacities, scores = [0.9] * 497 + [0.02] * 3, [0.1] * 497 + [50.0] * 3
    params, _, _, before, report = refined(opacities, scores, 600, children=children)
    assert report == MoveReport(relocated=0, added=100, removed=0, total=600)
    sources = torch.tensor(sources_of(params, before))
    children_of = torch.bincount(sources, minlength=500) - 1
    if children == "share":
        assert children_of[497:].sum() > 90
    else:
        assert children_of[497:].tolist() == [1, 1, 1] and children_of.max() == 1
    params, _, _, before, _ = refined(opacities, scores, 600, children=children, draw="opacity")
    by_opacity = torch.bincount(torch.tensor(sources_of(params, before)), minlength=500) - 1
    assert by_opacity[497:].sum() <= 1


# ----------------------------------------------------------------------------------------------- what children are


@pytest.mark.parametrize("children", KINDS)
def test_the_dead_and_the_broken_make_room_for_children(children):
    params, optimizers = gaussians([0.9, 0.005, 0.6, 0.8, 0.7, 0.5])
    before, state = {name: param.detach().clone() for name, param in params.items()}, statistics([1.0] * 6)
    params["shN"].data[2, 3, 1] = math.nan
    config = DensificationConfig(strategy="guided", children=children, prune_opacity=0.0051)
    report = guided.refine(params, optimizers, state, 600, 7, config, torch.Generator().manual_seed(3))
    assert report == MoveReport(relocated=2, added=1, removed=0, total=7)
    assert all(param.isfinite().all() and len(param) == 7 for param in params.values())
    sources = sources_of({name: param.detach() for name, param in params.items()}, before)
    assert {sources[i] for i in (1, 2, 6)} <= {0, 3, 4, 5} and [sources[i] for i in (0, 3, 4, 5)] == [0, 3, 4, 5]
    moments = {name: optimizer.state[params[name]]["exp_avg"] for name, optimizer in optimizers.items()}
    for row, source in enumerate(sources):
        alone = sources.count(source) == 1
        assert all(moment[row].any() == alone for moment in moments.values())
        for name in ("means", "scales", "opacities"):
            same = torch.equal(params[name][row], before[name][source])
            assert same == (alone or (children, name) == ("share", "means")), (row, name)
        for name in ("quats", "sh0", "shN"):
            assert torch.equal(params[name][row], before[name][source])


def test_where_too_few_can_be_parents_the_rest_of_the_dead_stay():
    for children in ("jitter", "split"):
        params, _, _, before, report = refined([0.9, 0.001, 0.001, 0.001], [1.0] * 4, 9, children=children)
        assert report == MoveReport(relocated=1, added=0, removed=0, total=4)
        assert torch.equal(params["means"][2:], before["means"][2:])
    assert refined([0.9, 0.001, 0.001, 0.001], [1.0] * 4, 9)[-1] == MoveReport(3, 5, 0, 9)


def test_copies_share_as_in_mcmc():
    """Equation 9, by the light they take: test_mcmc.py has it against the paper."""
    params, _, _, before, _ = refined([0.75], [1.0], 2)
    torch.testing.assert_close(torch.sigmoid(params["opacities"]), torch.tensor([0.5, 0.5]))
    assert torch.equal(params["means"], before["means"].expand(2, 3))
    jittered, *_ = refined([0.75], [1.0], 2, children="jitter")
    assert torch.equal(jittered["scales"], params["scales"]) and torch.equal(jittered["opacities"], params["opacities"])


def test_a_split_is_along_the_longest_axis():
    params, _, _, before, _ = refined([0.84] * 50, [1.0] * 50, 100, children="split")
    sources = sources_of(params, before)
    for row in range(50):
        child = sources.index(row, 50)
        scales = before["scales"][row].exp().double()
        axis = int(scales.argmax())
        middle = (params["means"][row] + params["means"][child]) / 2
        torch.testing.assert_close(middle, before["means"][row], rtol=0, atol=1e-5 * float(scales.max()))
        half = ((params["means"][row] - params["means"][child]) / 2).double()
        whitened = torch.linalg.solve(covariance(before["quats"][row].double(), scales), half)
        assert float(half @ whitened) == pytest.approx(0.25, rel=1e-3), "half a standard deviation"
        direction = covariance(before["quats"][row].double(), torch.eye(3).double()[axis])
        torch.testing.assert_close(direction @ half, half, rtol=1e-3, atol=1e-5 * float(scales.max()))
        factors = torch.full((3,), 0.85).index_fill(0, torch.tensor(axis), 0.5)
        for one in (row, child):
            torch.testing.assert_close(params["scales"][one].exp(), before["scales"][row].exp() * factors)
    torch.testing.assert_close(torch.sigmoid(params["opacities"]), torch.full((100,), 0.6))


def test_the_shape_of_a_split_is_configured():
    settings = {"children": "split", "split_long": 0.8, "split_other": 1.0, "child_offset": 1.0, "split_power": 1.0}
    params, _, _, before, _ = refined([0.84], [1.0], 2, **settings)
    shape = (params["scales"] - before["scales"]).exp()
    assert sorted(shape[0].tolist()) == pytest.approx([0.8, 1.0, 1.0])
    apart = (params["means"][0] - params["means"][1]).norm() / 2
    assert float(apart) == pytest.approx(float(before["scales"].exp().max()), rel=1e-4)
    torch.testing.assert_close(params["opacities"], before["opacities"].repeat(2))


def test_halves_of_extreme_opacities_are_finite():
    for power in (0.5, 0.1, 1.0):
        logits = guided._let_through(torch.tensor([-80.0, -5.0, 0.0, 17.0, 5000.0]), power, 0.005)
        assert logits.isfinite().all() and torch.sigmoid(logits).min() > 0.00499
    torch.testing.assert_close(
        guided._let_through(torch.logit(torch.tensor([0.84])), 0.5, 0.0).sigmoid(), torch.tensor([0.6])
    )


@pytest.mark.parametrize(("offset", "deviation"), [(None, 0.5), (0.7, 0.7)])
def test_jitter_is_as_the_gaussian_itself_spreads(offset, deviation):
    """Whitened by the covariance, the offsets of many equal Gaussians are normal, of this deviation."""
    count = 4000
    params, optimizers = gaussians([0.9] * count)
    quat, scales = torch.tensor([0.9, -0.3, 0.5, 0.2]), torch.tensor([0.5, 0.2, 0.1])
    params["quats"].data[:], params["scales"].data[:] = quat, scales.log()
    params["means"].data.zero_()
    given = {} if offset is None else {"child_offset": offset}
    config = DensificationConfig(strategy="guided", children="jitter", **given)
    generator = torch.Generator().manual_seed(0)
    guided.refine(params, optimizers, statistics([1.0] * count), 600, 2 * count, config, generator)
    moved = params["means"].detach().double()
    assert len(moved) == 2 * count
    assert torch.equal(moved.sort(dim=0).values, (-moved).sort(dim=0).values), "parent and child go opposite ways"
    found = moved.T @ moved / len(moved)
    wanted = deviation**2 * covariance(quat.double(), scales.double())
    torch.testing.assert_close(found, wanted, rtol=0.06, atol=0.02 * deviation**2 * 0.25)


WHOLE = {"children": "split", "split_power": 1.0, "split_other": 1.0}


@pytest.mark.parametrize(
    ("settings", "difference", "light"),
    [
        ({"children": "share"}, 0.09, 1.0), ({"children": "jitter"}, 0.3, 1.0), ({"children": "split"}, 0.5, 0.54),
        (WHOLE, 0.25, 1.04),
    ],
)  # fmt: skip
def test_children_look_much_as_the_one_did(settings, difference, light):
    """All but halves as Improved-GS has them, which take half of the light; those that stay as opaque do not."""
    one = {
        "means": torch.zeros(1, 3), "quats": torch.tensor([[0.9, 0.3, -0.2, 0.1]]),
        "scales": torch.tensor([[0.15, 0.08, 0.1]]).log(), "opacities": torch.logit(torch.tensor([0.6])),
        "sh0": torch.full((1, 1, 3), 1.0), "shN": torch.zeros(1, 0, 3),
    }  # fmt: skip
    params, optimizers = gaussians([0.6])
    for name, value in one.items():
        if name != "shN":
            params[name].data.copy_(value)
    config = DensificationConfig(strategy="guided", **settings)
    guided.refine(params, optimizers, statistics([1.0]), 600, 2, config, torch.Generator().manual_seed(0))
    both = {name: param.detach() for name, param in params.items()} | {"shN": torch.zeros(2, 0, 3)}
    wanted, got = drawn_on_screen(one), drawn_on_screen(both)
    assert (got - wanted).abs().max() / wanted.max() < difference
    assert float(got.sum() / wanted.sum()) == pytest.approx(light, abs=0.04)
    plain = drawn_on_screen({name: value.repeat(2, *[1] * (value.dim() - 1)) for name, value in one.items()})
    assert float(plain.sum()) > 1.3 * float(wanted.sum()), "two whole ones are brighter"


# -------------------------------------------------------------------------------------------------------- statistics


def test_scores_are_halved_and_shared_and_gradients_begin_anew():
    params, _, state, before, _ = refined([0.9, 0.8, 0.001, 0.7], [8.0, 0.0, 5.0, 0.0], 6)
    sources = sources_of(params, before)
    assert sources == [0, 1, 0, 3, 0, 0], "only the first has a score"
    assert state["score"].tolist() == [1.0, 0.0, 1.0, 0.0, 1.0, 1.0]
    assert not state["grad2d"].any() and not state["count"].any() and len(state["count"]) == 6


def test_a_score_that_is_not_finite_is_forgotten():
    """An image that was not finite for once leaves no Gaussian without children forever."""
    _, _, state, _, _ = refined([0.9, 0.8, 0.7, 0.6], [math.nan, math.inf, 4.0, 0.0])
    assert state["score"].tolist() == [0.0, 0.0, 2.0, 0.0]


def test_the_same_seed_draws_the_same():
    for children in KINDS:
        scores = [float(i) for i in range(40)]
        runs = [refined([0.5] * 40, scores, 60, seed, children=children)[0] for seed in (1, 1, 2)]
        assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
        assert not torch.equal(runs[0]["means"], runs[2]["means"])


def test_what_is_over_a_given_cap_goes_the_dead_and_the_faintest_first():
    params, _, state, before, report = refined([0.9, 0.001, 0.3, 0.2, 0.8, 0.7], [1.0, 2, 3, 4, 5, 6], 4, cap_max=4)
    assert report == MoveReport(relocated=0, added=0, removed=2, total=4)
    assert torch.equal(params["means"], before["means"][[0, 2, 4, 5]])
    assert state["score"].tolist() == [0.5, 1.5, 2.5, 3.0]


def test_where_nothing_is_alive_nothing_changes(caplog):
    with caplog.at_level(logging.WARNING):
        params, _, state, before, report = refined([0.001, 0.002], [1.0, 2.0], 5)
    assert report == MoveReport(0, 0, 0, 2) and "none of 2 Gaussians is above opacity 0.005" in caplog.text
    assert all(torch.equal(params[name], before[name]) for name in params) and state["score"].tolist() == [1.0, 2.0]


def test_order_and_dropped_rows_take_the_statistics_along():
    params, optimizers = gaussians([0.1, 0.2, 0.3, 0.4])
    strategy = Guided(4, CPU, 1.0, DensificationConfig(start=9000, stop=9999, order_every=10))
    strategy.state["score"] = params["means"].detach()[:, 0].clone()
    strategy.step(10, params, optimizers, torch.Generator())
    assert torch.equal(strategy.state["score"], params["means"].detach()[:, 0])
    drop_rows(params, optimizers, strategy.state, torch.tensor([True, False, False, True]))
    assert torch.equal(strategy.state["score"], params["means"].detach()[:, 0]) and len(params["means"]) == 2


# -------------------------------------------------------------------------------------------------- how many there are


def counts(strategy: Guided, first: int, wishes: list[int] | None = None, steps: range = range(1, 10_001)) -> dict:
    """The number of Gaussians after each refinement, from `first`."""
    found, count = {}, first
    for step in steps:
        if strategy.is_due(step):
            strategy.state = {name: torch.zeros(count) for name in strategy.state}
            if wishes is not None:
                strategy.state["grad2d"][: wishes[0]], strategy.state["count"][:] = 1.0, 1.0
            params = {"means": torch.zeros(count, 3), "opacities": torch.zeros(count)}
            count = strategy.wanted(strategy.schedule.at(step), params, strategy.cap.now([]))
            found[step] = count
    return found


def strategy_of(iterations: int, **settings: object) -> Guided:
    values = {f"densification.{name}": value for name, value in settings.items()}
    config = config_of({"densification.strategy": "guided", "train.iterations": iterations} | values)
    cap = Cap(config.densification.cap_max)
    return Guided(5, CPU, 1.0, config.densification, cap, Schedule(iterations))


def test_the_number_grows_linearly_to_a_given_cap():
    found = counts(strategy_of(10_000, cap_max=100_000, order_every=0), 3000)
    assert min(found) == 300 and max(found) == 8200
    for step, count in found.items():
        part = min((step - 200) / (5000 - 200), 1.0)
        assert count == pytest.approx(3000 + 97_000 * part, abs=20), step
    assert found[5000] == found[8200] == 100_000


@pytest.mark.parametrize(("until", "stop", "reached"), [(0.0, 8000, 300), (0.3, 8000, 3000), (1.0, 8000, 7900)])
def test_growth_ends_where_it_is_said_or_with_the_last_refinement(until, stop, reached):
    found = counts(strategy_of(10_000, cap_max=5000, grow_until=until, stop=stop, order_every=0), 3000)
    assert next(step for step, count in found.items() if count == 5000) == reached


def test_a_cap_below_the_number_is_what_is_left():
    assert set(counts(strategy_of(10_000, cap_max=2000, order_every=0), 3000).values()) == {2000}


def test_without_a_cap_the_number_follows_the_gradients():
    """A fifth of those that density control would clone or split, and never more than 5 %; none after half of it."""
    found = counts(strategy_of(30_000, order_every=0), 3000, [100], range(1, 30_001))
    assert [found[step] for step in (600, 700, 15_000, 15_100, 24_900)] == [3020, 3040, 5900, 5900, 5900]
    many = counts(strategy_of(30_000, order_every=0), 3000, [100_000])
    assert (many[600], many[700]) == (3150, 3307)
    less = counts(strategy_of(30_000, order_every=0, growth_share=0.1), 3000, [100], range(1, 30_001))
    assert less[24_900] == 3000 + 145 * 10
    assert set(counts(strategy_of(10_000, order_every=0), 3000, [0]).values()) == {3000}


@pytest.mark.parametrize(
    ("iterations", "refinements", "grown"), [(1500, 6, 10.0), (3000, 14, 10.0), (30_000, 145, 1180)]
)
def test_where_refinements_are_few_each_may_add_more(iterations, refinements, grown):
    """In all tenfold; 5 % each where that is more."""
    strategy = strategy_of(iterations, order_every=0)
    found = counts(strategy, 3000, [10**9], range(1, iterations // 2 + 1))
    assert len(found) == refinements and found[max(found)] == pytest.approx(3000 * grown, rel=0.01)


@pytest.mark.parametrize("iterations", [7000, 10_000, 30_000, 45_000, 60_000, 200_000])
def test_a_longer_run_has_no_more_gaussians(iterations):
    """100 that wish for a child at every refinement."""
    found = counts(strategy_of(iterations, order_every=0), 3000, [100], range(1, iterations // 2 + 1))
    assert found[max(found)] == pytest.approx(5900, abs=100)


def test_none_wishes_for_more_than_one_child():
    found = counts(strategy_of(600, order_every=0), 3000, [100], range(1, 301))
    assert list(found.values()) == [3100, 3200]


def test_memory_is_a_cap_that_removes_nothing():
    strategy = strategy_of(10_000, order_every=0)
    strategy.cap = Cap(3020)
    assert counts(strategy, 3000, [100])[8200] == 3020
    strategy.cap = Cap(2000)
    assert counts(strategy, 3000, [100])[8200] == 3000


def test_that_the_number_is_final_is_said_once_with_the_reason(caplog):
    params, optimizers = gaussians([0.5] * 40)
    for cap, step, wanted in (
        (Cap(40), 300, "step 300: 40 Gaussians, as many as memory holds; no more are added"),
        (Cap(0), 5000, "step 5000: 40 Gaussians; no more are added"),
    ):
        caplog.clear()
        strategy = Guided(40, CPU, 1.0, strategy_of(10_000, order_every=0).config, cap, Schedule(10_000))
        with caplog.at_level(logging.INFO):
            for at in (step, step + 100, 6000):
                strategy.step(at, params, optimizers, torch.Generator())
        assert [record.message for record in caplog.records] == [wanted]


def test_time_may_drive_growth():
    """Of 10 s at a steady pace half are for growth; refinements come every 100 steps."""
    strategy = strategy_of(30_000, cap_max=9000, order_every=0)
    strategy.schedule, found, count = Schedule(30_000, 10.0), {}, 1000
    for step in range(1, 2001):
        strategy.schedule.begin(step, step * 0.005)
        if strategy.is_due(step):
            params = {"means": torch.zeros(count, 3), "opacities": torch.zeros(count)}
            found[step] = count = strategy.wanted(strategy.schedule.at(step), params, 9000)
    assert list(found) == list(range(100, 1700, 100)) and found[1000] == found[1600] == 9000
    assert found[500] == pytest.approx(1000 + 8000 * 0.5, rel=0.05)


@pytest.mark.parametrize("children", KINDS)
def test_memory_that_runs_out_changes_nothing_and_ends_growth(children, caplog):
    """At every operation that takes memory, one after another, until one refinement gets through."""
    config = DensificationConfig(strategy="guided", children=children, cap_max=60, order_every=0)
    for number in range(200):
        params, optimizers = gaussians([0.5] * 40 + [0.001] * 2)
        before = {name: param.detach().clone() for name, param in params.items()}
        strategy = Guided(42, CPU, 1.0, config, Cap(60), Schedule(1000))
        strategy.state["score"] += 1.0
        with RunsOutAt(number) as pressure, caplog.at_level(logging.WARNING):
            report = strategy.step(600, params, optimizers, torch.Generator().manual_seed(0))
        if not pressure.hit:
            break
        assert report == MoveReport(0, 0, 0, 42)
        assert all(torch.equal(param, before[name]) for name, param in params.items())
        lengths = {len(moment) for opt in optimizers.values() for moment in opt.state_dict()["state"][0].values()
                   if moment.dim()}  # fmt: skip
        assert lengths == {42} == {len(values) for values in strategy.state.values()}
        assert strategy.wanted(Moment.of_step(700), params, strategy.cap.now([])) == 42
    assert number > 20 and report.total == 60 and len(strategy.state["score"]) == 60


def test_a_score_takes_memory():
    config = config_of({"densification.strategy": "guided"})
    view = type("View", (), {"width": 10, "height": 10})
    kept = [cap_of(config_of({"densification.strategy": name}), "fused", [view], CPU)._budget.kept
            for name in ("adc", "guided")]  # fmt: skip
    assert kept[1] == kept[0] + 4 and config.densification.cap_max is None


# --------------------------------------------------------------------------------------------------------- trainings

SCHEDULE = {
    "densification.strategy": "guided", "densification.start": 5, "densification.every": 10, "densification.stop": 190,
    "densification.cap_max": 3300, "densification.order_every": 35, "model.sh_degree_interval": 25,
    "densification.grow_until": 0.3, "optim.rates_decay_start": 1.0,
}  # fmt: skip


@pytest.fixture
def trained(demo_scene, tmp_path, in_process):
    """Trains on the demo scene: trained("folder", {"key": value})."""

    def trained(folder: str, changes: dict, code: int = 0) -> Trainer:
        run = Trainer(demo_config(demo_scene, tmp_path / folder, SCHEDULE | changes))
        assert run.run() == code
        return run

    return trained


@pytest.mark.parametrize(
    "children", [pytest.param(kind, marks=[pytest.mark.slow] * (kind != "jitter")) for kind in KINDS]
)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(trained, monkeypatch, children):
    """With growth, spatial orders and falling rates before and after the break, and some steps after the last
    refinement."""
    changes = {
        "train.iterations": 100, "densification.children": children, "densification.grow_until": 1.0,
        "densification.stop": 95, "optim.rates_decay_start": 0.3,
    }  # fmt: skip
    whole = trained("whole", changes)
    real = Trainer.train_step

    def train_step(self, step):
        real(self, step)
        self.interruption.signal = 2 if step == 50 else None

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", train_step)
        first = trained("parts", changes, code=130)
    second = trained("parts", {**changes, "train.resume": "auto"})
    assert 3008 < len(first.state.params["means"]) < len(whole.state.params["means"]) == 3300
    for name, param in whole.state.params.items():
        assert torch.equal(param, second.state.params[name]), name
        one, two = (run.state.optimizers[name].state[run.state.params[name]] for run in (whole, second))
        assert all(torch.equal(one[key], two[key]) for key in one), name
    for name, values in whole.state.strategy.state_dict().items():
        assert torch.equal(values, second.state.strategy.state_dict()[name]), name


def test_a_run_says_when_its_number_is_final(trained):
    run = trained("run", {"train.iterations": 50, "densification.grow_until": 0.6})
    assert "step 30: 3,300 Gaussians; no more are added" in (run.folder / "train.log").read_text()


def test_the_same_run_twice_is_the_same_to_the_bit(trained):
    changes = {"train.iterations": 40, "densification.cap_max": None, "train.deterministic": True}
    runs = [trained(str(seed) + name, changes | {"train.seed": seed}) for seed, name in ((0, "a"), (0, "b"), (1, ""))]
    assert all(len(run.state.params["means"]) > 3008 for run in runs)
    assert all(torch.equal(param, runs[1].state.params[name]) for name, param in runs[0].state.params.items())
    assert not torch.equal(runs[0].state.params["sh0"][:3000], runs[2].state.params["sh0"][:3000])


def test_broken_gaussians_are_dropped_with_their_statistics(trained, monkeypatch):
    real = Trainer.train_step

    def train_step(self, step):
        real(self, step)
        if step == 12:
            self.state.params["means"].data[100:140] = math.nan

    monkeypatch.setattr(Trainer, "train_step", train_step)
    run = trained("run", {"train.iterations": 60, "log.every": 13})
    said = (run.folder / "train.log").read_text()
    assert "40 Gaussians are not finite (means" in said and "dropped, 3,130 are left" in said
    assert len(run.state.params["means"]) == 3300 and all(param.isfinite().all() for param in run.state.params.values())
    assert all(len(values) == 3300 and values.isfinite().all() for values in run.state.strategy.state.values())


def test_what_masks_ignore_gets_no_children(trained, demo_scene, tmp_path):
    """All is masked but the upper left corner of all photos: only what is seen there has a score."""
    scene = tmp_path / "scene"
    shutil.copytree(demo_scene, scene, ignore=shutil.ignore_patterns(".distwar_cache"))
    (scene / "masks").mkdir()
    window = np.zeros((60, 80), np.uint8)
    window[:6, :8] = 255
    for photo in (scene / "images").iterdir():
        Image.fromarray(window).save(scene / "masks" / f"{photo.name}.png")
    whole, masked = (
        trained(name, {"train.iterations": 9, "data.source_path": str(path)})
        for name, path in (("whole", demo_scene), ("masked", scene))
    )
    shares = [float((run.state.strategy.state["score"] > 0).float().mean()) for run in (whole, masked)]
    assert shares[0] > 0.8 and 0.05 < shares[1] < 0.5 * shares[0]


def test_a_run_of_seconds_grows_to_its_cap(trained, monkeypatch):
    """40 steps of an eighth of a second: growth is over after the first half."""
    now, real = [100.0], Trainer.train_step

    def train_step(self, step):
        real(self, step)
        now[0] += 0.125

    monkeypatch.setattr(Trainer, "train_step", train_step)
    monkeypatch.setattr(monitor.time, "perf_counter", lambda: now[0])
    changes = {
        "train.iterations": 1000, "train.seconds": 5.0, "densification.start": 100, "densification.stop": 801,
        "densification.every": 5, "densification.grow_until": 0.5,
    }  # fmt: skip
    run = trained("run", changes)
    assert run.state.step == 40 and len(run.state.params["means"]) == 3300
    assert "step 25: 3,300 Gaussians; no more are added" in (run.folder / "train.log").read_text()


def test_a_training_whose_memory_runs_out_while_it_grows_goes_on(trained):
    changes = {"train.iterations": 30, "densification.cap_max": None}
    allocations, real = [], guided.refine

    def refine(*arguments):
        with RunsOutAt(len(allocations)) as pressure:
            allocations.append(pressure)
            return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guided, "refine", refine)
        run = trained("run", changes)
    assert allocations and allocations[0].hit and len(run.state.params["means"]) == 3008
    assert "out of memory while Gaussians were added" in (run.folder / "train.log").read_text()


def test_statistics_of_others_are_refused_and_a_new_score_begins_at_zero():
    strategy = Guided(4, CPU, 1.0, CONFIG)
    with pytest.raises(ValueError, match="'grad2d' are missing"):
        strategy.load_state_dict({"count": torch.ones(4)})
    with pytest.raises(ValueError, match="'score' are missing or not of shape"):
        strategy.load_state_dict({"grad2d": torch.ones(4), "count": torch.ones(4), "score": torch.ones(3)})
    strategy.load_state_dict({"grad2d": torch.ones(4), "count": torch.ones(4)})
    assert strategy.state["score"].tolist() == [0.0] * 4
    by_opacity = Guided(4, CPU, 1.0, DensificationConfig(strategy="guided", draw="opacity"))
    by_opacity.load_state_dict(strategy.state_dict())
    assert set(by_opacity.state) == {"grad2d", "count"}


def test_gradients_and_scores_are_asked_for_until_the_end():
    strategy = Guided(2, CPU, 1.0, DensificationConfig(strategy="guided", stop=50))
    assert strategy.statistics(49) is strategy.state and strategy.statistics(50) is None
    for step in (49, 50):
        strategy.after_backward(step, torch.ones(1, 2, 2), torch.tensor([[[1, 1], [0, 1]]]), 20, 10)
    assert strategy.state["count"].tolist() == [1.0, 0.0]
    assert strategy.state["grad2d"].tolist() == pytest.approx([math.hypot(10, 5), 0.0])


def test_the_config_chooses():
    config = config_of({"densification.strategy": "guided"})
    strategy = make_strategy(StrategySetup(config, 5, "cpu", 2.0, Schedule(config.train.iterations)))
    assert type(strategy) is Guided and strategy.extent == 2.0 and len(strategy.state["score"]) == 5
    assert config.model.antialiased and (config.model.init_opacity, config.model.init_scale) == (0.1, 1.0)
    with pytest.raises(ConfigError, match="optim.adam is visible: .* guided .*; use lazy or dense"):
        validate(config_of({"densification.strategy": "guided", "optim.adam": "visible"}))


def test_opacity_and_size_are_free_where_a_view_shows_little_of_the_scene():
    """Unseen Gaussians of a long wall would fade before their photo comes."""
    prices = [Guided(4, CPU, 1.0, CONFIG, shown=shown).prices(4) for shown in (0.01, 0.19, 0.21, 1.0)]
    assert prices[:2] == [(0.0, 0.0)] * 2 and prices[2] == prices[3] and min(prices[3]) > 0
