"""README and docs/: their links lead somewhere, and what they say about programs, flags and counts is so."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from demo_runs import ROOT

from distwar_gs.cli import render_parser, train_parser

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BY_TESTS = {"inputs.md", "bad_inputs.md"}
"""Written by tests, which check them."""


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Files, and places in them, that a page leads to within the repository."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            path, _, place = target.partition("#")
            yield path, place


def places(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_what_is_there(page):
    for path, place in links(page):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        assert not place or place in places(target), f"{path}#{place}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in BY_TESTS], ids=lambda page: page.name)
def test_programs_and_configs_that_a_page_names_are_there(page):
    """With their folder; of the lab book only what it tells to run."""
    text = page.read_text(encoding="utf-8")
    pattern = r"python ((?:scripts|benchmarks|tests)/[\w/]+\.py|\w+\.py)"
    named = set(re.findall(pattern, text)) | set(re.findall(r"\bconfigs/[\w/]+\.yaml", text))
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_readme_is_short():
    assert len(README.splitlines()) <= 120


def test_flags_of_readme_are_flags_of_the_programs():
    flags = {flag for parser in (train_parser(), render_parser()) for flag in parser._option_string_actions}
    rows = "\n".join(re.findall(r"^\| `-.*$", README, flags=re.MULTILINE))
    cells = [row.split("|")[1] for row in rows.splitlines()]
    named = {flag for cell in cells for flag in re.findall(r"(?<![\w-])--?[a-z]\w*", cell)}
    assert len(named) > 20
    assert named - flags == set()
    commands = re.findall(r"^    python (?:train|render)\.py.*$", README, flags=re.MULTILINE)
    assert {
        flag for line in commands for flag in re.findall(r"\s(--?[a-z]\w*)", line.partition("#")[0])
    } - flags == set()


def test_readme_counts_what_the_tables_have():
    rows = re.findall(r"^\| (?!format|---)", (ROOT / "docs/inputs.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    counted = re.search(r"\]\(docs/inputs.md\) lists (\d+) kinds of input", README)
    assert int(counted[1]) == len(rows)
    scenes = [file for file in ROOT.glob("configs/*/*.yaml") if file.parent.name != "strategies"]
    assert int(re.search(r"The (\d+) scenes of the papers", README)[1]) == len(scenes)


def test_the_test_command_of_readme_is_that_of_continuous_integration():
    assert re.search(r"^    make test +# the tests$", README, flags=re.MULTILINE)
    assert (ROOT / ".ci/run").read_text().splitlines()[-1] == "make test"


def test_reductions_of_readme_are_those_of_the_program():
    rows = re.findall(r"^\| `(\w+)`(?: \(default\))? \|", README, flags=re.MULTILINE)
    wanted = next(action for action in train_parser()._actions if "--reduction" in action.option_strings).choices
    assert set(rows) == set(wanted)


def test_make_targets_that_pages_name_are_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {name for page in PAGES for name in re.findall(r"`make ([\w-]+)", page.read_text(encoding="utf-8"))}
    assert named and all(re.search(rf"^{name}:", makefile, flags=re.MULTILINE) for name in named)


def test_words_of_the_records_are_those_of_the_kernels():
    page = (ROOT / "docs/kernels.md").read_text(encoding="utf-8")
    named = {word for word in re.findall(r"\bk[A-Z]\w+", page)}
    sources = "\n".join(file.read_text() for file in (ROOT / "distwar_kernels").rglob("*.cuh"))
    assert len(named) > 15
    assert {word for word in named if not re.search(rf"\b{word}\b", sources)} == set()
    functions = set(re.findall(r"`(\w+_kernel)`", page)) | set(
        re.findall(r"^\| (\w+_kernel)", page, flags=re.MULTILINE)
    )
    kernels = "\n".join(file.read_text() for file in (ROOT / "distwar_kernels").rglob("*.cu*"))
    assert {name for name in functions if name not in kernels} == set()


def test_docs_name_the_modules_that_exist():
    """Dotted names of ours in the pages, such as distwar_gs.formats.spz."""
    pages = [page.read_text(encoding="utf-8") for page in PAGES if page.name != "performance.md"]
    named = {name for text in pages for name in re.findall(r"`(distwar_\w+(?:\.[a-z_]\w*)+)`", text)}
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n    module, rest = name, []\n    while True:\n" \
           "        try: found = importlib.import_module(module); break\n        except ModuleNotFoundError:\n" \
           "            module, _, last = module.rpartition('.'); rest.insert(0, last)\n" \
           "    for part in rest: found = getattr(found, part)\n"  # fmt: skip
    subprocess.run([sys.executable, "-c", code, *sorted(named)], cwd=ROOT, check=True)
