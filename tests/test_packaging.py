"""The wheel, what is installed from it or from a checkout, and the name `datasets`, which is another package's."""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path

import pytest
from demo_runs import ENVIRONMENT, ROOT, run_program

NEEDED = ("configs", "datasets", "distwar_gs", "distwar_kernels", "scripts")
FOLDERS = {"datasets": "distwar_datasets", "configs": "distwar_gs/configs", "scripts": "distwar_gs/scripts"}
"""Of the repository, where their name in a wheel is another one."""
SOURCES = {".py", ".cpp", ".cu", ".cuh", ".h", ".yaml", ".html", ".css", ".js", ".gz"}
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
ALONE = ("--no-deps", "--no-build-isolation", "--no-index")  # nothing is fetched


def run(*command: object, **options: object) -> str:
    """A command that must end well; what it printed."""
    options = {"env": ENVIRONMENT, **options}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def package_file(path: Path) -> str:
    """Where a file of the repository lies in a wheel."""
    folder, *rest = path.relative_to(ROOT).parts
    return "/".join([FOLDERS.get(folder, folder), *rest])


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of what a wheel is made of: building writes beside it."""
    try:
        metadata.distribution("pip")  # to import it would turn off setuptools' distutils, which building kernels needs
    except metadata.PackageNotFoundError:
        pytest.skip("pip is not installed")
    folder = tmp_path_factory.mktemp("checkout")
    for name in NEEDED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "distwar_datasets").symlink_to("datasets")
    for pattern in ("*.py", "*.txt", "*.toml", "*.in", "README.md", "LICENSE"):
        for file in ROOT.glob(pattern):
            shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheels")
    run(*PIP, "wheel", checkout, *ALONE, "-w", out)
    (file,) = out.glob("*.whl")
    with zipfile.ZipFile(file) as opened:
        yield opened


@pytest.fixture(scope="module")
def installed(request, checkout, tmp_path_factory) -> Path:
    """The programs' folder of a fresh environment, which sees the packages of this one; "wheel" or "editable"."""
    folder = tmp_path_factory.mktemp(request.param)
    venv.create(folder, with_pip=False)
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "seen.pth").write_text(sysconfig.get_path("purelib"))
    what = ("-e", checkout) if request.param == "editable" else (checkout,)
    run(*PIP, "--python", folder / "bin/python", "install", *ALONE, *what)
    return folder / "bin"


def test_a_wheel_holds_every_source_kernel_and_config(wheel):
    files = {path for name in NEEDED for path in (ROOT / name).rglob("*") if path.suffix in SOURCES}
    assert {package_file(path) for path in files} == {
        name for name in wheel.namelist() if Path(name).suffix in SOURCES and ".dist-info/" not in name
    }
    assert {name.partition("/")[0] for name in wheel.namelist()} == {
        "distwar_datasets", "distwar_gs", "distwar_kernels", "distwar_gs-0.1.0.dist-info",
    }  # fmt: skip


def test_a_wheel_needs_what_requirements_txt_lists(wheel):
    metadata = wheel.read("distwar_gs-0.1.0.dist-info/METADATA").decode()
    for file, extra in (("requirements.txt", False), ("requirements-optional.txt", True)):
        wanted = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]
        needs = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
        assert len([line for line in needs if ("extra ==" in line) == extra]) == len(wanted)


def test_every_program_is_installed(wheel):
    parser = ConfigParser()
    parser.read_string(wheel.read("distwar_gs-0.1.0.dist-info/entry_points.txt").decode())
    programs = {name.removeprefix("distwar-").replace("-", "_") for name in parser["console_scripts"]}
    scripts = {file.stem for file in (ROOT / "scripts").glob("*.py")} - {"__init__"}
    assert programs == (scripts | {"train", "render", "view", "demo_scene"}) - {"make_demo_scene"}
    modules = {target.partition(":")[0].replace(".", "/") + ".py" for target in parser["console_scripts"].values()}
    assert modules <= set(wheel.namelist())


@pytest.mark.parametrize("installed", ["wheel", "editable"], indirect=True)
def test_the_ops_are_imported_and_run_from_another_folder(installed, tmp_path):
    code = """
import torch, importlib.util
from distwar_kernels import Reduction, rasterize_to_pixels
one = torch.ones(1, 1)
image, alpha = rasterize_to_pixels(
    torch.full((1, 1, 2), 8.0), torch.tensor([[[0.1, 0.0, 0.1]]]), torch.ones(1, 1, 3), 0.5 * one, 16, 16, 16,
    torch.zeros(1, 1, 1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32), reduction=Reduction("sw_b"))
print(f"{image.max().item():.3f}", [importlib.util.find_spec(name) for name in ("scripts", "train", "configs")])
"""
    assert run(installed / "python", "-c", code, cwd=tmp_path) == "0.488 [None, None, None]\n"


