"""A clock for tests of timing."""


class Clock:
    """Stands in for the module time; goes on only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter
