"""Whether the parts of a checkpoint are what a run can continue from, and fit each other."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from distwar_gs.densification import new_state
from distwar_gs.model import PARAMETER_NAMES

_SHAPES = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3)}
_HARMONICS = (0, 3, 8, 15)


def damaged_part(content: Mapping[str, Any]) -> str | None:
    """The name of the first part that is of a wrong type or shape, or does not fit the others; None if all is well.

    content: everything that `distwar_gs.checkpoint.Checkpoint` holds, as read from a file that may be damaged.
    """
    for name, holds in _RULES.items():
        try:
            if not holds(content):
                return name
        except (TypeError, AttributeError, LookupError, ValueError, RuntimeError, OverflowError):
            return name
    return None


def _params_hold(content: Mapping[str, Any]) -> bool:
    params = content["params"]
    count, harmonics = len(params["means"]), params["shN"].shape[1]
    shapes = {**{name: (count, *shape) for name, shape in _SHAPES.items()}, "shN": (count, harmonics, 3)}
    sound = all(_is_tensor(params[name], shapes[name]) and params[name].is_floating_point() for name in PARAMETER_NAMES)
    return sound and harmonics in _HARMONICS


def _optimizers_hold(content: Mapping[str, Any]) -> bool:
    """Moments of the parameter's shape, or none before the first step."""
    states = {name: optimizer["state"] for name, optimizer in content["optimizers"].items()}
    return set(states) == set(content["params"]) and all(
        state == {} or (set(state) == {0} and _moments_hold(state[0], content["params"][name].shape))
        for name, state in states.items()
    )


def _moments_hold(state: Mapping[str, Any], shape: tuple[int, ...]) -> bool:
    moments = (state[key] for key in ("exp_avg", "exp_avg_sq"))
    return _is_tensor(state["step"], ()) and all(_is_tensor(moment, shape) for moment in moments)


def _densification_holds(content: Mapping[str, Any]) -> bool:
    """The statistics that density control continues from; MCMC has none, and guided some more."""
    if content["config"]["densification.strategy"] == "mcmc":
        return content["densification"] == {}
    count, statistics = len(content["params"]["means"]), content["densification"]
    return all(_is_tensor(statistics[name], (count,)) for name in {*new_state(0, "cpu"), *statistics})


def _rng_holds(content: Mapping[str, Any]) -> bool:
    rng = content["rng"]
    torch.Generator().set_state(rng["torch"].cpu())
    for saved in rng["generators"].values():
        if saved["device"] == "cpu":
            torch.Generator().set_state(saved["state"].cpu())
    states = [*(rng["cuda"] or ()), *(saved["state"] for saved in rng["generators"].values())]
    return all(state.dtype == torch.uint8 for state in states)


def _sampler_holds(content: Mapping[str, Any]) -> bool:
    views = content["scene"]["training views"]
    return all(type(index) is int and 0 <= index < views for index in content["sampler"]["order"])


def _is_tensor(value: Any, shape: tuple[int, ...]) -> bool:
    """A plain tensor of that shape that does not, by strides of 0, claim more numbers than the file held."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.shape != shape:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


_RULES: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "step": lambda content: type(content["step"]) is int and 0 <= content["step"] < 2**63,
    "elapsed_seconds": lambda content: math.isfinite(content["elapsed_seconds"] + 0.0),
    "config": lambda content: isinstance(content["config"]["densification.strategy"], str),
    "scene": lambda content: type(content["scene"]["training views"]) is int,
    "params": _params_hold,
    "optimizers": _optimizers_hold,
    "densification": _densification_holds,
    "rng": _rng_holds,
    "sampler": _sampler_holds,
}
