"""Folders that cannot be written, odd paths, disks that are full, processes that get in each other's way or are killed.

Every program here is a real process. The GPU's versions of the last two are marked `gpu`.
"""

import ctypes
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from captures import Capture, camera
from demo_runs import ENVIRONMENT, ROOT, Forked, start_program

from distwar_datasets import DataError
from distwar_datasets.pixels import cache
from distwar_kernels import loader

SHORT = ("--device", "cpu", "--iterations", 2, "--set", "log.tensorboard=false", "model.init_points=300")
ODD_NAME = "ein Ordner für 日本 's"
UNDISTORTED = (*SHORT, "--set", "data.undistort=always")


@pytest.fixture
def distorted(tmp_path) -> Path:
    """A scene whose images are undistorted and, under -r 2, resized: two caches."""
    folder = tmp_path / "scene"
    capture = Capture(cameras=[camera("OPENCV")])
    capture.write_colmap(folder)
    capture.write_images(folder / "images")
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def program(
    *arguments: object, prepare: Callable[[], object] | None = None, root: Path | None = None, gpu: bool = False
) -> subprocess.Popen | Forked:
    """A program of the repository, or of a copy of it at `root`, started; `prepare` is called in its process first."""
    environment = {name: os.environ[name] for name in ("XDG_CACHE_HOME",) if name in os.environ}
    name, *options = arguments
    if root is None:
        return start_program(name, *options, gpu=gpu, environment=environment, prepare=prepare)
    return start_program(root / name, *options, cwd=root, environment=environment, fresh=True)


def ended(process: subprocess.Popen | Forked, code: int = 0) -> str:
    """What it said, once it has ended with this code."""
    said = process.communicate(timeout=300)[1]
    assert process.returncode == code and "Traceback" not in said, said
    return said


# ---------------------------------------------------------------------------------------- what cannot be written


def bind() -> None:
    """In a process: permissions bind it, and what it starts, though it is root's: it gives up CAP_DAC_OVERRIDE."""
    if os.geteuid() != 0:
        return
    override, libc = 1, ctypes.CDLL(None)
    own = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of capget, this process
    held = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: of 0 to 31, then of 32 to 63
    libc.capget(own, held)
    for index in range(3):
        held[index] &= ~(1 << override)
    libc.prctl(24, override, 0, 0, 0)  # PR_CAPBSET_DROP
    libc.capset(own, held)


@pytest.fixture
def bound(tmp_path) -> Callable[[], None]:
    """What to prepare a program with so that permissions bind it."""
    probe = tmp_path / "probe"
    probe.mkdir(mode=0o555)
    touched = subprocess.run(["touch", str(probe / "file")], capture_output=True, check=False, preexec_fn=bind)
    if touched.returncode == 0:
        pytest.skip("permissions do not bind this user, and that cannot be changed here")
    return bind


def read_only(folder: Path) -> Path:
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    return folder


def test_a_dataset_that_cannot_be_written(distorted, home, bound, tmp_path):
    files = sorted(read_only(distorted).rglob("*"))
    said = ended(program("train.py", "-s", distorted, "-m", tmp_path / "run", "-r", 2, *UNDISTORTED, prepare=bound))
    assert said.count(f"images to {home / 'distwar-gs'}") == 2
    assert sorted(distorted.rglob("*")) == files
    again = ended(program("train.py", "-s", distorted, "-m", tmp_path / "run2", "-r", 2, *UNDISTORTED, prepare=bound))
    assert again.count("reusing 6 cached images in") == 2


def test_no_cache_can_be_written(distorted, home, bound, tmp_path):
    home.mkdir()
    read_only(home), read_only(distorted)
    said = ended(program("train.py", "-s", distorted, "-m", tmp_path / "run", *UNDISTORTED, prepare=bound), code=1)
    last = said.splitlines()[-1]
    assert str(distorted) in last and str(home) in last and "make one of the folders writable" in last


def test_a_run_folder_that_cannot_be_written(distorted, bound, tmp_path):
    (tmp_path / "run").mkdir(mode=0o555)
    said = ended(program("train.py", "-s", distorted, "-m", tmp_path / "run", *SHORT, prepare=bound), code=1)
    words = "cannot be the run folder (Permission denied); choose another with -m"
    assert said.splitlines() == [f"error: {tmp_path / 'run'}: {words}"]


