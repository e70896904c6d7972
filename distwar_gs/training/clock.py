"""The clock that a training of so many seconds goes by (train.seconds), on all ranks the same.

What is due at a step, and which step is the last, hangs on the time; ranks must not differ in that. So the first one's
clock counts, which stands still while it measures. Asking it at every step would make hosts wait for each other: they
ask now and then, and between two times take each step to be as long as the steps before were.
"""

from distwar_gs.system.parallel import Ranks


class Clock:
    """Of one process: seconds of training are what they are."""

    def begins(self, elapsed: float) -> float:
        """The seconds of training when a step begins; `elapsed`: by this process's clock. Once for each step."""
        return elapsed

    def ends(self, elapsed: float) -> float:
        """The seconds of training when that step is made."""
        return elapsed


class SharedClock(Clock):
    """Of several ranks."""

    def __init__(self, ranks: Ranks, every: int) -> None:
        """They ask the first one at every so-many-th step, at the beginning of a session more often."""
        self._ranks, self._every = ranks, every
        self._steps, self._next = 0, 0  # begun so far; before which of them to ask
        self._now, self._pace = 0.0, 0.0  # seconds; seconds for each step
        self._told, self._told_at = 0.0, 0  # what was said last, and before which step

    def begins(self, elapsed: float) -> float:
        """See Clock."""
        if self._steps == self._next:
            self._ask(elapsed)
        else:
            self._now += self._pace
        self._steps += 1
        return self._now

    def ends(self, elapsed: float) -> float:
        """See Clock."""
        return self._now + self._pace

    def _ask(self, elapsed: float) -> None:
        told, since = self._ranks.numbers(round(1e6 * elapsed))[0] / 1e6, self._steps - self._told_at
        if since:
            self._pace = (told - self._told) / since
        self._told, self._told_at = told, self._steps
        self._now = max(self._now, told)  # time does not go back
        self._next += min(max(self._steps, 1), self._every)


def clock_of(ranks: Ranks, seconds: float | None, every: int) -> Clock:
    """The clock of a training; `seconds` that it may take, None where steps are counted; `every`: of SharedClock."""
    return Clock() if ranks.count == 1 or seconds is None else SharedClock(ranks, every)
