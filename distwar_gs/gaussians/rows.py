"""Gaussians as rows of tensors with spare capacity: adding and removing some moves only those.

Removed rows leave holes, which new rows fill first; the rest is appended; leftover holes are filled from the end. So
the cost of a refinement follows the number of changed rows, and memory is allocated only when the capacity is used up.
The order of rows has no meaning: order_spatially (distwar_gs.gaussians.edits) puts neighbors together again.

What takes memory comes first: the plan, scratch, capacity. Moving rows takes no memory, so all tensors keep the same
length when memory runs out.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

SLACK = 1.1
"""Capacity that a tensor gets when it outgrows its own, as a multiple of the rows it needs."""


@dataclass(frozen=True)
class RowPlan:
    """What happens to the rows of every tensor alike."""

    count: int
    """Rows afterwards."""
    new: int
    """How many of these are new: K."""
    taken: Tensor
    """[K + L] the rows, as they are before, that new ones are made from, then L from the end that stay, elsewhere."""
    put: Tensor
    """[K + L] where they go."""


def plan_rows(gone: Tensor, sources: Tensor) -> RowPlan:
    """For rows that go ([N] bool) and new ones made from `sources` ([K] rows, which may go themselves)."""
    holes = gone.nonzero().squeeze(1)
    count = len(gone) - len(holes) + len(sources)
    added = torch.arange(len(gone), max(count, len(gone)), device=gone.device)
    left = holes[len(sources) :]
    tail = torch.arange(min(count, len(gone)), len(gone), device=gone.device)
    taken = torch.cat((sources, tail[~gone[tail]]))
    return RowPlan(count, len(sources), taken, torch.cat((holes[: len(sources)], added, left[left < count])))


def scratch_for(tensors: Iterable[Tensor], rows: int) -> Tensor:
    """Memory that `rearrange` and `gather_rows` need for so many rows of any of these tensors [N, ...], of one type."""
    tensors = list(tensors)
    return tensors[0].detach().new_empty(rows * max(tensor.shape[1:].numel() for tensor in tensors))


def rearrange(tensor: Tensor, plan: RowPlan, scratch: Tensor, made: Tensor | None = None) -> Tensor:
    """The tensor [count, ...] after the plan, in its own memory, whose capacity must suffice. Allocates nothing.

    Args:
        tensor: [N, ...], overwritten.
        plan: from `plan_rows`.
        scratch: from `scratch_for`, of at least `len(plan.taken)` rows.
        made: the new rows [K, ...], or what to fill them with; None: what they are made from.
    """
    values = _taken(tensor, plan.taken, scratch)
    if made is not None:
        values[: plan.new].copy_(made)
    return with_rows(tensor, plan.count).index_copy_(0, plan.put, values)


def gather_rows(tensor: Tensor, rows: Tensor, scratch: Tensor) -> Tensor:
    """Those rows [M] of a tensor, in its own memory, which must hold so many; scratch of M rows. Allocates nothing."""
    return with_rows(tensor, len(rows)).copy_(_taken(tensor, rows, scratch))


def _taken(tensor: Tensor, rows: Tensor, scratch: Tensor) -> Tensor:
    shape = (len(rows), *tensor.shape[1:])
    return torch.index_select(tensor, 0, rows, out=scratch[: math.prod(shape)].view(shape))


def reserve(tensor: Tensor, count: int) -> Tensor:
    """The same rows in memory with capacity for `count`: the tensor's own memory if that suffices."""
    return with_rows(tensor, max(count, len(tensor)))[: len(tensor)]


def with_rows(tensor: Tensor, count: int) -> Tensor:
    """The tensor with `count` rows; those beyond its own are undefined. Shares its memory if the capacity suffices."""
    if count <= capacity_of(tensor):
        return tensor.as_strided((count, *tensor.shape[1:]), tensor.stride())
    larger = tensor.new_empty(math.ceil(SLACK * count), *tensor.shape[1:])
    larger[: len(tensor)].copy_(tensor)
    return larger[:count]


def capacity_of(tensor: Tensor) -> int:
    """How many rows a tensor [N, ...] could have in its memory, the N included."""
    row = tensor.element_size() * tensor.shape[1:].numel()
    owned = row > 0 and tensor.is_contiguous() and tensor.storage_offset() == 0
    return tensor.untyped_storage().nbytes() // row if owned else len(tensor)


def broken_rows(tensor: Tensor) -> Tensor:
    """[N] bool: rows with NaN or infinity, found by a row's sum; a sum that overflows counts, too."""
    return ~tensor[:, None].flatten(1).sum(dim=1).isfinite()


def trimmed(tensor: Tensor) -> Tensor:
    """The same values on the host, in memory of just their size: torch.save writes whole storages."""
    on_host = tensor.detach().cpu()
    return on_host.clone() if on_host.dim() > 0 and capacity_of(on_host) > len(on_host) else on_host
