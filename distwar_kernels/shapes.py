"""The check of an op's arguments that every op makes first."""

from collections.abc import Mapping, Sequence

from torch import Tensor


def check_shapes(expected: Mapping[str, tuple[Tensor | None, Sequence[int]]]) -> None:
    """Raises ValueError, naming the argument, for a tensor that has not the shape beside it; None passes."""
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
