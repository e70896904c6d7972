"""What names of files may do to a terminal or a log: nothing."""

import io
import logging

import pytest

from datasets.errors import DataError, printable
from distwar_gs.messages import PrintableFormatter

RED = "\x1b[31mred\x1b[0m"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b.png", "a b.png"),
        ("été 日本 \U0001f4f7", "été 日本 \U0001f4f7"),
        (RED, r"\x1b[31mred\x1b[0m"),
        ("a\r\nb\tc\0", r"a\r\nb\tc\x00"),
        ("\x9b31m", r"\x9b31m"),
        ("gnp.\u202eexe", r"gnp.\u202eexe"),
        ("caf\udce9", r"caf\udce9"),
        ("a\u2028b", r"a\u2028b"),
    ],
)
def test_what_steers_a_terminal_or_breaks_a_line_is_an_escape(text, shown):
    assert printable(text) == shown
    assert str(DataError(f"{text}: missing")) == f"{shown}: missing"


def test_logs_are_lines_of_printable_characters():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PrintableFormatter("%(levelname)s %(message)s"))
    log = logging.Logger("any")
    log.addHandler(handler)
    log.warning("first view: %s, %d %%", f"{RED}\nerror: all is lost", 7)
    assert stream.getvalue() == "WARNING first view: \\x1b[31mred\\x1b[0m\\nerror: all is lost, 7 %\n"
