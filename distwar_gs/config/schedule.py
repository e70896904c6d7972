"""One dial: every schedule follows the length of a run, whether that is given in steps or in seconds.

Settings that are counted in steps are meant for runs of `MEANT_FOR` steps. Those that nobody has chosen are stretched
to the length of the run before it begins (`stretched`), so that its config.yaml says what it does. How many steps a run
of so many seconds has is not known beforehand: there the time that has passed drives the same settings (`Schedule`).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

MEANT_FOR = 30_000
"""Steps of the runs that the published values of all settings belong to."""
FEWEST_BETWEEN_REFINEMENTS = 100
"""A refinement needs the gradients of so many steps, each of one view, however short the run is."""
FEWEST_TO_RECOVER = 500
"""Steps between two resets of the opacities. At the published rate an opacity needs about 200 to come back."""
FEWEST_TO_SETTLE = 3000
"""Steps over which the rate of the positions falls. In a shorter run it ends higher: 600 steps of the demo scene lose
1.7 dB where it falls all the way."""
FEWEST_TO_CALM = 10_000
"""Steps over which the other rates fall to optim.rates_final, where they do. In a shorter run they end higher: falling
to a tenth gains 0.2 to 0.3 dB in 15,000 steps of a real scene, loses 0.1 in 7000 and, of the demo, 1.0 dB in 600."""
_GRAIN = 50
"""In longer runs the steps between two refinements are a multiple of it."""

FOLLOWERS = (
    "densification.start", "densification.stop", "densification.every", "densification.opacity_reset_every",
    "model.sh_degree_interval", "optim.means_lr_steps", "optim.rates_final",
)  # fmt: skip
"""The settings that follow the length of a run."""


# ------------------------------------------------------------------------------------------------- before the run


def stretched(values: Mapping[str, Any], chosen: Collection[str]) -> dict[str, Any]:
    """Those settings counted in steps that are not `chosen`, for a run as long as `values` say; as they are for
    `MEANT_FOR` steps.

    Begin and end of the refinements and the steps between resets are multiples of the steps between two refinements,
    and not less than these.

    Args:
        values: all of a configuration, keyed "section.name"; what is not chosen as for a run of `MEANT_FOR` steps.
        chosen: the keys of those that stay.
    """
    made: dict[str, Any] = (
        {} if values["train.seconds"] is None else {"train.test_iterations": (), "train.save_iterations": ()}
    )
    ratio = values["train.iterations"] / MEANT_FOR
    if ratio != 1:
        made |= _density_steps(values, chosen, ratio)
        for key, fewest in (("model.sh_degree_interval", 1), ("optim.means_lr_steps", FEWEST_TO_SETTLE)):
            made[key] = max(fewest, round(ratio * values[key]))
        calmed = min(values["train.iterations"] / FEWEST_TO_CALM, 1.0)
        made["optim.rates_final"] = values["optim.rates_final"] ** calmed
    return {key: value for key, value in made.items() if key not in chosen}


def _density_steps(values: Mapping[str, Any], chosen: Collection[str], ratio: float) -> dict[str, int]:
    """The settings of section `densification`; what is chosen stays, and keeps begin before end."""
    key = "densification.{}".format
    every = values[key("every")]
    if key("every") not in chosen:
        every = max(FEWEST_BETWEEN_REFINEMENTS, _multiple(ratio * every, _GRAIN))
    made = {key(name): _multiple(ratio * values[key(name)], every) for name in ("start", "stop")}
    made |= {name: values[name] for name in made if name in chosen}
    if key("stop") in chosen:
        made[key("start")] = min(made[key("start")], made[key("stop")])
    made[key("stop")] = max(made.values())
    reset = max(ratio * values[key("opacity_reset_every")], FEWEST_TO_RECOVER)
    return made | {key("every"): every, key("opacity_reset_every"): _multiple(reset, every)}


def _multiple(steps: float, unit: int) -> int:
    """The multiple of `unit` that is nearest to `steps`, and not 0."""
    return unit * max(1, round(steps / unit))


# ------------------------------------------------------------------------------------------------- during the run


@dataclass(frozen=True)
class Moment:
    """A step, and how far the run is by then."""

    step: int
    """From 1; it is being made, or has just been made."""
    position: float
    """What settings counted in steps are compared with: the step, or in a run of so many seconds the step of a run of
    train.iterations steps that is as far."""
    before: float
    """The position of the step before."""
    views: int = 1
    """How many are shown at a step, which counts as so many."""

    @classmethod
    def of_step(cls, step: int, views: int = 1) -> "Moment":
        """In a run whose length is given in steps."""
        return cls(step, step, step - views, views)

    @property
    def pace(self) -> float:
        """Positions by step, on average so far."""
        return self.position / max(self.step, 1)

    def reaches(self, mark: float) -> bool:
        """Whether this is the first step at or beyond a position."""
        return self.before < mark <= self.position

    def is_each(self, every: int) -> bool:
        """Whether this is the first step at or beyond a multiple of `every`."""
        return self.step % every < self.views

    def mark(self, every: int) -> float:
        """The position that a step which `is_each` stands for: where it shows several views, it lies up to so many
        before."""
        return self.position - self.step % every * self.pace

    def completes(self, interval: int) -> bool:
        """Whether a multiple of `interval`, from `interval` on, lies at this step, or between the last one and it."""
        return self.position // interval > max(self.before, 0) // interval


class Schedule:
    """Says for each step how far the run is, and when it is over."""

    def __init__(self, iterations: int, seconds: float | None = None, views: int = 1) -> None:
        """For a run of `iterations` steps; or of `seconds`, of which each step is told the time (`begin`). Where a step
        shows several `views`, it counts as so many: steps are numbered by the views that have been shown."""
        self.iterations, self.seconds, self.views = iterations, seconds, views
        self._positions: dict[int, float] = {}  # of the last two steps

    @property
    def follows_clock(self) -> bool:
        """Whether the length is given in seconds."""
        return self.seconds is not None

    @property
    def option(self) -> str:
        """The one on the command line that sets the length."""
        return "--seconds" if self.follows_clock else "--iterations"

    def begin(self, step: int, elapsed: float) -> None:
        """Notes that a step begins after so many seconds of training. The step that a session goes on from counts as
        begun when the session does."""
        if self.seconds is None:
            return
        before = self._positions.get(step - self.views)
        self._positions = {} if before is None else {step - self.views: before}
        self._positions[step] = self.iterations * min(elapsed / self.seconds, 1.0)

    def at(self, step: int) -> Moment:
        """How far the run is at a step; in a run of so many seconds one of the last two that have begun."""
        if self.seconds is None:
            return Moment.of_step(step, self.views)
        position = self._positions.get(step, 0.0)
        return Moment(step, position, self._positions.get(step - self.views, position), self.views)

    def is_each(self, step: int, every: int) -> bool:
        """Whether a step is the first at or beyond a multiple of `every`."""
        return step % every < self.views

    def is_one(self, step: int, marks: Collection[int]) -> bool:
        """Whether a step is the first at or beyond one of these."""
        return any(view in marks for view in range(step, step - self.views, -1))

    def share(self, step: int) -> float:
        """The part of the run that lies before the end of a step, from 0 to 1."""
        return min(self.at(step).position / self.iterations, 1.0)

    def is_over(self, step: int, elapsed: float) -> bool:
        """Whether the run ends after this step, made after so many seconds of training."""
        return step >= self.iterations if self.seconds is None else elapsed >= self.seconds

    def so_far(self, step: int, elapsed: float) -> str:
        """Where a run is that has made so many steps, in so many seconds."""
        if self.seconds is None:
            return f"step {step} of {self.iterations}"
        return f"step {step}, {elapsed:.1f} of {self.seconds:g} seconds"

    def __str__(self) -> str:
        """The length, for messages."""
        return f"{self.iterations} steps" if self.seconds is None else f"{self.seconds:g} seconds"
