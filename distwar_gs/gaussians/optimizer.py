"""Adam over the dict of parameters: one optimiser each, the learning-rate schedule, and the only optimiser surgery."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Adam
from torch.utils._pytree import tree_map_only

from distwar_gs.config import OptimConfig
from distwar_gs.formats.parameters import ROWS
from distwar_gs.gaussians.rows import reserve, trimmed

BETAS = (0.9, 0.999)
"""Of a step of one view."""


class _Adam(Adam):
    """torch's Adam to the bit, without what it is wrapped in for torch.compile.

    Those wrappers import torch._dynamo when the first optimiser is made: as long again as torch itself takes, at the
    beginning of every training. Nothing here is compiled.
    """

    step = torch.no_grad()(unwrap(Adam.step))
    add_param_group = unwrap(Adam.add_param_group)
    zero_grad = unwrap(Adam.zero_grad)
    state_dict = unwrap(Adam.state_dict)
    load_state_dict = unwrap(Adam.load_state_dict)


def make_optimizers(
    params: Mapping[str, Parameter], config: OptimConfig, extent: float, views: int = 1
) -> dict[str, Adam]:
    """One Adam for each parameter, under the same keys, at the learning rates of step 0.

    A step on the summed gradients of several views has betas to the power of their number, and learning rates times its
    root (`set_learning_rates`). Where the gradients of views are mostly independent that moves parameters as one step
    after another would (Grendel, Zhao et al. 2025, section 4.3; gsplat's trainer scales its rates alike).

    Args:
        params: the Gaussians.
        config: the section `optim`.
        extent: the scene's extent, which the learning rate of the means is relative to.
        views: how many a step shows.
    """
    rates = {name: getattr(config, ROWS[name].rate) for name in params}
    rates["means"] = means_lr(0, config, extent)
    shared: dict[str, Any] = {"betas": (BETAS[0] ** views, BETAS[1] ** views), "eps": config.adam_eps, "fused": True}
    # Fused on the CPU as well: measured 7 to 13 times faster there than the plain loop.
    return {name: _Adam([param], lr=rates[name], **shared) for name, param in params.items()}


def means_lr(step: float, config: OptimConfig, extent: float) -> float:
    """The learning rate of the means at a step: from `means_lr` at step 0 log-linearly to `means_lr_final` at
    `means_lr_steps`, constant after, times the extent (3DGS utils/general_utils.py get_expon_lr_func, without delay).
    """
    t = min(step / config.means_lr_steps, 1.0)
    return extent * math.exp((1.0 - t) * math.log(config.means_lr) + t * math.log(config.means_lr_final))


def rates_factor(share: float, config: OptimConfig) -> float:
    """What the learning rates of all but the means are multiplied by when a share of the run is done: 1 up to
    `rates_decay_start`, then exponentially down to `rates_final` at the end."""
    begin = config.rates_decay_start
    return config.rates_final ** ((share - begin) / (1.0 - begin)) if share > begin else 1.0


def set_learning_rates(
    optimizers: Mapping[str, Adam],
    step: float,
    config: OptimConfig,
    extent: float,
    share: float = 0.0,
    views: int = 1,
) -> dict[str, float]:
    """Set the learning rates of a step and return all of them, for the log.

    They are plain floats on the host: nothing waits for the GPU.

    Args:
        optimizers: from `make_optimizers`, of the same config and extent.
        step: counted from 1; or a run's position (distwar_gs.config.schedule).
        config: the section `optim`.
        extent: the scene's.
        share: of the run that is done, 0 to 1.
        views: how many a step shows.
    """
    factor, larger = rates_factor(share, config), math.sqrt(views)
    for name, optimizer in optimizers.items():
        rate = means_lr(step, config, extent) if name == "means" else factor * getattr(config, ROWS[name].rate)
        optimizer.param_groups[0]["lr"] = larger * rate
    return {name: optimizer.param_groups[0]["lr"] for name, optimizer in optimizers.items()}


def step_all(optimizers: Mapping[str, Adam]) -> None:
    """One step of every optimiser, then drop the gradients. Parameters without a gradient stay as they are."""
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def moments_of(optimizers: Mapping[str, Adam], names: Sequence[str]) -> list[Tensor]:
    """First moments of the named parameters, then second ones; zeros where an optimiser has none yet."""
    states = [_state_of(optimizers[name]) for name in names]
    return [state[key] for key in ("exp_avg", "exp_avg_sq") for state in states]


def _state_of(optimizer: Adam) -> dict[str, Tensor]:
    """With moments in it."""
    (param,) = optimizer.param_groups[0]["params"]
    state = optimizer.state[param]
    if not state:
        state["step"] = torch.zeros((), device=param.device)  # a tensor, as fused Adam keeps it
        state |= {key: torch.zeros_like(param) for key in ("exp_avg", "exp_avg_sq")}
    return state


def all_moments(optimizers: Mapping[str, Adam]) -> list[Tensor]:
    """Those moments that there are."""
    states = [state for optimizer in optimizers.values() for state in optimizer.state.values()]
    return [state[key] for state in states for key in _moment_keys(state)]


def set_steps(optimizers: Mapping[str, Adam], step: float) -> None:
    """Tell optimisers whose moments are updated elsewhere how many steps they have made."""
    for optimizer in optimizers.values():
        for state in optimizer.state.values():
            state["step"].fill_(step)


@torch.no_grad()
def edit(
    params: dict[str, Parameter],
    optimizers: Mapping[str, Adam],
    names: Iterable[str],
    edit_param: Callable[[str, Tensor], Tensor],
    edit_state: Callable[[str, Tensor], Tensor],
) -> None:
    """Replace parameters and their Adam moments together: the one place where optimisers are operated on.

    Each new parameter takes its old one's place in `params` and in its optimiser, without a gradient (so that a step of
    the optimisers before the next backward leaves it alone, as in the 3DGS reference). The moments `exp_avg` and
    `exp_avg_sq` go through `edit_state`; the step count stays. Before the first step there are no moments to edit.
    The idea of two callbacks is gsplat's (gsplat/strategy/ops.py).

    Args:
        params: the Gaussians; changed in place.
        optimizers: one for each parameter; changed in place.
        names: which parameters to replace.
        edit_param: (name, values) -> the new values.
        edit_state: (state key, moments) -> the new moments, of the new values' shape.

    Raises:
        ValueError: `edit_state` returned moments of another shape than `edit_param`'s values.
        torch.OutOfMemoryError: from a callback; what was edited before stays so. Callbacks that change how many rows
            there are must not take memory: let `reserve_rows` take it first.
    """
    for name in names:
        _replace(params, optimizers[name], name, edit_param(name, params[name].detach()))
        state = optimizers[name].state.get(params[name], {})
        for key in _moment_keys(state):
            state[key] = edit_state(key, state[key])
            if state[key].shape != params[name].shape:
                raise ValueError(
                    f"{name}: {key} became {[*state[key].shape]} while the values became {[*params[name].shape]}"
                )


def _replace(params: dict[str, Parameter], optimizer: Adam, name: str, values: Tensor) -> None:
    """Puts values in a parameter's place; its optimiser's state becomes theirs."""
    state = optimizer.state.pop(params[name], {})
    params[name] = Parameter(values)
    optimizer.param_groups[0]["params"] = [params[name]]
    if state:
        optimizer.state[params[name]] = state


def _moment_keys(state: Mapping[str, Tensor]) -> list[str]:
    return [key for key in state if key != "step"]


def reserve_rows(params: dict[str, Parameter], optimizers: Mapping[str, Adam], count: int) -> None:
    """Gives all parameters and moments memory for `count` rows (distwar_gs.gaussians.rows); their values stay.

    Raises torch.OutOfMemoryError: some may have got theirs, nothing else has changed.
    """
    edit(
        params,
        optimizers,
        list(params),
        lambda name, old: reserve(old, count),
        lambda key, old: reserve(old, count),
    )


def state_dicts(optimizers: Mapping[str, Adam]) -> dict[str, dict[str, Any]]:
    """The optimisers' state as plain dicts on the host, for a checkpoint."""
    return {name: tree_map_only(Tensor, trimmed, optimizer.state_dict()) for name, optimizer in optimizers.items()}


