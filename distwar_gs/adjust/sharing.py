"""Adjustments of several ranks: copies that stay equal.

Each rank shows a photo of its own, and notes gradients in what is learned of that. All tell each other, and each makes
the steps of all photos, in the order of the ranks: what one process would make one after another. A few numbers travel,
and what is learned is whole on each rank, whichever shows a photo next, and in the checkpoint of the first one.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch

from distwar_gs.adjust.base import Adjustment, SharedAdjustment
from distwar_gs.system.parallel import Ranks


@torch.no_grad()
def step_together(adjustments: Sequence[Adjustment], views: Sequence[int], ranks: Ranks, share: float) -> None:
    """The adjustments' steps (Adjustment.step) for all `views`, those of the ranks in their order; where all show one,
    by what the first has noted, which the others have too, to rounding. Waits for nothing.

    Raises AttributeError for an adjustment that several ranks cannot have: these are refused before a training begins
    (distwar_gs.training.together).
    """
    shared = [cast(SharedAdjustment, adjustment) for adjustment in adjustments]
    if not shared:
        return
    noted = [adjustment.noted() for adjustment in shared]
    flat = torch.cat([gradient.flatten() for own in noted for gradient in own])
    everyones = ranks.swap(flat.expand(ranks.count, -1))
    for view, numbers in zip(views, everyones, strict=False):
        at = 0
        for adjustment, own in zip(shared, noted, strict=True):
            sizes = [math.prod(gradient.shape) for gradient in own]
            parts = numbers[at : at + sum(sizes)].split(sizes)
            adjustment.step_of(view, [part.view_as(like) for part, like in zip(parts, own, strict=True)], share)
            at += sum(sizes)
