"""The clock of a training, which several ranks share."""

import pytest

from distwar_gs.config.schedule import Schedule
from distwar_gs.system.parallel import ALONE, Ranks
from distwar_gs.training.clock import Clock, SharedClock, clock_of


class _Told(Ranks):
    """A rank that is told the first one's time: 0.25 s for a step, and twice that from step 40 on."""

    count = 2

    def __init__(self) -> None:
        self.step, self.asked = 0, []

    def numbers(self, value: int) -> list[int]:
        self.asked.append(self.step)
        return [round(1e6 * (0.25 * self.step + 0.25 * max(self.step - 40, 0))), value]


def test_ranks_go_by_the_time_of_the_first_and_ask_seldom():
    ranks = _Told()
    clock, seen = SharedClock(ranks, 16), []
    for ranks.step in range(100):
        begins = clock.begins(999.0)  # its own clock does not count
        assert clock.ends(0.0) >= begins
        seen.append(begins)
    assert ranks.asked == [0, 1, 2, 4, 8, *range(16, 100, 16)]
    assert seen[:40] == pytest.approx([0.25 * step for step in range(40)])
    assert seen == sorted(seen) and seen[96] == pytest.approx(0.25 * 96 + 0.25 * 56, rel=0.01)


def test_one_process_has_its_own_clock():
    for clock in (clock_of(ALONE, 3.0, 16), clock_of(_Told(), None, 16)):
        assert type(clock) is Clock and clock.begins(1.5) == 1.5 and clock.ends(2.5) == 2.5
    assert type(clock_of(_Told(), 3.0, 16)) is SharedClock


def test_positions_of_steps_that_show_several_views():
    schedule = Schedule(1000, 4.0, views=3)
    schedule.begin(30, 2.0)
    schedule.begin(33, 2.2)
    now = schedule.at(33)
    assert (now.position, now.before, now.views) == pytest.approx((550.0, 500.0, 3))
    assert now.reaches(520) and not now.reaches(560) and now.mark(16) == pytest.approx(550.0 - now.pace)
