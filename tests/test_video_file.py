"""Videos appear whole or not at all, whatever becomes of ffmpeg, the disk or the program."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from demo_runs import ENVIRONMENT, ROOT

from distwar_gs.files import WriteError
from distwar_gs.video_file import writing_video


def noise(width: int = 64, height: int = 48, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def write(path: Path, frames: int = 5, fps: float = 30.0, **size: int) -> None:
    with writing_video(path, fps) as video:
        for seed in range(frames):
            video.add(noise(seed=seed, **size))


def shown(path: Path) -> tuple[int, tuple[int, int], float]:
    """Frames, size, frames per second."""
    with imageio.get_reader(path) as reader:
        meta = reader.get_meta_data()
        return sum(1 for _ in reader), meta["size"], meta["fps"]


@pytest.mark.parametrize("fps", [0.01, 0.5, 23.976, 30.0, 240.0])
def test_frames_and_their_speed(tmp_path, fps):
    write(tmp_path / "new/folder/a.mp4", fps=fps)
    count, size, speed = shown(tmp_path / "new/folder/a.mp4")
    assert (count, size) == (5, (64, 48)) and speed == pytest.approx(fps, rel=1e-3)
    assert os.listdir(tmp_path / "new/folder") == ["a.mp4"]


def test_the_pictures_are_those_that_were_added(tmp_path):
    columns, rows = np.meshgrid(np.linspace(0, 255, 64), np.linspace(0, 255, 48))
    smooth = np.stack([columns, rows, 255 - columns], axis=-1).astype(np.uint8)
    with writing_video(tmp_path / "a.mp4", 30.0) as video:
        video.add(torch.from_numpy(smooth))
        video.add(torch.from_numpy(smooth[::-1].copy()))
    with imageio.get_reader(tmp_path / "a.mp4") as reader:
        first, second = reader
    assert np.abs(first.astype(int) - smooth).mean() < 4.0 and np.abs(second.astype(int) - smooth[::-1]).mean() < 4.0


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(1, 1, (2, 2)), (1, 48, (2, 48)), (64, 1, (64, 2)), (3, 5, (2, 4)), (65, 49, (64, 48)), (2, 2, (2, 2))],
)
def test_sizes_that_yuv420p_does_not_hold(tmp_path, width, height, expected):
    write(tmp_path / "a.mp4", width=width, height=height)
    assert shown(tmp_path / "a.mp4")[:2] == (5, expected)


@pytest.mark.parametrize("name", ["a:b.mp4", "-a.mp4", "a b 日本 %d.mp4", "x" * 240 + ".mp4"])
def test_odd_names(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path(name))
    assert shown(tmp_path / name)[0] == 5 and os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("limit", [1, 1000, 20_000])
def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path, file_limit, limit):
    (tmp_path / "a.mp4").write_text("old")
    file_limit(limit)
    with pytest.raises(WriteError, match=r"a\.mp4: could not be written \(.*\); check free space") as caught:
        write(tmp_path / "a.mp4", frames=60)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "a.mp4").read_text() == "old" and os.listdir(tmp_path) == ["a.mp4"]


def ffmpeg_of(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Another ffmpeg, of a line of shell."""
    program = folder / "ffmpeg"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo '[libx264 @ 0x55] [enc] no such encoder' >&2; exit 1", "ffmpeg: no such encoder"),
        ("cat > /dev/null; echo 'disk on fire' >&2; echo 'Conversion failed!' >&2; exit 1", "ffmpeg: disk on fire"),
        ("cat > /dev/null; exit 3", "ffmpeg: exit code 3"),
        ("kill -9 $$", "ffmpeg: ended by SIGKILL"),
        ("cat > /dev/null; kill -TERM $$", "ffmpeg: ended by SIGTERM"),
        ("exit 0", "No such file or directory"),
    ],
)
def test_an_ffmpeg_that_fails(tmp_path, monkeypatch, script, reason):
    (tmp_path / "a.mp4").write_text("old")
    ffmpeg_of(tmp_path, monkeypatch, script)
    with pytest.raises(WriteError, match=r"a\.mp4: could not be written") as caught:
        write(tmp_path / "a.mp4", frames=200)
    assert reason in str(caught.value) or (script == "exit 0" and "ffmpeg ended early" in str(caught.value))
    assert (tmp_path / "a.mp4").read_text() == "old" and sorted(os.listdir(tmp_path)) == ["a.mp4", "ffmpeg"]


def test_an_ffmpeg_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "nowhere"))
    with pytest.raises(WriteError, match=r"a\.mp4: could not be written"):
        write(tmp_path / "a.mp4")
    assert os.listdir(tmp_path) == []


def test_an_error_between_frames_ends_ffmpeg_too(tmp_path):
    with pytest.raises(ZeroDivisionError), writing_video(tmp_path / "a.mp4", 30.0) as video:
        video.add(noise())
        process = video._process
        raise ZeroDivisionError
    assert process.poll() is not None and os.listdir(tmp_path) == []


def test_two_at_a_time_and_the_one_that_failed_is_named(tmp_path, monkeypatch):
    """As the pictures and their depths are written."""
    with (
        pytest.raises(WriteError, match=r"first\.mp4: could not be written \(ffmpeg: ended by SIGKILL\)"),
        writing_video(tmp_path / "first.mp4", 30.0) as first,
        writing_video(tmp_path / "second.mp4", 30.0) as second,
    ):
        for seed in range(500):
            first.add(noise(seed=seed))
            second.add(noise(seed=seed))
            if seed == 3:
                first._process.send_signal(signal.SIGKILL)
    assert os.listdir(tmp_path) == []


def test_frames_of_two_sizes_are_a_mistake_of_the_program(tmp_path):
    with pytest.raises(ValueError, match="a frame"), writing_video(tmp_path / "a.mp4", 30.0) as video:
        video.add(noise())
        video.add(noise(width=32))
    assert os.listdir(tmp_path) == []


def test_ctrl_c_leaves_nothing(tmp_path):
    """To the whole group, as a terminal sends it."""
    code = (
        "import sys, torch, pathlib\nfrom distwar_gs.video_file import writing_video\n"
        f"with writing_video(pathlib.Path({str(tmp_path / 'a.mp4')!r}), 30.0) as video:\n"
        "    for i in range(100_000):\n        video.add(torch.zeros(48, 64, 3, dtype=torch.uint8))\n"
        "        if i == 5: print('going', flush=True)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{code}"],
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert child.stdout.readline() == "going\n"
    os.killpg(child.pid, signal.SIGINT)
    said = child.communicate(timeout=60)[1]
    assert child.returncode != 0 and "KeyboardInterrupt" in said and "Exception ignored" not in said
    deadline = time.monotonic() + 10
    while os.listdir(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert os.listdir(tmp_path) == []
