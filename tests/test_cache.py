"""Folders of derived images: what a process that was killed while making one has left, links, and what a key tells."""

import os
import platform
import pwd
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scene_files import write_colmap, write_image

from datasets import DataError, cache, load_scene
from datasets.cache import FOLDER_NAME, cached_folder, leads_out


@pytest.fixture(autouse=True)
def home_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home/distwar-gs"


def test_unfinished_folders_of_processes_that_are_gone_are_removed(tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    there = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    here, number = platform.node(), int(gone.stdout)
    try:
        kept = [f".making-{there.pid}-{here}-abcdefgh", f".making-{number}-another-host-abcdefgh"]
        removed = [
            f".making-{number}-{here}-abcdefgh",
            f".making-{os.getpid()}-{here}-abcdefgh",
            f".making-{number}-another-host-old_one1",
        ]
        for name in (*kept, *removed):
            (tmp_path / FOLDER_NAME / name / "a").mkdir(parents=True)
        os.utime(tmp_path / FOLDER_NAME / removed[2], (time.time() - 90_000,) * 2)
        cached_folder(tmp_path, "images", 1, {}, lambda folder: None)
    finally:
        there.communicate()
    left = sorted(path.name for path in (tmp_path / FOLDER_NAME).iterdir() if path.name.startswith("."))
    assert left == sorted(kept)


def halved(scene, **options):
    """The views of a scene at half its size, by name."""
    return {view.name: view for view in load_scene(scene, resolution=2, test_every=0, **options).train}


def grey(view):
    """The level of a flat image."""
    return int(np.asarray(Image.open(view.image_path))[0, 0, 0])


def test_links(tmp_path):
    (tmp_path / "scene/sub").mkdir(parents=True)
    (tmp_path / "alias").symlink_to("scene")
    (tmp_path / "scene/out").symlink_to(tmp_path)
    (tmp_path / "scene/in").symlink_to("sub")
    (tmp_path / "scene/circle").symlink_to("circle")
    scene = tmp_path / "scene"
    assert [leads_out(scene, scene / name) for name in ("sub", "in", "absent")] == [False] * 3
    assert [leads_out(scene, scene / name) for name in ("out", "out/a", "circle")] == [True] * 3
    assert not leads_out(tmp_path / "alias", tmp_path / "alias/sub"), "the scene itself may be a link"


@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_a_cache_that_leads_out_of_the_scene_is_not_used(tmp_path, home_cache, target, caplog):
    scene = write_colmap(tmp_path / "scene")
    (tmp_path / "elsewhere").mkdir()
    (scene / FOLDER_NAME).symlink_to(tmp_path / target)
    views = halved(scene)
    assert [grey(view) for view in views.values()] == [0, 10, 20, 30]
    assert all(home_cache in view.image_path.parents for view in views.values())
    assert list((tmp_path / "elsewhere").iterdir()) == [] and not (tmp_path / "nowhere").exists()
    assert f"{scene / FOLDER_NAME} is a link that leads out of the scene: not followed" in caplog.text


@pytest.mark.parametrize("link", ["folder", "sub-folder", "file"])
def test_links_within_a_cache_are_not_followed(tmp_path, link):
    """A scene that was sent around could name any file as a photograph, or have it overwritten."""
    scene = write_colmap(tmp_path / "scene", names=["left/a.png", "left/b.png"])
    made = halved(scene)["left/a.png"].image_path
    secret = write_image(tmp_path / "secret/left/a.png.png", 32, 20, level=99)
    write_image(tmp_path / "secret/left/b.png.png", 32, 20, level=99)
    replaced, target = {
        "folder": (made.parents[1], tmp_path / "secret"),
        "sub-folder": (made.parent, secret.parent),
        "file": (made, secret),
    }[link]
    shutil.rmtree(replaced) if replaced.is_dir() else replaced.unlink()
    replaced.symlink_to(target)
    view = halved(scene)["left/a.png"]
    assert view.image_path == made and not replaced.is_symlink()
    assert (grey(view), int(np.asarray(Image.open(secret)).max())) == (0, 99)


def alike(folder, level):
    """Uncompressed images that differ in their pixels only, as an archive unpacks them."""
    for name in ("a.bmp", "b.bmp"):
        os.utime(write_image(folder / name, 64, 40, level=level), ns=(10**9, 10**9))


def test_folders_whose_files_look_alike_do_not_share_a_cache(tmp_path):
    scene = write_colmap(tmp_path / "scene", names=["a.bmp", "b.bmp"], images=None)
    alike(scene / "day/images", 200)
    alike(scene / "night/images", 50)
    assert grey(halved(scene, images="day/images")["a.bmp"]) == 200
    assert grey(halved(scene, images="night/images")["a.bmp"]) == 50


def test_scenes_whose_files_look_alike_do_not_share_the_users_cache(tmp_path, home_cache):
    for name, level in (("one", 200), ("other", 50)):
        scene = write_colmap(tmp_path / name, names=["a.bmp", "b.bmp"], images=None)
        alike(scene / "images", level)
        (scene / FOLDER_NAME).touch()  # cannot be written into, even by root
        assert grey(halved(scene)["b.bmp"]) == level
    assert len(list(home_cache.iterdir())) == 2


def test_an_image_folder_of_any_name(tmp_path):
    scene = write_colmap(tmp_path, images="日" * 84)
    views = halved(scene, images="日" * 84)
    assert [grey(view) for view in views.values()] == [0, 10, 20, 30]
    assert scene / FOLDER_NAME in views["a.png"].image_path.parents


@pytest.fixture
def homeless(monkeypatch):
    """Neither HOME nor an entry in the system's list of users, as in some containers."""

    def unknown(number: int) -> None:
        raise KeyError(number)

    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"XDG_CACHE_HOME": "/c", "HOME": "/d"}, "/c/distwar-gs"),
        ({"HOME": "/d"}, "/d/.cache/distwar-gs"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/distwar-gs"),
        ({}, f"/temporary/distwar-gs-{os.geteuid()}"),
    ],
)
def test_a_user_without_a_home_has_a_cache(monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: "/temporary")
    assert cache.user_cache() == Path(expected)


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize("writable", [True, False])
def test_scenes_of_a_user_without_a_home(tmp_path, monkeypatch, writable):
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    scene = write_colmap(tmp_path / "scene")
    if not writable:
        (scene / FOLDER_NAME).touch()
    view = halved(scene)["d.png"]
    assert grey(view) == 30 and (tmp_path / "temporary" in view.image_path.parents) == (not writable)
    with pytest.raises(DataError, match="~/scene: no such folder"):
        load_scene("~/scene")
    (tmp_path / "~").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~/list.txt").write_text("a.png\n")
    assert [view.name for view in load_scene(scene, test_list="~/list.txt").test] == ["a.png"]
