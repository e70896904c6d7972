"""Which device a run uses, and what to say where its memory is used up."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from distwar_gs.system.errors import ConfigError

_OF_MEMORY = ("DefaultCPUAllocator", "bad_alloc")
"""What torch's own errors say where the host's memory is used up, and C++."""


def resolve_device(name: str) -> torch.device:
    """The torch device for `train.device`: auto takes the GPU when torch sees one.

    Raises ConfigError for cuda without a GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda is not None
        reason = "torch sees no CUDA GPU" if built else f"torch {torch.__version__} is built without CUDA"
        remedy = "check the driver with nvidia-smi" if built else "install a CUDA build of torch"
        raise ConfigError(f"device cuda was asked for but {reason}; remedy: --device cpu, or {remedy}")
    if name == "cuda":
        _let_segments_grow()
    return torch.device(name)


def _let_segments_grow() -> None:
    """Lets the allocator extend its memory in place, unless the user has set it up.

    The number of Gaussians changes every hundred steps. Without this the allocator keeps a piece of memory for each
    size there was: 15 GiB for a bonsai of 1 GiB.
    """
    if not any(name in os.environ for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")):
        torch._C._accelerator_setAllocatorSettings("expandable_segments:True")


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """While entered, memory that is used up, the GPU's or the host's, is one line: that `what` does not fit.

    Raises ConfigError for it; other errors pass.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        lacking = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not lacking and not any(words in str(error) for words in _OF_MEMORY):
            raise
        raise ConfigError(
            f"out of memory: {what} does not fit; make a video smaller with --width and --height, test views with -r, "
            "or end other programs"
        ) from None
