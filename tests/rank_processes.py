"""Runs a function on several ranks, processes that are forked from this one and connected by gloo."""

import faulthandler
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from distwar_gs.system import parallel
from distwar_gs.system.parallel import Ranks

LONGEST_S = 120


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun tells a process of who it is."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1"} | {name: str(number) for name, number in numbers.items()}


def on_ranks(count: int, folder: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(ranks, *arguments)` returns on each of so many ranks; values that torch.save takes."""
    port, context = free_port(), multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_be, args=(rank, count, port, folder, work, arguments)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LONGEST_S)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * count, codes
    return [torch.load(folder / f"rank_{rank}.pt", weights_only=False) for rank in range(count)]


def _be(rank: int, count: int, port: int, folder: Path, work: Callable[..., Any], arguments: tuple) -> None:
    faulthandler.dump_traceback_later(LONGEST_S, file=sys.__stderr__)
    os.environ.update(environment(rank, count, port))
    torch.set_num_threads(1)
    parallel._joined.clear()
    ranks: Ranks = parallel.join("cpu")
    torch.save(work(ranks, *arguments), folder / f"rank_{rank}.pt")
    ranks.leave()
    os._exit(0)