def full_after(size: int) -> None:
    """In the child: files cannot grow beyond `size` bytes, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize(("size", "words"), [(500, ".distwar_cache"), (15_000, "checkpoints/step_2.pt")])
def test_a_full_disk(distorted, home, tmp_path, size, words):
    started = program(
        "train.py", "-s", distorted, "-m", tmp_path / "run", *UNDISTORTED, prepare=lambda: full_after(size)
    )
    last = ended(started, code=1).splitlines()[-1]
    assert last.startswith("error: ") and words in last and "free" in last
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".making-") or path.suffix == ".tmp"]


# ------------------------------------------------------------------------------------------------------ odd paths


def test_spaces_and_letters_of_other_scripts_in_every_path(distorted, tmp_path):
    """The checkout too: it is copied."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    if not tracked:
        pytest.skip("not a git checkout: there is no telling which files to copy")
    root = tmp_path / f"checkout {ODD_NAME}"
    for name in tracked.split("\0")[:-1]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name, follow_symlinks=False)
    scene = distorted.rename(tmp_path / f"scene {ODD_NAME}")
    run = tmp_path / f"run {ODD_NAME}"
    ended(program("train.py", "-s", scene, "-m", run, "-r", 2, *SHORT, root=root))
    ended(program("render.py", run, "--path", "ellipse", "--frames", 2, root=root))
    made = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert {"checkpoints/step_2.pt", "renders/iteration_2/test/renders/a.png"} <= made
    assert (run / "renders/iteration_2/ellipse.mp4").stat().st_size > 0


# ------------------------------------------------------------------------------------- builders of the kernels


def load_toy(sources: Path) -> None:
    """In a process: loads a library of the user's own source as if it were that of the kernels for the CPU."""
    logging.basicConfig(format="%(message)s")
    loader.load_once.cache_clear()
    loader._ROOT = sources
    loader._BACKENDS["cpu"] = loader._Backend(("toy.cpp",), ("-O1",), (), 3)
    loader.load("cpu")


needs_compiler = pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler")


class Workshop:
    """A source file, a compiler that waits for a sign before it compiles, and a folder for what is built."""

    def __init__(self, folder: Path) -> None:
        self.sources, self.builds = folder / "sources", folder / "builds"
        self.compiled, self.sign = folder / "compiled", folder / "sign"
        self.sources.mkdir(parents=True)
        (self.sources / "toy.cpp").write_text("int toy() { return 1; }\n")
        self.compiler = folder.parent / "slow-c++"  # without spaces: torch does not quote its path
        self.compiler.write_text(
            f"""#!/bin/sh
case "$*" in *" -c "*)
    echo $$ >> "{self.compiled}"
    while [ ! -e "{self.sign}" ]; do sleep 0.1; done;;
esac
exec c++ "$@"
"""
        )
        self.compiler.chmod(0o755)

    def builder(self) -> Forked:
        """A process that is about to load the kernels, building them if nobody has."""
        environment = {**ENVIRONMENT, "TORCH_EXTENSIONS_DIR": str(self.builds), "CXX": str(self.compiler)}
        return Forked(["a builder"], lambda: load_toy(self.sources), environment)

    def wait_for_compiler(self) -> None:
        """Until the compiler has begun to run."""
        deadline = time.monotonic() + 120
        while not self.compiled.exists():
            assert time.monotonic() < deadline, "the compiler was not started"
            time.sleep(0.05)

    def check(self, *builders: Forked) -> list[str]:
        """All end well with one whole library between them, and nothing else is left; what they said."""
        said = []
        for builder in builders:
            said.append(builder.communicate(timeout=120)[1])
            assert builder.returncode == 0, said[-1]
        (folder,) = self.builds.iterdir()
        assert sorted(path.name for path in folder.iterdir()) == [
            "build.lock",
            "distwar_cpu.so",
            "distwar_cpu.so.sha256",
        ]
        return said


@pytest.fixture
def workshop(tmp_path) -> Workshop:
    return Workshop(tmp_path / f"kernels {ODD_NAME}")


