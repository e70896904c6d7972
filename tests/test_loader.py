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
    assert sorted(path.name for path in folder.iterdir()) == ["build.lock", "distwar_cpu.so", "distwar_cpu.so.sha256"]

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
    assert sorted(path.name for path in library.parent.iterdir()) == ["distwar_cpu.so", "distwar_cpu.so.sha256"]


# --------------------------------------------------------------------------------------- libraries that are damaged


def cut(library: Path) -> None:
    os.truncate(library, library.stat().st_size // 2)


def empty(library: Path) -> None:
    os.truncate(library, 0)


def flip(library: Path) -> None:
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 1
    library.write_bytes(content)


def without_sum(library: Path) -> None:
    loader._sum_file(library).unlink()


def with_a_folder_for_its_sum(library: Path) -> None:
    loader._sum_file(library).unlink()
    os.mkfifo(loader._sum_file(library))


def answer(library: Path) -> int:
    """Of the toy, asked in a process of its own: this one may have the damaged library in its memory."""
    code = f"import ctypes; print(ctypes.CDLL({str(library)!r})._Z3toyv())"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


@needs_compiler
@pytest.mark.parametrize("damage", [empty, cut, flip, without_sum, with_a_folder_for_its_sum])
def test_a_damaged_library_is_built_again_once(toy, caplog, damage):
    """To load one that is cut short may take the process down."""
    loader.load("cpu")
    library = loader.library_path("cpu")
    assert answer(library) == 1
    damage(library)
    caplog.clear()
    for _ in range(2):
        loader.load_once.cache_clear()
        loader.load("cpu")
    assert [record.message for record in caplog.records][0] == f"{library} is damaged, or has no checksum"
    assert sum("building the distwar cpu kernels" in record.message for record in caplog.records) == 1
    assert loader.is_whole(library) and answer(library) == 1


@needs_compiler
def test_a_library_that_does_not_load_is_built_again_once(toy, caplog):
    library = loader.library_path("cpu")
    library.parent.mkdir(parents=True)
    library.write_text("not a library, and so it was written")
    loader._sum_file(library).write_text(loader._sum_of(library))
    loader.load("cpu")
    assert "does not load (" in caplog.records[0].message and "file too short" in caplog.records[0].message
    assert loader.is_whole(library) and answer(library) == 1


@needs_compiler
def test_kernels_that_never_load_are_an_error(toy):
    toy.write_text("int missing(); int toy() { return missing(); }\n")
    with pytest.raises(KernelError, match=r"did not compile: .*undefined symbol: _Z7missingv .torch .*doctor\.py"):
        loader.load("cpu")
    assert not loader.library_path("cpu").exists()


def test_what_is_renamed_is_on_the_disk(tmp_path, monkeypatch):
    """And the checksum before the library: so there is never one without the other."""
    events = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: events.append(os.readlink(f"/proc/self/fd/{handle}")) or sync(handle)
    )
    monkeypatch.setattr(os, "replace", lambda old, new: events.append((str(old), str(new))) or replace(old, new))
    (tmp_path / "build").mkdir()
    built, library = tmp_path / "build/x.so", tmp_path / "x.so"
    built.write_text("a library")
    loader._publish(built, library)
    sums = str(tmp_path / "build/sha256"), f"{library}.sha256"
    assert events == [sums[0], sums, str(built), (str(built), str(library)), str(tmp_path)]
    assert loader.is_whole(library)


@needs_compiler
def test_a_whole_library_needs_no_folder_that_can_be_written(toy, monkeypatch):
    """One machine may build for all."""
    loader.load("cpu")
    loader.load_once.cache_clear()
    monkeypatch.setattr(loader, "_locked", lambda folder: pytest.fail("tried to write"))
    loader.load("cpu")


@needs_compiler
def test_what_is_built_only_its_owner_can_write(toy):
    before = os.umask(0)
    try:
        loader.load("cpu")
    finally:
        os.umask(before)
    library = loader.library_path("cpu")
    for path in (library, library.parent, library.parent.parent):
        assert path.stat().st_mode & 0o022 == 0, path


@needs_compiler
def test_kernels_where_others_can_write_are_refused(toy):
    folder = loader.library_path("cpu").parent.parent
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(
        KernelError, match="builds: others can write to it, and what lies there is run; chmod go-w .*, or"
    ):
        loader.load("cpu")
    assert not list(folder.iterdir())
    folder.chmod(0o755)
    loader.load("cpu")


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
