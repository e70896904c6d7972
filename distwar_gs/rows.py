"""Gaussians as rows of tensors that keep room for more: adding and removing some moves only those.

A tensor's room is its storage: rows behind the last one that belong to nobody. Rows that go leave holes; rows that come
fill them, then the room at the end; where more go than come, rows from the end fill what is left. So a refinement costs
what it changes, not what there is, and allocates only when the room is used up. Rows have no order that means anything:
order_spatially (distwar_gs.densification) puts neighbours together again.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SLACK = 1.1
"""Room that a tensor gets when it outgrows what it has, as a multiple of what it needs."""


@dataclass(frozen=True)
class RowPlan:
    """What happens to the rows of every tensor alike."""

    count: int
    """Rows afterwards."""
    sources: Tensor
    """[K] the rows that new ones are made from, as they are before."""
    places: Tensor
    """[K] where the new ones go."""
    moved_from: Tensor
    """[L] rows from the end that stay, elsewhere."""
    moved_to: Tensor
    """[L] where."""


def plan_rows(gone: Tensor, sources: Tensor) -> RowPlan:
    """For rows that go ([N] bool) and new ones made from `sources` ([K] rows, which may go themselves)."""
    holes = gone.nonzero().squeeze(1)
    count = len(gone) - len(holes) + len(sources)
    added = torch.arange(len(gone), max(count, len(gone)), device=gone.device)
    places = torch.cat((holes[: len(sources)], added))
    left = holes[len(sources) :]
    tail = torch.arange(min(count, len(gone)), len(gone), device=gone.device)
    return RowPlan(count, sources, places, tail[~gone[tail]], left[left < count])


def rearrange(tensor: Tensor, plan: RowPlan, made: Tensor) -> Tensor:
    """The tensor [count, ...] after the plan, with the new rows `made` [K, ...].

    It is in the same memory if that has room, and what was there is overwritten.
    """
    moved = tensor[plan.moved_from]
    rows = with_rows(tensor, plan.count)
    rows[plan.places] = made
    rows[plan.moved_to] = moved
    return rows


def with_rows(tensor: Tensor, count: int) -> Tensor:
    """The tensor with `count` rows; those beyond its own are undefined. Shares its memory if that has room for them."""
    if count <= room_of(tensor):
        return tensor.as_strided((count, *tensor.shape[1:]), tensor.stride())
    larger = tensor.new_empty(math.ceil(SLACK * count), *tensor.shape[1:])
    larger[: len(tensor)] = tensor
    return larger[:count]


def room_of(tensor: Tensor) -> int:
    """How many rows of a tensor [N, ...] its memory has room for, its own included."""
    row = tensor.element_size() * tensor.shape[1:].numel()
    owned = row > 0 and tensor.is_contiguous() and tensor.storage_offset() == 0
    return tensor.untyped_storage().nbytes() // row if owned else len(tensor)


def without_room(tensor: Tensor) -> Tensor:
    """The same values on the host, in memory of just their size: torch.save writes whole storages."""
    on_host = tensor.detach().cpu()
    return on_host.clone() if on_host.dim() > 0 and room_of(on_host) > len(on_host) else on_host