def are_states(states: Mapping[str, dict[str, Any]], params: Mapping[str, Tensor]) -> bool:
    """Whether these, from `state_dicts`, hold moments of the parameters' shapes, or none before the first step."""
    held = {name: optimizer["state"] for name, optimizer in states.items()}
    return set(held) == set(params) and all(
        state == {} or (set(state) == {0} and _are_moments(state[0], params[name].shape))
        for name, state in held.items()
    )


def _are_moments(state: Mapping[str, Any], shape: torch.Size) -> bool:
    return state["step"].shape == () and all(state[key].shape == shape for key in ("exp_avg", "exp_avg_sq"))


def load_state_dicts(optimizers: Mapping[str, Adam], states: Mapping[str, dict[str, Any]]) -> None:
    """Take moments and step counts from a checkpoint, on to the parameters' device.

    Learning rates, eps and the implementation stay those of `optimizers`: a resumed run follows its own config and
    machine, so a checkpoint from a GPU continues on a CPU. Moments of steps on another number of views (their betas
    tell) become what they would be in steps on ours: a sum of gradients, and of their squares, of so many.

    Raises:
        ValueError: the states belong to other parameters.
    """
    if set(states) != set(optimizers):
        raise ValueError(f"optimiser states of {sorted(states)} do not fit parameters {sorted(optimizers)}")
    for name, optimizer in optimizers.items():
        own_groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": states[name]["state"], "param_groups": own_groups})
        (param,) = optimizer.param_groups[0]["params"]
        moments = optimizer.state.get(param, {})
        if any(value.shape != param.shape for key, value in moments.items() if key != "step"):
            raise ValueError(f"optimiser state of {name} does not have the parameter's shape {[*param.shape]}")
        _convert(moments, _more_views(states[name]["param_groups"][0].get("betas", BETAS), own_groups[0]["betas"]))


def _more_views(saved: tuple[float, float], own: tuple[float, float]) -> float:
    """How many times as many views a step with these betas shows as one with those saved."""
    return 1.0 if saved[0] == own[0] else math.log(own[0]) / math.log(saved[0])


def _convert(moments: dict[str, Tensor], factor: float) -> None:
    """Moments of steps that show `factor` times as many views."""
    if factor != 1.0 and moments:
        moments["step"] = moments["step"] / factor  # the checkpoint's own stay as they are
        for key in _moment_keys(moments):
            moments[key] = moments[key] * factor
