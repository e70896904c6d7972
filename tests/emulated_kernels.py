"""Builds an op's CUDA kernels for the CPU, against emulated_cuda/cuda_runtime.h, plainly or under a sanitizer."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "emulated_cuda"
KERNELS = HERE.parents[1] / "distwar_kernels"


def build(op: str, folder: Path, *more_flags: str) -> Path:
    """Compiles the kernels of distwar_kernels/<op>, and emulated_cuda/<op>.cpp, which calls them."""
    return link([HERE / f"{op}.cpp", *sorted((KERNELS / op).glob("*.cu"))], folder / f"emulated_{op}.so", *more_flags)


def link(sources: Sequence[Path], library: Path, *more_flags: str) -> Path:
    """Compiles each file by itself, and makes a library of all.

    Skips the test where the compiler has no C++20 barriers.
    """
    compiler = os.environ.get("CXX", "c++")
    probe = subprocess.run([compiler, "-std=c++20", "-x", "c++", "-fsyntax-only", "-"], input="#include <barrier>\n",
                           capture_output=True, text=True, check=False)  # fmt: skip
    if probe.returncode != 0:
        pytest.skip("the compiler has no C++20 barriers")
    flags = [
        "-std=c++20",
        "-O1",
        "-fPIC",
        "-pthread",
        "-DDISTWAR_BACKEND=cuda",
        "-w",
        f"-I{HERE}",
        f"-I{KERNELS}",
        *more_flags,
    ]

    def compiled(source: Path) -> str:
        target = library.parent / f"{source.stem}{source.suffix}.o"
        subprocess.run([compiler, *flags, "-x", "c++", "-c", source, "-o", target], check=True)
        return str(target)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    subprocess.run([compiler, "-shared", "-pthread", *objects, *more_flags, "-o", library], check=True)
    return library


def sanitize(op: str, kind: str, script: str) -> int:
    """Builds the kernels with a sanitizer and has `script run LIBRARY` run them in a process that has it.

    Returns its exit code, 0 if all is well.
    """
    name = {"thread": "libtsan.so", "address": "libasan.so"}[kind]
    asked = [os.environ.get("CXX", "c++"), f"-print-file-name={name}"]
    runtime = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        library = build(op, Path(folder), f"-fsanitize={kind}", "-g")
        environment = os.environ | {
            "LD_PRELOAD": runtime,
            "ASAN_OPTIONS": "detect_leaks=0",
            "TSAN_OPTIONS": "ignore_noninstrumented_modules=1",
        }
        return subprocess.run([sys.executable, script, "run", library], env=environment, check=False).returncode
