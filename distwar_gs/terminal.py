"""What reaches a terminal or a log: printable characters only, and never at the cost of the program.

A terminal that was closed (EIO), a pipe whose reader has gone (EPIPE), a file on a full disk (ENOSPC): what is printed
there is lost, and the program goes on. Needs no package, so that scripts/doctor.py can use it anywhere.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

_LONGEST = 2000  # characters of a message


def printable(text: str) -> str:
    """The text with every control character, line break and half of a surrogate pair escaped: a file may be called so
    as to move a terminal's cursor, change its title, or look like another line of a log."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(message: str) -> str:
    """A message as one line of printable characters, without the middle of a very long one: it may quote a file."""
    if len(message) > _LONGEST:
        message = f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"
    return printable(message)


class PrintableFormatter(logging.Formatter):
    """Makes messages, and each line of a traceback, printable."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """See logging.Formatter."""
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 (logging's name)
        """See logging.Formatter."""
        return "\n".join(map(printable, super().formatException(ei).splitlines()))


def log_to_terminal() -> None:
    """Messages of all loggers go to stderr, a line each, unless logging is set up already."""
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class LossyStream:
    """A text stream that loses what cannot be written, instead of raising an error. All else is as the stream has it.

    What its encoding lacks is escaped.
    """

    def __init__(self, stream: TextIO | None) -> None:
        """Wraps a stream; None, Python's standard stream where the descriptor is closed, loses everything."""
        self._stream = stream
        self.error: OSError | ValueError | None = None
        """Why something could not be written, the first time."""

    def write(self, text: str) -> int:
        """Writes the text if that is possible; returns its length in any case."""
        if self._stream is None:
            return len(text)
        try:
            self._stream.write(text)
        except UnicodeEncodeError as error:
            self.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            self.error = self.error or error
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Writes each of them."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Writes what the stream holds back, if that is possible."""
        try:
            if self._stream is not None:
                self._stream.flush()
        except (OSError, ValueError) as error:
            self.error = self.error or error

    def isatty(self) -> bool:
        """Whether it is a terminal, open still."""
        try:
            return self._stream is not None and self._stream.isatty()
        except (OSError, ValueError):
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def lossy_output() -> Iterator[None]:
    """While entered, sys.stdout and sys.stderr lose what cannot be written. For the outermost call of a program.

    Afterwards what they still hold back is written or dropped, so that the interpreter, which exits with code 120 when
    it cannot flush them, keeps the program's code. What is lost of stdout is told on stderr, except to a pipe whose
    reader has gone (`| head`).
    """
    _occupy_standard_descriptors()
    before = sys.stdout, sys.stderr
    out, err = sys.stdout, sys.stderr = LossyStream(before[0]), LossyStream(before[1])
    try:
        yield
    finally:
        out.flush()
        if out.error and getattr(out.error, "errno", None) != errno.EPIPE:
            err.write(f"stdout cannot be written ({reason_of(out.error)}); what was printed there is lost\n")
        err.flush()
        for stream in (out, err):
            if stream.error:
                _point_to_nothing(stream)
        sys.stdout, sys.stderr = before


def reason_of(error: BaseException) -> str:
    """The system's words for an error, without its number; else the error's own."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _occupy_standard_descriptors() -> None:
    """Opens those of 0, 1 and 2 that are closed (`2>&-`) on /dev/null: the next file that is opened, a checkpoint say,
    would get the number, and with it all that a C library prints."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _point_to_nothing(stream: LossyStream) -> None:
    """What is left in its buffer goes to /dev/null when the interpreter ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
