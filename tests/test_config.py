"""Configuration: files, inheritance, overrides, and what is said about wrong ones."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from distwar_gs.config import (
    FIELDS,
    PRESETS,
    STRATEGIES,
    Config,
    ConfigError,
    ModelConfig,
    as_values,
    config_of,
    field_docs,
    load_config,
    override,
    read_values,
    rule_of,
    save_config,
    validate,
    with_values,
)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_defaults_are_valid():
    assert validate(Config()) == Config()


def test_the_protocol_of_3dgs_is_the_default():
    values = as_values(Config())
    assert values["train.iterations"] == 30_000
    assert values["optim.means_lr"] == 1.6e-4
    assert values["densification.stop"] == 15_000
    assert values["data.test_every"] == 8
    assert (values["reduction.strategy"], values["reduction.balance_threshold"]) == ("sw_t", None)


def test_every_field_is_documented():
    assert set(field_docs()) == set(FIELDS)
    assert all(doc.endswith(".") for doc in field_docs().values())


def test_load_overlays_bases_farthest_first(tmp_path):
    write(tmp_path / "a.yaml", "train: {iterations: 1, seed: 1}\nmodel: {sh_degree: 1}\n")
    write(tmp_path / "sub/b.yaml", "base: ../a.yaml\ntrain: {seed: 2}\nmodel: {sh_degree: 2}\n")
    config = load_config(write(tmp_path / "sub/c.yaml", "base: b.yaml\nmodel: {sh_degree: 0}\n"))
    assert (config.train.iterations, config.train.seed, config.model.sh_degree) == (1, 2, 0)
    assert config.data == Config().data


@pytest.mark.parametrize("text", ["", "train:\n", "# nothing\n"])
def test_empty_files_and_sections_are_the_defaults(tmp_path, text):
    assert load_config(write(tmp_path / "c.yaml", text)) == config_of({})


def test_numbers_as_yaml_spells_them(tmp_path):
    text = "optim: {means_lr: 1e-4, scales_lr: 1, lambda_dssim: 0.5}\ntrain: {test_iterations: [5, 10]}\n"
    config = load_config(write(tmp_path / "c.yaml", text))
    assert (config.optim.means_lr, config.optim.scales_lr) == (1e-4, 1.0)
    assert isinstance(config.optim.scales_lr, float)
    assert config.train.test_iterations == (5, 10)


def test_save_then_load_gives_the_same(tmp_path):
    values = {
        "data.source_path": Path("data/ö"),
        "optim.adam_eps": 1e-8,
        "train.test_iterations": [],
        "log.quiet": True,
    }
    config = with_values(Config(), values)
    save_config(config, tmp_path / "run/config.yaml")
    assert load_config(tmp_path / "run/config.yaml") == config
    assert config.data.source_path == "data/ö"
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["config.yaml"]


def test_with_values_leaves_the_original_alone():
    config = Config()
    changed = with_values(config, {"train.seed": 3, "train.iterations": 10, "model.sh_degree": 1})
    assert (changed.train.seed, changed.train.iterations, changed.model.sh_degree) == (3, 10, 1)
    assert config == Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.model.sh_degree = 1


@pytest.mark.parametrize(
    ("assignment", "key", "value"),
    [
        ("optim.means_lr=1e-3", "optim.means_lr", 1e-3),
        ("train.test_iterations=[1, 2]", "train.test_iterations", (1, 2)),
        ("data.eval=false", "data.eval", False),
        ("train.resume=null", "train.resume", None),
        ("data.source_path=a=b", "data.source_path", "a=b"),
        ("reduction.balance_threshold=0", "reduction.balance_threshold", 0),
        ("reduction.balance_threshold=32", "reduction.balance_threshold", 32),
    ],
)
def test_override(assignment, key, value):
    assert as_values(with_values(Config(), override(assignment))) == as_values(Config()) | {key: value}


OVERRIDE_MISTAKES = [
    ("reduction.balance_threshold=33", "reduction.balance_threshold is 33: it must be between 0 and 32 (active lanes"),
    ("reduction.balance_threshold=-1", "between 0 and 32"),
    ("reduction.balance_threshold=8.0", "reduction.balance_threshold is 8.0: expected an integer"),
    ("reduction.balance_threshold=true", "reduction.balance_threshold is True: expected an integer"),
    ("reduction.strategy=sw-b", "did you mean sw_b?"),
    ("reduction.strategy=mcmc", "one of gsplat, atomic, sw_s, sw_b"),
    ("data.eval=1", "data.eval is 1: expected true or false"),
    ("data.images=4", "data.images is 4: expected a string"),
    ("data.images=null", "expected a string"),
    ("data.resolution=0", "data.resolution is 0: it must be -1 or a positive number"),
    ("optim.means_lr=fast", "optim.means_lr is 'fast': expected a finite number"),
    ("optim.means_lr=.nan", "expected a finite number"),
    ("optim.means_lr=0", "optim.means_lr is 0.0: it must be above 0"),
    ("optim.means_lr=true", "expected a finite number"),
    ("train.test_iterations=7000", "expected a list of integers"),
    ("train.test_iterations=[1, 2.5]", "train.test_iterations is [1, 2.5]: expected a list of integers"),
    ("train.test_iterations=[0]", "train.test_iterations is [0]: it must be steps counted from 1"),
    ("model.init_opacity=1", "between 0 and 1, both excluded"),
    ("train.iteration=5", "unknown key train.iteration; did you mean train.iterations (an integer)?"),
    ("iterations=5", "did you mean train.iterations (an integer)?"),
    ("train.sh_degree=5", "did you mean model.sh_degree (an integer)?"),
    ("strategy=x", "densification.strategy (a string (quote it if it looks like a number)) or reduction.strategy"),
    ("train.seed", "--set train.seed: expected section.key=value"),
    ("train.test_iterations=[1", "not readable as YAML"),
]


@pytest.mark.parametrize(("assignment", "message"), OVERRIDE_MISTAKES)
def test_override_mistakes(assignment, message):
    with pytest.raises(ConfigError) as caught:
        override(assignment)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


FILE_MISTAKES = [
    (
        "densification: {grad_treshold: 1}",
        "unknown key densification.grad_treshold; did you mean densification.grad_thr",
    ),
    ("iterations: 5", "unknown key iterations; did you mean train.iterations (an integer)?"),
    ("optimizer: {means_lr: 1}", "unknown section optimizer; did you mean optim?"),
    ("train: 5", "section train is 5"),
    ("train: {iterations: many}", "train.iterations is 'many': expected an integer"),
    ("train: {seed: 1, seed: 2}", "line 1: seed is given twice"),
    ("train: {seed: 1}\nmodel: {}\ntrain: {}", "line 3: train is given twice"),
    ("train: [", "not readable as YAML"),
    ("- 1", "expected sections"),
    ("base: 5", "base is 5"),
    ("base: none.yaml", "none.yaml: cannot read the configuration (the base of"),
    ("base: c.yaml", "form a cycle"),
    ("model: {near_plane: 1, far_plane: 0.5}", "model.near_plane is 1.0: it must be below model.far_plane"),
    ("densification: {start: 5, stop: 4}", "densification.start is 5"),
    ("densification: {prune_opacity: 0.02}", "a reset removes every Gaussian"),
]


@pytest.mark.parametrize(("text", "message"), FILE_MISTAKES)
def test_file_mistakes_name_the_file(tmp_path, text, message):
    file = write(tmp_path / "c.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert message in str(caught.value)
    assert "c.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_in_a_base_names_the_base(tmp_path):
    write(tmp_path / "base.yaml", "train: {sed: 1}")
    with pytest.raises(ConfigError, match=r"base\.yaml: unknown key train\.sed; did you mean train\.seed"):
        load_config(write(tmp_path / "c.yaml", "base: base.yaml"))


def test_a_longer_cycle_is_shown(tmp_path):
    write(tmp_path / "a.yaml", "base: b.yaml")
    write(tmp_path / "b.yaml", "base: a.yaml")
    with pytest.raises(ConfigError, match=r"a\.yaml -> .*b\.yaml -> .*a\.yaml"):
        load_config(tmp_path / "a.yaml")


def test_missing_file():
    with pytest.raises(ConfigError, match="nowhere.yaml: cannot read the configuration: No such file"):
        load_config("nowhere.yaml")


def test_validate_checks_values_set_in_python():
    with pytest.raises(ConfigError, match="model.sh_degree is 4: it must be between 0 and 3"):
        validate(dataclasses.replace(Config(), model=ModelConfig(sh_degree=4)))


def test_saved_files_are_plain_yaml(tmp_path):
    save_config(Config(), tmp_path / "c.yaml")
    tree = yaml.safe_load((tmp_path / "c.yaml").read_text())
    assert tree["train"]["test_iterations"] == [7000, 30_000]
    assert {f"{section}.{name}" for section, entries in tree.items() for name in entries} == set(FIELDS)


# ------------------------------------------------------------------------------------------------------- strategies

MCMC = as_values(Config()) | {"densification.strategy": "mcmc"} | PRESETS["mcmc"]


def test_every_strategy_has_its_defaults():
    assert list(PRESETS) == list(STRATEGIES)
    assert set(PRESETS) == set(rule_of("densification.strategy").choices)
    for name, preset in PRESETS.items():
        length = {"train.iterations": 30_000}  # the one that settings counted in steps are meant for
        config = validate(config_of({"densification.strategy": name} | length))
        assert as_values(config) == as_values(Config()) | {"densification.strategy": name} | preset | length
        assert all(value != as_values(Config())[key] for key, value in preset.items()), "repeats a default"


def test_mcmcs_are_the_published_ones():
    density = config_of({"densification.strategy": "mcmc"}).densification
    assert (density.start, density.stop, density.every, density.prune_opacity) == (500, 25_000, 100, 0.005)
    assert (density.cap_max, density.noise_lr, density.opacity_reg, density.scale_reg) == (1_000_000, 5e5, 0.01, 0.01)


def test_what_is_set_wins_over_what_the_strategy_brings():
    """Even where it is the default of other strategies."""
    chosen = {"densification.strategy": "mcmc", "densification.stop": 15_000, "model.init_opacity": 0.2}
    assert as_values(config_of(chosen)) == MCMC | chosen


def test_strategies_and_files(tmp_path):
    """A file of all defaults chooses nothing; one that names some of them chooses those."""
    save_config(config_of({}), tmp_path / "default.yaml")
    scene = write(tmp_path / "scene.yaml", "base: default.yaml\ndata: {source_path: a}\ndensification: {start: 500}\n")
    assert read_values(scene) == {"data.source_path": "a", "densification.start": 500}
    own = load_config(write(tmp_path / "own.yaml", "base: scene.yaml\ndensification: {strategy: mcmc, cap_max: 7}\n"))
    assert as_values(own) == MCMC | {"data.source_path": "a", "densification.cap_max": 7}


def test_an_edited_copy_of_the_defaults_chooses_what_was_edited(tmp_path):
    save_config(with_values(config_of({}), {"train.seed": 5}), tmp_path / "c.yaml")
    assert read_values(tmp_path / "c.yaml") == {"train.seed": 5}
    assert read_values(write(tmp_path / "d.yaml", "base: c.yaml\ntrain: {seed: 0}\n")) == {"train.seed": 0}


def test_the_config_of_a_run_with_mcmc_is_read_back_whole(tmp_path):
    config = config_of({"densification.strategy": "mcmc", "densification.stop": 15_000, "model.init_scale": 1.0})
    save_config(config, tmp_path / "c.yaml")
    assert load_config(tmp_path / "c.yaml") == config


def test_mcmc_takes_lazy_and_dense_adam_and_refuses_visible(tmp_path):
    text = "densification: {{strategy: mcmc}}\noptim: {{adam: {}}}\n"
    for adam in ("lazy", "dense"):
        assert load_config(write(tmp_path / f"{adam}.yaml", text.format(adam))).optim.adam == adam
    assert load_config(write(tmp_path / "c.yaml", "densification: {strategy: mcmc}\n")).optim.adam == "lazy"
    file = write(tmp_path / "c.yaml", text.format("visible"))
    with pytest.raises(ConfigError, match=r"c.yaml: optim.adam is visible: .* at every step; use lazy or dense"):
        load_config(file)


@pytest.mark.parametrize("key", ["data.source_path", "train.result_dir", "data.images", "train.resume"])
@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_what_no_file_can_be_called(key, name):
    with pytest.raises(ConfigError, match=rf"{key} is 'a?.*': no file can be called so; give another name"):
        with_values(Config(), {key: name})


@pytest.mark.parametrize("name", ["caf\udce9", "a\nb", ""])
def test_names_that_are_not_utf8_are_names(tmp_path, name):
    """As their bytes are on the disk (PEP 383); config.yaml holds them, too."""
    config = with_values(Config(), {"train.result_dir": name})
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml").train.result_dir == name
