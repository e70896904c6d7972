"""Skips the tests marked `gpu` (pyproject.toml) where there is no GPU; a demo scene and a run on it, made once."""

import logging
import resource
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
import torch
from demo_runs import FinishedRun, run_program

EMULATING = {"test_emulated_blend", "test_engines", "test_fused", "test_mcmc", "test_photometric", "test_renderer"}
"""Files whose tests run CUDA kernels with a thread of the CPU for each of the GPU's: hundreds. `make test` has them all
in one of its processes, since two such at once would be in each other's way; other files are whole in one of them."""
_FILE_SIZE = resource.getrlimit(resource.RLIMIT_FSIZE)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=100, help="random scenes for each kernel variant (default: 100)")
    parser.addoption(
        "--scenes", metavar="DIR", help="folder of real scenes (bonsai, fox, garden, lego) for the tests of them"
    )
    parser.addoption("--slow", action="store_true", help="also the tests marked slow")
    parser.addoption("--write-inputs", action="store_true", help="write docs/inputs.md from tests/test_inputs.py")
    parser.addoption(
        "--write-bad-inputs", action="store_true", help="write docs/bad_inputs.md from tests/test_bad_input.py"
    )


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
        item.add_marker(pytest.mark.xdist_group("emulated" if item.path.stem in EMULATING else item.path.stem))


@pytest.fixture(scope="session")
def demo_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo scene, small: 16 views of 80 x 60, two of them held out. Read only."""
    folder = tmp_path_factory.mktemp("scene") / "demo"
    made = run_program("scripts/make_demo_scene.py", folder, "--views", 16, "--width", 80, "--height", 60)
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture(scope="session")
def demo_run(demo_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """60 steps of train.py on the demo scene, logged every 20 steps. Read only."""
    folder, steps = tmp_path_factory.mktemp("runs") / "demo", 60
    arguments = ("--device", "cpu", "--iterations", steps, "--sh_degree", 2, "--set", "log.every=20")
    result = run_program("train.py", "-s", demo_scene, "-m", folder, *arguments)
    assert result.returncode == 0, result.stderr
    return FinishedRun(folder, demo_scene, steps, result)


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
def emulated_fused_ops(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The fused rasteriser's ops for CPU tensors, built once."""
    import emulated_fused  # takes the kernels' sources: not for tests that run on a GPU

    emulated_fused.load(tmp_path_factory.mktemp("emulated"))


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
