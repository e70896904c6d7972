"""The dial: which settings follow the length of a run, and how far a run is at a step."""

import pytest
import yaml

from distwar_gs.cli import train_config
from distwar_gs.config import (
    FIELDS,
    PRESETS,
    QUALITIES,
    Config,
    ConfigError,
    as_values,
    config_of,
    load_config,
    read_values,
    save_config,
    validate,
    with_values,
)
from distwar_gs.config.schedule import FOLLOWERS, Moment, Schedule

STEPS = ("start", "stop", "every", "opacity_reset_every")


def schedule_of(values: dict) -> tuple[int, ...]:
    """start, stop, every, steps between resets, between degrees of the harmonics, and of the positions' rate; of adc,
    unless another is given."""
    config = validate(config_of({"densification.strategy": "adc"} | values))
    density = (getattr(config.densification, name) for name in STEPS)
    return (*density, config.model.sh_degree_interval, config.optim.means_lr_steps)


# ----------------------------------------------------------------------------------------------------- runs by steps


@pytest.mark.parametrize(
    ("iterations", "expected"),
    [
        (30_000, (500, 15_000, 100, 3000, 1000, 30_000)),
        (10_000, (200, 5000, 100, 1000, 333, 10_000)),
        (7000, (100, 3500, 100, 700, 233, 7000)),
        (3000, (100, 1500, 100, 500, 100, 3000)),  # an opacity needs some 200 steps to come back
        (600, (100, 300, 100, 500, 20, 3000)),
        (1, (100, 100, 100, 500, 1, 3000)),
        (60_000, (1000, 30_000, 200, 6000, 2000, 60_000)),  # as many refinements as in 30,000
        (45_000, (750, 22_500, 150, 4500, 1500, 45_000)),
    ],
)
def test_schedules_follow_the_number_of_steps(iterations, expected):
    assert schedule_of({"train.iterations": iterations}) == expected


@pytest.mark.parametrize("strategy", PRESETS)
@pytest.mark.parametrize("iterations", [1, 50, 333, 7001, 12_345, 29_999, 30_001, 99_999, 1_000_000])
def test_every_length_has_a_schedule_that_holds_together(strategy, iterations):
    start, stop, every, reset, degree, rate = schedule_of(
        {"train.iterations": iterations, "densification.strategy": strategy}
    )
    assert 100 <= every <= start <= stop and reset >= 500 and degree >= 1 and rate == max(iterations, 3000)
    assert start % every == stop % every == reset % every == 0


def test_what_a_strategy_brings_follows_too_and_what_is_set_does_not():
    assert schedule_of({"train.iterations": 6000, "densification.strategy": "mcmc"})[1] == 5000
    chosen = {"densification.stop": 15_000, "model.sh_degree_interval": 1000, "optim.means_lr_steps": 30_000}
    assert schedule_of({"train.iterations": 6000} | chosen) == (100, 15_000, 100, 600, 1000, 30_000)
    assert schedule_of({"train.iterations": 6000, "densification.every": 30}) == (90, 3000, 30, 600, 200, 6000)


def rates_final(values: dict) -> float:
    return config_of({"densification.strategy": "guided"} | values).optim.rates_final


def test_rates_fall_less_in_short_runs():
    """Of the way to a tenth, in decades, the share of 10,000 steps."""
    for iterations, wanted in (
        (60_000, 0.1),
        (30_000, 0.1),
        (10_000, 0.1),
        (5000, 10**-0.5),
        (600, 10**-0.06),
        (1, 1.0),
    ):
        assert rates_final({"train.iterations": iterations}) == pytest.approx(wanted, rel=1e-3)
    assert rates_final({"train.iterations": 600, "optim.rates_final": 0.1}) == 0.1
    assert rates_final({"train.seconds": 5.0}) == rates_final({"train.quality": "draft"}) == 0.1
    assert config_of({"densification.strategy": "adc", "train.iterations": 600}).optim.rates_final == 1.0


def test_what_is_set_keeps_begin_before_end():
    assert schedule_of({"train.iterations": 3000, "densification.start": 2000})[:2] == (2000, 2000)
    assert schedule_of({"train.iterations": 90_000, "densification.stop": 500})[:2] == (500, 500)
    with pytest.raises(ConfigError, match="densification.start is 9"):
        validate(config_of({"train.iterations": 90, "densification.start": 9, "densification.stop": 8}))


def test_nothing_else_follows():
    values = as_values(config_of({"train.iterations": 7000}))
    changed = {key for key in FIELDS if values[key] != as_values(config_of({}))[key]}
    assert changed | {"densification.every"} == {"train.iterations", *FOLLOWERS}


@pytest.mark.parametrize("quality", QUALITIES)
def test_a_quality_is_its_length(quality):
    by_name, by_number = config_of({"train.quality": quality}), config_of(QUALITIES[quality])
    assert as_values(by_name) == as_values(by_number) | {"train.quality": quality}
    assert config_of({"train.quality": quality, "train.iterations": 50}).train.iterations == 50


