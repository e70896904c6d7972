"""The Morton order against its definition: bits of the coordinates in turns."""

import torch

from distwar_gs.formats.morton import morton_order


def interleaved(cell: list[int]) -> int:
    return sum((cell[axis] >> bit & 1) << (3 * bit + axis) for bit in range(21) for axis in range(3))


def test_the_order_is_that_of_interleaved_bits():
    g = torch.Generator().manual_seed(0)
    means = torch.cat([torch.rand(500, 3, generator=g, dtype=torch.float64), torch.eye(3).double(), torch.zeros(1, 3)])
    means = torch.cat([means, torch.ones(1, 3)])  # the box is the unit cube
    codes = [interleaved(cell) for cell in (means * (2**21 - 1)).long().tolist()]
    assert morton_order(means).tolist() == sorted(range(len(means)), key=codes.__getitem__)


def test_neighbours_in_the_order_are_near():
    means = torch.rand(5000, 3, generator=torch.Generator().manual_seed(1))
    ordered = means[morton_order(means)]
    assert (ordered[1:] - ordered[:-1]).norm(dim=1).mean() < 0.2 * (means[1:] - means[:-1]).norm(dim=1).mean()


def test_equal_points_keep_their_order():
    assert morton_order(torch.ones(9, 3)).tolist() == list(range(9))


def test_what_is_not_finite_comes_last():
    means = torch.tensor([[1.0, 1, 1], [torch.nan, 0, 0], [0.0, 0, 0], [0, torch.inf, 0], [0.5, 0.5, 0.5]])
    assert morton_order(means).tolist() == [2, 4, 0, 1, 3]
