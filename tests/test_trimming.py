"""Trimming: which Gaussians the pictures could do without, when they go, and what is left of the picture."""

import json

import pytest
import torch
from demo_runs import demo_config
from rank_processes import on_ranks
from test_live_modes import CAMERA, SETTINGS, one
from test_live_modes import params as many_of

from distwar_gs.config import config_of
from distwar_gs.config.schedule import Moment, Schedule
from distwar_gs.rendering.renderer import render
from distwar_gs.strategies import trimming
from distwar_gs.strategies.adaptive import is_refined
from distwar_gs.strategies.trimming import VIEWS, WITNESSES, Use, dispensable, is_trimmed, look_at_views, spread
from distwar_gs.system.parallel import ALONE, Ranks
from distwar_gs.training.trainer import Trainer


def use(weights: list[float], areas: list[float], views: int | list[int] = WITNESSES) -> Use:
    seen = views if isinstance(views, list) else [views] * len(weights)
    return Use(torch.tensor(weights), torch.tensor(areas), torch.tensor(seen))


# ---------------------------------------------------------------------------------------------------------- who goes


def test_those_that_do_least_for_their_pixels_go_first():
    """The second does as much as the third, for ten times the pixels; the fourth little, but for few."""
    asked = use([90.0, 1.0, 1.0, 0.5, 7.5], [100.0, 1000.0, 100.0, 1.0, 20.0])
    gone = [dispensable(asked, share).nonzero().squeeze(1).tolist() for share in (0.0, 0.009, 0.011, 0.021, 0.096, 1.0)]
    assert gone == [[], [], [1], [1, 2], [1, 2, 4], [0, 1, 2, 3, 4]]


def test_what_is_hidden_everywhere_goes_at_once():
    assert dispensable(use([50.0, 0.0, 0.0, 50.0], [90.0, 5.0, 9000.0, 60.0]), 1e-9).tolist() == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(("areas", "views"), [([0.0, 50.0], 9), ([30.0, 50.0], [WITNESSES - 1, 9])])
def test_what_few_or_no_views_show_stays(areas, views):
    assert dispensable(use([0.0, 0.0], areas, views), 0.5).tolist() == [False, True]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_together_they_are_at_most_the_share(seed, unit):
    generator = torch.Generator().manual_seed(seed)
    weights, areas = unit * torch.rand(500, generator=generator) ** 4, 1.0 + 99.0 * torch.rand(500, generator=generator)
    gone = dispensable(use(weights.tolist(), areas.tolist()), 0.02)
    lost = float(weights[gone].sum() / weights.sum())
    worth = weights / areas
    assert 0.015 < lost <= 0.02 and gone.sum() > 25 and worth[gone].max() <= worth[~gone].min()


@pytest.mark.parametrize("count", [0, 1])
def test_of_none_and_of_one_nothing_goes(count):
    assert not dispensable(use([1.0] * count, [1.0] * count), 0.5).any()


# --------------------------------------------------------------------------------------------- what the views say


def test_a_wall_hides_what_is_behind_it():
    """A Gaussian behind three opaque ones is in all pictures, and is nothing in them; without it they are the same."""
    wall, hidden = one((0.9, 0.9, 0.01), 0.999), one((0.2, 0.2, 0.01), 0.9)
    hidden["means"] = torch.tensor([[0.0, 0.0, 5.0]])
    params = {name: torch.cat([values] * 3 + [hidden[name]]) for name, values in wall.items()}
    found = look_at_views([CAMERA] * 6, SETTINGS)(params, 0)
    assert found.views.tolist() == [6.0] * 4 and found.areas[3] > 1000
    assert found.weights[3] < 1e-5 * found.weights[0]
    gone = dispensable(found, 1e-4)
    assert gone.tolist()[::3] == [False, True]
    left = {name: values[~gone] for name, values in params.items()}
    pictures = [render(values, CAMERA, SETTINGS, sh_degree=0).colors for values in (params, left)]
    torch.testing.assert_close(*pictures, rtol=0, atol=2e-3)


def _looked(ranks: Ranks, params: dict[str, torch.Tensor]) -> Use:
    mine = {name: values[ranks.rank :: ranks.count] for name, values in params.items()}
    return look_at_views([CAMERA._replace(width=CAMERA.width + more) for more in range(5)], SETTINGS, ranks)(mine, 0)


def test_ranks_share_the_views_out_and_see_what_others_hide(tmp_path):
    """Three ranks with uneven numbers of Gaussians say together what one process says."""
    params = {name: values.detach() for name, values in many_of(n=50).items()}
    alone = _looked(ALONE, {name: torch.cat([values[rank::3] for rank in range(3)]) for name, values in params.items()})
    for told in on_ranks(3, tmp_path, _looked, params):
        for found, expected in zip(told, alone, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("count", "asked"), [(3, 3), (VIEWS, VIEWS), (VIEWS + 1, VIEWS), (500, VIEWS)])