@needs_compiler
def test_two_processes_build_at_once(workshop):
    both = workshop.builder(), workshop.builder()
    workshop.wait_for_compiler()
    workshop.sign.touch()
    said = workshop.check(*both)
    assert sum("building the distwar cpu kernels once" in words for words in said) == 1
    assert sum("waiting for another process" in words for words in said) <= 1
    assert len(workshop.compiled.read_text().split()) == 1


@needs_compiler
@pytest.mark.parametrize("waiting", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_builder_is_killed(workshop, waiting):
    """Another one, waiting or started later, builds what it left; the killed one's compiler lives on meanwhile."""
    first = workshop.builder()
    workshop.wait_for_compiler()
    second = workshop.builder() if waiting else None
    first.send_signal(signal.SIGKILL)
    assert first.wait(timeout=60) == -signal.SIGKILL
    second = second or workshop.builder()
    workshop.sign.touch()
    (said,) = workshop.check(second)
    assert "built the distwar cpu kernels" in said
    assert len(workshop.compiled.read_text().split()) == 2
    first.communicate(timeout=60)  # its compiler has ended too
    workshop.check(workshop.builder())


# --------------------------------------------------------------------------------- two programs on one scene


def test_a_cache_that_another_process_finished_is_left_alone(tmp_path, monkeypatch):
    """It is read by then: removing it, even to put the same in its place, would take images away from a training."""
    found = cache._temporary_beside

    def build(folder: Path) -> None:
        (folder / "a").write_text("made")

    def meanwhile(folder: Path) -> Path | None:
        monkeypatch.setattr(cache, "_temporary_beside", found)
        other = cache.cached_folder(tmp_path, "x", 1, {"a": (1, 1)}, build)
        stamps.append((other / "a").stat().st_ino)
        return found(folder)

    def size(path: Path) -> tuple[int, int]:
        if not path.is_file():
            raise DataError("missing")
        return 1, 1

    stamps: list[int] = []
    monkeypatch.setattr(cache, "read_size", size)
    monkeypatch.setattr(cache, "_temporary_beside", meanwhile)
    folder = cache.cached_folder(tmp_path, "x", 1, {"a": (1, 1)}, build)
    assert stamps == [(folder / "a").stat().st_ino]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def crowd(scene: Path, folder: Path, device: str) -> None:
    """Two trainings begin on a scene without caches; then the first is rendered while a third trains."""
    arguments = ("-s", scene, "-r", 2, "--device", device, *UNDISTORTED[2:])
    gpu = device == "cuda"
    both = [program("train.py", "-m", folder / name, *arguments, gpu=gpu) for name in ("one", "two")]
    for process in both:
        ended(process)
    caches = [path.name for path in (scene / ".distwar_cache").iterdir()]
    assert len(caches) == 2 and not [name for name in caches if name.startswith(".making")]
    third = program("train.py", "-m", folder / "three", *arguments, "--iterations", 40, gpu=gpu)
    ended(program("render.py", folder / "one", "--device", device, gpu=gpu))
    ended(third)
    pictures = [folder / name / "renders/iteration_2/test/renders/a.png" for name in ("one",)]
    assert all(path.is_file() for path in pictures) and (folder / "three/checkpoints/step_40.pt").is_file()


@pytest.mark.slow
def test_trainings_and_a_rendering_at_once(distorted, tmp_path):
    crowd(distorted, tmp_path, "cpu")


@pytest.mark.gpu
def test_trainings_and_a_rendering_at_once_on_one_gpu(distorted, tmp_path):
    crowd(distorted, tmp_path, "cuda")


@pytest.mark.gpu
def test_two_processes_build_the_cuda_kernels_at_once(tmp_path):
    environment = dict(os.environ) | {"TORCH_EXTENSIONS_DIR": str(tmp_path / "builds")}
    command = [sys.executable, "-c", "import logging; logging.basicConfig(format='%(message)s'); "
        "from distwar_kernels import loader; loader.load('cuda')"]  # fmt: skip
    both = [subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [ended(process) for process in both]
    assert sum("building the distwar cuda kernels once" in words for words in said) == 1
    (folder,) = (tmp_path / "builds").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["build.lock", "distwar_cuda.so", "distwar_cuda.so.sha256"]
