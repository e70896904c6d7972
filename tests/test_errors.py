"""What names of files in a message may do to a terminal: nothing."""

import pytest

from datasets.errors import DataError, printable

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
