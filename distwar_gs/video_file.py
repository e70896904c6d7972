"""Videos: frames go to ffmpeg, and the file appears under its name when ffmpeg has ended well."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import IO

import imageio_ffmpeg
import numpy as np
from torch import Tensor

from distwar_gs.files import WriteError, replacing

_QUALITY = "10"  # of 0 to 51, ffmpeg's -crf: 0 is lossless


@contextmanager
def writing_video(path: Path, fps: float) -> Iterator[VideoWriter]:
    """A video to add frames to; H.264 in yuv420p, which every player shows. Missing folders are made.

    It appears as `path`, whole, when the block ends; if the block or ffmpeg fails, what was there before stays. Raises
    WriteError with ffmpeg's reason.
    """
    with replacing(path) as temporary, tempfile.TemporaryFile() as messages:
        writer = VideoWriter(path, temporary, fps, messages)
        try:
            yield writer
            writer.finish()
        finally:
            writer.kill()


class VideoWriter:
    """ffmpeg, which begins with the first frame, since that says how large all are."""

    def __init__(self, path: Path, temporary: Path, fps: float, messages: IO[bytes]) -> None:
        """`path`: what errors name. `temporary`: the file to write. `messages`: for what ffmpeg complains of."""
        self._path, self._temporary, self._fps, self._messages = path, temporary, fps, messages
        self._process: subprocess.Popen | None = None
        self._shape: tuple[int, ...] = ()

    def add(self, frame8: Tensor) -> None:
        """Appends [H, W, 3] uint8, as large as those before.

        yuv420p holds even sizes only: an odd last row or column is left out, a single one shown twice.
        """
        pixels = np.ascontiguousarray(_even(frame8.cpu().numpy()))
        if self._process is None:
            self._process, self._shape = self._started(*pixels.shape[:2]), pixels.shape
        if pixels.shape != self._shape:
            raise ValueError(f"a frame {[*pixels.shape]} in a video of {[*self._shape]}")
        try:
            self._process.stdin.write(pixels.data)
        except BrokenPipeError:
            self.finish()
            raise self._error("ffmpeg ended early") from None

    def finish(self) -> None:
        """Ends the file. Raises WriteError with ffmpeg's reason if it is not whole."""
        if self._process is None:
            raise self._error("it has no frames")
        with contextlib.suppress(BrokenPipeError):  # ffmpeg has ended; its code says why
            self._process.stdin.close()
        code = self._process.wait()
        if code:
            raise self._error(f"ffmpeg: {self._reason(code)}")

    def kill(self) -> None:
        """Ends ffmpeg, if it has not ended."""
        if self._process is None:
            return
        self._process.kill()
        with contextlib.suppress(OSError):  # what it did not take is lost
            self._process.stdin.close()
        self._process.wait()

    def _started(self, height: int, width: int) -> subprocess.Popen:
        try:
            program = imageio_ffmpeg.get_ffmpeg_exe()
        except RuntimeError:
            remedy = "pip install imageio-ffmpeg, or name one in IMAGEIO_FFMPEG_EXE"
            raise WriteError(f"{self._path}: could not be written, as there is no ffmpeg; {remedy}") from None
        rate = str(Fraction(self._fps).limit_denominator())
        size, name = f"{width}x{height}", f"file:{self._temporary}"  # file: for names with colons or a leading dash
        return subprocess.Popen(
            [
                program, "-y", "-v", "error", "-xerror", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", rate,
                "-i", "-", "-an", "-vcodec", "libx264", "-pix_fmt", "yuv420p", "-crf", _QUALITY, "-f", "mp4", name,
            ],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._messages,
            process_group=0,  # its own: Ctrl-C ends this program, which then ends ffmpeg
        )  # fmt: skip

    def _error(self, reason: str) -> WriteError:
        return WriteError(f"{self._path}: could not be written ({reason}); check free space and permissions")

    def _reason(self, code: int) -> str:
        """What ffmpeg said first, without the names of its parts; or the signal or the code that it ended with."""
        if code < 0:
            return f"ended by {signal.Signals(-code).name}"
        self._messages.seek(0)
        first = self._messages.readline().decode("utf-8", "replace")
        return re.sub(r"^(\[[^]]*\] ?)+", "", first).strip() or f"exit code {code}"


def _even(pixels: np.ndarray) -> np.ndarray:
    """[H, W, 3] at even sizes."""
    for axis in (0, 1):
        if pixels.shape[axis] == 1:
            pixels = pixels.repeat(2, axis)
    height, width = (size // 2 * 2 for size in pixels.shape[:2])
    return pixels[:height, :width]
