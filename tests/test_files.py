import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from distwar_gs.files import WriteError, check_regular, durable_write, read_bounded, remove_leftovers, replacing


def test_replacing_keeps_the_old_file_when_writing_fails(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(RuntimeError), replacing(file) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_durable_write_makes_folders_and_replaces(tmp_path):
    file = tmp_path / "folder" / "file"
    for content in (b"old", b"new"):
        with durable_write(file) as stream:
            stream.write(content)
    assert file.read_bytes() == b"new"
    assert list(file.parent.iterdir()) == [file]


def test_a_full_disk_is_told_in_one_line(tmp_path, file_limit):
    file = tmp_path / "file"
    file.write_text("old")
    file_limit(10)
    message = r"file: could not be written .File too large.; check free space"
    with pytest.raises(WriteError, match=message) as error, durable_write(file) as stream:
        stream.write(bytes(100))
    assert "\n" not in str(error.value)
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    message = r"file/inside: could not be written .(File exists|Not a directory)."
    with pytest.raises(WriteError, match=message), replacing(tmp_path / "file" / "inside"):
        pytest.fail("there is no place to write to")


def test_leftovers_of_processes_that_are_gone(tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    there = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        names = [f".step_9.pt.{number}.tmp" for number in (int(gone.stdout), os.getpid(), there.pid, 10**30)]
        for name in (*names, ".hidden.tmp", "step_9.pt", "a.7.tmp"):
            (tmp_path / name).write_text("")
        removed = remove_leftovers([tmp_path, tmp_path / "nowhere"])
    finally:
        there.communicate()
    assert sorted(path.name for path in removed) == sorted([*names[:2], names[3]])
    assert sorted(os.listdir(tmp_path)) == sorted([names[2], ".hidden.tmp", "step_9.pt", "a.7.tmp"])


@pytest.mark.parametrize("name", ["x" * 251 + ".png", "日" * 84, "y" * 255])
def test_the_longest_names(tmp_path, name):
    """A temporary name adds to them; two that begin alike do not share one."""
    other = name[:-1] + "z"
    with replacing(tmp_path / name) as first, replacing(tmp_path / other) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert [(tmp_path / each).read_text() for each in (name, other)] == ["first", "second"]
    (tmp_path / first.name.replace(f".{os.getpid()}.", ".99999999.")).write_text("")  # more than Linux counts
    assert len(remove_leftovers([tmp_path])) == 1 and len(list(tmp_path.iterdir())) == 2


def test_the_file_that_could_not_be_written_is_the_one_that_is_named(tmp_path):
    with pytest.raises(WriteError, match=r"^[^ ]*inner/file: could not"), replacing(tmp_path / "outer") as temporary:
        temporary.write_text("sound")
        (tmp_path / "inner").write_text("")
        with replacing(tmp_path / "inner/file"):
            pytest.fail("there is no place to write to")
    assert not (tmp_path / "outer").exists()


# ----------------------------------------------------------------------------------------- files that can be read whole


def test_a_file_is_read_up_to_a_size(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    (tmp_path / "link").symlink_to(file)
    assert read_bounded(file, 5) == read_bounded(tmp_path / "link", 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_bounded(file, 4)
    os.truncate(file, 10**13)  # which takes no room on the disk
    with pytest.raises(OSError, match="larger than 5 bytes"):
        read_bounded(file, 5)


def unreadable(folder: Path) -> dict[str, Path]:
    """What is no file, and would block or never end."""
    os.mkfifo(folder / "fifo")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(str(folder / "socket"))
    (folder / "link").symlink_to("/dev/zero")
    (folder / "folder").mkdir()
    return {
        "a FIFO, not a file": folder / "fifo",
        "a socket, not a file": folder / "socket",
        "a device, not a file": folder / "link",
        "Is a directory": folder / "folder",
        "No such file": folder / "nothing",
    }


def test_what_is_no_file_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    paths = unreadable(Path())
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened"))
    for words, path in paths.items():
        for read in (check_regular, lambda path: read_bounded(path, 100)):
            with pytest.raises(OSError, match=words):
                read(path)


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="no such /proc")
def test_a_file_without_an_end(tmp_path):
    """By name and kind it is a regular one, of no bytes."""
    with pytest.raises(OSError, match="larger than 1,000 bytes"):
        read_bounded("/proc/self/pagemap", 1000)
