"""Checkpoints of several ranks: each writes its Gaussians into a file of its own, and they are read on any number.

Beside `step_N.pt`, which has all but the Gaussians, lie `step_N.shard_0_of_4.pt` and so on: parameters, moments and
statistics of one rank each. The first file is written last, when the others are on the disk.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from distwar_gs.gaussians.rows import trimmed
from distwar_gs.gaussians.shards import rows_of
from distwar_gs.system.files import durable_write
from distwar_gs.system.parallel import Ranks

PARTS_OF_ROWS = ("params", "optimizers", "densification")
"""What a checkpoint has a row of for each Gaussian."""


def shard_path(path: Path, shard: int, shards: int) -> Path:
    """The file of a rank's Gaussians beside a checkpoint."""
    return path.with_name(f"{path.stem}.shard_{shard}_of_{shards}.pt")


def shards_of(path: Path) -> list[Path]:
    """The files that belong to a checkpoint, whole or not."""
    return sorted(path.parent.glob(f"{path.stem}.shard_*_of_*.pt"))


def write_shard(path: Path, ranks: Ranks, parts: Mapping[str, Any]) -> None:
    """Writes this rank's rows. Raises OSError or RuntimeError."""
    content = {name: tree_map_only(Tensor, trimmed, parts[name]) for name in PARTS_OF_ROWS}
    with durable_write(shard_path(path, ranks.rank, ranks.count)) as file:
        torch.save(content, file)


def read_shards(
    path: Path, shards: int, ranks: Ranks, device: torch.device | str, read: Callable[[Path], Any]
) -> dict[str, Any]:
    """This rank's rows of so many shards beside a checkpoint, on `device`: where there are as many as ranks, each has
    its own. `read` opens a file."""
    ours = [shard for shard in range(shards) if shards != ranks.count or shard == ranks.rank]
    return _joined([rows_for(read(shard_path(path, shard, shards)), shards, ranks, device) for shard in ours])


def rows_for(parts: Mapping[str, Any], shards: int, ranks: Ranks, device: torch.device | str) -> dict[str, Any]:
    """This rank's rows of a shard that it needs, on `device`."""
    if shards == ranks.count:
        return tree_map_only(Tensor, lambda values: values.to(device), dict(parts))
    rows = rows_of(len(parts["params"]["means"]), ranks.rank, ranks.count)
    taken = {name: parts[name] for name in PARTS_OF_ROWS}
    return tree_map_only(Tensor, lambda values: (values[rows] if values.dim() else values).to(device), taken)


def _joined(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows of several pieces, one behind the other; numbers that are no rows are the first one's."""
    flat = [tree_flatten(piece) for piece in pieces]
    leaves = [_one(list(values)) for values in zip(*(leaves for leaves, _ in flat), strict=True)]
    return tree_unflatten(leaves, flat[0][1])


def _one(values: list[Any]) -> Any:
    has_rows = isinstance(values[0], Tensor) and values[0].dim() > 0
    return torch.cat(values) if has_rows else values[0]
