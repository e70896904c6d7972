"""Folders of derived images: what a process that was killed while making one has left."""

import os
import platform
import pwd
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datasets import cache
from datasets.cache import FOLDER_NAME, cached_folder


def test_unfinished_folders_of_processes_that_are_gone_are_removed(tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    there = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    here, number = platform.node(), int(gone.stdout)
    try:
        kept = [f".making-{there.pid}-{here}-abcdefgh", f".making-{number}-another-host-abcdefgh"]
        removed = [
            f".making-{number}-{here}-abcdefgh",
            f".making-{os.getpid()}-{here}-abcdefgh",
            f".making-{number}-another-host-old_one1",
        ]
        for name in (*kept, *removed):
            (tmp_path / FOLDER_NAME / name / "a").mkdir(parents=True)
        os.utime(tmp_path / FOLDER_NAME / removed[2], (time.time() - 90_000,) * 2)
        cached_folder(tmp_path, "images", 1, {}, lambda folder: None)
    finally:
        there.communicate()
    left = sorted(path.name for path in (tmp_path / FOLDER_NAME).iterdir() if path.name.startswith("."))
    assert left == sorted(kept)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"XDG_CACHE_HOME": "/c", "HOME": "/d"}, "/c/distwar-gs"),
        ({"HOME": "/d"}, "/d/.cache/distwar-gs"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/distwar-gs"),
        ({}, f"/temporary/distwar-gs-{os.geteuid()}"),
    ],
)
def test_a_user_without_a_home_has_a_cache(monkeypatch, variables, expected):
    """The last: neither HOME nor an entry in the system's list of users, as in some containers."""

    def unknown(number: int) -> None:
        raise KeyError(number)

    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: "/temporary")
    assert cache.user_cache() == Path(expected)
