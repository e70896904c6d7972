"""Text and JSON as editors and exporters write them: with a byte order mark, any line ends, odd bytes in names."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from .errors import DataError
from .regular import check_regular

_OTHER_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def open_text(path: Path) -> TextIO:
    """The file as UTF-8 text: a byte order mark is left out, and lines end with LF, CR LF or CR.

    Bytes that are not UTF-8 become surrogates (PEP 383), so that whoever reads them can say which name they belong to.
    Raises DataError for a file that cannot be opened, and for UTF-16 and UTF-32.
    """
    try:
        check_regular(path)
        with path.open("rb") as file:
            start = file.read(4)
        if start.startswith(_OTHER_MARKS) or b"\0" in start:
            raise DataError(f"{path}: is UTF-16 or UTF-32 text, or no text at all; save it as UTF-8")
        return path.open(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); copy it again") from error


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line that is neither blank nor a comment (#), without white space around it.

    Raises DataError as `open_text`.
    """
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            text = line.strip(" \t\r\n\v\f\0")
            if text and text[0] != "#":
                yield number, text


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises DataError naming the line that is not JSON."""
    try:
        with open_text(path) as file:
            return json.load(file)
    except DataError:
        raise
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: not readable as JSON ({error}); correct line {error.lineno} (a comma too many, a comment, a file "
            "cut short?), or export the file again"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); copy it again") from error


def is_utf8(text: str) -> bool:
    """Whether all bytes that a text was read from were UTF-8; Python makes lone surrogates of others."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
