"""Folders of derived images: what a process that was killed while making one has left."""

import os
import platform
import subprocess
import sys
import time

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
