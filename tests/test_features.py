"""Which photos share a camera, which are compared, and what of an interrupted run is kept."""

import numpy as np
import pycolmap
import pytest
from PIL import Image
from test_photos import picture

from distwar_gs.capture.features import by_camera, find_features, find_matches, pairs_of, photos_with_features
from distwar_gs.capture.photos import find_photos
from distwar_gs.capture.staging import save_stage, stage
from distwar_gs.capture.work import Settings, Work


@pytest.fixture
def work(tmp_path):
    settings = Settings(str(tmp_path / "photos"), "exhaustive", "auto", 1600, 8192, 0, 4)
    (tmp_path / "photos").mkdir()
    return Work.begun(tmp_path / "out", settings, 1, lambda line: None)


def staged(work: Work, count: int | None = None) -> list:
    """The photos of a run, or the first of them, put where COLMAP reads them."""
    photos = stage(work.source, find_photos(work.source)[0][:count], work.images)
    save_stage(work.folder / "photos.json", photos, [])
    return photos


def test_pairs():
    names = [f"{index:04d}" for index in range(100)]
    assert len(list(pairs_of(names, "exhaustive"))) == 100 * 99 // 2
    near = list(pairs_of(names, "sequential"))
    assert len(near) == len(set(near)) and all(a < b for a, b in near)
    assert {int(b) - int(a) for a, b in near} == {*range(1, 11), 16, 32, 64}
    assert list(pairs_of(names[:2], "sequential")) == [("0000", "0001")]


def test_cameras_are_shared_by_folder_size_and_device(work):
    def write(name: str, size: tuple[int, int] = (80, 64), device: str = "", focal: float = 0, **options: object):
        exif = Image.Exif()
        if device:
            exif[0x0110] = device
        if focal:
            exif.get_ifd(0x8769)[0x920A] = focal
        (work.source / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", size).save(work.source / name, exif=exif, **options)

    write("a.jpg")
    write("b.png")
    write("c.jpg", size=(64, 80))
    write("d.jpg", device="Phone 3")
    write("e.avif", device="Phone 3")  # converted, with its EXIF
    write("f.webp", device="Phone 3", focal=4.2)
    write("g.jpg", device="Phone 3", focal=6.0)
    write("sub/h.jpg")
    names = {photo.staged: photo.name for photo in staged(work)}
    groups = by_camera(work, staged(work)).values()
    assert sorted([names[each] for each in group] for group in groups) == [
        ["a.jpg", "b.png"], ["c.jpg"], ["d.jpg", "e.avif"], ["f.webp"], ["g.jpg"], ["sub/h.jpg"],
    ]  # fmt: skip


@pytest.mark.parametrize(("camera", "model"), [("auto", "SIMPLE_RADIAL"), ("OPENCV", "OPENCV"), ("FOV", "FOV")])
def test_features_that_were_found_are_kept(work, camera, model):
    """A run that ends in the middle of a stage: the first photos are not looked at again."""
    work.settings = Settings(**{**vars(work.settings), "camera": camera})
    for index in range(4):
        picture(index, (320, 240)).save(work.source / f"a {index}.png")
    staged(work, 2)
    find_features(work)
    with pycolmap.Database.open(work.database) as database:
        assert photos_with_features(database) == 2
        before = database.read_descriptors(1).data.copy()
        assert len(before) > 20
        database.update_keypoints(1, np.full((len(before), 2), 7.0, np.float32))
    staged(work)
    find_features(work)
    with pycolmap.Database.open(work.database) as database:
        assert photos_with_features(database) == 4 and database.num_cameras() == 1
        assert (database.read_keypoints(1)[:, :2] == 7.0).all()
        assert [each.model_name for each in database.read_all_cameras()] == [model]


def test_photos_with_spaces_are_compared(work):
    for index in range(3):
        whole = picture(0, (400, 300))
        whole.crop((10 * index, 0, 320 + 10 * index, 240)).save(work.source / f"# a {index}.png")
    staged(work)
    find_features(work)
    find_matches(work)
    with pycolmap.Database.open(work.database) as database:
        assert database.num_matched_image_pairs() == 3
        assert len(database.read_matches(1, 2)) > 20
