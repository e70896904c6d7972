"""Bars: with the time that is left on a terminal, and none where nobody looks or wants them."""

import io
import sys

import pytest

from distwar_gs.system import progress as module
from distwar_gs.system.progress import progress, quieten


class Terminal(io.StringIO):
    """What tqdm takes for one."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def told(monkeypatch):
    monkeypatch.setattr(module, "_told", set())


def drawn(monkeypatch, stream: io.StringIO) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(progress(range(3), desc="frames", unit="frame", mininterval=0)) == [0, 1, 2]
    return stream.getvalue()


def test_a_terminal_gets_a_bar_with_the_time_left(told, monkeypatch):
    text = drawn(monkeypatch, Terminal())
    assert text.startswith("\rframes:") and "3/3 [00:00<00:00" in text


def test_a_file_gets_none(told, monkeypatch):
    assert drawn(monkeypatch, io.StringIO()) == ""


def test_who_wants_quiet_gets_none(told, monkeypatch):
    quieten()
    assert drawn(monkeypatch, Terminal()) == ""


@pytest.mark.parametrize("program", ["train", "render"])
def test_the_flag_of_a_program(told, monkeypatch, program, tmp_path):
    from distwar_datasets import DataError
    from distwar_gs import programs
    from distwar_gs.system.errors import ConfigError

    arguments = {"train": ["-s", str(tmp_path), "-m", str(tmp_path / "run")], "render": [str(tmp_path)]}[program]
    for flags, expected in (([], set()), (["--quiet"], {"quiet"})):
        with pytest.raises((ConfigError, DataError)):
            getattr(programs, program)([*arguments, *flags])
        assert module._told == expected
