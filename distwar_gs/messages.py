"""Messages as a terminal or a log may show them."""

import logging

from datasets.errors import printable


class PrintableFormatter(logging.Formatter):
    """Writes control characters in messages as escapes: names of files are in them, and names are anybody's."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        record.message = printable(record.message)
        return super().formatMessage(record)
