"""Where there is a FIFO or a device instead of a file, nothing waits for it: it is refused, or left out."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from captures import Capture
from foreign_models import waves
from scene_files import write_blender, write_colmap, write_image
from sog_files import write_sog

from distwar_datasets import DataError, load_scene
from distwar_datasets.pixels.images import ImageStore
from distwar_datasets.regular import check_regular
from distwar_gs.capture.video import default_frames
from distwar_gs.checkpoints.checkpoint import CheckpointError
from distwar_gs.checkpoints.resume import find_checkpoint
from distwar_gs.config import ConfigError, load_config
from distwar_gs.formats.export import ModelFileError, load_model, save_model
from distwar_gs.gaussians.start import find_start
from distwar_gs.viewing.path_files import read_path

KINDS = {"a FIFO": os.mkfifo, "a device": lambda path: path.symlink_to("/dev/null")}


class WaitedError(BaseException):
    """What waited for a FIFO; nothing takes it for an error of the file, and refuses it."""


@pytest.fixture
def replaced():
    """Puts a FIFO or a device in the place of a file: replaced(path, kind). What waits for a FIFO fails after 10 s."""
    fifos: list[Path] = []

    def replace(path: Path, kind: str) -> Path:
        path.unlink(missing_ok=True)
        KINDS[kind](path)
        fifos.append(path)
        return path

    def wake(*_) -> None:
        for path in fifos:
            os.close(os.open(path, os.O_RDWR))  # whoever waits reads nothing, and goes on
        raise WaitedError(f"one of {fifos}")

    before = signal.signal(signal.SIGALRM, wake)
    signal.alarm(10)
    yield replace
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def colmap(folder: Path) -> None:
    write_colmap(folder)
    for name in "abcd":
        write_image(folder / f"masks/{name}.png", 64, 40)
    (folder / "test.txt").write_text("a.png\n")


def colmap_text(folder: Path) -> None:
    write_colmap(folder, text=True)


def without_points(folder: Path) -> None:
    write_colmap(folder, points=0)
    save_model(folder / "sparse/0/points3D.ply", waves(20, 0))


def nerfstudio(folder: Path) -> None:
    Capture().write_images(folder / "images")
    Capture().write_transforms(folder)
    meta = json.loads((folder / "transforms.json").read_text())
    save_model(folder / "cloud.ply", waves(20, 0))
    (folder / "transforms.json").write_text(json.dumps({**meta, "ply_file_path": "cloud.ply"}))


FILES = {
    "colmap": (colmap, [
        "images/b.png", "masks/b.png", "sparse/0/cameras.bin", "sparse/0/images.bin", "sparse/0/points3D.bin",
        "sparse/0/frames.bin", "sparse/0/rigs.bin", "test.txt",
    ]),
    "colmap_text": (colmap_text, ["sparse/0/cameras.txt", "sparse/0/images.txt", "sparse/0/points3D.txt",
                                  "sparse/0/frames.txt", "train.txt", "split.csv", "split.json"]),
    "without_points": (without_points, ["sparse/0/points3D.ply"]),
    "nerfstudio": (nerfstudio, ["transforms.json", "images/b.png", "cloud.ply", "transforms_test.json"]),
    "blender": (write_blender, ["transforms_train.json", "transforms_test.json", "train/r_1.png", "points3d.ply"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("scene", "file"), [(name, file) for name, (_, files) in FILES.items() for file in files])
def test_scenes_do_not_wait_for_what_is_no_file(tmp_path, replaced, scene, file, kind):
    FILES[scene][0](tmp_path / scene)
    replaced(tmp_path / scene / file, kind)
    try:
        views = load_scene(tmp_path / scene).train
        images = ImageStore(views, background=(0.0, 0.0, 0.0), device="cpu", budget_bytes=0)
        assert all(images[index].shape[2] == 3 and images.mask(index) is not False for index in range(len(views)))
    except DataError as error:
        assert "\n" not in str(error) and str(tmp_path / scene) in str(error)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["list.txt", "list.json", "list.csv", "list"])
def test_lists_that_are_no_files_are_refused(tmp_path, replaced, name, kind):
    colmap(tmp_path / "scene")
    with pytest.raises(DataError, match=f"{name}: no such list"):
        load_scene(tmp_path / "scene", test_list=replaced(tmp_path / name, kind))


def sog_part(folder: Path) -> Path:
    write_sog(folder / "model", waves(20, 0))
    return folder / "model/quats.webp"


READERS = {
    "model.ply": load_model, "model.splat": load_model, "model.spz": load_model, "model.sog": load_model,
    "meta.json": load_model, "start.ply": find_start, "start.sog": find_start, "config.yaml": load_config,
    "path.json": read_path, "path.npy": read_path, "path.txt": read_path, "film.mp4": default_frames,
    "step_3.pt": lambda path: find_checkpoint(path.parent, path),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", READERS)
def test_files_that_are_none_are_refused(tmp_path, replaced, name, kind):
    with pytest.raises((DataError, ModelFileError, ConfigError, CheckpointError)) as caught:
        READERS[name](replaced(tmp_path / name, kind))
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_models_that_are_no_files_are_refused(tmp_path, replaced, kind):
    replaced(sog_part(tmp_path), kind)
    with pytest.raises(ModelFileError, match=r"quats\.webp"):
        load_model(tmp_path / "model")
    save_model(tmp_path / "a.spz", waves(20, 0), origin=np.array([1e6, 0.0, 0.0]))
    replaced(tmp_path / "a.spz.origin.json", kind)
    load_model(tmp_path / "a.spz")  # as without one


def test_what_is_regular(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link", ""):
        check_regular(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        check_regular(tmp_path / "nothing")
    for kind, make in KINDS.items():
        make(tmp_path / kind)
        with pytest.raises(OSError, match=f"{kind}, not a file"):
            check_regular(tmp_path / kind)
