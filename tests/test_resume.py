"""Which checkpoint `--resume` means, and with which settings a run goes on."""

from pathlib import Path

import pytest
import torch
from demo_runs import demo_config
from test_checkpoint import checkpoint

from distwar_gs.checkpoints import checkpoint as cp
from distwar_gs.checkpoints.resume import (
    FIXED,
    FREE,
    check_config,
    find_checkpoint,
    open_checkpoint,
    with_its_schedule,
    with_its_strategy,
)
from distwar_gs.config import Config, ConfigError, as_values, config_of, with_values
from distwar_gs.training.state import PARTS
from distwar_gs.training.trainer import Trainer

CPU = torch.device("cpu")


def test_auto_finds_the_latest(tmp_path):
    assert find_checkpoint(tmp_path, "auto") is None
    for step in (900, 7000, 1000):  # the last one written is the latest, whatever its number
        cp.save_checkpoint(tmp_path, checkpoint(step))
    folder = tmp_path / "checkpoints"
    assert find_checkpoint(tmp_path, "auto") == folder / "step_1000.pt"
    (folder / "step_1000.pt").unlink()
    assert find_checkpoint(tmp_path, "auto") == folder / "step_7000.pt"
    (folder / "latest").write_bytes(b"\xff\xfe")
    assert find_checkpoint(tmp_path, "auto") == folder / "step_7000.pt"


def test_a_path_may_be_file_run_or_folder(tmp_path):
    path = cp.save_checkpoint(tmp_path / "run", checkpoint())
    for given in (path, str(path), path.parent, path.parent.parent):
        assert find_checkpoint(tmp_path / "new", given) == path
    with pytest.raises(cp.CheckpointError, match="nothing_here: no checkpoint there; .*--resume"):
        find_checkpoint(tmp_path / "run", tmp_path / "nothing_here")


def saved_steps(folder, *steps: int):
    """The checkpoints of a run, by step."""
    return {step: cp.save_checkpoint(folder, checkpoint(step)) for step in steps}


def test_auto_goes_back_to_the_one_before(tmp_path, caplog):
    paths = saved_steps(tmp_path, 10, 20, 30, 40)
    paths[40].write_bytes(paths[40].read_bytes()[:1000])
    paths[30].write_text("hello")
    path, found = open_checkpoint(tmp_path, "auto", CPU)
    assert path == paths[20] and found.step == 20
    assert caplog.text.count("going back to the one before") == 2 and "step_40.pt: cut off" in caplog.text
    names = sorted(path.name for path in paths[20].parent.iterdir())
    assert names == ["latest", "step_10.pt", "step_20.pt", "step_30.pt.damaged", "step_40.pt.damaged"]


def test_auto_does_not_go_to_what_another_run_has_left(tmp_path):
    paths = saved_steps(tmp_path, 900, 10)  # an earlier run, then a new one in the same folder
    paths[10].write_text("hello")
    with pytest.raises(cp.CheckpointError, match="checkpoints: all its checkpoints are damaged; start without"):
        open_checkpoint(tmp_path, "auto", CPU)
    assert paths[10].is_file(), "set aside although nothing took its place"


def test_a_path_means_that_file(tmp_path):
    paths = saved_steps(tmp_path, 10, 20)
    paths[20].write_bytes(paths[20].read_bytes()[:-1])
    with pytest.raises(cp.CheckpointError, match=r"step_20.pt: cut off.*--resume \S*step_10.pt"):
        open_checkpoint(tmp_path, str(paths[20]), CPU)
    assert open_checkpoint(tmp_path, str(paths[10]), CPU)[1].step == 10


def test_auto_does_not_go_back_before_a_newer_program(tmp_path):
    paths = saved_steps(tmp_path, 10, 20)
    torch.save(torch.load(paths[20], weights_only=True) | {"format_version": 99}, paths[20])
    with pytest.raises(cp.CheckpointError, match="step_20.pt: checkpoint format 99"):
        open_checkpoint(tmp_path, "auto", CPU)


