"""The fused rasteriser's ops on CPU tensors: its CUDA kernels compiled for the CPU, as emulated_blend.py does.

The binding is compiled too, for the CPU's dispatch key, so that everything above it (autograd, room, training) runs as
it does on a GPU.
"""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
import torch
from emulated_blend import HERE, KERNELS
from torch.utils import cpp_extension

from distwar_kernels.fused import fused

SOURCES = ("fused/fused.cpp", "fused/fused_project.cu", "fused/fused_tiles.cu", "fused/fused_backward.cu",
           "blend/blend_forward.cu", "blend/blend_backward.cu", "blend/blend_transposed.cu")  # fmt: skip


@cache
def load(folder: Path) -> None:
    """Builds the ops in a folder and loads them; skips the test where the compiler has no C++20 barriers."""
    compiler = os.environ.get("CXX", "c++")
    probe = subprocess.run([compiler, "-std=c++20", "-x", "c++", "-fsyntax-only", "-"], input="#include <barrier>\n",
                           capture_output=True, text=True, check=False)  # fmt: skip
    if probe.returncode != 0:
        pytest.skip("the compiler has no C++20 barriers")
    flags = ["-std=c++20", "-O1", "-fPIC", "-pthread", "-DDISTWAR_BACKEND=cuda", "-w", f"-I{HERE}", f"-I{KERNELS}"]
    headers = [f"-I{path}" for path in cpp_extension.include_paths()]

    def compiled(source: str) -> str:
        target = folder / f"{Path(source).stem}{Path(source).suffix}.o"
        more = headers if source.endswith(".cpp") else []
        subprocess.run([compiler, *flags, *more, "-x", "c++", "-c", KERNELS / source, "-o", target], check=True)
        return str(target)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, SOURCES))
    library = folder / "emulated_fused.so"
    torch_libraries = [f"-L{path}" for path in cpp_extension.library_paths()] + ["-ltorch", "-ltorch_cpu", "-lc10"]
    subprocess.run([compiler, "-shared", "-pthread", *objects, *torch_libraries, "-o", library], check=True)
    torch.ops.load_library(library)


def pretend_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the fused rasteriser take CPU tensors."""
    monkeypatch.setattr(fused, "_require_cuda", lambda means: None)
