"""The check of an op's arguments that every op makes first."""

from collections.abc import Mapping, Sequence

from torch import Tensor


def check_shapes(expected: Mapping[str, tuple[Tensor | None, Sequence[int]]]) -> None:
    """Raises ValueError, naming the argument, for a tensor that has not the shape beside it; None passes."""
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")


def check_features(features: Tensor | None, gaussians: int) -> None:
    """Raises ValueError unless there are features [N, F], F at least 1, for so many Gaussians; None passes."""
    if features is not None and (features.dim() != 2 or len(features) != gaussians or features.shape[1] == 0):
        raise ValueError(f"features has shape {tuple(features.shape)}, expected ({gaussians}, F) with F at least 1")
