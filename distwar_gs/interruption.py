"""Ctrl-C and SIGTERM: before and after the training loop the end, within it a polite request."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import NoReturn, Self


class Terminated(KeyboardInterrupt):
    """SIGTERM where nothing need be saved; as with Ctrl-C, whoever holds temporary files can remove them."""


class StoppedError(Exception):
    """Raised by `Interruption.check`: what is being done is to be left where it stands."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """While entered, SIGTERM raises Terminated in the main thread, as SIGINT raises KeyboardInterrupt."""
    try:
        previous = signal.signal(signal.SIGTERM, _terminate)
    except ValueError:  # outside the main thread Python cannot
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """While entered, SIGINT and SIGTERM wait; afterwards their handlers are Python's again. For imports.

    An interrupt in the middle of loading a C++ module comes out as advice to install it, and pycolmap's logging (glog)
    takes SIGTERM over when it is imported, to answer it with a stack trace.
    """
    numbers = {signal.SIGINT, signal.SIGTERM}
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
    return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)


class Interruption:
    """While entered, the first SIGINT or SIGTERM only sets `requested`; a second Ctrl-C interrupts at once.

    A second SIGTERM does not: batch systems send several, and the save that the first one asked for is under way.
    """

    def __init__(self) -> None:
        """Nothing asked for yet."""
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

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

    def __enter__(self) -> Self:
        """Takes over both signals. Outside the main thread Python cannot, and nothing happens."""
        try:
            self._previous = {s: signal.signal(s, self._request) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:
            self._previous = {}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Gives the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or signal.Signals(number)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated
