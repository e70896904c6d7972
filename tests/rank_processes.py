"""Runs a function on several ranks, processes that are forked from this one and connected by gloo."""

import faulthandler
import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from distwar_gs.system import parallel
from distwar_gs.system.parallel import Ranks
from distwar_kernels import loader

LONGEST_S = 120


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun tells a process of who it is."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1"} | {name: str(number) for name, number in numbers.items()}


class RankProcesses:
    """Processes that call `work(ranks, *arguments)`; what one of them returns is in `folder`, and what it says on
    stderr."""

    def __init__(self, count: int, folder: Path, work: Callable[..., Any], *arguments: Any) -> None:
        loader.load("cpu")  # here, where building it takes as long as it takes
        self.folder, self._port = folder, free_port()
        folder.mkdir(parents=True, exist_ok=True)
        make = multiprocessing.get_context("fork").Process
        self.processes = [make(target=self._be, args=(rank, count, work, arguments)) for rank in range(count)]
        for process in self.processes:
            process.start()

    def ended(self, timeout: float = LONGEST_S) -> list[int | None]:
        """Waits for the ends; the exit codes, None for one that has to be killed."""
        for process in self.processes:
            process.join(timeout)
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
            process.join()
        return codes

    def said(self) -> list[str]:
        """By each rank, on stderr."""
        return [(self.folder / f"{rank}.err").read_text() for rank in range(len(self.processes))]

    def results(self) -> list[Any]:
        """Of all ranks, which end well."""
        codes = self.ended()
        assert codes == [0] * len(codes), (codes, self.said())
        return [torch.load(self.folder / f"{rank}.pt", weights_only=False) for rank in range(len(codes))]

    def _be(self, rank: int, count: int, work: Callable[..., Any], arguments: tuple) -> None:
        log = os.open(self.folder / f"{rank}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 2)
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        faulthandler.dump_traceback_later(LONGEST_S)
        os.environ.update(environment(rank, count, self._port))
        torch.set_num_threads(1)
        parallel._joined.clear()
        try:
            ranks: Ranks = parallel.join("cpu")
            torch.save(work(ranks, *arguments), self.folder / f"{rank}.pt")
            if torch.distributed.is_initialized():  # a training has left already
                ranks.leave()
        except SystemExit as end:
            os._exit(end.code if isinstance(end.code, int) else 1)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
            os._exit(1)
        os._exit(0)


def on_ranks(count: int, folder: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(ranks, *arguments)` returns on each of so many ranks; values that torch.save takes."""
    return RankProcesses(count, folder, work, *arguments).results()