@pytest.mark.parametrize("installed", ["wheel", pytest.param("editable", marks=pytest.mark.slow)], indirect=True)
def test_the_programs_train_render_and_examine(installed, demo_scene, tmp_path):
    """With settings that came with them."""
    run(
        installed / "distwar-train", "--config", "configs/demo.yaml", "-s", demo_scene, "-m", "run",
        "--iterations", 2, "--device", "cpu", "--quiet", cwd=tmp_path,
    )  # fmt: skip
    run(installed / "distwar-render", "run", "--path", "ellipse", "--frames", 2, "--skip_test", cwd=tmp_path)
    assert (tmp_path / "run/renders/iteration_2/ellipse.mp4").stat().st_size > 0
    assert "verdict: can train on cpu" in run(installed / "distwar-doctor", cwd=tmp_path)
    assert run(installed / "distwar-train", "--help", cwd=tmp_path).startswith("usage: distwar-train")


# ------------------------------------------------------------------------------------------------ the name `datasets`

OTHERS = {
    "datasets/__init__.py": "from . import arrow_dataset\nclass Dataset: pass\n",
    "datasets/arrow_dataset.py": "",
    "datasets/scene.py": "is_theirs = True\n",
    "transformers.py": "from datasets import Dataset\nimport datasets.scene\nassert datasets.scene.is_theirs\n",
    "torchvision.py": "",
    "torchmetrics/image/lpip.py": """
import torch, transformers
class LearnedPerceptualImagePatchSimilarity(torch.nn.Module):
    def __init__(self, **options): super().__init__()
    def forward(self, image, target): return image.new_tensor(0.25)
    def reset(self): pass
""",
}
"""Stand-ins for Hugging Face's packages, and for what imports them."""


@pytest.fixture
def others(tmp_path) -> dict[str, str]:
    """An environment in which they are installed, behind the folder of the program."""
    for name, text in OTHERS.items():
        file = tmp_path / "others" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    weights = tmp_path / "torch/hub/checkpoints/vgg16-397923af.pth"
    weights.parent.mkdir(parents=True)
    weights.touch()
    return {**ENVIRONMENT, "PYTHONPATH": str(tmp_path / "others"), "TORCH_HOME": str(tmp_path / "torch")}


def test_lpips_is_measured_where_other_packages_import_datasets(others, demo_scene, tmp_path):
    """A run from the checkout, whose folder Python searches first."""
    arguments = ("-s", demo_scene, "-m", tmp_path / "run", "--iterations", 1, "--device", "cpu", "--quiet")
    run(sys.executable, ROOT / "train.py", *arguments, env=others, cwd=tmp_path)
    assert json.loads((tmp_path / "run/metrics.json").read_text())[0]["lpips"] == 0.25


def test_our_code_imports_the_folder_by_the_packages_name():
    """In a checkout the folder's own name would do, too; where the wheel is installed it is another package."""
    wrong = re.compile(r"^\s*(?:from|import) datasets\b", flags=re.MULTILINE)
    folders = ("benchmarks", "datasets", "distwar_gs", "distwar_kernels", "scripts")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    assert [str(file) for file in files if wrong.search(file.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("first", ["datasets", "distwar_datasets", "distwar_datasets.scene, datasets.arrow_dataset"])
def test_both_packages_are_imported_in_either_order(others, first):
    code = f"""
import {first}
import datasets, distwar_datasets, transformers
assert distwar_datasets.load_scene and distwar_datasets.scene.Scene
assert datasets.__spec__.origin.startswith({others["PYTHONPATH"]!r})
print(datasets.Dataset, hasattr(datasets, "load_scene"))
"""
    assert run(sys.executable, "-c", code, env=others, cwd=ROOT) == "<class 'datasets.Dataset'> False\n"


def test_without_another_package_the_folders_name_gives_the_same_modules(tmp_path):
    """Not copies: an error raised under one name is caught under the other. A mere folder is no package."""
    (tmp_path / "datasets").mkdir()
    code = """
import datasets.readers.ply, distwar_datasets.readers.ply
from datasets.errors import DataError
from datasets.pixels import masks
assert datasets.readers.ply is distwar_datasets.readers.ply and masks is distwar_datasets.pixels.masks
assert datasets.readers.ply.__spec__.name == "distwar_datasets.readers.ply"
try:
    distwar_datasets.load_scene("nowhere")
except DataError as error:
    print(error)
"""
    said = run(sys.executable, "-c", code, cwd=ROOT, env={**ENVIRONMENT, "PYTHONPATH": str(tmp_path)})
    assert said.startswith("nowhere: no such folder")


def test_a_broken_other_package_is_reported_as_broken(others, tmp_path):
    (tmp_path / "others/datasets/arrow_dataset.py").write_text("import a_part_that_is_missing")
    code = "import datasets"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=others, capture_output=True, text=True)
    assert "No module named 'a_part_that_is_missing'" in done.stderr


def test_configs_that_came_with_the_program_are_found_from_any_folder(tmp_path):
    arguments = ("-s", tmp_path, "--config")
    for name in ("configs/mipnerf360/garden.yaml", "configs/no_such.yaml"):
        said = run_program("train.py", *arguments, name, cwd=tmp_path).stderr
        assert ("no_such.yaml: cannot read the configuration" in said) == ("no_such" in name)
        assert ("no dataset found" in said) == ("garden" in name)
