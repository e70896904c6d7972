"""The files under configs/: default.yaml says what the code says, the others load and point where their names say."""

import re
from pathlib import Path

import pytest
import yaml
from scripts_as_modules import imported_script

from distwar_gs.config import (
    FIELDS,
    PRESETS,
    Config,
    as_values,
    commented_defaults,
    config_of,
    field_docs,
    load_config,
    read_values,
    rule_of,
)
from distwar_gs.config.schedule import FOLLOWERS

CONFIGS = Path(__file__).parents[1] / "configs"
DEFAULT = CONFIGS / "default.yaml"
STRATEGIES = CONFIGS / "strategies"
OTHERS = sorted(set(CONFIGS.rglob("*.yaml")) - {DEFAULT} - set(STRATEGIES.iterdir()))
MIPNERF360 = {name: 4 for name in ("bicycle", "flowers", "garden", "stump", "treehill")}
MIPNERF360 |= {name: 2 for name in ("bonsai", "counter", "kitchen", "room")}
NERF_SYNTHETIC = {"chair", "drums", "ficus", "hotdog", "lego", "materials", "mic", "ship"}


def comments_of(text: str) -> dict[str, str]:
    """{"section.key": the comment above it as one line} of a commented YAML file."""
    comments, section, above = {}, "", []
    for line in text.splitlines():
        if comment := re.fullmatch(r"  # (.*)", line):
            above.append(comment[1])
        elif entry := re.match(r"(  )?(\w+):", line):
            section = section if entry[1] else entry[2]
            if entry[1]:
                comments[f"{section}.{entry[2]}"] = " ".join(above)
            above = []
    return comments


def test_default_yaml_has_every_key_with_the_default_of_the_code():
    tree = yaml.safe_load(DEFAULT.read_text())
    written = {f"{section}.{name}" for section, entries in tree.items() for name in entries}
    assert written == set(FIELDS)
    assert load_config(DEFAULT) == config_of({})


@pytest.mark.parametrize("key", FIELDS)
def test_default_yaml_explains_every_key(key):
    comment = comments_of(DEFAULT.read_text())[key]
    assert comment.startswith(field_docs()[key])
    assert (rule_of(key) is None) or rule_of(key).words in comment


def test_default_yaml_is_the_generated_text():
    """If this fails alone: write the file again with the command at the top of distwar_gs/config/schema.py."""
    assert DEFAULT.read_text() == commented_defaults()


@pytest.mark.parametrize("file", OTHERS, ids=lambda file: file.stem)
def test_config_loads_over_the_defaults_and_is_named_after_its_scene(file):
    config = load_config(file)
    base = yaml.safe_load(file.read_text())["base"]
    assert (file.parent / base).resolve() == (DEFAULT if file.stem == "demo" else STRATEGIES / "adc.yaml").resolve()
    assert Path(config.data.source_path).name == file.stem
    assert config.train.result_dir == f"output/{file.stem}"


def test_mipnerf360_scenes_use_the_image_size_of_the_papers():
    files = {file.stem: load_config(file) for file in (CONFIGS / "mipnerf360").iterdir()}
    assert {name: config.data.images for name, config in files.items()} == {
        name: f"images_{factor}" for name, factor in MIPNERF360.items()
    }
    assert all(config.optim == Config().optim for config in files.values())


@pytest.mark.parametrize(
    ("family", "folder", "scenes"),
    [
        ("tandt", "data/tandt", {"train", "truck"}),
        ("deepblending", "data/db", {"drjohnson", "playroom"}),
        ("mipnerf360", "data/360_v2", set(MIPNERF360)),
        ("nerf_synthetic", "data/nerf_synthetic", NERF_SYNTHETIC),
    ],
)
def test_every_scene_of_a_family_lies_where_the_download_puts_it(family, folder, scenes):
    configs = {file.stem: load_config(file) for file in (CONFIGS / family).iterdir()}
    assert set(configs) == scenes
    assert {config.data.source_path for config in configs.values()} == {f"{folder}/{scene}" for scene in scenes}
    with imported_script("download") as download:
        unpacked = {place for sources in download.FAMILIES.values() for s in sources for place in s.scenes.values()}
    assert {f"{folder}/{scene}".removeprefix("data/") for scene in scenes} <= unpacked


@pytest.mark.parametrize("family", ["tandt", "deepblending"])
def test_scenes_of_3dgs_are_as_distributed(family):
    for file in (CONFIGS / family).iterdir():
        different = {key for key, value in as_values(load_config(file)).items() if value != as_values(Config())[key]}
        assert different == {"data.source_path", "train.result_dir"}


def test_nerf_synthetic_is_on_white_from_random_positions():
    for file in (CONFIGS / "nerf_synthetic").iterdir():
        config = load_config(file)
        assert (config.data.background, config.model.init, config.model.init_points) == ("white", "random", 100_000)


@pytest.mark.parametrize("file", [file for file in OTHERS if file.stem != "demo"], ids=lambda file: file.stem)
@pytest.mark.parametrize("default", ["guided", "adc", "mcmc"])
def test_the_papers_scenes_are_trained_as_published_whatever_the_default_is(file, default, monkeypatch):
    monkeypatch.setattr("distwar_gs.config.values.DEFAULT_STRATEGY", default)
    config = load_config(file)
    assert (config.densification, config.optim) == (Config().densification, Config().optim)
    assert config.train.iterations == 30_000 and not config.model.antialiased
    assert load_config(STRATEGIES / "adc.yaml").densification == Config().densification


def test_a_strategys_config_of_old_is_todays():
    assert load_config(STRATEGIES / "default.yaml") == load_config(STRATEGIES / "adc.yaml")


@pytest.mark.parametrize("strategy", PRESETS)
def test_a_strategys_config_spells_out_what_the_strategy_brings(strategy):
    file = STRATEGIES / f"{strategy}.yaml"
    assert load_config(file) == config_of({"densification.strategy": strategy})
    assert set(PRESETS[strategy]) <= set(read_values(file))


def test_antialiased_is_a_switch():
    assert read_values(STRATEGIES / "antialiased.yaml") == {"model.antialiased": True}
    assert {file.stem for file in STRATEGIES.iterdir()} == {*PRESETS, "default", "antialiased"}


def test_demo_is_short_and_needs_no_gpu():
    config = load_config(CONFIGS / "demo.yaml")
    assert config.train.device == "cpu"
    assert config.train.iterations <= 2000
    assert set(read_values(CONFIGS / "demo.yaml")).isdisjoint(FOLLOWERS), "the schedule follows its length"
    assert config.densification.stop < config.train.iterations
