"""Rows that come and go in place."""

import pytest
import torch
from torch import Tensor

from distwar_gs.gaussians.rows import (
    SLACK,
    capacity_of,
    gather_rows,
    plan_rows,
    rearrange,
    reserve,
    scratch_for,
    trimmed,
    with_rows,
)


def numbered(count: int, *shape: int) -> Tensor:
    """Rows that hold their number."""
    return torch.arange(count, dtype=torch.float32).reshape(-1, *[1] * len(shape)).expand(count, *shape).clone()


@pytest.mark.parametrize("seed", range(40))
def test_what_stays_is_there_once_and_what_comes_too(seed):
    g = torch.Generator().manual_seed(seed)
    count, coming = (int(torch.randint(0, 30, (), generator=g)) for _ in range(2))
    gone = torch.rand(count, generator=g) < torch.rand((), generator=g)
    sources = torch.randint(0, max(count, 1), (coming if count else 0,), generator=g)
    plan = plan_rows(gone, sources)
    old = numbered(count, 2, 3)
    assert plan.new == len(sources)
    made = 100.0 + old[sources]
    new = rearrange(reserve(old, plan.count), plan, scratch_for([old], len(plan.taken)), made)
    assert new.shape == (plan.count, 2, 3) and plan.count == int((~gone).sum()) + len(sources)
    assert (new == new[:, :1, :1]).all(), "rows stay whole"
    expected = torch.cat(((~gone).nonzero().squeeze(1), 100 + sources)).float()
    assert torch.equal(new[:, 0, 0].sort().values, expected.sort().values)


def test_only_what_changes_moves():
    gone = torch.zeros(100, dtype=torch.bool)
    gone[[10, 50, 98, 99]] = True
    plan = plan_rows(gone, torch.tensor([3]))
    assert plan.taken.tolist() == [3, 97] and plan.put.tolist() == [10, 50] and plan.new == 1
    rows = numbered(100)
    new = rearrange(rows, plan, torch.empty(2))
    assert new.data_ptr() == rows.data_ptr() and (new[10], new[50], len(new)) == (3, 97, 97)


def test_memory_is_taken_when_there_is_no_room_and_kept_for_later():
    rows = numbered(10, 4)
    more = with_rows(rows, 20)
    assert capacity_of(rows) == 10 and capacity_of(more) == round(20 * SLACK) and torch.equal(more[:10], rows)
    assert with_rows(more, 22).data_ptr() == more.data_ptr() == with_rows(more[:3], 12).data_ptr()
    assert with_rows(more, 23).data_ptr() != more.data_ptr()


def test_a_part_of_something_else_has_no_room():
    whole = torch.zeros(10, 6)
    assert capacity_of(whole[:, :3]) == 10 and capacity_of(whole[5:]) == 5
    assert with_rows(whole[5:], 6).data_ptr() != whole[5:].data_ptr()


@pytest.mark.parametrize("shape", [(), (0, 3), (15, 3)])
def test_any_row(shape):
    gone = torch.tensor([True, False, True])
    plan, rows = plan_rows(gone, torch.tensor([1, 1, 1, 1])), reserve(numbered(3, *shape), 5)
    assert len(rows) == 3
    rows = rearrange(rows, plan, scratch_for([rows], 4), torch.zeros(()))
    assert rows.shape == (5, *shape) and sorted(rows.reshape(5, -1).sum(1).tolist()) == sorted(
        [1.0 * rows[0].numel(), 0, 0, 0, 0]
    )


def test_saved_rows_have_no_spare_capacity(tmp_path):
    rows = with_rows(numbered(10, 4), 11)[:10]
    assert capacity_of(rows) > 10 and capacity_of(trimmed(rows)) == 10 and torch.equal(trimmed(rows), rows)
    step = torch.tensor(3.0)
    assert torch.equal(trimmed(step), step)


def test_rows_are_gathered_in_place():
    rows, order = reserve(numbered(4, 2), 6), torch.tensor([3, 1, 1, 0, 2, 2])
    address = rows.data_ptr()
    rows = gather_rows(rows, order, scratch_for([rows], 6))
    assert rows.data_ptr() == address and rows[:, 1].tolist() == [3, 1, 1, 0, 2, 2]