def test_views_are_spread_and_change(count, asked):
    rounds = [spread(range(count), before) for before in range(12)]
    assert all(len(set(views)) == asked for views in rounds)
    assert max(max(views) for views in rounds) == count - 1
    assert len(set().union(*rounds)) == min(count, 12 * asked)


# ---------------------------------------------------------------------------------------------------------- when


def trimmed_at(iterations: int, **settings: object) -> list[int]:
    config = config_of(
        {"train.iterations": iterations} | {f"densification.{name}": value for name, value in settings.items()}
    ).densification
    refined = range(config.start + config.every, config.stop, config.every)
    return [step for step in refined if is_trimmed(Moment.of_step(step), config)]


@pytest.mark.parametrize(("iterations", "times"), [(30_000, 12), (20_000, 12), (7000, 11), (1200, 1), (600, 0)])
def test_it_is_done_some_times_with_time_to_recover(iterations, times):
    """Twelve times in a long run; in a short one not within 500 steps."""
    steps = trimmed_at(iterations)
    assert len(steps) == times
    assert all(later - sooner >= 500 for sooner, later in zip(steps, steps[1:], strict=False))


def test_it_may_be_off():
    assert trimmed_at(30_000, trim=0.0) == trimmed_at(30_000, trims=0) == []
    assert trimmed_at(30_000, strategy="adc") == trimmed_at(30_000, strategy="mcmc") == []


def test_time_may_drive_it():
    """A run of seconds that makes 6,000 steps: 500 of them lie between two trims, as in one of 6,000 steps."""
    config = config_of({"train.seconds": 10.0})
    schedule, found = Schedule(config.train.iterations, 10.0), []
    for step in range(1, 6001):
        schedule.begin(step, 10.0 * step / 6000)
        now = schedule.at(step)
        if is_refined(now, config.densification) and is_trimmed(now, config.densification):
            found.append(step)
    assert found == list(range(500, 5001, 500)) and trimmed_at(6000) == found[:-1]


# ---------------------------------------------------------------------------------------------------------- trainings


@pytest.fixture
def often(monkeypatch):
    """Trims are due without time to recover: a training of some steps has some."""
    monkeypatch.setattr(trimming, "FEWEST_TO_RECOVER", 1)


CHANGES = {
    "train.iterations": 30, "densification.strategy": "guided", "densification.start": 2, "densification.every": 5,
    "densification.stop": 28, "densification.trims": 3, "densification.trim": 0.03, "densification.growth_share": 0.0,
}  # fmt: skip


def trained(scene, folder, code: int = 0, **changes: object) -> Trainer:
    run = Trainer(
        demo_config(scene, folder, CHANGES | {key.replace("__", "."): value for key, value in changes.items()})
    )
    assert run.run() == code
    return run


def psnr_of(run: Trainer) -> float:
    return json.loads((run.folder / "metrics.json").read_text())[-1]["psnr"]


def test_a_training_keeps_its_picture_with_fewer(demo_scene, tmp_path, in_process, often, monkeypatch):
    asked = []
    monkeypatch.setattr(trimming, "dispensable", lambda *arguments: asked.append(arguments) or dispensable(*arguments))
    less, all_of_them = (trained(demo_scene, tmp_path / str(share), densification__trim=share) for share in (0.01, 0.0))
    counts = [len(run.state.params["means"]) for run in (less, all_of_them)]
    assert counts[0] < 0.97 * counts[1]
    assert len(asked) == 3
    assert all(len(values) == counts[0] for values in less.state.strategy.state.values())
    assert psnr_of(less) > psnr_of(all_of_them) - 0.3


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(demo_scene, tmp_path, in_process, often, monkeypatch):
    whole, real = trained(demo_scene, tmp_path / "whole"), Trainer.train_step

    def train_step(self, step):
        real(self, step)
        self.interruption.signal = 2 if step == 13 else None

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", train_step)
        trained(demo_scene, tmp_path / "parts", 130)
    second = trained(demo_scene, tmp_path / "parts", train__resume="auto")
    assert len(whole.state.params["means"]) < 3000
    assert all(torch.equal(param, second.state.params[name]) for name, param in whole.state.params.items())


def test_with_a_cap_what_went_is_made_up_for(demo_scene, tmp_path, in_process, often):
    run = trained(demo_scene, tmp_path, densification__cap_max=3100, densification__grow_until=0.5)
    assert len(run.state.params["means"]) == 3100