def test_auto_in_an_empty_folder_begins(tmp_path):
    assert open_checkpoint(tmp_path, "auto", CPU) is None


# ---------------------------------------------------------------------------------------------------------- settings


def check(changes: dict) -> None:
    """What `check_config` says of a run that began with adc and goes on with these."""
    saved = checkpoint()
    saved.config.clear()
    saved.config.update(as_values(Config()))
    check_config("step_7.pt", saved, with_values(Config(), changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train.iterations": 60_000, "train.checkpoint_iterations": [5], "train.device": "cpu"},
        {"data.source_path": "elsewhere", "data.loader_threads": 3, "log.every": 7},
        {"reduction.strategy": "sw_s", "reduction.balance_threshold": 8, "train.rasterizer": "gsplat"},
    ],
)
def test_settings_that_may_change(changes, caplog):
    check(changes)
    assert not caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"densification.strategy": "absgrad"}, "densification.strategy adc .now absgrad., which a run keeps"),
        ({"train.seed": 5}, "resume with --set train.seed=0, or start without --resume"),
        ({"data.masks": None, "data.invert_masks": True}, "--set data.masks=masks data.invert_masks=false, or"),
    ],
)
def test_settings_that_a_run_keeps(changes, message):
    with pytest.raises(cp.CheckpointError, match=rf"step_7.pt: trained with .*{message}") as refused:
        check(changes)
    assert "\n" not in str(refused.value)


def test_settings_that_change_the_result_are_told(caplog):
    check({"optim.lambda_dssim": 0.5, "densification.cap_max": 1000, "train.iterations": 9})
    assert [record.message for record in caplog.records] == [
        "from step 8 on optim.lambda_dssim is 0.5; before, it was 0.2",
        "from step 8 on densification.cap_max is 1000; before, it was None",
    ]


def test_settings_of_an_older_program_are_not_compared(caplog):
    saved = checkpoint()
    saved.config.clear()
    check_config("step_7.pt", saved, Config())
    assert not caplog.text


STRATEGIES = ("adc", "absgrad", "mcmc", "guided")
ADC = {"densification.strategy": "adc"}


def begun(values: dict) -> cp.Checkpoint:
    """A checkpoint of a run with these settings."""
    saved = checkpoint()
    saved.config.clear()
    saved.config.update(as_values(config_of(values)))
    return saved


