"""The order of the training views."""

import pytest
import torch

from distwar_gs.training.sampler import ViewSampler


def sampler(count: int = 7, seed: int = 0) -> ViewSampler:
    return ViewSampler(count, torch.Generator().manual_seed(seed))


def draw(views: ViewSampler, count: int) -> list[int]:
    return [views.next() for _ in range(count)]


def test_every_view_comes_once_a_round():
    views = sampler()
    rounds = [draw(views, 7) for _ in range(5)]
    assert all(sorted(order) == list(range(7)) for order in rounds)
    assert len(set(map(tuple, rounds))) == 5, "the rounds do not differ"


def test_the_seed_makes_the_order():
    assert draw(sampler(), 20) == draw(sampler(), 20)
    assert draw(sampler(), 20) != draw(sampler(seed=1), 20)


@pytest.mark.parametrize("done", [0, 3, 7, 9])
def test_a_round_continues_from_its_state(done):
    views = sampler()
    draw(views, done)
    state, generator = views.state_dict(), views._generator.get_state()
    expected = draw(views, 20)
    continued = sampler(seed=99)
    continued._generator.set_state(generator)
    continued.load_state_dict(state)
    assert draw(continued, 20) == expected


def test_the_state_is_a_copy():
    views = sampler()
    views.next()
    state = views.state_dict()
    draw(views, 3)
    assert len(state["order"]) == 6


@pytest.mark.parametrize("order", [[7], [0, -1], [100]])
def test_the_order_of_another_scene_is_refused(order):
    with pytest.raises(ValueError, match="does not fit a scene of 7 training views"):
        sampler().load_state_dict({"order": order})


def test_what_is_upcoming_comes():
    sampler = ViewSampler(5, torch.Generator().manual_seed(0))
    assert sampler.upcoming() == []
    sampler.next()
    upcoming = sampler.upcoming()
    assert len(upcoming) == 4 and [sampler.next() for _ in range(4)] == upcoming


def test_a_view_that_is_put_back_is_the_next():
    whole, broken = (ViewSampler(5, torch.Generator().manual_seed(3)) for _ in range(2))
    expected = [whole.next() for _ in range(11)]
    given = []
    while len(given) < 11:
        broken.put_back(broken.next())
        given.append(broken.next())
    assert given == expected
