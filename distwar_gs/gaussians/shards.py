"""Which rank has which Gaussians: dealt at first, in blocks that are near each other, and dealt again as they grow.

Blocks of neighbours keep memory accesses together. Dealt round, they give every rank its part of whatever a view sees.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Adam

from distwar_gs.formats.morton import morton_order
from distwar_gs.gaussians.model import as_parameters
from distwar_gs.gaussians.optimizer import edit
from distwar_gs.system.parallel import Ranks

BLOCK = 128
"""Gaussians that are dealt together."""
UNEVEN = 1.05
"""Times the mean that a rank may have."""


def rows_of(count: int, rank: int, ranks: int) -> Tensor:
    """Those of `count` rows, in spatial order, that a rank is dealt, block by block; of few rows in smaller blocks."""
    rows, block = torch.arange(count), max(1, min(BLOCK, count // ranks))
    return rows[rows // block % ranks == rank]


def dealt(params: dict[str, Parameter], ranks: Ranks, device: torch.device | str) -> dict[str, Parameter]:
    """This rank's, on `device`, of the Gaussians that all ranks begin with; as they are, where it is alone."""
    if ranks.count == 1:
        return params
    order = morton_order(params["means"].detach())
    rows = order[rows_of(len(order), ranks.rank, ranks.count).to(order.device)]
    return as_parameters({name: param.detach()[rows] for name, param in params.items()}, device)


@torch.no_grad()
def rebalance(
    ranks: Ranks, params: dict[str, Parameter], optimizers: Mapping[str, Adam], statistics: dict[str, Tensor]
) -> None:
    """Where a rank has many more Gaussians than the others, some of it move to those with few, with their moments and
    statistics. The total stays, and with the same counts the same rows move."""
    counts = ranks.numbers(len(params["means"]))
    if max(counts) <= UNEVEN * sum(counts) / len(counts):
        return
    moves = planned(counts)
    sent = [sum(rows for giver, taker, rows in moves if (giver, taker) == (ranks.rank, one)) for one in _all(ranks)]
    came = [sum(rows for giver, taker, rows in moves if (giver, taker) == (one, ranks.rank)) for one in _all(ranks)]
    given = _spread(len(params["means"]), sum(sent)).to(params["means"].device)
    stay = torch.ones(len(params["means"]), dtype=torch.bool, device=given.device).index_fill_(0, given, False)

    def moved(values: Tensor) -> Tensor:
        return torch.cat([values[stay], ranks.exchange(values[given], sent, came)])

    edit(params, optimizers, list(params), lambda name, old: moved(old), lambda key, old: moved(old))
    statistics.update({name: moved(values) for name, values in statistics.items()})


def planned(counts: Sequence[int]) -> list[tuple[int, int, int]]:
    """Moves (from, to, how many) after which no two counts differ by more than one."""
    share, rest = divmod(sum(counts), len(counts))
    over = [count - share - (rank < rest) for rank, count in enumerate(counts)]
    return list(_moves(over))


def _moves(over: list[int]) -> Iterator[tuple[int, int, int]]:
    givers, takers = ([rank for rank, more in enumerate(over) if sign * more > 0] for sign in (1, -1))
    while givers and takers:
        giver, taker = givers[0], takers[0]
        rows = min(over[giver], -over[taker])
        yield giver, taker, rows
        over[giver] -= rows
        over[taker] += rows
        givers, takers = givers[over[giver] == 0 :], takers[over[taker] == 0 :]


def _spread(count: int, some: int) -> Tensor:
    """[some] of `count` rows, evenly spread: not all from one place."""
    return torch.arange(some) * count // max(some, 1)


def _all(ranks: Ranks) -> range:
    return range(ranks.count)