@pytest.mark.parametrize("default", STRATEGIES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_goes_on_with_its_strategy_whatever_the_default_is(monkeypatch, caplog, strategy, default):
    for module in ("config.values", "checkpoints.resume"):
        monkeypatch.setattr(f"distwar_gs.{module}.DEFAULT_STRATEGY", default)
    length, choices = {"train.iterations": 7000}, {"optim.sh0_lr": 0.5, "densification.start": 700}
    saved = begun(length | choices | {"densification.strategy": strategy})
    with caplog.at_level("INFO"):
        goes_on = with_its_strategy(saved, config_of({"train.iterations": 14_000} | choices))
    wanted = config_of({"train.iterations": 14_000, "densification.strategy": strategy} | choices)
    assert goes_on == wanted
    assert ("goes on with it" in caplog.text) == (strategy != default)
    check_config("step_7.pt", saved, goes_on)


def test_a_strategy_that_is_chosen_is_not_replaced(monkeypatch):
    for module in ("config.values", "checkpoints.resume"):
        monkeypatch.setattr(f"distwar_gs.{module}.DEFAULT_STRATEGY", "guided")
    for strategy in ("absgrad", "mcmc"):
        chosen = config_of({"densification.strategy": strategy})
        assert with_its_strategy(begun({"densification.strategy": "adc"}), chosen) is chosen
    unknown = begun({})
    unknown.config["densification.strategy"] = "of a later version"
    default = config_of({})
    assert with_its_strategy(unknown, default) is default
    unknown.config.clear()
    assert with_its_strategy(unknown, default) is default


@pytest.mark.parametrize("now", [{}, {"densification.cap_max": 500}, {"model.antialiased": True}])
def test_what_a_strategy_brings_stays_as_the_run_had_it(monkeypatch, now):
    """Also a choice of then that is what the default brings now, and is therefore no choice."""
    for module in ("config.values", "checkpoints.resume"):
        monkeypatch.setattr(f"distwar_gs.{module}.DEFAULT_STRATEGY", "guided")
    then = {"densification.strategy": "mcmc", "model.antialiased": True, "densification.cap_max": 700}
    saved = begun(then)
    goes_on = with_its_strategy(saved, config_of(now))
    assert goes_on == config_of(then | now)
    check_config("step_7.pt", saved, goes_on)


def test_other_choices_must_go_with_a_runs_strategy(monkeypatch):
    for module in ("config.values", "checkpoints.resume"):
        monkeypatch.setattr(f"distwar_gs.{module}.DEFAULT_STRATEGY", "adc")
    with pytest.raises(ConfigError, match="optim.adam is visible: with densification.strategy mcmc"):
        with_its_strategy(begun({"densification.strategy": "mcmc"}), config_of({"optim.adam": "visible"}))


def older(changes: dict) -> cp.Checkpoint:
    """A checkpoint of a version whose schedules did not follow the length of a run."""
    saved, now = checkpoint(), ("train.quality", "train.seconds")
    saved.config.clear()
    saved.config.update({key: value for key, value in (as_values(Config()) | changes).items() if key not in now})
    return saved


def test_an_older_versions_run_keeps_its_schedule(caplog):
    saved, config = older({"train.iterations": 7000}), config_of(ADC | {"train.iterations": 7000})
    assert config.densification.stop == 3500
    with caplog.at_level("INFO"):
        goes_on = with_its_schedule(saved, config)
    assert goes_on == with_values(Config(), {"train.iterations": 7000})
    assert "goes on with its schedule (densification.start 500, densification.stop 15000" in caplog.text
    caplog.clear()
    check_config("step_7.pt", saved, goes_on)
    assert not caplog.text


def test_an_older_versions_run_of_the_default_of_then_is_adc():
    saved, config = older({"train.iterations": 7000}), config_of({"train.iterations": 7000})
    goes_on = with_its_schedule(saved, with_its_strategy(saved, config))
    assert goes_on == with_values(Config(), {"train.iterations": 7000})


def test_what_is_set_now_wins_over_an_older_versions_schedule():
    config = config_of(ADC | {"train.iterations": 7000, "densification.stop": 6000})
    density = with_its_schedule(older({"densification.every": 50}), config).densification
    assert (density.stop, density.every, density.start) == (6000, 50, 500)


def test_the_schedule_of_todays_runs_follows_their_new_length():
    saved = checkpoint()
    saved.config.clear()
    saved.config.update(as_values(config_of({"train.iterations": 7000})))
    config = config_of({"train.iterations": 14_000})
    assert with_its_schedule(saved, config) is config


def test_the_rules_name_settings_that_there_are():
    keys = as_values(Config())
    assert set(FIXED) <= keys.keys()
    assert all(any(key.startswith(prefix) for key in keys) for prefix in FREE)


@pytest.mark.usefixtures("in_process")
def test_a_training_with_another_strategy_is_refused(demo_scene, tmp_path):
    Trainer(demo_config(demo_scene, tmp_path, {"train.iterations": 2})).run()
    changes = {"train.iterations": 4, "train.resume": "auto"}
    with pytest.raises(cp.CheckpointError, match="densification.strategy guided .now absgrad., which a run keeps"):
        Trainer(demo_config(demo_scene, tmp_path, {**changes, "densification.strategy": "absgrad"}))
    assert Trainer(demo_config(demo_scene, tmp_path, changes)).run() == 0


# ---------------------------------------------------------------------------------------------------------- format 1


OLD = Path(__file__).parent / "format1"
OLD_CHANGES = {
    "densification.start": 2, "densification.every": 5, "densification.stop": 40, "densification.cap_max": 150,
    "densification.opacity_reset_every": 18, "densification.grad_threshold": 1e-4, "densification.prune_scale": 10.0,
    "model.sh_degree": 1, "model.sh_degree_interval": 6, "model.init": "random", "model.init_points": 100,
    "data.background": "random", "train.iterations": 24,
}  # fmt: skip
"""Of tests/format1/make.py, with a refinement and an opacity reset among the steps that are left."""


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("strategy", ["adc", "mcmc"])
def test_a_checkpoint_of_format_1_goes_on_as_it_did(demo_scene, tmp_path, strategy):
    """To the model that the program which wrote it made (to its last bit on the machine it was made on), and bit for
    bit as the same checkpoint in today's format."""
    path = OLD / f"{strategy}.pt"
    assert torch.load(path, weights_only=True)["format_version"] == 1
    rewritten = cp.save_checkpoint(tmp_path, cp.load_checkpoint(path, "cpu", PARTS))
    assert torch.load(rewritten, weights_only=True)["format_version"] == 2
    models = []
    for name, start in (("old", path), ("new", rewritten)):
        changes = OLD_CHANGES | {"densification.strategy": strategy, "train.resume": str(start)}
        run = Trainer(demo_config(demo_scene, tmp_path / name, changes))
        assert run.state.step == 12 and run.state.elapsed > 0 and run.run() == 0
        models.append({key: param.detach() for key, param in run.state.params.items()})
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    before = cp.load_checkpoint(path, "cpu").params
    wanted = torch.load(OLD / f"{strategy}_24.pt", weights_only=True)
    for name, values in wanted.items():
        assert models[0][name].shape == values.shape
        # Where sums are rounded otherwise, mcmc relocates others in the end: half of the numbers are within 1.2e-4.
        assert (models[0][name] - values).abs().median() < (1e-6 if strategy == "adc" else 5e-4), name
    assert not torch.equal(before["sh0"][:100], wanted["sh0"][:100])


@pytest.mark.parametrize("name", ["params", "optimizers", "densification", "rng", "sampler", "elapsed_seconds"])
def test_a_checkpoint_of_format_1_that_lacks_a_part(tmp_path, name):
    content = torch.load(OLD / "adc.pt", weights_only=True)
    del content[name]
    torch.save(content, tmp_path / "step_12.pt")
    lacking = "clock" if name == "elapsed_seconds" else name
    with pytest.raises(cp.DamagedCheckpointError, match=f"lacks {lacking}; there is no other"):
        cp.load_checkpoint(tmp_path / "step_12.pt", "cpu", PARTS)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("old_name", [False, True])
@pytest.mark.parametrize("strategy", ["adc", "mcmc", "guided"])
def test_a_training_goes_on_as_it_began_without_a_word(demo_scene, tmp_path, monkeypatch, strategy, old_name):
    """To the bit as with the strategy named again; also where its checkpoint calls adc by its old name."""
    schedule = {
        "densification.start": 2,
        "densification.every": 4,
        "densification.stop": 30,
        "densification.cap_max": 3100,
    }
    named, first = schedule | {"densification.strategy": strategy}, {"train.iterations": 10}
    Trainer(demo_config(demo_scene, tmp_path / "run", named | first)).run()
    path = tmp_path / "run/checkpoints/step_10.pt"
    content = torch.load(path, weights_only=True)
    if old_name and strategy == "adc":
        content["config"]["densification.strategy"] = "default"
        torch.save(content, path)
    others = {"adc": "guided", "mcmc": "guided", "guided": "adc"}
    on = {"train.iterations": 20, "train.resume": str(path)}
    again = Trainer(demo_config(demo_scene, tmp_path / "again", named | on))
    for module in ("config.values", "checkpoints.resume"):
        monkeypatch.setattr(f"distwar_gs.{module}.DEFAULT_STRATEGY", others[strategy])
    silent = Trainer(demo_config(demo_scene, tmp_path / "silent", schedule | on))
    assert silent.config.densification == again.config.densification
    assert type(silent.state.strategy) is type(again.state.strategy) and silent.run() == again.run() == 0
    assert all(torch.equal(param, again.state.params[name]) for name, param in silent.state.params.items())
