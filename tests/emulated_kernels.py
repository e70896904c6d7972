"""Builds an op's CUDA kernels for the CPU, against emulated_cuda/cuda_runtime.h, plainly or under a sanitizer.

Objects and libraries are kept in the user's cache, as distwar_kernels/loader.py keeps libraries: a digest of everything
that decides the content is part of the name, a lock lets one process build what others wait for, and a file appears
under its name only when it is whole.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent / "emulated_cuda"
KERNELS = HERE.parents[1] / "distwar_kernels"
CACHE = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "distwar_kernels") / "emulated"
OS_THREADS = "-DEMULATE_WITH_OS_THREADS"
"""Compiler flag: a thread of the operating system instead of a fiber for each of the GPU's."""
_FLAGS = ("-std=c++20", "-O1", "-fPIC", "-pthread", "-DDISTWAR_BACKEND=cuda", "-w")
_SECONDS_KEPT = 14 * 24 * 3600


def build(op: str, *flags: str) -> Path:
    """The library of distwar_kernels/<op>'s kernels and of emulated_cuda/<op>.cpp, which calls them."""
    return link(f"emulated_{op}", [HERE / f"{op}.cpp", *sorted((KERNELS / op).glob("*.cu"))], *flags)


def link(name: str, sources: Sequence[Path], *flags: str, with_torch: bool = False) -> Path:
    """The library of files that are compiled one by one, with more compiler flags.

    Skips the test where the compiler is too old.
    """
    libraries = _torch_libraries() if with_torch else ()  # imports setuptools, which two threads must not do at once
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(lambda source: _compiled(source, flags, with_torch), sources))
    command = [_compiler(), "-shared", "-pthread", *flags, *objects, *libraries]
    key = [*flags, *(path.name for path in objects)]
    return _made(f"{name}.so", key, lambda target: subprocess.run([*command, "-o", target], check=True))


def _compiled(source: Path, flags: Sequence[str], with_torch: bool) -> Path:
    def compile_to(target: Path) -> None:
        _require_modern_compiler()
        includes = [f"-I{path}" for path in (HERE, KERNELS, *(_torch_includes() if with_torch else ()))]
        command = [_compiler(), *_FLAGS, *flags, *includes, "-x", "c++", "-c", source, "-o", target]
        subprocess.run(command, check=True)

    return _made(f"{source.name}.o", [*flags, source.read_text(encoding="utf-8")], compile_to)


def _made(name: str, key: Sequence[str], make: Callable[[Path], object]) -> Path:
    """A file of the cache that `make` writes where it is not there yet, or not with this key."""
    digest = hashlib.sha256(repr((*key, *_FLAGS, _toolchain(), _headers())).encode()).hexdigest()[:16]
    path = CACHE / f"{digest}-{name}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with _locked(CACHE / f"{name}.lock"):
        if not path.exists():
            _remove_old(name)
            scratch = Path(tempfile.mkdtemp(prefix=f"making-{name}-", dir=CACHE))
            make(scratch / name)
            os.replace(scratch / name, path)
            scratch.rmdir()
    os.utime(path)
    return path


def _remove_old(name: str) -> None:
    """What killed builds of this name have left, and what was not used for two weeks."""
    for path in CACHE.glob(f"making-{name}-*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in CACHE.glob(f"*-{name}"):
        if time.time() - path.stat().st_mtime > _SECONDS_KEPT:
            path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@cache
def _headers() -> str:
    """A digest of all headers."""
    digest = hashlib.sha256()
    for root in (HERE, KERNELS):
        for path in sorted(path for path in root.rglob("*") if path.suffix in {".h", ".cuh"}):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _compiler() -> str:
    return os.environ.get("CXX", "c++")


@cache
def _toolchain() -> tuple[str, ...]:
    compiler = subprocess.run([_compiler(), "--version"], capture_output=True, text=True, check=True).stdout
    return compiler, platform.machine(), torch.__version__


@cache
def _require_modern_compiler() -> None:
    source = "#include <atomic>\n#include <barrier>\nint x; std::atomic_ref<int> y(x);\n"
    command = [_compiler(), "-std=c++20", "-x", "c++", "-fsyntax-only", "-"]
    if subprocess.run(command, input=source, capture_output=True, text=True, check=False).returncode != 0:
        pytest.skip("the compiler lacks std::atomic_ref or std::barrier of C++20")


def _torch_includes() -> list[str]:
    from torch.utils import cpp_extension

    return cpp_extension.include_paths()


def _torch_libraries() -> list[str]:
    from torch.utils import cpp_extension

    return [*(f"-L{path}" for path in cpp_extension.library_paths()), "-ltorch", "-ltorch_cpu", "-lc10"]


def sanitize(op: str, kind: str, script: str) -> int:
    """Builds the kernels with a sanitizer and has `script run LIBRARY` run them in a process that has it.

    Returns its exit code, 0 if all is well. The thread sanitizer needs real threads.
    """
    name = {"thread": "libtsan.so", "address": "libasan.so"}[kind]
    asked = [_compiler(), f"-print-file-name={name}"]
    runtime = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    library = build(op, f"-fsanitize={kind}", "-g", *((OS_THREADS,) if kind == "thread" else ()))
    environment = os.environ | {
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",
        "TSAN_OPTIONS": "ignore_noninstrumented_modules=1",
    }
    return subprocess.run([sys.executable, script, "run", library], env=environment, check=False).returncode
