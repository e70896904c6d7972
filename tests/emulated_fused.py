"""The fused rasteriser's ops on CPU tensors: its CUDA kernels compiled for the CPU.

The binding is compiled too, for the CPU's dispatch key, so that everything above it (autograd, room, training) runs as
it does on a GPU.
"""

from pathlib import Path

import pytest
import torch
from emulated_kernels import KERNELS, link
from torch.utils import cpp_extension

from distwar_kernels.fused import fused


def load(folder: Path) -> None:
    """Builds the ops in a folder and loads them."""
    kernels = [path for op in ("fused", "blend") for path in sorted((KERNELS / op).glob("*.cu"))]
    flags = [f"-I{path}" for path in cpp_extension.include_paths()]
    flags += [f"-L{path}" for path in cpp_extension.library_paths()] + ["-ltorch", "-ltorch_cpu", "-lc10"]
    sources = [KERNELS / "fused" / "fused.cpp", *kernels]
    torch.ops.load_library(link(sources, folder / "emulated_fused.so", *flags))


def pretend_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the fused rasteriser take CPU tensors."""
    monkeypatch.setattr(fused, "_require_cuda", lambda means: None)
