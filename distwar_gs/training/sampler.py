"""The order in which training views are shown."""

import torch


class ViewSampler:
    """Views in random order, each once before any comes again (as the 3DGS reference's viewpoint stack)."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        """`count` views; `generator` (on the CPU) makes the order."""
        self._generator = generator
        self._count = count
        self._order: list[int] = []

    def next(self) -> int:
        """The index of the next view."""
        if not self._order:
            self._order = torch.randperm(self._count, generator=self._generator).tolist()
        return self._order.pop()

    def put_back(self, index: int) -> None:
        """`next` will return this index again, which it returned last: the step it was for did not happen."""
        self._order.append(index)

    def upcoming(self) -> list[int]:
        """What `next` will return, as far as it is decided: to the end of this round."""
        return self._order[::-1]

    def state_dict(self) -> dict[str, list[int]]:
        """What is left of this round, for a checkpoint (the generator is saved by its owner)."""
        return {"order": list(self._order)}

    def load_state_dict(self, state: dict[str, list[int]]) -> None:
        """Continues a round. Raises ValueError if it holds views that this scene has not."""
        if any(not 0 <= index < self._count for index in state["order"]):
            raise ValueError(f"the checkpoint's view order does not fit a scene of {self._count} training views")
        self._order = list(state["order"])


def is_order(state: dict[str, list[int]], count: int) -> bool:
    """Whether this is what a sampler of so many views saves."""
    return all(type(index) is int and 0 <= index < count for index in state["order"])
