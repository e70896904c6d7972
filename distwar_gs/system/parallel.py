"""One training by several processes: who this one is among them, and what they tell each other.

torchrun starts them, each with its number in the environment (RANK, WORLD_SIZE, LOCAL_RANK); torch.distributed connects
them, by NCCL between GPUs and by gloo between CPUs. A process that is alone is a rank, too: the only one, for which
every question has its own answer back, and nothing is imported or opened.

Ranks go through the same program in step. What is asked here is asked by all of them at the same places, or all wait.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from distwar_gs.system.errors import ConfigError
from distwar_gs.system.peers import Peers, hear

Value = TypeVar("Value")

TIMEOUT = timedelta(hours=12)
"""Of a collective. Long, since the first rank measures alone; distwar_gs.system.peers sees that a rank is gone."""
_ROUNDS, _WAYS = 8, 256  # of a search among 64-bit keys: 256 ** 8


class Ranks:
    """The processes of a training: here only this one."""

    rank, count = 0, 1
    here = 1
    """How many of them are on this host."""
    survivable: tuple[type[Exception], ...] = (torch.OutOfMemoryError,)
    """What a rank may meet in a refinement and go on after, as if it had not been due. Others would not know of it."""
    peers: Peers | None = None
    """None: there are none."""

    @property
    def place(self) -> str:
        """For messages: which one this is, where there are others."""
        return f" on rank {self.rank} of {self.count}" if self.count > 1 else ""

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes, and that the user hears."""
        return self.rank == 0

    def numbers(self, value: int) -> list[int]:
        """Of all ranks, in their order. Does not wait for a GPU."""
        return [value]

    def total(self, value: int) -> int:
        """The sum over the ranks."""
        return sum(self.numbers(value))

    def any(self, holds: bool) -> bool:
        """Whether it holds on a rank."""
        return any(self.numbers(int(holds)))

    def all(self, holds: bool) -> bool:
        """Whether it holds on every rank."""
        return all(self.numbers(int(holds)))

    def span(self, count: int) -> tuple[int, slice]:
        """How many all have together, each so many of its own, and where ours are among them."""
        counts = self.numbers(count)
        first = sum(counts[: self.rank])
        return sum(counts), slice(first, first + count)

    def first(self, ascending: Tensor, count: int) -> int:
        """How many of our sorted numbers are among the `count` smallest of all ranks'; of equal ones those of the lower
        rank come first. No NaN."""
        return min(count, len(ascending))

    def most(self, value: Tensor) -> Tensor:
        """The largest of the ranks' scalars."""
        return value

    def mean(self, values: Tensor) -> Tensor:
        """Of the ranks' numbers, each by itself; summed in the order of the ranks."""
        return values

    def told(self, value: Value) -> Value:
        """What the first rank has, a plain value."""
        return value

    def gathered(self, value: Value) -> list[Value]:
        """What each rank has, a plain value."""
        return [value]

    def swap(self, slabs: Tensor) -> Tensor:
        """Of slabs [ranks, ...] the i-th goes to rank i: returns those that came, by the rank they came from."""
        return slabs

    def exchange(self, rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        """Of rows [M, ...] the first `sent[0]` go to the first rank, and so on; returns the `received` ones."""
        return rows

    def exchanging(self, rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Callable[[], Tensor]:
        """As `exchange`, which begins; what came is there when it is called for."""
        return lambda: rows

    def collected(self, rows: Tensor) -> Tensor | None:
        """The rows [M, ...] of all ranks, one behind the other, on the first; None on the others."""
        return rows

    def everywhere(self, rows: Tensor) -> Tensor:
        """The rows [M, ...] of all ranks, one behind the other, on each."""
        return rows

    def end_with(self, where: Callable[[], str]) -> None:
        """What to say of the state of the run where another rank is lost."""

    def leave(self) -> None:
        """The last thing a rank does; waits for the others."""


ALONE = Ranks()


class Joined(Ranks):
    """Several processes, connected by torch.distributed."""

    survivable = ()

    def __init__(self, device: str) -> None:
        """Connects; `device`: cuda or cpu, where tensors that are exchanged are."""
        import torch.distributed

        self._dist = torch.distributed
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        self._dist.init_process_group(backend, timeout=TIMEOUT)
        self.rank, self.count = self._dist.get_rank(), self._dist.get_world_size()
        self.here = int(os.environ.get("LOCAL_WORLD_SIZE", self.count))
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = self._dist.TCPStore(host, port, is_master=False, timeout=TIMEOUT)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.peers = Peers(self._dist.PrefixStore(f"distwar/{attempt}", store), self.rank, self.count)
        hear(self.peers)
        self.numbers(0)  # all are there, and have shown a sign
        self.peers.watch()
        self.swap(torch.zeros(self.count, 1, device=device))  # GPUs are connected by their first exchange

    def numbers(self, value: int) -> list[int]:
        """See Ranks."""
        every = torch.zeros(self.count, dtype=torch.int64)
        every[self.rank] = value
        with self._together():
            self._dist.all_reduce(every)
        return every.tolist()

    def first(self, ascending: Tensor, count: int) -> int:
        """See Ranks. A search for the `count`-th smallest, 256 marks at a time."""
        keys, low, step = _keys(ascending), -(2**63), 2**64
        for _ in range(_ROUNDS):
            step //= _WAYS
            marks = torch.tensor([low + step * way for way in range(1, _WAYS)])  # the last part ends at no mark
            below = torch.searchsorted(keys, marks.to(keys.device)).cpu()  # of ours, how many are smaller
            whole = below.clone()
            with self._together():
                self._dist.all_reduce(whole)
            low += step * int((whole < count).sum())
        smaller = int(torch.searchsorted(keys, torch.tensor(low, device=keys.device)))
        equal = int(torch.searchsorted(keys, torch.tensor(low, device=keys.device), right=True)) - smaller
        left = count - self.total(smaller)
        _, ours = self.span(equal)
        return smaller + min(max(left - ours.start, 0), equal)

    def most(self, value: Tensor) -> Tensor:
        """See Ranks."""
        value = value.clone()
        with self._together():
            self._dist.all_reduce(value, self._dist.ReduceOp.MAX)
        return value

    def mean(self, values: Tensor) -> Tensor:
        """See Ranks."""
        flat = values.flatten()
        parts = torch.nn.functional.pad(flat, (0, -len(flat) % self.count)).view(self.count, -1)
        ours = self.swap(parts).sum(dim=0)  # an all_reduce would choose the order
        return (self.everywhere(ours)[: len(flat)] / self.count).view_as(values)

    def told(self, value: Value) -> Value:
        """See Ranks."""
        values = [value]
        with self._together():
            self._dist.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    def gathered(self, value: Value) -> list[Value]:
        """See Ranks."""
        lengths = self.numbers(len(content := _pickled(value)))
        every = torch.zeros(self.count, max(lengths), dtype=torch.uint8)
        every[self.rank, : lengths[self.rank]] = content
        with self._together():
            self._dist.all_reduce(every)
        return [_unpickled(row[:length]) for row, length in zip(every, lengths, strict=True)]

    def swap(self, slabs: Tensor) -> Tensor:
        """See Ranks."""
        slabs = slabs.contiguous()
        received = torch.empty_like(slabs)
        with self._together():
            self._dist.all_to_all_single(received, slabs)
        return received

    def exchange(self, rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        """See Ranks."""
        came = rows.new_empty(sum(received), *rows.shape[1:])
        with self._together():
            self._dist.all_to_all_single(came, rows.contiguous(), list(received), list(sent))
        return came

    def exchanging(self, rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Callable[[], Tensor]:
        """See Ranks."""
        came, rows = rows.new_empty(sum(received), *rows.shape[1:]), rows.contiguous()
        with self._together():
            work = self._dist.all_to_all_single(came, rows, list(received), list(sent), async_op=True)

        def arrived(given: Tensor = rows) -> Tensor:  # which live until then
            with self._together():
                work.wait()  # on a GPU its stream waits, not the host
            return came

        return arrived

    def collected(self, rows: Tensor) -> Tensor | None:
        """See Ranks."""
        counts, nothing = self.numbers(len(rows)), [0] * (self.count - 1)
        came = self.exchange(rows.detach(), [len(rows), *nothing], counts if self.leads else [0] * self.count)
        return came if self.leads else None

    def everywhere(self, rows: Tensor) -> Tensor:
        """See Ranks."""
        copies = rows.repeat(self.count, *[1] * (rows.dim() - 1))
        return self.exchange(copies, [len(rows)] * self.count, self.numbers(len(rows)))

    def end_with(self, where: Callable[[], str]) -> None:
        """See Ranks."""
        assert self.peers is not None
        self.peers.where = where

    def leave(self) -> None:
        """See Ranks."""
        self.numbers(0)
        assert self.peers is not None
        self.peers.leave()
        self._dist.destroy_process_group()

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """While entered, an error is most likely another rank's end, and that is what is said then."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            assert self.peers is not None
            self.peers.await_end()
            raise


def _keys(values: Tensor) -> Tensor:
    """int64, in the order of the numbers."""
    bits = (values.double() + 0.0).view(torch.int64)  # + 0.0: there is no minus zero
    return bits ^ ((bits >> 63) & (2**63 - 1))


def _pickled(value: Any) -> Tensor:
    import pickle

    return torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)


def _unpickled(content: Tensor) -> Any:
    import pickle

    return pickle.loads(content.numpy().tobytes())


# ------------------------------------------------------------------------------------------------ joining


_joined: list[Ranks] = []


def join(device: str) -> Ranks:
    """The ranks of this process, as torchrun has started it; `train.device` says what they compute on. Once: later
    calls return the same.

    Raises ConfigError where there cannot be so many.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    if not _joined:
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise ConfigError(
                f"WORLD_SIZE is set and {', '.join(missing)} not: start several ranks with torchrun, or unset it"
            )
        if device == "auto":  # is_available would begin to use CUDA, with all GPUs in sight
            device = "cuda" if torch.cuda.device_count() else "cpu"
        if device == "cuda":
            _take_gpu()
        _joined.append(Joined(device))
    return _joined[0]


def _take_gpu() -> None:
    """Leaves this process the GPU of its number on the host, so that it is `cuda` for it as for one that is alone."""
    here = int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
    wanted, there = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])), torch.cuda.device_count()
    if wanted > there:
        raise ConfigError(
            f"{wanted} ranks on a host with {there} GPUs: start torchrun with --nproc_per_node {max(there, 1)}, or "
            "train with --device cpu"
        )
    if torch.cuda.is_initialized():
        raise ConfigError("the GPU is in use already: several ranks must be joined before anything is computed on it")
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = shown.split(",")[here].strip() if shown else str(here)
