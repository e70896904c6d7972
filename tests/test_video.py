"""The sharpest frames of a video, as photos."""

import imageio.v2 as imageio
import numpy as np
import pytest

from datasets.errors import DataError
from distwar_gs.capture import video
from distwar_gs.capture.video import FRAMES_PER_SECOND, default_frames, extract_frames, opened, sharpest


def test_the_sharpest_frame_of_each_span():
    rng = np.random.default_rng(0)
    sharp = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    frames = [sharp if index in (2, 7, 8) else np.full_like(sharp, 90) for index in range(12)]
    chosen = [index for index, _ in sharpest(iter(frames), 12, 4)]
    assert chosen == [2, 3, 7, 9]  # spans of three; the first of equals


@pytest.mark.parametrize("name", ["film.mp4", "my film ü.MOV", "a\\b.mkv"])
def test_a_video_becomes_frames(tmp_path, name):
    rng = np.random.default_rng(0)
    pictures = [np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((20, 20, 1))).astype(np.uint8) for _ in range(8)]
    with imageio.get_writer(tmp_path / name, fps=10, codec="libx264", quality=9, macro_block_size=1) as writer:
        for picture in pictures:
            for _ in range(5):
                writer.append_data(picture)
    assert default_frames(tmp_path / name) == round(FRAMES_PER_SECOND * 8 * 5 / 10)
    extract_frames(tmp_path / name, tmp_path / "frames", 8)
    frames = sorted((tmp_path / "frames").iterdir())
    assert len(frames) == 8 and not (tmp_path / "frames.partial").exists()
    for frame, picture in zip(frames, pictures, strict=True):
        assert np.abs(imageio.imread(frame).astype(int) - picture).mean() < 12
    with pytest.raises(DataError, match="use a smaller --frames"):
        extract_frames(tmp_path / name, tmp_path / "frames", 999)


@pytest.mark.parametrize(
    ("name", "message"),
    [("film.txt", "neither a folder of photos nor a video"), ("film.mp4", "film.mp4: cannot be read as a video")],
)
def test_what_is_no_video(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"no video")
    with pytest.raises(DataError, match=message):
        default_frames(tmp_path / name)


def test_video_without_ffmpeg(tmp_path, monkeypatch):
    (tmp_path / "film.mp4").write_bytes(b"")
    monkeypatch.setattr(video, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="reading videos needs ffmpeg: pip install imageio-ffmpeg"):
        opened(tmp_path / "film.mp4")
