"""The one exception of this package, and how it shows text that files have given it."""


class DataError(ValueError):
    """A scene on disk that cannot be used; the message names the file and the remedy.

    The names of files are anybody's: what would steer a terminal or break a line is shown as an escape (`printable`).
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """`text` with control characters, line ends, direction marks and lone surrogates as escapes such as `\\x1b`.

    Two names that hold no backslash stay different.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
