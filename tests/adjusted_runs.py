"""Trainings that learn something beside the Gaussians."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from distwar_gs.checkpoints.checkpoint import load_checkpoint
from distwar_gs.training.trainer import Trainer


def assert_12_steps_are_6_and_6_more(make: Callable[[str, dict], Trainer], changes: dict[str, Any], name: str) -> None:
    """To the last bit, what the adjustment of this name has learned included.

    make: of a folder and changes a training of 12 steps, since rates follow the length of the run.
    """
    whole = make("whole", changes)
    assert whole.run() == 0
    first = make("parts", changes | {"train.checkpoint_iterations": [6]})
    assert first.run() == 0
    second = make("second", changes | {"train.resume": str(first.folder / "checkpoints/step_6.pt")})
    assert second.state.step == 6 and second.run() == 0
    own, other = (tree_leaves(run.state.adjustments[0].state_dict()) for run in (whole, second))
    assert all(map(torch.equal, own, other)) and any(tensor.abs().max() > 1e-4 for tensor in own)
    assert all(torch.equal(param, second.state.params[name]) for name, param in whole.state.params.items())
    saved = load_checkpoint(whole.folder / "checkpoints/step_12.pt", "cpu")
    assert all(map(torch.equal, tree_leaves(saved.parts[f"adjust.{name}"]), own))
