"""Ctrl-C and SIGTERM as a polite request: finish the step, save, leave."""

import signal
from types import FrameType, TracebackType
from typing import Self


class Interruption:
    """While entered, the first SIGINT or SIGTERM only sets `requested`; a second Ctrl-C interrupts at once."""

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
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