# ------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"train.iterations": 7000},
        {"train.iterations": 7000, "densification.stop": 15_000},  # what a run of 30,000 steps would have
        {"train.iterations": 7000, "densification.stop": 3500, "densification.every": 70},
        {"train.iterations": 60_000, "densification.every": 100},
        {"train.iterations": 7000, "densification.strategy": "mcmc", "densification.stop": 25_000},
        {"train.iterations": 60_000, "train.quality": "draft", "densification.strategy": "absgrad"},
        {"train.quality": "best", "optim.means_lr_steps": 30_000},
        {"train.iterations": 700, "densification.strategy": "guided"},
        {"train.iterations": 700, "densification.strategy": "guided", "optim.rates_final": 0.1},
        {"train.seconds": 20.0, "train.test_iterations": (7000, 30_000)},
    ],
)
def test_the_config_of_a_run_is_read_back_whole(tmp_path, values):
    config = config_of(values)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    scene = tmp_path / "scene.yaml"
    scene.write_text("base: config.yaml\ndata: {source_path: a}\n")
    assert load_config(scene) == with_values(config, {"data.source_path": "a"})


def test_the_config_of_a_run_at_another_length_keeps_what_was_chosen(tmp_path):
    save_config(config_of({"train.iterations": 7000, "densification.start": 900}), tmp_path / "config.yaml")
    assert read_values(tmp_path / "config.yaml") == {"train.iterations": 7000, "densification.start": 900}
    config = train_config(["-s", "x", "--config", str(tmp_path / "config.yaml"), "--iterations", "14000"])
    assert (config.densification.start, config.densification.stop, config.optim.means_lr_steps) == (900, 11_700, 14_000)


@pytest.mark.parametrize("missing", ["train.quality", "train.seconds"])
def test_an_older_versions_config_of_a_run_is_taken_as_it_is(tmp_path, missing):
    """It lacks settings of today, and says what the run did: nothing in it follows the length."""
    values = as_values(Config()) | {"train.iterations": 7000, "densification.strategy": "default"}
    tree: dict[str, dict] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = list(value) if isinstance(value, tuple) else value
    del tree[missing.partition(".")[0]][missing.partition(".")[2]]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    assert as_values(load_config(tmp_path / "config.yaml")) == values | {"densification.strategy": "adc"}


@pytest.mark.parametrize(
    ("file", "flags", "expected"),
    [
        ("{iterations: 30000}", "--quality draft", (10_000, None)),
        ("{iterations: 30000}", "--set train.quality=draft", (10_000, None)),
        ("{seconds: 20}", "--iterations 500", (500, None)),
        ("{iterations: 500}", "--seconds 20", (20_000, 20.0)),
        ("{quality: best}", "--seconds 20", (20_000, 20.0)),
        ("{quality: best}", "--seed 5", (45_000, None)),
        ("{quality: best, iterations: 7}", "", (7, None)),
        ("{seconds: 20, iterations: 7000}", "", (7000, 20.0)),
    ],
)
def test_a_length_replaces_those_below_it(tmp_path, file, flags, expected):
    (tmp_path / "c.yaml").write_text(f"train: {file}\n")
    train = train_config(["-s", "x", "--config", str(tmp_path / "c.yaml"), *flags.split()]).train
    assert (train.iterations, train.seconds) == expected


def test_seconds_do_not_go_with_deterministic_runs():
    with pytest.raises(ConfigError, match="train.seconds is 20: .* train.deterministic; give --iterations instead"):
        train_config(["-s", "x", "--seconds", "20", "--deterministic"])


# ------------------------------------------------------------------------------------------------- how far a run is


def test_by_steps_the_step_is_the_position():
    schedule = Schedule(200)
    assert schedule.at(7) == Moment(7, 7, 6) and not schedule.follows_clock
    assert (schedule.share(0), schedule.share(50), schedule.share(300)) == (0.0, 0.25, 1.0)
    assert [step for step in range(1, 203) if schedule.is_over(step, 0.0)] == [200, 201, 202]
    assert [step for step in range(31) if schedule.at(step).completes(10)] == [10, 20, 30]
    assert [step for step in range(31) if schedule.at(step).reaches(10)] == [10]


def test_by_seconds_time_is_the_position():
    """4 seconds are as long as 1000 steps: a step of a quarter of a second is worth 62.5. Every mark is met once."""
    schedule, seen = Schedule(1000, 4.0), []
    for step in range(1, 17):
        schedule.begin(step, (step - 1) / 4)
        seen.append(schedule.at(step))
        assert schedule.is_over(step, step / 4) == (step == 16)
    assert [moment.position for moment in seen] == [62.5 * i for i in range(16)]
    assert [moment.step for moment in seen if moment.reaches(300)] == [6]
    assert [moment.step for moment in seen if moment.completes(250)] == [5, 9, 13]
    assert schedule.share(16) == 0.9375 and schedule.at(16).pace == pytest.approx(937.5 / 16)


def test_time_goes_on_in_a_resumed_run_and_back_after_a_rewind():
    schedule = Schedule(1000, 4.0)
    schedule.begin(40, 2.0)  # the step that the checkpoint was made at
    assert schedule.at(40) == Moment(40, 500.0, 500.0)
    schedule.begin(41, 2.1)
    assert schedule.at(41).position == pytest.approx(525.0) and schedule.at(41).before == 500.0
    schedule.begin(21, 3.0)
    assert schedule.at(21) == Moment(21, 750.0, 750.0), "nothing is reached by going back"
    schedule.begin(22, 5.0)
    assert schedule.share(22) == 1.0
