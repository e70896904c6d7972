"""The rooms of the library: what may import what, and how long files and functions may be."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ("distwar_datasets", "distwar_gs", "distwar_kernels")
PROGRAMS = ("benchmarks", "scripts", "tests", "train", "render")

FLOORS = {
    "distwar_datasets": ((), ("pixels",), ("readers",), ("loading",)),
    "distwar_gs": (
        ("system",),
        ("config", "capture", "formats", "evaluation"),
        ("gaussians", "rendering", "adjust"),
        ("strategies",),
        ("checkpoints", "engines"),
        ("training",),
        ("viewing",),
        ("cleaning",),
        ("cli",),
        ("programs",),
    ),
}
"""The rooms of a package from the ground up: a room imports from its own floor and from those below. What lies beside
the rooms of distwar_datasets is its ground floor."""

LONGEST_FILE = 350
SOURCES = {".py", ".cpp", ".cu", ".cuh", ".h"}
LONGEST_FUNCTION = 60


# ------------------------------------------------------------------------------------------------------ the graph


def modules_of(root: Path, packages: tuple[str, ...] = LIBRARY) -> dict[str, Path]:
    """Files by dotted name; a package is its __init__.py."""
    paths = sorted(path for package in packages for path in (root / package).rglob("*.py"))
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def graph_of(root: Path) -> dict[str, set[str]]:
    """What each module of the library imports, of it and of the programs: at the top, in functions, and for types."""
    modules = modules_of(root)
    return {name: set(_imported(name, path, modules)) for name, path in modules.items()}


def _imported(name: str, path: Path, modules: dict[str, Path]) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            full = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            full = [one if (one := f"{base}.{alias.name}") in modules else base for alias in node.names]
        else:
            continue
        yield from (one for one in full if one.split(".")[0] in (*LIBRARY, *PROGRAMS))


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other, in order, or an empty list."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def floor_of(module: str) -> int:
    """Counted from the ground, 0; a package's own __init__.py stands on its highest floor."""
    package, *rest = module.split(".")
    floors = FLOORS[package]
    if not rest:
        return len(floors)
    found = [index for index, rooms in enumerate(floors) if rest[0] in rooms]
    return found[0] if found else 0


def upward(graph: dict[str, set[str]], package: str) -> list[str]:
    """Imports of a room on a higher floor."""
    return [
        f"{module} -> {other}"
        for module, others in graph.items()
        for other in sorted(others)
        if module.split(".")[0] == other.split(".")[0] == package and floor_of(module) < floor_of(other)
    ]


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """Of this repository."""
    return graph_of(ROOT)


# ------------------------------------------------------------------------------------------------------ the tests


def test_no_module_imports_itself_by_way_of_others(graph):
    assert cycle_in(graph) == []


@pytest.mark.parametrize("package", FLOORS)
def test_no_room_imports_from_a_higher_floor(graph, package):
    assert upward(graph, package) == []


def test_every_module_of_the_trainer_is_in_a_room():
    rooms = {room for floor in FLOORS["distwar_gs"] for room in floor}
    outside = [name for name in modules_of(ROOT, ("distwar_gs",)) if name.split(".")[1:2] not in [[r] for r in rooms]]
    assert outside == ["distwar_gs"]


@pytest.mark.parametrize(
    ("package", "others"),
    [("distwar_datasets", ()), ("distwar_kernels", ()), ("distwar_gs", ("distwar_datasets", "distwar_kernels"))],
)
def test_the_packages_stand_on_each_other(graph, package, others):
    """Nor does any of them import a program."""
    used = {other.split(".")[0] for name, those in graph.items() if name.split(".")[0] == package for other in those}
    assert used - {package, *others} == set()


def test_rooms_are_entered_without_torch():
    """So that arguments are checked, and --help answers, at once."""
    rooms = [name for name, path in modules_of(ROOT, ("distwar_gs",)).items() if path.name == "__init__.py"]
    rooms.remove("distwar_gs.capture")  # imports NumPy
    code = f"import sys, distwar_datasets, {', '.join(rooms)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def too_long(root: Path) -> list[str]:
    """Files of the library and of the benchmarks, in all languages, with more than LONGEST_FILE lines."""
    paths = (path for package in (*LIBRARY, "benchmarks") for path in sorted((root / package).rglob("*")))
    sources = [path for path in paths if path.suffix in SOURCES]
    long = [path for path in sources if len(path.read_text(encoding="utf-8").splitlines()) > LONGEST_FILE]
    return [path.relative_to(root).as_posix() for path in long]


def test_files_are_short():
    assert too_long(ROOT) == []


def test_functions_are_short():
    functions = (
        (f"{name}.{node.name}", node.end_lineno - node.lineno + 1)
        for name, path in modules_of(ROOT).items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert [function for function in functions if function[1] > LONGEST_FUNCTION] == []


# ------------------------------------------------------------------------------------------- the tests' own eyes


def written(root: Path, files: dict[str, str]) -> dict[str, set[str]]:
    """The graph of a library of these files, by dotted name."""
    for name, text in files.items():
        path = root / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return graph_of(root)


@pytest.mark.parametrize(
    "back",
    [
        "import distwar_gs.system.files",
        "from distwar_gs.system import files",
        "from ..system.files import replacing",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from distwar_gs.system.files import replacing",
        "def late():\n    from distwar_gs.system.files import replacing",
    ],
)
def test_a_cycle_is_found_however_it_is_written(tmp_path, back):
    found = written(
        tmp_path, {"distwar_gs.system.files": "from distwar_gs.config import a", "distwar_gs.config.a": back}
    )
    assert set(cycle_in(found)) == {"distwar_gs.system.files", "distwar_gs.config.a"}
    assert upward(found, "distwar_gs") == ["distwar_gs.system.files -> distwar_gs.config.a"]


def test_a_reader_under_pixels_is_found(tmp_path):
    found = written(tmp_path, {
        "distwar_datasets.__init__": "from .readers.ply import Ply",
        "distwar_datasets.readers.ply": "from ..scene import View",
        "distwar_datasets.scene": "from .pixels import masks",
        "distwar_datasets.pixels.masks": "from ..readers import ply",
    })  # fmt: skip
    assert upward(found, "distwar_datasets") == [
        "distwar_datasets.pixels.masks -> distwar_datasets.readers.ply",
        "distwar_datasets.scene -> distwar_datasets.pixels.masks",
    ]


def test_long_files_are_found_in_every_language(tmp_path):
    for name in ("distwar_gs/a.py", "distwar_kernels/op/b.cu", "distwar_kernels/c.cuh", "benchmarks/d.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("\n" * (LONGEST_FILE + 1))
        (tmp_path / name).with_stem("short").write_text("\n" * LONGEST_FILE)
    found = ["distwar_gs/a.py", "distwar_kernels/c.cuh", "distwar_kernels/op/b.cu", "benchmarks/d.py"]
    assert too_long(tmp_path) == found
