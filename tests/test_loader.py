"""When and where kernels are built, and what is said when that fails; no test here builds the real ones."""

import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from distwar_kernels import KernelError, loader

ROOT = Path(__file__).resolve().parents[1]
needs_compiler = pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler")


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A backend `cpu` of one small source file, built in a folder of its own; returns the source's path."""
    sources = tmp_path / "sources"
    sources.mkdir()
    source = sources / "toy.cpp"
    source.write_text("int toy() { return 1; }\n")
    backend = loader._Backend(sources=("toy.cpp",), cxx_flags=("-O1",), cuda_flags=(), expected_seconds=3)
    monkeypatch.setattr(loader, "_ROOT", sources)
    monkeypatch.setattr(loader, "_BACKENDS", {"cpu": backend, "cuda": backend})
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "builds"))
    loader.load_once.cache_clear()
    yield source
    loader.load_once.cache_clear()


def test_importing_builds_nothing(tmp_path):
    environment = os.environ | {"TORCH_EXTENSIONS_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", "import distwar_kernels"], cwd=ROOT, env=environment, check=True)
    assert not list(tmp_path.iterdir())


@needs_compiler
def test_builds_once_and_says_so(toy, caplog):
    caplog.set_level(logging.INFO)
    loader.load("cpu")
    messages = [record.message for record in caplog.records if record.name == loader.__name__]
    assert len(messages) == 2
    assert "building the distwar cpu kernels once, about 3 s" in messages[0]
    assert "built the distwar cpu kernels in" in messages[1]
    folder = loader.library_path("cpu").parent
    assert sorted(path.name for path in folder.iterdir()) == ["build.lock", "distwar_cpu.so"]

    caplog.clear()
    loader.load_once.cache_clear()  # as another process would
    loader.load("cpu")
    assert not [record for record in caplog.records if record.name == loader.__name__]


@needs_compiler
def test_a_compiler_error_is_quoted_and_the_next_load_tries_again(toy):
    working = toy.read_text()
    toy.write_text("#error this source is broken\n")
    with pytest.raises(KernelError, match=r"this source is broken.*torch .*doctor\.py"):
        loader.load("cpu")
    toy.write_text(working)
    loader.load("cpu")


def test_an_interrupted_build_is_not_taken_for_a_library(toy, monkeypatch):
    def interrupted(backend, spec, scratch):
        (scratch / "distwar_cpu.so").write_text("half a library")
        raise KeyboardInterrupt

    monkeypatch.setattr(loader, "_check_compilers", lambda backend: None)
    monkeypatch.setattr(loader, "_compile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loader.load("cpu")
    assert not loader.library_path("cpu").exists()


def test_every_build_has_a_folder_of_its_own(toy, monkeypatch):
    """The compilers of a process that was killed may still be writing into theirs."""
    scratches = []

    def compiled(backend, spec, scratch):
        scratches.append(scratch)
        (scratch / "distwar_cpu.so").write_text("a library")

    monkeypatch.setattr(loader, "_check_compilers", lambda backend: None)
    monkeypatch.setattr(loader, "_compile", compiled)
    library = loader.library_path("cpu")
    (library.parent / "build-left").mkdir(parents=True)
    for _ in range(2):
        loader._build("cpu", library)
    assert len({library.parent / "build-left", *scratches}) == 3
    assert [path.name for path in library.parent.iterdir()] == ["distwar_cpu.so"]


def test_the_key_follows_everything_that_decides_the_content(toy, monkeypatch):
    keys = [loader._build_key("cpu")]
    toy.write_text("int toy() { return 2; }\n")
    keys.append(loader._build_key("cpu"))
    (toy.parent / "toy.cuh").write_text("// a header\n")
    keys.append(loader._build_key("cpu"))
    monkeypatch.setattr(torch, "__version__", "0.0.1")
    keys.append(loader._build_key("cpu"))
    monkeypatch.setattr(loader, "_cpu_features", lambda: "another processor")
    keys.append(loader._build_key("cpu"))
    changed = loader._Backend(sources=("toy.cpp",), cxx_flags=("-O3",), cuda_flags=(), expected_seconds=3)
    monkeypatch.setitem(loader._BACKENDS, "cpu", changed)
    keys.append(loader._build_key("cpu"))
    assert len(set(keys)) == len(keys)
    assert loader._build_key("cpu") == keys[-1]


def test_the_cuda_architecture_may_be_given(monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6")
    assert loader._cuda_architecture() == "8.6"
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert loader._cuda_architecture() == "9.0+PTX"


def test_one_builder_at_a_time(tmp_path, caplog):
    order = []

    def second():
        with loader._locked(tmp_path):
            order.append("second in")

    with loader._locked(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        order.append("first out")
    thread.join(timeout=10)
    assert order == ["first out", "second in"]
    assert "waiting for another process" in caplog.text


def test_a_folder_that_cannot_be_made_names_the_variable(tmp_path, monkeypatch, toy):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "file"))
    with pytest.raises(KernelError, match="TORCH_EXTENSIONS_DIR"):
        loader.load("cpu")


def test_no_compiler(monkeypatch, toy):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(KernelError, match=r"C\+\+ compiler.*g\+\+"):
        loader.load("cpu")


def test_cuda_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(KernelError, match="--device cpu"):
        loader._check_compilers("cuda")


def test_cuda_without_nvcc(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", None)
    with pytest.raises(KernelError, match="nvcc.*CUDA_HOME.*--device cpu"):
        loader._check_compilers("cuda")


def test_the_environment_is_put_back(monkeypatch):
    monkeypatch.delenv("MAX_JOBS", raising=False)
    before = dict(os.environ)
    with loader._build_environment("cpu"):
        assert int(os.environ["MAX_JOBS"]) >= 1
        assert str(Path(sys.executable).parent) in os.environ["PATH"]
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("log", "quoted"),
    [
        ("c++ -Werror -c x.cpp\nx.cpp:3:1: error: no colon\nx.cpp:9:1: error: later", "x.cpp:3:1: error: no colon"),
        ("/home/error/x.cpp\nx.h:1:10: fatal error: y.h: No such file", "x.h:1:10: fatal error: y.h: No such file"),
        ("nvcc x.cu\nnvcc fatal   : Unsupported gpu architecture", "nvcc fatal   : Unsupported gpu architecture"),
        ("c++ x.o\n/usr/bin/ld: cannot find -lcudart\ncollect2: error: ld returned 1 exit status",
         "/usr/bin/ld: cannot find -lcudart"),
        ("Ninja is required to load C++ extensions", "Ninja is required to load C++ extensions"),
        ("", "RuntimeError('')"),
    ],
)  # fmt: skip
def test_the_first_complaint_of_a_build_log_is_quoted(log, quoted):
    assert loader.first_error(RuntimeError(log)) == quoted
