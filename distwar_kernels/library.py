"""The ``distwar`` operator namespace: schemas live here in Python, kernels register themselves when they are loaded."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

LIBRARY = torch.library.Library("distwar", "FRAGMENT")

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def by_hand(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """For functions whose ops are differentiated by hand: they run below autograd, and what they return has no graph.

    Under `torch.no_grad` the Python side of an op's autograd formula would still run: 10 us of the host for each call,
    in a step whose host time is a few hundred.
    """

    @wraps(function)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        if torch.compiler.is_compiling():  # which cannot trace the guard
            return function(*args, **kwargs)
        with torch._C._AutoDispatchBelowAutograd():
            return function(*args, **kwargs)

    return run


class InputGradients:
    """What an autograd formula knows of an op's arguments, and returns, by their names instead of their places."""

    def __init__(self, op: str, inputs: Sequence[Any]) -> None:
        """Of an op of this namespace, called with these inputs; keeps none of them."""
        names = [argument.name for argument in getattr(torch.ops.distwar, op).default._schema.arguments]
        self._nothing = {name: _nothing_for(value) for name, value in zip(names, inputs, strict=True)}

    def wants(self, ctx: Any, name: str) -> bool:
        """Whether autograd asks for the gradient of this argument, a tensor."""
        return bool(ctx.needs_input_grad[list(self._nothing).index(name)])

    def of(self, **gradients: Tensor | Sequence[Tensor | None] | None) -> tuple:
        """These gradients, and nothing for the others, in the order of the arguments.

        Raises TypeError for a name that the op does not have.
        """
        unknown = gradients.keys() - self._nothing.keys()
        if unknown:
            raise TypeError(f"the op has no arguments {', '.join(sorted(unknown))}")
        return tuple((self._nothing | gradients).values())


def _nothing_for(value: Any) -> list[None] | None:
    """A list of tensors (or an empty one) wants a list, anything else None."""
    is_tensors = isinstance(value, (list, tuple)) and all(isinstance(one, Tensor) for one in value)
    return [None] * len(value) if is_tensors else None
