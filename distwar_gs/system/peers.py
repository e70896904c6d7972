"""Whether the other processes of a training live, and which of them says that it ends.

Each rank shows signs of life in torch's store (the one that torchrun's rendezvous made), and looks for those of the
others from a thread: a process that waits in a collective for one that is gone would wait for ever, and no signal
reaches it there. Imports no torch, so that a mistyped flag is said at once.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

LOOK_S = 0.5
"""Between two looks at the others."""
LOST_S = 12.0
"""Without a sign for so long a rank of another host is taken for gone; one of this host is asked for by its number."""
LEAVE_S = 2.0
"""What a rank is left to end by itself after another one has said that it ends."""
SPEAK_S = 4.0
"""Before a rank speaks that is not the first, where they have not met."""
_ENDED, _SAID = "ended", "said"


class Peers:
    """The ranks of a training, seen from one of them."""

    def __init__(self, store: Any, rank: int, count: int) -> None:
        """`store`: a connection of our own, as torch.distributed.Store: one that waits would hold up the thread."""
        self.rank, self.count = rank, count
        self.where: Callable[[], str] = lambda: "it had not begun to train"
        """What to say of the state of the run, where a rank is lost."""
        self._store, self._leaving = store, threading.Event()
        self._signs: dict[int, tuple[str, float]] = {}  # the last one of each, and when it came
        store.set_timeout(timedelta(seconds=LOST_S))
        self._show(0)

    def watch(self) -> None:
        """From now on this process ends where another one is gone."""
        threading.Thread(target=self._live, name="signs of life", daemon=True).start()

    def leave(self) -> None:
        """The work is done: no more looks, and the others need not miss us."""
        self._leaving.set()
        with contextlib.suppress(Exception):  # whatever a store raises whose keeper is gone
            self._store.set(f"left/{self.rank}", "1")

    def says(self) -> bool:
        """Notes that this rank ends early; whether it is the one that says so. All end then."""
        with contextlib.suppress(Exception):
            self._store.set(_ENDED, str(self.rank))
            return self._store.add(_SAID, 1) == 1
        return not any(self._seems_to_live(rank) for rank in range(self.rank))  # the store is gone

    def await_end(self) -> None:
        """After a collective that has failed: where a rank is gone this does not return."""
        time.sleep(LOST_S + 2 * LEAVE_S)

    # ------------------------------------------------------------------------------------------------ the thread

    def _live(self) -> None:
        beat = 0
        while not self._leaving.wait(LOOK_S):
            try:
                self._show(beat := beat + 1)
                ended = self._store.check([_ENDED])
                lost = [] if ended else [rank for rank in range(self.count) if self._is_lost(rank)]
            except Exception:  # the store is gone, and with it who kept it: one of us, or torchrun
                ended, lost = False, [rank for rank in range(self.count) if not self._seems_to_live(rank)]
                if not lost and not self._leaving.is_set():
                    self._end("torchrun is gone (killed)")
            if ended:
                self._follow()
            if lost and not self._leaving.is_set():
                verb, who = "is" if len(lost) == 1 else "are", ", ".join(map(str, lost))
                self._end(f"rank {who} of {self.count} {verb} gone (killed, or out of the host's memory)")

    def _show(self, beat: int) -> None:
        self._store.set(f"beat/{self.rank}", f"{beat} {os.getpid()} {_here()}")

    def _is_lost(self, rank: int) -> bool:
        if rank == self.rank or self._store.check([f"left/{rank}"]) or not self._store.check([f"beat/{rank}"]):
            return False
        sign, now = self._store.get(f"beat/{rank}").decode(), time.monotonic()
        last, since = self._signs.get(rank, ("", now))
        if sign != last:
            self._signs[rank] = sign, now
        _, process, here = sign.split(" ", 2)
        gone = here == _here() and not _lives(process)
        # It may have left between our two questions.
        return (gone or (sign == last and now - since > LOST_S)) and not self._store.check([f"left/{rank}"])

    def _seems_to_live(self, rank: int) -> bool:
        """By its last sign alone."""
        sign, _ = self._signs.get(rank, ("", 0.0))
        if rank == self.rank or not sign:
            return rank == self.rank
        _, process, here = sign.split(" ", 2)
        return here != _here() or _lives(process)

    def _follow(self) -> None:
        """Another rank has said why all end."""
        if not self._leaving.wait(LEAVE_S):
            os._exit(1)

    def _end(self, what: str) -> None:
        if self.says():
            print(f"error: {what}; {self.where()}. Start all again with --resume auto", file=sys.stderr, flush=True)
            time.sleep(LEAVE_S)  # the others see that it is said: where this process keeps the store, it goes with it
        os._exit(1)


def _lives(process: str) -> bool:
    """Whether a process of this host is there, and does not only wait for its parent (proc(5): a zombie)."""
    try:
        return Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def _here() -> str:
    """What processes have in common that see each other's numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"unknown {os.getpid()}"


# ------------------------------------------------------------------------------------------------ who speaks


_peers: list[Peers] = []  # ours, if there are any


def hear(peers: Peers) -> None:
    """These are the ranks that `may_speak` asks."""
    _peers[:] = [peers]


def may_speak(of_signal: bool = False) -> bool:
    """Whether this process is the one of a training that says why it ends; `of_signal`: a signal, which all have got.

    Before the ranks have met, that is the first, and another one after a while: if the first has met the same, all have
    been ended by then.
    """
    if _peers:
        return _peers[0].says()
    if os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0":
        return True
    if not of_signal:
        time.sleep(SPEAK_S)
    return not of_signal
