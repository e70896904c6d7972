"""The random numbers of a run, as a checkpoint holds them."""

import logging
from collections.abc import Mapping
from typing import Any

import torch

log = logging.getLogger(__name__)


def capture_rng(generators: Mapping[str, torch.Generator]) -> dict[str, Any]:
    """The state of PyTorch's own random numbers, on the CPU and on every GPU, and of the run's generators.

    NumPy's and Python's are not in it, because no part of a run draws from them.
    """
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None,
        "generators": {
            name: {"device": generator.device.type, "state": generator.get_state()}
            for name, generator in generators.items()
        },
    }


def is_rng(rng: Mapping[str, Any]) -> bool:
    """Whether this is from `capture_rng`. RuntimeError and the like for states that are none."""
    torch.Generator().set_state(rng["torch"].cpu())
    for saved in rng["generators"].values():
        if saved["device"] == "cpu":
            torch.Generator().set_state(saved["state"].cpu())
    states = [*(rng["cuda"] or ()), *(saved["state"] for saved in rng["generators"].values())]
    return all(state.dtype == torch.uint8 for state in states)


def restore_rng(rng: Mapping[str, Any], generators: Mapping[str, torch.Generator]) -> None:
    """Continue the random numbers of a checkpoint.

    Another kind of device has another kind of generator: those keep the state they have, with a warning.
    """
    torch.set_rng_state(rng["torch"].cpu())
    if rng["cuda"] is not None and len(rng["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in rng["cuda"]])
    for name, generator in generators.items():
        saved = rng["generators"].get(name)
        if saved is None or saved["device"] != generator.device.type:
            log.warning("the random numbers of %r start anew: the checkpoint has none for this device", name)
        else:
            generator.set_state(saved["state"].cpu())
