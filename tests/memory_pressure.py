"""Memory that runs out at a chosen operation."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class RunsOutAt(TorchDispatchMode):
    """While entered, the `number`-th operation from here (from 0) finds no memory, and with `later_clones` no copy
    after it does. `hit` tells whether it came to that."""

    def __init__(self, number: int, later_clones: bool = False) -> None:
        super().__init__()
        self.number, self.later_clones, self.count = number, later_clones, 0

    @property
    def hit(self) -> bool:
        return self.count > self.number

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        is_later_clone = self.later_clones and self.hit and func is torch.ops.aten.clone.default
        self.count += 1
        if self.count == self.number + 1 or is_later_clone:
            raise torch.OutOfMemoryError("CUDA out of memory (a test)")
        return func(*args, **(kwargs or {}))
