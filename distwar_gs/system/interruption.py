"""Ctrl-C, SIGTERM and their kind: before and after the training loop the end, within it a polite request.

What each signal does is in docs/runs.md.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from signal import SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU
from types import FrameType, TracebackType
from typing import Any, Self

STOPPING = (SIGINT, SIGTERM, SIGHUP, SIGXCPU)
"""Ctrl-C; what batch systems and `kill` send; a terminal that was closed; a limit of CPU time."""
SAVING = (SIGUSR1, SIGUSR2)
"""What batch systems send some time before the end, if asked to (Slurm: --signal=USR1@120)."""
SAME_PRESS_S = 1.0
"""A SIGINT within so many seconds of the last one is the same wish: a key that is held repeats, and a wrapper passes on
what the terminal has sent already."""

_WORDS = {SIGHUP: "the terminal was closed (SIGHUP)", SIGXCPU: "no CPU time is left (SIGXCPU)", SIGTERM: "terminated"}


class Terminated(KeyboardInterrupt):
    """SIGTERM, SIGHUP or SIGXCPU where nothing need be saved; as with Ctrl-C, whoever holds temporary files can remove
    them."""

    def __init__(self, number: int = SIGTERM) -> None:
        """By this signal."""
        super().__init__(number)
        self.signal = signal.Signals(number)


class StoppedError(Exception):
    """Raised by `Interruption.check`: what is being done is to be left where it stands."""


class _Ending:
    """What one signal handler must know of the others: there is only one end of a program."""

    begun = False
    """Whether a signal has asked for it."""
    pressed = float("-inf")
    """When the last SIGINT came."""

    def is_new(self, number: int) -> bool:
        """Whether a signal says more than those before it: the first of all does, then only Ctrl-C pressed again."""
        now, last = time.monotonic(), self.pressed
        self.pressed = now if number == SIGINT else last
        new = not self.begun or (number == SIGINT and now - last >= SAME_PRESS_S)
        self.begun = True
        return new

    def forget(self) -> None:
        """No signal has come."""
        self.begun, self.pressed = False, float("-inf")


_ending = _Ending()


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """While entered, the signals of STOPPING raise KeyboardInterrupt or Terminated in the main thread, and those of
    SAVING do nothing. For the outermost call of a program: once one has come, all others are ignored to its end, except
    Ctrl-C pressed again, which is the end at once."""
    _ending.forget()
    handlers = {**dict.fromkeys(STOPPING, _end), **dict.fromkeys(SAVING, _nothing)}
    previous = _take_over(handlers, spared={*handlers} - {SIGTERM})
    try:
        yield
    finally:
        for number, handler in previous.items():
            if _ending.begun:
                handler = _leave if number == SIGINT else signal.SIG_IGN
            signal.signal(number, handler)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """While entered, signals of STOPPING and SAVING wait; afterwards their handlers are Python's again. For imports.

    An interrupt in the middle of loading a C++ module comes out as advice to install it, and pycolmap's logging (glog)
    takes SIGTERM over when it is imported, to answer it with a stack trace.
    """
    numbers = {*STOPPING, *SAVING}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # outside the main thread
            for number in numbers:
                signal.signal(number, signal.getsignal(number) or signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def exit_code_of(interrupt: KeyboardInterrupt) -> int:
    """What the shell expects of a program that the signal behind this exception ended."""
    return 128 + (interrupt.signal if isinstance(interrupt, Terminated) else SIGINT)


def words_of(interrupt: KeyboardInterrupt) -> str:
    """How a program that ends by it says so."""
    return _WORDS[interrupt.signal] if isinstance(interrupt, Terminated) else "interrupted"


class Interruption:
    """While entered, the first signal of STOPPING only sets `requested`; Ctrl-C pressed again interrupts at once.

    Another SIGTERM does not: batch systems send several, and the save that the first one asked for is under way. A
    signal of SAVING asks for a checkpoint.
    """

    def __init__(self) -> None:
        """Nothing asked for yet."""
        self.signal: signal.Signals | None = None
        self._save_asked = False
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether someone wants the run to end."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """What the shell expects of a program ended by this signal: 130 for Ctrl-C, 143 for SIGTERM; 0 for none."""
        return 128 + self.signal if self.signal else 0

    def check(self) -> None:
        """Raises StoppedError if someone wants the run to end: between parts of what can be done again later."""
        if self.requested:
            raise StoppedError

    def agree(self) -> None:
        """`check` between two steps: with several ranks, what a signal has asked of one becomes known to all."""
        self.check()

    def meet(self) -> None:
        """`agree`, at once: where ranks wait for each other anyway."""
        self.check()

    @property
    def wants_save(self) -> bool:
        """Whether someone has asked for a checkpoint, and has not got it."""
        return self._save_asked

    def takes_save(self) -> bool:
        """Whether someone has asked for a checkpoint since the last call."""
        asked, self._save_asked = self._save_asked, False
        return asked

    def __enter__(self) -> Self:
        """Takes over the signals, those that were ignored before (nohup) left out. SIGINT and SIGTERM are taken in any
        case: a shell lets background jobs ignore SIGINT, and `kill -INT` is how one is stopped.

        Outside the main thread Python cannot, and nothing happens.
        """
        handlers = {**dict.fromkeys(STOPPING, self._request), **dict.fromkeys(SAVING, self._ask_to_save)}
        self._previous = _take_over(handlers, spared={*STOPPING, *SAVING} - {SIGINT, SIGTERM})
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Gives the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        new = _ending.is_new(number)
        if self.requested and new:
            raise KeyboardInterrupt
        self.signal = self.signal or signal.Signals(number)

    def _ask_to_save(self, number: int, frame: FrameType | None) -> None:
        self._save_asked = True


Handler = Callable[[int, FrameType | None], object]


def _take_over(handlers: Mapping[signal.Signals, Handler], spared: set[signal.Signals]) -> dict[signal.Signals, Any]:
    """Sets the handlers, except of `spared` signals that are ignored; returns what was there before. Outside the main
    thread Python cannot, and nothing happens."""
    previous: dict[signal.Signals, Any] = {}
    for number, handler in handlers.items():
        if number in spared and signal.getsignal(number) is signal.SIG_IGN:
            continue
        try:
            previous[number] = signal.signal(number, handler) or signal.SIG_DFL
        except ValueError:
            return {}
    return previous


def _end(number: int, frame: FrameType | None) -> None:
    if _ending.is_new(number):
        raise KeyboardInterrupt if number == SIGINT else Terminated(number)


def _leave(number: int, frame: FrameType | None) -> None:
    if _ending.is_new(number):
        os._exit(128 + number)


def _nothing(number: int, frame: FrameType | None) -> None:
    """Where there is nothing to save yet, or no more; without a handler the program would be killed."""
