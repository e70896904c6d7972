"""Which device a run uses."""

import torch

from distwar_gs.config import ConfigError


def resolve_device(name: str) -> torch.device:
    """The torch device for `train.device`: auto takes the GPU when torch sees one.

    Raises ConfigError for cuda without a GPU.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda is not None
        reason = "torch sees no CUDA GPU" if built else f"torch {torch.__version__} is built without CUDA"
        remedy = "check the driver with nvidia-smi" if built else "install a CUDA build of torch"
        raise ConfigError(f"device cuda was asked for but {reason}; remedy: --device cpu, or {remedy}")
    return torch.device(name)
