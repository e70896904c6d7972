"""Memory that runs out at a chosen operation."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class RunsOutAt(TorchDispatchMode):
    """While entered, the `number`-th operation from here (from 0) that takes memory finds none. Views and operations
    that write into given tensors take none. `hit` tells whether it came to that."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.count = number, 0

    @property
    def hit(self) -> bool:
        return self.count > self.number

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = func._schema.is_mutable or any(result.alias_info for result in func._schema.returns)
        self.count += not given
        if not given and self.count == self.number + 1:
            raise torch.OutOfMemoryError("CUDA out of memory (a test)")
        return func(*args, **(kwargs or {}))
