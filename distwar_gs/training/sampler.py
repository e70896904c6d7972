"""The order in which training views are shown."""

import torch

from distwar_gs.system.parallel import ALONE, Ranks


class ViewSampler:
    """Views in random order, each once before any comes again (as the 3DGS reference's viewpoint stack).

    Several ranks have one order and share it out: what a process alone shows at so many steps, they show at one.
    """

    def __init__(self, count: int, generator: torch.Generator, ranks: Ranks = ALONE) -> None:
        """`count` views; `generator` (on the CPU) makes the order, on all ranks the same."""
        self._generator, self._ranks = generator, ranks
        self._count = count
        self._order: list[int] = []
        self.shown: list[int] = []
        """The views of the last step, by rank."""

    def next(self) -> int:
        """The index of this rank's next view."""
        self.shown = [self._pop() for _ in range(self._ranks.count)]
        return self.shown[self._ranks.rank]

    def put_back(self, index: int) -> None:
        """`next` will return this index again, which it returned last, and the other ranks' theirs: the step that these
        were for did not happen."""
        self._order += self.shown[::-1]

    def upcoming(self) -> list[int]:
        """This rank's of what `next` will return, as far as it is decided: to the end of this round."""
        return self._order[::-1][self._ranks.rank :: self._ranks.count]

    def upcoming_of_all(self) -> list[int]:
        """The same of all ranks, in the order in which they are shown."""
        return self._order[::-1]

    def _pop(self) -> int:
        if not self._order:
            self._order = torch.randperm(self._count, generator=self._generator).tolist()
        return self._order.pop()

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
