"""The sharpest frames of a video."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
from PIL import Image

from distwar_datasets.errors import DataError
from distwar_datasets.regular import check_regular
from distwar_gs.system.progress import progress

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm"})
FRAMES_PER_SECOND = 2.0
MOST_FRAMES = 300
JPEG_QUALITY = 95


def default_frames(video: Path) -> int:
    """FRAMES_PER_SECOND, between 2 and MOST_FRAMES in all. Raises DataError for what cannot be read as a video."""
    with opened(video) as reader:
        seconds = reader.get_meta_data()["duration"]
    return max(2, min(MOST_FRAMES, round(FRAMES_PER_SECOND * seconds)))


def opened(video: Path) -> Any:
    """A reader of the video's frames. Raises DataError for a file that is none, or without ffmpeg."""
    if video.suffix.lower() not in VIDEO_SUFFIXES:
        known = ", ".join(sorted(VIDEO_SUFFIXES))
        raise DataError(f"{video}: neither a folder of photos nor a video ({known})")
    if find_spec("imageio_ffmpeg") is None:
        raise DataError(f"{video}: reading videos needs ffmpeg: pip install imageio-ffmpeg")
    try:
        check_regular(video)  # ffmpeg would wait for whoever writes into a FIFO
        return imageio.get_reader(video, format="FFMPEG")
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{video}: cannot be read as a video ({str(error).strip().splitlines()[0]})") from error


def extract_frames(video: Path, folder: Path, count: int) -> None:
    """Writes the sharpest frame of each of `count` equal spans of the video as JPEG; the folder appears when whole.

    Raises DataError for what cannot be read as a video, and for one with fewer frames.
    """
    temporary = folder.with_name(folder.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    with opened(video) as reader:
        total = reader.count_frames()
        if total < count:
            raise DataError(f"{video}: has {total} frames, {count} were asked for; use a smaller --frames")
        frames = progress(reader, total=total, unit="frame", desc="frames")
        for index, frame in sharpest(frames, total, count):
            Image.fromarray(frame).save(temporary / f"frame_{index:06d}.jpg", quality=JPEG_QUALITY)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def sharpest(frames: Iterator[np.ndarray], total: int, count: int) -> Iterator[tuple[int, np.ndarray]]:
    """(index, frame) of the sharpest frame in each of `count` equal spans of `total` frames [H, W, 3] uint8."""
    for _, span in itertools.groupby(enumerate(frames), key=lambda item: min(item[0], total - 1) * count // total):
        yield max(span, key=lambda item: sharpness(item[1]))


def sharpness(frame: np.ndarray) -> float:
    """Variance of the Laplacian of the green channel: small for a frame that motion or focus has blurred."""
    green = frame[..., 1].astype(np.float32)
    middle = green[1:-1, 1:-1]
    return float(np.var(green[1:-1, :-2] + green[1:-1, 2:] + green[:-2, 1:-1] + green[2:, 1:-1] - 4.0 * middle))
