"""One training in a folder, and the folder there to its end."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from demo_runs import ENVIRONMENT, ROOT

from distwar_gs import run_folder
from distwar_gs.config import ConfigError
from distwar_gs.run_folder import LOCK, Holder, RunFolder

HOLDS = """
import sys, time
from pathlib import Path
from distwar_gs.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])):
    print("holds", flush=True)
    time.sleep(600)
"""
ELSEWHERE = {"host": "another-host", "boot": "another boot"}


@pytest.fixture
def quick(monkeypatch) -> None:
    """Signs of life every tenth of a second, and half a second without is an end."""
    for name, seconds in {"BEAT_S": 0.1, "STALE_S": 0.5, "_LOOK_S": 0.05}.items():
        monkeypatch.setattr(run_folder, name, seconds)


@pytest.fixture
def without_locks(monkeypatch) -> None:
    """A file system that knows none."""

    def refuse(handle: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.fixture
def other(tmp_path):
    """A process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, tmp_path / "run"], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"holds\n"
    yield process
    process.kill()
    process.communicate()


def left(folder: Path, **changes: object) -> Path:
    """A lock file that this process, or one with the changes, has left."""
    folder.mkdir(exist_ok=True)
    (folder / LOCK).write_text(json.dumps(asdict(replace(Holder.me(), **changes))))
    return folder


def holder_of(folder: Path) -> int:
    return json.loads((folder / LOCK).read_text())["process"]


def test_a_folder_is_held_and_given_back(tmp_path):
    with RunFolder(tmp_path / "run") as held:
        assert held.is_held and holder_of(held.path) == os.getpid()
        with pytest.raises(ConfigError, match=f"run: process {os.getpid()} on .* trains there since 20"):
            RunFolder(tmp_path / "run")
        with RunFolder(tmp_path / "another"):
            pass
    assert list((tmp_path / "run").iterdir()) == []
    with RunFolder(tmp_path / "run"):
        pass


def test_two_that_begin_at_once(tmp_path):
    """The one that comes first has it, though the other had looked before."""
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    with first:
        with pytest.raises(ConfigError, match="wait for its end, or choose another folder with -m"), second:
            pytest.fail("two at once")
        assert first.is_held
    with second:
        assert second.is_held


@pytest.mark.parametrize("locks", [True, False])
def test_while_another_process_lives_and_after(tmp_path, other, request, locks):
    if not locks:
        request.getfixturevalue("without_locks")
    with pytest.raises(ConfigError, match=f"process {other.pid} on"):
        RunFolder(tmp_path / "run")
    other.send_signal(signal.SIGKILL)
    other.wait()
    with RunFolder(tmp_path / "run") as held:
        assert held.is_held and holder_of(held.path) == os.getpid()


def test_a_process_that_has_the_number_of_one_before(tmp_path, other, without_locks):
    """As after a restart of the machine, or of a container."""
    for changes in ({"began": "1"}, {"began": ""}):
        with RunFolder(left(tmp_path / "later", process=other.pid, **changes)) as held:
            assert held.is_held


def test_the_end_of_another_container_on_this_machine_is_known_at_once(tmp_path):
    """By the system's lock, which they share."""
    with RunFolder(left(tmp_path, host="a-container", namespace="pid:[1]")) as held:
        assert held.is_held


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("locks", [True, False])
def test_a_process_on_another_host_that_lives(tmp_path, request, locks):
    """It cannot be asked, but touches its file."""
    if not locks:
        request.getfixturevalue("without_locks")
    folder, ended = left(tmp_path, **ELSEWHERE, process=77), threading.Event()

    def live() -> None:
        while not ended.wait(0.1):
            os.utime(folder / LOCK)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(ConfigError, match=f"process 77 on another-host .*if it has ended, remove {LOCK}"):
            RunFolder(folder)
    finally:
        ended.set()
        thread.join()


@pytest.mark.usefixtures("quick")
def test_a_process_on_another_host_that_is_gone(tmp_path, caplog):
    begin = time.monotonic()
    with RunFolder(left(tmp_path, **ELSEWHERE, process=77)) as held:
        assert held.is_held and 0.3 < time.monotonic() - begin < 20
    assert "process 77 on another-host was training there 0 s ago; waiting up to" in caplog.text
    caplog.clear()
    left(tmp_path, **ELSEWHERE)
    os.utime(tmp_path / LOCK, (time.time() - 60,) * 2)
    with RunFolder(tmp_path):
        assert not caplog.text, "waited for what was old"


@pytest.mark.usefixtures("quick")
def test_a_holder_shows_that_it_lives(tmp_path):
    with RunFolder(tmp_path):
        before = (tmp_path / LOCK).stat().st_mtime_ns
        time.sleep(0.5)
        assert (tmp_path / LOCK).stat().st_mtime_ns > before


@pytest.mark.parametrize("content", ["", "{}", "[1]", "not JSON", '{"process": "x"}', "\udcff", "[" * 9000])
def test_a_lock_file_that_says_nothing(tmp_path, content):
    (tmp_path / LOCK).write_bytes(content.encode(errors="surrogateescape"))
    with RunFolder(tmp_path) as held:
        assert held.is_held and holder_of(tmp_path) == os.getpid()


def test_what_is_no_lock_file(tmp_path):
    os.mkfifo(tmp_path / LOCK)
    with pytest.raises(ConfigError, match=f"{LOCK}: not a file; remove it"):
        RunFolder(tmp_path)
    (tmp_path / LOCK).unlink()
    (tmp_path / LOCK).symlink_to(tmp_path / "precious")
    (tmp_path / "precious").write_text("content")
    with RunFolder(tmp_path) as unheld:
        assert not unheld.is_held and not unheld.come_back()
    assert (tmp_path / "precious").read_text() == "content"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file: cannot be the run folder .File exists.; choose another with -m"):
        RunFolder(tmp_path / "file")


# ------------------------------------------------------------------------------------------------ a folder that is lost


def delete(folder: Path) -> None:
    shutil.rmtree(folder)


def rename(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def delete_above(folder: Path) -> None:
    shutil.rmtree(folder.parent)


def delete_content(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize("lose", [delete, rename, delete_above, delete_content])
def test_a_folder_comes_back(tmp_path, lose):
    path = tmp_path / "runs/one"
    with RunFolder(path) as held:
        assert not held.come_back()
        lose(path)
        assert not held.is_held and held.come_back() and held.path == path
        assert held.is_held and holder_of(path) == os.getpid() and not held.come_back()
        with pytest.raises(ConfigError, match="trains there"):
            RunFolder(path)
    assert list(path.iterdir()) == []


def test_a_folder_that_another_training_has_taken_meanwhile(tmp_path, caplog):
    with RunFolder(tmp_path / "run") as first:
        delete(tmp_path / "run")
        with RunFolder(tmp_path / "run") as second:
            assert first.come_back() and first.path == tmp_path / f"run.{os.getpid()}"
            assert first.is_held and second.is_held
    assert "trains there" in caplog.text


def test_a_place_that_is_gone_is_tried_again(tmp_path):
    """As that of a disk which is unmounted, and mounted again."""
    path = tmp_path / "disk/run"
    with RunFolder(path) as held:
        rename(tmp_path / "disk")
        (tmp_path / "disk").write_text("in the way")
        assert not held.come_back()
        (tmp_path / "disk").unlink()
        (tmp_path / "elsewhere").rename(tmp_path / "disk")
        assert held.is_held and not held.come_back()
