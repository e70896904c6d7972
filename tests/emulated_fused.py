"""The fused rasteriser's ops on CPU tensors: its CUDA kernels compiled for the CPU.

The binding is compiled too, for the CPU's dispatch key, so that everything above it (autograd, room, training) runs as
it does on a GPU.
"""

import pytest
import torch
from emulated_kernels import KERNELS, link

from distwar_kernels.fused import fused


def load(*flags: str) -> None:
    """Loads the ops, compiled with more flags if they are not in the cache."""
    kernels = [path for op in ("fused", "blend") for path in sorted((KERNELS / op).glob("*.cu"))]
    torch.ops.load_library(link("emulated_fused", [KERNELS / "fused/fused.cpp", *kernels], *flags, with_torch=True))


def pretend_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the fused rasteriser take CPU tensors."""
    monkeypatch.setattr(fused, "_require_cuda", lambda means: None)
