"""The library's face: settings, and a scene made of undistorted photos."""

import shutil

import numpy as np
import pycolmap
import pytest
from known_lenses import capture, lens
from PIL import Image
from test_photos import picture

from datasets.errors import DataError
from distwar_gs.capture.staging import save_stage, stage
from distwar_gs.capture.structure_from_motion import STAGES, settings_for
from distwar_gs.capture.work import Settings, Work


@pytest.fixture
def folder(tmp_path):
    """Four photos in a sub-folder of the working folder."""
    for index in range(4):
        (tmp_path / "my/photos").mkdir(parents=True, exist_ok=True)
        picture(index).save(tmp_path / f"my/photos/{index}.png")
    return tmp_path / "my/photos"


def test_what_is_left_open_is_resolved(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("distwar_gs.capture.structure_from_motion.EXHAUSTIVE_UP_TO", 4)
    expected = Settings(str(folder.resolve()), "exhaustive", "auto", 1600, 8192, 0, 4)
    assert settings_for(folder, tmp_path / "out") == expected
    picture(9).save(folder / "more.png")
    assert settings_for(folder, tmp_path / "out").matching == "sequential"
    assert settings_for(folder, tmp_path / "out", matching="exhaustive", camera="FOV").camera == "FOV"


@pytest.mark.parametrize("written", ["my\\photos", "my/photos", ".\\my\\photos\\", "my\\..\\my/photos"])
def test_backslashes_in_the_folders_path(folder, tmp_path, monkeypatch, written):
    monkeypatch.chdir(tmp_path)
    assert settings_for(type(folder)(written), tmp_path / "out").photos == str(folder.resolve())


def test_a_folder_whose_name_has_a_backslash(folder, tmp_path):
    folder.rename(tmp_path / "my\\photos")
    assert settings_for(tmp_path / "my\\photos", tmp_path / "out").photos == str(tmp_path / "my\\photos")


@pytest.fixture
def work(folder, tmp_path):
    """A run whose model has been made: photos of a lens with distortion, under odd names."""
    shutil.rmtree(folder)
    folder.mkdir()
    made = capture(lens("SIMPLE_RADIAL", 1300, 800, 600, -0.1), photos=3)
    made.cameras[1].rescale(400, 300)
    names = ["a b.jpg", "ü\\c.png", "d.webp"]
    for index, name in enumerate(names):
        picture(index, (400, 300)).save(folder / name, quality=95)
    work = Work.begun(
        tmp_path / "out", Settings(str(folder), "exhaustive", "auto", 1600, 8192, 0, 3), 1, lambda line: None
    )
    photos = stage(folder, names, work.images)
    save_stage(work.folder / "photos.json", photos, [])
    for image, photo in zip((made.images[number] for number in (1, 2, 3)), photos, strict=True):
        image.name = photo.staged
    work.model.mkdir()
    made.write(work.model)
    return work


def test_the_scene_has_the_users_names(work):
    work.once("undistorted", STAGES["undistorted"])
    model = pycolmap.Reconstruction(work.out / "sparse/0")
    names = ["a b.jpg", "ü/c.png", "d.jpg"]
    assert [model.images[number].name for number in (1, 2, 3)] == names
    assert all(camera.model_name == "PINHOLE" for camera in model.cameras.values())
    formats = []
    for index, name in enumerate(names):
        with Image.open(work.out / "images" / name) as image:
            formats.append(image.format)
            camera = model.cameras[model.images[index + 1].camera_id]
            assert image.size == (camera.width, camera.height)
            middle = np.asarray(image.convert("RGB"))[camera.height // 2, camera.width // 2].astype(int)
        expected = np.asarray(picture(index, (400, 300)))[150, 200]
        assert np.abs(middle - expected).max() < 12
    assert formats == ["JPEG", "PNG", "JPEG"]
    assert sorted(path.name for path in work.out.iterdir()) == ["images", "sfm", "sparse"]
    assert not (work.folder / "undistorted").exists()


def test_a_photo_that_is_gone_is_named(work, folder):
    (folder / "a b.jpg").unlink()
    with pytest.raises(DataError, match="a b.jpg: is no longer where it was; put it there and repeat the command"):
        work.once("undistorted", STAGES["undistorted"])
    picture(0, (400, 300)).save(folder / "a b.jpg", quality=95)
    work.once("undistorted", STAGES["undistorted"])
    assert len(list((work.out / "images").rglob("*.*"))) == 3
