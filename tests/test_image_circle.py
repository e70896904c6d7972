"""The black surround of a fisheye: found where there is one, from what all photos have in common."""

import numpy as np
import pytest
from PIL import Image
from scene_files import write_colmap

from distwar_datasets import load_scene
from distwar_datasets.pixels.image_circle import black_surround
from distwar_datasets.pixels.images import ImageStore

SIZE, CENTER, RADIUS = (120, 90), (57.0, 47.0), 42.0
FISHEYE = {"model": "OPENCV_FISHEYE", "params": (26, 26, *CENTER, 0.01, 0, 0, 0)}


def distances(size: tuple[int, int] = SIZE) -> np.ndarray:
    across, down = (np.arange(side) + 0.5 - middle for side, middle in zip(size, CENTER, strict=True))
    return np.hypot(across, down[:, None])


def photos(folder, count: int, surround: np.ndarray, level: int = 6) -> list:
    """Random ones with dark things at random places, and noise up to `level` in the surround."""
    rng, paths = np.random.default_rng(3), []
    for index in range(count):
        pixels = rng.integers(60, 255, (*SIZE[::-1], 3), dtype=np.uint8)
        top, left = rng.integers(0, 60, 2)
        pixels[top : top + 25, left : left + 25] = 3
        pixels[surround] = rng.integers(0, level, (int(surround.sum()), 3), dtype=np.uint8)
        folder.mkdir(parents=True, exist_ok=True)
        paths.append(folder / f"{index}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def test_a_circle_is_found(tmp_path):
    kept = black_surround(photos(tmp_path, 5, distances() > RADIUS), SIZE, CENTER)
    assert not kept[distances() > RADIUS].any() and kept[distances() < RADIUS - 3].all()


def test_a_circle_that_the_image_cuts_off(tmp_path):
    """Wider than the image is high: only its corners are black."""
    kept = black_surround(photos(tmp_path, 5, distances() > 60), SIZE, CENTER)
    assert not kept[distances() > 60].any() and kept[distances() < 57].all()


@pytest.mark.parametrize("what", ["two photos", "no surround", "a frame", "night", "bright"])
def test_where_there_is_no_circle(tmp_path, what):
    across, down = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    frame = (across < 30) | (across > 90) | (down < 8) | (down > 82)
    surrounds = {"two photos": distances() > RADIUS, "bright": distances() > RADIUS, "a frame": frame,
                 "night": distances() > 5}  # fmt: skip
    surround = surrounds.get(what, np.zeros(SIZE[::-1], dtype=bool))
    paths = photos(tmp_path, 2 if what == "two photos" else 5, surround, level=60 if what == "bright" else 6)
    assert black_surround(paths, SIZE, CENTER) is None


def test_photos_of_a_fisheye_are_masked_by_themselves(tmp_path):
    """At their size and at half of it; a scene's own masks are obeyed, too."""
    names = ["a.png", "b.png", "c.png", "d.png"]
    source = write_colmap(tmp_path / "scene", size=SIZE, names=names, images=None, **FISHEYE)
    photos(source / "images", 4, distances() > RADIUS)
    for index, name in enumerate(names):
        (source / "images" / f"{index}.png").rename(source / "images" / name)
    for resolution in (1, 2):
        view = load_scene(source, test_every=0, resolution=resolution).train[1]
        kept = ImageStore([view], background=(0, 0, 0), device="cpu", budget_bytes=0).mask(0).numpy()
        assert kept.shape == (90 // resolution, 120 // resolution)
        assert kept.mean() == pytest.approx(np.pi * RADIUS**2 / 120 / 90, abs=0.05)
    (source / "masks").mkdir()
    half = np.where(np.arange(120) < 60, 255, 0).astype(np.uint8)
    Image.fromarray(np.tile(half, (90, 1))).save(source / "masks/b.png")
    both = load_scene(source, test_every=0, resolution=1).train[1]
    kept = ImageStore([both], background=(0, 0, 0), device="cpu", budget_bytes=0).mask(0).numpy()
    assert not kept[:, 60:].any() and kept[47, 30] and not kept[5, 5]
