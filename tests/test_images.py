import numpy as np
import pytest
import torch
from PIL import Image
from scene_files import write_colmap, write_image

from datasets import DataError, View, load_scene
from datasets.imagefile import decode_image, map_threads
from datasets.images import ImageStore, composite


def view_of(path):
    width, height = Image.open(path).size
    return View(path.name, path, width, height, np.eye(3), np.eye(4), 1)


def store_of(*paths, background=(0.0, 0.0, 0.0), **options):
    return ImageStore([view_of(p) for p in paths], background=background, device="cpu", budget_bytes=0, **options)


def test_images_come_in_the_order_of_the_views(tmp_path):
    scene = load_scene(write_colmap(tmp_path), test_every=0)
    calls = []
    store = ImageStore(
        scene.train,
        background=None,
        device="cpu",
        budget_bytes=0,
        threads=3,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert [int(store[i][0, 0, 0]) for i in range(len(store))] == [0, 10, 20, 30]
    assert (store[0].shape, store[0].dtype) == ((40, 64, 3), torch.uint8)
    assert (store.nbytes, store.where) == (4 * 64 * 40 * 3, "cpu")
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_alpha_is_composited_and_rounded(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    alpha = pixels[..., 3:] / 255.0
    expected = np.round(pixels[..., :3] * alpha + np.array([255.0, 127.5, 0.0]) * (1 - alpha))
    result = store_of(tmp_path / "a.png", background=(1.0, 0.5, 0.0))[0].numpy()
    assert np.abs(result - expected).max() <= 1  # float32 may round a half the other way
    assert (result == expected).mean() > 0.95
    np.testing.assert_array_equal(store_of(tmp_path / "a.png", background=None)[0].numpy(), pixels)


def test_composite_of_opaque_and_clear_pixels_is_exact():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=-1)
    opaque = np.concatenate([levels, np.full((16, 16, 1), 255, np.uint8)], axis=-1)
    np.testing.assert_array_equal(composite(opaque, (1.0, 1.0, 1.0)), levels)
    opaque[..., 3] = 0
    assert composite(opaque, (1.0, 1.0, 1.0)).min() == 255


def test_grey_palette_and_16_bit(tmp_path):
    ramp = np.linspace(0, 65535, 32).astype(np.uint16).reshape(4, 8)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(decode_image(tmp_path / "deep.png")[..., 1], np.round(ramp / 257.0))
    write_image(tmp_path / "grey.png", 3, 2, level=77, mode="L")
    np.testing.assert_array_equal(decode_image(tmp_path / "grey.png"), np.full((2, 3, 3), 77))
    Image.new("RGB", (3, 2), (1, 2, 3)).convert("P").save(tmp_path / "palette.png")
    assert decode_image(tmp_path / "palette.png").shape == (2, 3, 3)
    Image.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / "keyed.png", transparency=(1, 2, 3))
    assert decode_image(tmp_path / "keyed.png")[..., 3].max() == 0


def test_exif_orientation_is_left_alone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert decode_image(tmp_path / "a.jpg").shape == (4, 6, 3)


def test_damaged_and_replaced_files_are_named(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    view = view_of(path)
    options = {"background": None, "device": "cpu", "budget_bytes": 0}
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"a\.png: cannot be read as an image"):
        ImageStore([view], **options)
    write_image(path, 32, 64)
    with pytest.raises(DataError, match=r"a\.png: is 32x64, but was 64x64"):
        ImageStore([view], **options)


def test_first_error_stops_the_rest():
    started = []

    def work(item):
        started.append(item)
        if item == 0:
            raise DataError("no")

    with pytest.raises(DataError):
        map_threads(work, range(10_000), threads=2)
    assert len(started) < 10_000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("budget", "where"), [(2**30, "cuda"), (1, "cpu")])
def test_gpu_and_pinned_memory_give_the_same_pixels(tmp_path, budget, where):
    scene = load_scene(write_colmap(tmp_path), test_every=0)
    store = ImageStore(scene.train, background=None, device="cuda", budget_bytes=budget)
    assert store.where == where
    assert [int(store[i][0, 0, 0]) for i in range(4)] == [0, 10, 20, 30]
    assert store[2].device.type == "cuda"
