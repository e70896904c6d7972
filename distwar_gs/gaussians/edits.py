"""Changes of which Gaussians there are, and in which order: parameters, moments and statistics together."""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Adam

from distwar_gs.formats.morton import morton_order
from distwar_gs.gaussians.optimizer import edit, reserve_rows
from distwar_gs.gaussians.rows import RowPlan, broken_rows, gather_rows, plan_rows, rearrange, scratch_for
from distwar_gs.system.parallel import ALONE, Ranks

log = logging.getLogger(__name__)


@torch.no_grad()
def move_rows(
    params: dict[str, Parameter], optimizers: dict[str, Adam], plan: RowPlan, made: dict[str, Tensor] | None = None
) -> None:
    """Carries out a plan on parameters and moments. New rows get the values `made`, where there are any, else those
    they are made from; their moments are zero.

    Raises:
        torch.OutOfMemoryError: nothing is changed then.
    """
    made, nothing = made or {}, params["means"].new_zeros(())
    scratch = scratch_for(params.values(), len(plan.taken))
    reserve_rows(params, optimizers, plan.count)
    edit(
        params, optimizers, list(params),
        lambda name, old: rearrange(old, plan, scratch, made.get(name)),
        lambda key, old: rearrange(old, plan, scratch, nothing),
    )  # fmt: skip


@torch.no_grad()
def drop_rows(
    params: dict[str, Parameter], optimizers: dict[str, Adam], state: dict[str, Tensor], gone: Tensor
) -> None:
    """Takes Gaussians ([N] bool) out of parameters, moments and statistics.

    Raises:
        torch.OutOfMemoryError: nothing is changed then.
    """
    plan = plan_rows(gone, gone.new_zeros(0, dtype=torch.int64))
    left = {
        name: rearrange(values.clone(), plan, scratch_for([values], len(plan.taken))) for name, values in state.items()
    }
    move_rows(params, optimizers, plan)
    state.update(left)


@torch.no_grad()
def order_spatially(params: dict[str, Parameter], optimizers: dict[str, Adam], state: dict[str, Tensor]) -> None:
    """Bring the Gaussians, their moments and statistics into Morton order; nothing else changes.

    Raises:
        torch.OutOfMemoryError: nothing is changed then.
    """
    order = morton_order(params["means"].detach())
    ordered = {name: values[order] for name, values in state.items()}
    scratch = scratch_for(params.values(), len(order))
    edit(
        params, optimizers, list(params),
        lambda name, old: gather_rows(old, order, scratch), lambda key, old: gather_rows(old, order, scratch),
    )  # fmt: skip
    state.update(ordered)


class SpatialOrder:
    """`order_spatially` for a training loop: where there is no memory for it the order stays, which is said once."""

    def __init__(self) -> None:
        """Nothing is said yet."""
        self._warned = False

    def apply(
        self, step: int, params: dict[str, Parameter], optimizers: dict[str, Adam], state: dict[str, Tensor]
    ) -> None:
        """See `order_spatially`; `step` is for the log."""
        try:
            order_spatially(params, optimizers, state)
        except torch.OutOfMemoryError:
            level = logging.DEBUG if self._warned else logging.WARNING
            log.log(level, "step %d: no memory to bring the Gaussians into spatial order; they keep theirs", step)
            self._warned = True


def not_finite(params: Mapping[str, Tensor]) -> Tensor:
    """[N] bool: some parameter of the Gaussian is NaN or infinite."""
    return torch.stack([broken_rows(param) for param in params.values()]).any(dim=0)


def find_dead(params: Mapping[str, Tensor], faintest: float) -> Tensor:
    """[N] bool: opacity at or below `faintest` (`<=`, where ADC prunes `<`), or not finite."""
    return (torch.sigmoid(params["opacities"]) <= faintest) | not_finite(params)


def is_all_dead(dead: Tensor, step: int, faintest: float, ranks: Ranks = ALONE) -> bool:
    """Whether none of [N] bool, from `find_dead`, is alive on any rank, which is said: nothing can be copied then."""
    if not ranks.all(bool(dead.all())):
        return False
    log.warning("step %d: none of %d Gaussians is above opacity %g; nothing is changed", step, len(dead), faintest)
    return True
