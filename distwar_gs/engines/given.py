"""Backpropagation of gradients that are known, without what torch imports for it."""

from typing import Any

import torch
from torch import Tensor


class GivenGradients(torch.autograd.Function):
    """A scalar whose gradients in some tensors are given ones: `apply((v_a, v_b), a, b).backward()`.

    `torch.autograd.backward` takes given gradients as well, but imports sympy to compare their shapes: a second at the
    beginning of every training.
    """

    @staticmethod
    def forward(ctx: Any, gradients: tuple[Tensor, ...], *tensors: Tensor) -> Tensor:
        """0, on the tensors' device; `gradients` have their shapes."""
        ctx.gradients = gradients
        return tensors[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        """The given gradients."""
        return None, *ctx.gradients
