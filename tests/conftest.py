"""Skips the tests marked `gpu` (pyproject.toml) where there is no GPU; a demo scene and a run on it, made once."""

import fcntl
import importlib
import json
import logging
import os
import resource
import shutil
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
import torch
from demo_runs import FinishedRun, one_thread, run_program

from distwar_gs.system.interruption import SAVING, STOPPING

LONGEST = (
    "test_trainer", "test_live_page", "test_inputs", "test_photos_to_scene", "test_packaging", "test_terminal",
    "test_refinement", "test_guided", "test_live_hook", "test_html_page", "test_pictures", "test_start",
    "test_environment", "test_intrinsics", "test_origins", "test_fuzz_readers", "test_time_to_quality",
    "test_evaluate_suite", "test_blend", "test_timelapse", "test_kill_runs", "test_interruption",
    "test_rank_runs", "test_fused", "test_mcmc",
)  # fmt: skip
"""Files that take long are begun first, so that the processes of `make test` end at about the same time."""
_FILE_SIZE = resource.getrlimit(resource.RLIMIT_FSIZE)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=100, help="random scenes for each kernel variant (default: 100)")
    parser.addoption(
        "--scenes", metavar="DIR", help="folder of real scenes (bonsai, fox, garden, lego) for the tests of them"
    )
    parser.addoption(
        "--os-threads", action="store_true", help="a thread, not a fiber, for each of a kernel's threads (slow)"
    )
    parser.addoption("--slow", action="store_true", help="also the tests marked slow")
    parser.addoption("--write-inputs", action="store_true", help="write docs/inputs.md from tests/test_inputs.py")
    parser.addoption(
        "--write-bad-inputs", action="store_true", help="write docs/bad_inputs.md from tests/test_bad_input.py"
    )


def pytest_configure() -> None:
    """Ctrl-C is heard, here and by programs that tests start, although a shell's background jobs ignore it at first."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def seeds(pytestconfig: pytest.Config) -> range:
    """The seeds of the tests that go over many random scenes."""
    return range(pytestconfig.getoption("--seeds"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    no_gpu = pytest.mark.skip(reason="torch.cuda.is_available() is False: this test needs a CUDA GPU")
    slow = pytest.mark.skip(reason="slow, and like a faster test: --slow runs it")
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(slow)
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def made_once(name: str, factory: pytest.TempPathFactory, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills, once for all processes of a test run."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / name / "whole").exists():
            shutil.rmtree(root / name, ignore_errors=True)
            (root / name).mkdir()
            make(root / name)
            (root / name / "whole").touch()
    return root / name


@pytest.fixture(scope="session")
def demo_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo scene, small: 16 views of 80 x 60, two of them held out. Read only, but for caches of images."""

    def make(folder: Path) -> None:
        size = ("--views", 16, "--width", 80, "--height", 60)
        made = run_program("scripts/make_demo_scene.py", folder / "demo", *size, fresh=True)
        assert made.returncode == 0, made.stderr

    return made_once("scene", tmp_path_factory, make) / "demo"


@pytest.fixture(scope="session")
def demo_run(demo_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """60 steps of train.py on the demo scene with adc, logged every 20 steps, that train no harmonics. Read only."""
    steps = 60

    def make(folder: Path) -> None:
        arguments = ("--device", "cpu", "--iterations", steps, "--sh_degree", 2, "--strategy", "adc",
                     "--set", "log.every=20", "model.sh_degree_interval=1000")  # fmt: skip
        result = run_program("train.py", "-s", demo_scene, "-m", folder / "demo", *arguments, fresh=True)
        assert result.returncode == 0, result.stderr
        (folder / "said.json").write_text(json.dumps([result.stdout, result.stderr]))

    folder = made_once("runs", tmp_path_factory, make)
    return FinishedRun(folder / "demo", demo_scene, steps, *json.loads((folder / "said.json").read_text()))


@pytest.fixture(scope="session", autouse=True)
def gsplat_is_built_once(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """gsplat builds itself when it is first imported, and deletes a build that another process has under way: processes
    of one test run take turns."""
    if torch.cuda.is_available() and any("gpu" in item.keywords for item in request.session.items):
        made_once("gsplat", tmp_path_factory, lambda _: importlib.import_module("gsplat.cuda._backend"))


@pytest.fixture(scope="session")
def utm(demo_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The demo scene in UTM coordinates, and the folder of a run on it (`moved_scenes.trained`). Read only."""

    def make(folder: Path) -> None:
        from moved_scenes import PLACES, trained, write_moved  # takes pycolmap: not for all tests

        with one_thread():
            trained(write_moved(demo_scene, folder / "scene", *PLACES["UTM"]), folder / "run")

    folder = made_once("utm", tmp_path_factory, make)
    return folder / "scene", folder / "run"


@pytest.fixture
def in_process() -> Iterator[None]:
    """For tests that train in this process: gives the root logger back, and keeps to one thread (see demo_runs)."""
    root, threads, hook = logging.getLogger(), torch.get_num_threads(), threading.excepthook
    handlers, level = root.handlers[:], root.level
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    threading.excepthook = hook
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def signals_of_a_terminal() -> Iterator[None]:
    """Ctrl-C and its kind end programs, also where the tests run in the background, or under nohup, and so ignore them;
    what a test starts inherits it. What a test leaves is put back."""
    before = {number: signal.getsignal(number) for number in (*STOPPING, *SAVING)}
    for number, handler in before.items():
        if handler is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def file_limit() -> Callable[[int | None], None]:
    """Sets how many bytes a file may have (None: as before): what exceeds it fails as on a full disk."""

    def limit(size: int | None) -> None:
        soft, hard = _FILE_SIZE
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))

    return limit


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    """Lifts a `file_limit` before pytest tells what came of the test: its own output may be a file."""
    try:
        return (yield)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, _FILE_SIZE)


@pytest.fixture(scope="session")
def emulation_flags(pytestconfig: pytest.Config) -> tuple[str, ...]:
    """Compiler flags that say how the threads of a kernel are emulated."""
    from emulated_kernels import OS_THREADS

    return (OS_THREADS,) if pytestconfig.getoption("--os-threads") else ()


@pytest.fixture(scope="session")
def emulated_fused_ops(emulation_flags: tuple[str, ...]) -> None:
    """The fused rasteriser's ops for CPU tensors."""
    import emulated_fused  # takes the kernels' sources: not for tests that run on a GPU

    emulated_fused.load(*emulation_flags)


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Where the fused rasteriser's kernels run; emulated, buffers are small, since every place in them has a thread."""
    if request.param == "cuda":
        return torch.device("cuda")
    request.getfixturevalue("emulated_fused_ops")
    import emulated_fused

    from distwar_kernels.fused import capacity

    emulated_fused.pretend_cuda(monkeypatch)
    monkeypatch.setattr(capacity, "_GRAIN", 64)
    monkeypatch.setattr(capacity, "_SHARED", {})
    return torch.device("cpu")
