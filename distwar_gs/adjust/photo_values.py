"""Values of each photo: an Adam for each, and a mean over the photos that stays.

Without such a mean nothing tells a dark room in bright photos from a bright room in dark ones: model and photos drift
together, and test views, which are rendered without what is learned of photos, get a cast. It is taken out after each
step, not by a penalty, since a penalty has to be weighed against the loss and leaves a part of the cast.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

BETAS = (0.9, 0.999)
EPS = 1e-15
"""Of Adam. Small, because the gradients of one cell of a grid are."""


class PhotoValues:
    """Values [V, ...] of V photos, of which a step changes one photo's.

    A step costs the same however many photos there are: a common shift stands for the mean that is taken out of all.
    """

    def __init__(self, neutral: Tensor, count: int) -> None:
        """All photos begin with `neutral`, which is also their mean from then on."""
        self._neutral, self.count = neutral, count
        self._raw = neutral.new_zeros(count, *neutral.shape)
        self._shift = torch.zeros_like(neutral)  # the mean of _raw
        self._moments = [torch.zeros_like(self._raw) for _ in range(2)]
        self._steps = neutral.new_zeros(count, dtype=torch.float32)

    def of(self, view: int) -> Tensor:
        """The values of a photo, a new tensor of the shape of `neutral`."""
        return self._neutral + (self._raw[view] - self._shift)

    @property
    def shift(self) -> Tensor:
        """What has been taken out of all photos so far, of the shape of `neutral`."""
        return self._shift

    def step(self, view: int, gradient: Tensor, rate: float) -> Tensor:
        """One step of a photo's Adam, of the size that the usual Adam makes; returns how much the photo's values have
        changed by it, before the mean is taken out.

        That one updates all photos at every step, by gradients that are 0 for all but one: `count` of its steps, from
        one gradient of a photo to the next, are made at once. What is not finite in a gradient counts as 0: Gaussians
        that are not finite may be dropped again (distwar_gs.training.health), Adam's moments would stay so.
        """
        row, before = self._raw[view], self._raw[view].clone()
        first, second = (moment[view] for moment in self._moments)
        finite = gradient.nan_to_num(0.0, 0.0, 0.0)
        adam(
            [row], [finite], [first], [second], [], [self._steps[view]], fused=True, amsgrad=False, maximize=False,
            beta1=BETAS[0] ** self.count, beta2=BETAS[1] ** self.count, lr=rate * rate_factor(self.count),
            weight_decay=0.0, eps=EPS,
        )  # fmt: skip
        change = row - before
        self._shift.add_(change, alpha=1.0 / self.count)
        return change

    def state_dict(self) -> dict[str, Any]:
        """All that changes, for a checkpoint."""
        return self._state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a checkpoint. Raises ValueError if it is another scene's."""
        take_over(self._state(), state, "photos")

    def _state(self) -> dict[str, Tensor]:
        first, second = self._moments
        return {"values": self._raw, "shift": self._shift, "exp_avg": first, "exp_avg_sq": second, "steps": self._steps}


def take_over(own: Mapping[str, Tensor], state: Any, what: str) -> None:
    """Copies what a checkpoint has into one's own tensors; `what` they are learned of, for messages.

    Raises ValueError, before anything is changed, where names or shapes differ.
    """
    if not isinstance(state, dict) or set(state) != set(own):
        raise ValueError(f"what is learned of {what} lacks a part, or has another one")
    for name, tensor in own.items():
        if not isinstance(state[name], Tensor) or state[name].shape != tensor.shape:
            raise ValueError(f"{name} of {what} is not of shape {[*tensor.shape]}")
    for name, tensor in own.items():
        tensor.copy_(state[name])


def rate_factor(count: int) -> float:
    """By how much the usual Adam moves values that have a gradient in every `count`-th step only, in multiples of its
    learning rate, from one gradient to the next: the gradients between are 0, and so its second moment is small."""
    return math.sqrt((1.0 - BETAS[1] ** count) / (1.0 - BETAS[1]))
