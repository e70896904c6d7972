"""docs/api.md: its examples run, in order, and what it names is there."""

import contextlib
import importlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
from demo_runs import ROOT

PAGE = (ROOT / "docs/api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def printed(demo_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: None) -> list[str]:
    """What each example prints, run as a reader would type them: one after another, beside data/demo."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/demo").symlink_to(demo_scene)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    said = []
    for example in EXAMPLES:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(example, "docs/api.md", "exec"), names)
        said.append(out.getvalue())
    return said


def test_every_example_does_what_the_page_says(printed):
    ops, traffic, renderer, trained, read, own = printed
    loss, ssim, gradient = map(float, re.fullmatch(r"loss (\S+), SSIM (\S+), \|dL/d\(means\)\| (\S+)\n", ops).groups())
    assert 0 < loss < 1 and -1 < ssim < 1 and gradient > 0
    atomics = [int(line.split()[-1]) for line in traffic.splitlines()]
    assert [line.split()[0] for line in traffic.splitlines()] == ["atomic", "sw_b@8", "sw_t@1"]
    assert atomics[0] > atomics[1] > atomics[2] > 0
    sizes = re.findall(r"\[1, 64, 96, (\d+)\]", renderer)
    assert sizes == ["3", "1", "1", "8"]
    step, gaussians, psnr = trained.split()
    assert step == "20" and int(gaussians) > 1000 and float(psnr) > 10
    assert read.endswith("torch.Size([60, 80, 3])\n")
    before, after = map(float, own.split(" -> "))
    assert after < 0.8 * before


def test_all_functions_of_its_table_exist():
    rows = re.findall(r"^\| `(distwar_[\w.]+)\.(\w+)`((?:, `\w+`)*)", PAGE, flags=re.MULTILINE)
    assert len(rows) == 4
    for module, first, others in rows:
        for name in (first, *re.findall(r"\w+", others)):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


def test_it_lists_every_installed_program():
    listed = set(re.findall(r"`(distwar-[a-z-]+)`", PAGE))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert listed == set(re.findall(r"^(distwar-[a-z-]+) = ", project, flags=re.MULTILINE))
