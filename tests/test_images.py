import logging
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scene_files import write_colmap, write_image

from datasets import DataError, Mask, View, imagefile, images, load_scene
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


# --------------------------------------------------------------------------------------------- more than memory holds


@pytest.fixture
def many(tmp_path):
    """40 views of 128 x 96 whose first pixel tells their number, in noise."""
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    paths = []
    for index in range(40):
        noise[0, 0] = index
        paths.append(tmp_path / f"{index:02d}.png")
        Image.fromarray(noise).save(paths[-1])
    return [view_of(path) for path in paths]


SIZE = 128 * 96 * 3


def small_store(views, images, **options):
    """A store with room for so many images, those being decoded included."""
    options = {"background": None, "device": "cpu", "budget_bytes": 0, "threads": 2, **options}
    return ImageStore(views, host_budget_bytes=images * SIZE * 4 // 3, **options)


def test_images_that_do_not_fit_are_decoded_when_needed(many, caplog):
    with caplog.at_level(logging.INFO, logger="datasets"):
        store = small_store(many, 16)
    assert (store.where, store.slots) == ("disk", 1)
    assert store.nbytes <= 10 * SIZE * 4 / 3 and store.nbytes >= 9 * SIZE
    assert "40 images" in caplog.text and "1 ahead" in caplog.text
    for index in [*range(40), 3, 19, 0]:
        assert int(store[index][0, 0, 0]) == index
    assert [int(image[0, 0, 0]) for image in store] == list(range(40))


def test_a_store_says_its_size_before_it_decodes(many, caplog, monkeypatch):
    monkeypatch.setattr("datasets.images._decode", lambda *_: pytest.fail("decoded before telling"))
    with caplog.at_level(logging.INFO, logger="datasets"), pytest.raises(pytest.fail.Exception):
        store_of(*[view.image_path for view in many])
    assert "40 images, 1 MiB decoded: in host memory" in caplog.text


def test_prefetched_images_are_decoded_once_and_others_forgotten(many, monkeypatch):
    decoded = []
    real = images._decode
    monkeypatch.setattr(images, "_decode", lambda view, background: decoded.append(view.name) or real(view, background))
    store = small_store(many, 24)
    assert store.slots == 2
    kept = len(decoded)
    order = [19, 18, 17, 16]
    for position, index in enumerate(order):
        store.prefetch(order[position:])
        assert int(store[index][0, 0, 0]) == index
        assert store.mask(index) is None
        assert len(store._ahead) <= store.slots
    assert sorted(decoded[kept:]) == ["16.png", "17.png", "18.png", "19.png"]
    store.prefetch([15, 14])
    store.prefetch([14, 13])
    assert set(store._ahead) == {14, 13}


def test_memory_never_holds_more_than_the_budget(many, monkeypatch):
    alive, most = 0, 0
    real = images._decode

    def counted(view, background):
        nonlocal alive, most
        photo = real(view, background)
        alive += 1
        most = max(most, alive)
        weakref.finalize(photo.pixels, drop)
        return photo

    def drop():
        nonlocal alive
        alive -= 1

    monkeypatch.setattr(images, "_decode", counted)
    store = small_store(many, 16)
    for index in range(60):
        store.prefetch([(index * 7 + step) % 20 for step in range(20)])
        assert int(store[index * 7 % 20][0, 0, 0]) == index * 7 % 20
    assert most <= 16


def test_a_broken_image_is_named_when_it_is_needed(many):
    many[19].image_path.write_bytes(b"nothing")
    store = small_store(many, 16)
    store.prefetch([19])
    with pytest.raises(DataError, match=r"19\.png: cannot be read"):
        store[19]


@pytest.mark.parametrize("limit", ["max\n", "4096\n"])
def test_free_memory_respects_the_container(limit, monkeypatch):
    texts = {"/proc/meminfo": "MemTotal: 99 kB\nMemAvailable:  64 kB\n", "/sys/fs/cgroup/memory.max": limit}
    monkeypatch.setattr(images.Path, "read_text", lambda self, **_: texts[str(self)])
    monkeypatch.setattr(images.Path, "is_file", lambda self: True)
    assert images.available_memory() == (65536 if limit == "max\n" else 4096)


def test_masks_come_with_their_images(tmp_path):
    path = write_image(tmp_path / "a.png", 8, 4)
    half = np.zeros((4, 8), np.uint8)
    half[:, 4:] = 1  # as some tools write them
    Image.fromarray(half).save(tmp_path / "m.png")
    for inverted in (False, True):
        view = replace(view_of(path), mask=Mask(tmp_path / "m.png", inverted))
        store = ImageStore([view, view_of(path)], background=None, device="cpu", budget_bytes=0)
        assert torch.equal(store.mask(0), torch.from_numpy(half == (0 if inverted else 1)))
        assert store.mask(1) is None and store.ignored == 0.25


HEIC = b"\0\0\0\x1cftypheic" + bytes(60)
AVIF = b"\0\0\0\x1cftypavif" + bytes(60)


@pytest.mark.parametrize(
    ("start", "remedy"),
    [
        (HEIC, r"HEIC needs pillow-heif: pip install pillow-heif"),
        (AVIF, r"AVIF needs Pillow 11\.3 or newer: pip install -U pillow"),
        (b"hello world, hello", "none of PNG, JPEG, TIFF, BMP, WEBP, GIF, AVIF, HEIC"),
    ],
)
def test_what_to_install_for_formats_that_are_not_read_here(tmp_path, monkeypatch, start, remedy):
    monkeypatch.setattr(imagefile, "formats", lambda: ("PNG", "JPEG"))
    (tmp_path / "a.heic").write_bytes(start)
    with pytest.raises(DataError, match=rf"a\.heic: cannot be read as an image \({remedy}\); replace"):
        imagefile.read_size(tmp_path / "a.heic")


@pytest.mark.parametrize(("suffix", "kind"), [(".avif", "AVIF"), (".heic", "HEIF")])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_photographs_of_newer_formats(tmp_path, suffix, kind, mode):
    if kind not in imagefile.formats():
        pytest.skip(f"{kind} is not installed")
    pixels = np.zeros((64, 96, len(mode)), np.uint8)
    pixels[:, :48], pixels[:, 48:] = (250, 30, 30, 255)[: len(mode)], (20, 60, 240, 0)[: len(mode)]
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}", kind, quality=100)
    assert imagefile.read_size(tmp_path / f"a{suffix}") == (96, 64)
    decoded = decode_image(tmp_path / f"a{suffix}")
    assert decoded.shape == pixels.shape
    np.testing.assert_allclose(decoded[:, :44].astype(int), pixels[:, :44], atol=6)
    np.testing.assert_array_equal(decoded[..., 3:], pixels[..., 3:])
