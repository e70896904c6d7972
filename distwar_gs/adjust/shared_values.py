"""Values that all photos share: torch's Adam on one tensor, by gradients that are made by hand."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from distwar_gs.adjust.photo_values import BETAS, EPS, take_over


class SharedValues:
    """A tensor that is learned, in place."""

    def __init__(self, values: Tensor, what: str) -> None:
        """Begins with `values`, which it changes; `what` they are, for messages."""
        self.values, self._what = values, what
        self._moments = [torch.zeros_like(values, requires_grad=False) for _ in range(2)]
        self._steps = torch.zeros((), device=values.device)

    @torch.no_grad()
    def step(self, gradient: Tensor, rate: float) -> None:
        """One step of Adam. What is not finite in a gradient counts as 0, as for PhotoValues."""
        adam(
            [self.values], [gradient.nan_to_num(0.0, 0.0, 0.0)], self._moments[:1], self._moments[1:], [],
            [self._steps], fused=True, amsgrad=False, maximize=False, beta1=BETAS[0], beta2=BETAS[1], lr=rate,
            weight_decay=0.0, eps=EPS,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """All that changes, for a checkpoint."""
        return self._state()

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a checkpoint. Raises ValueError if it is another run's."""
        take_over(self._state(), state, self._what)

    def _state(self) -> dict[str, Tensor]:
        first, second = self._moments
        return {"values": self.values.detach(), "exp_avg": first, "exp_avg_sq": second, "steps": self._steps}
