"""docs/contributing.md: the files and names that it sends people to are there, and its hook runs."""

import re
from pathlib import Path

import pytest
from demo_runs import ROOT, demo_config

from distwar_gs.training.trainer import Trainer

PAGE = ROOT / "docs/contributing.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", TEXT))))
def test_what_it_links_to_is_there(link):
    assert (PAGE.parent / link).exists()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(tests/\w+(?:\.py)?)`", TEXT))))
def test_the_tests_that_it_names_are_there(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("make_hooks", "training/trainer.py"),
        ("ADJUSTMENTS", "adjust/base.py"),
        ("MAKERS", "strategies/base.py"),
        ("STRATEGIES", "config/strategies.py"),
        ("FORMATS", "formats/table.py"),
        ("PARTS", "training/state.py"),
    ],
)
def test_the_rows_are_where_it_says(name, place):
    assert name in TEXT
    assert re.search(rf"^\s*(def )?{name}\b.*[(=]", (ROOT / "distwar_gs" / place).read_text(), re.MULTILINE)


@pytest.mark.usefixtures("in_process")
def test_its_hook_runs(demo_scene: Path, tmp_path: Path):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    pictures: list = []
    code = code.replace("step % 100 == 0", "step % 5 == 0").replace("picture = ", "pictures.append(")
    code = code.replace(".colors[0]", ".colors[0])")
    exec(code, {"Trainer": Trainer, "config": demo_config(demo_scene, tmp_path), "pictures": pictures})  # noqa: S102
    assert [picture.shape for picture in pictures] == [(60, 80, 3)] * 2
