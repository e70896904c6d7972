"""Structure from motion on photos whose cameras are known, and what happens to interrupted runs and bad input."""

import json
import shutil
import signal
import subprocess
import sys
import time

import imageio.v2 as imageio
import numpy as np
import pycolmap
import pytest
from demo_runs import ENVIRONMENT, run_program
from PIL import Image
from scene_files import look_at, write_image
from scripts_as_modules import imported_script, script_path

from datasets import load_scene
from datasets.errors import DataError

WIDTH, HEIGHT, FOCAL = 320, 240, 300.0
COUNT = 8


@pytest.fixture(scope="module")
def sfm():
    with imported_script("photos_to_scene") as module:
        yield module


def noise(rng: np.random.Generator) -> np.ndarray:
    """A texture [512, 512, 3] in [0, 1] with detail of every size."""
    total = np.zeros((512, 512, 3))
    for cells in (8, 16, 32, 64, 128):
        octave = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(octave.resize((512, 512), Image.Resampling.BICUBIC)) / 255.0
    return np.clip((total / 5 - 0.5) * 2.2 + 0.5, 0, 1)


def photo(viewmat: np.ndarray, textures: list[np.ndarray]) -> np.ndarray:
    """The corner of a room, three planes x = 0, y = 0, z = 0 with a texture each, as uint8 [H, W, 3]."""
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5 - WIDTH / 2, np.arange(HEIGHT) + 0.5 - HEIGHT / 2)
    rays = np.stack([x / FOCAL, y / FOCAL, np.ones_like(x)], axis=-1) @ viewmat[:3, :3]
    center = -viewmat[:3, :3].T @ viewmat[:3, 3]
    depths = np.where(rays < -1e-9, -center / np.minimum(rays, -1e-9), np.inf)  # [H, W, 3]: to each plane
    plane = depths.argmin(axis=-1)
    hits = center + rays * depths.min(axis=-1)[..., None]
    pixels = np.empty((HEIGHT, WIDTH, 3))
    for axis, texture in enumerate(textures):
        u, v = (np.delete(hits, axis, axis=-1)[plane == axis] * 120).astype(int).T % 512
        pixels[plane == axis] = texture[v, u]
    return (pixels * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def centers() -> np.ndarray:
    """Where the photos are taken from, [COUNT, 3]."""
    angles = np.linspace(0.35, 1.15, COUNT)
    return np.stack([3 * np.cos(angles), 3 * np.sin(angles), 1.3 + 0.3 * np.sin(7 * angles)], axis=-1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory, centers):
    """A folder of photos, some in a sub-folder. Read only."""
    folder = tmp_path_factory.mktemp("photos")
    textures = [noise(np.random.default_rng(seed)) for seed in range(3)]
    for index, center in enumerate(centers):
        path = folder / ("more" if index > 4 else "") / f"p{index}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(photo(look_at(center, (0.3, 0.3, 0.6)), textures)).save(path, quality=97)
    return folder


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    """The scene made of them, and what the program said. Read only."""
    out = tmp_path_factory.mktemp("sfm") / "scene"
    result = run_program("scripts/photos_to_scene.py", photos, out, "--threads", 2, fresh=True)
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def test_the_cameras_are_where_the_photos_were_taken(finished, centers):
    """Up to the similarity that structure from motion leaves open: within 2 % of their spread."""
    model = pycolmap.Reconstruction(finished[0] / "sparse/0")
    names = [f"{'more/' if index > 4 else ''}p{index}.jpg" for index in range(COUNT)]
    assert sorted(image.name for image in model.images.values()) == sorted(names)
    aligned = pycolmap.align_reconstruction_to_locations(
        model, names, centers, 3, pycolmap.RANSACOptions(max_error=0.1)
    )
    model.transform(aligned)
    found = {image.name: image.projection_center() for image in model.images.values()}
    errors = np.linalg.norm(np.array([found[name] for name in names]) - centers, axis=1)
    assert errors.max() < 0.02 * np.ptp(centers, axis=0).max()


def test_the_result_is_a_scene_without_distortion(finished, photos):
    scene = load_scene(finished[0])
    assert len(scene.train) + len(scene.test) == COUNT and len(scene.points.positions) > 200
    assert "undistorted" not in scene.image_source
    assert not (finished[0] / "sfm/undistorted").exists()


def test_the_report(finished):
    out, said = finished
    report = json.loads((out / "sfm/report.json").read_text())
    assert (report["photos"], report["registered"], report["left_out"]) == (COUNT, COUNT, [])
    assert report["reprojection_error_px"] < 1.0 and report["contradicted_pairs"] == 0 < report["pairs"]
    assert list(report["seconds"]) == ["features", "matches", "cameras", "undistorted"]
    assert "Processed file" in next((out / "sfm").glob("colmap.log*")).read_text()
    assert f"{COUNT} of {COUNT} photos registered" in said and f"next: python train.py -s {out}" in said


def test_the_result_trains(finished, tmp_path):
    result = run_program("train.py", "-s", finished[0], "-m", tmp_path, "--iterations", 5, "--device", "cpu", "-r", "2")
    assert result.returncode == 0, result.stderr


def pair(sfm, matches: int, wrong: bool):
    return sfm.Pair((matches, matches + 1), matches, 0 if wrong else matches, matches if wrong else 0)


@pytest.mark.parametrize(
    ("attempts", "kept", "firsts"),
    [
        ([(8, [])], 1, [None]),  # nothing contradicts the first: no other
        ([(8, [500, 900]), (8, [])], 2, [None, (900, 901)]),
        ([(8, [500, 600]), (7, []), (8, [300])], 3, [None, (600, 601), (500, 501)]),  # all photos before no complaint
        ([(8, [500]), None], 1, [None, (500, 501)]),  # no other pair to begin with
        ([(8, [400, 500]), None, (8, [400, 600, 700])], 1, [None, (500, 501), (400, 401)]),
    ],
)
def test_a_contradicted_model_is_made_again(sfm, tmp_path, monkeypatch, attempts, kept, firsts):
    asked = []

    def mapped(work, folder, first):
        asked.append(first)
        made = attempts[len(asked) - 1]
        if made:
            (folder / "0").mkdir(parents=True)
            (folder / "0/from").write_text(str(len(asked)))
        return made and sfm._Model(folder / "0", 1, made[0], 20, [pair(sfm, count, True) for count in made[1]])

    monkeypatch.setattr(sfm, "_mapped", mapped)
    work = sfm._Work.begun(tmp_path, sfm.Settings("photos", "exhaustive", "OPENCV", 1600, 8192, 0, COUNT), 1)
    sfm._cameras(work)
    assert (work.model / "from").read_text() == str(kept) and asked == firsts
    assert work.notes == {"parts": 1, "pairs": 20, "contradicted_pairs": len(attempts[kept - 1][1])}


def test_a_given_pair_to_begin_with(sfm, finished, photos, tmp_path):
    """The second attempt, by COLMAP itself: photos 1 and 3 first, and all the others follow."""
    shutil.copytree(finished[0] / "sfm", tmp_path / "sfm")
    work = sfm._Work(tmp_path, sfm.Settings(str(photos), "exhaustive", "OPENCV", 1600, 8192, 0, COUNT), 1)
    model = sfm._mapped(work, tmp_path / "again", (1, 3))
    assert model.images == COUNT and model.pairs > COUNT and not model.wrong


# ------------------------------------------------------------------------------------------------------- interruptions


def test_a_finished_run_has_nothing_to_do(finished, photos):
    before = (finished[0] / "sparse/0/images.bin").stat().st_mtime_ns
    result = run_program("scripts/photos_to_scene.py", photos, finished[0])
    assert result.returncode == 0 and "going on after features, matches, cameras, undistorted" in result.stdout
    assert (finished[0] / "sparse/0/images.bin").stat().st_mtime_ns == before


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def interrupted(request, photos, tmp_path):
    """A run that got a signal while it looked for features, or later."""
    command = [sys.executable, script_path("photos_to_scene"), photos, tmp_path / "scene", "--threads", "1"]
    process = subprocess.Popen(
        list(map(str, command)), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    assert process.stdout.readline() == "features ...\n"
    time.sleep(0.1)
    process.send_signal(request.param)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130 and complaint.strip().endswith("error: interrupted")
    return tmp_path / "scene"


def test_an_interrupted_run_goes_on(interrupted, photos):
    done = json.loads((interrupted / "sfm/state.json").read_text())["done"]
    assert "undistorted" not in done
    result = run_program("scripts/photos_to_scene.py", photos, interrupted, "--threads", 2)
    assert result.returncode == 0, result.stderr
    assert "going on after" in result.stdout and f"{COUNT} of {COUNT} photos registered" in result.stdout


def test_features_that_were_found_are_kept(sfm, photos, tmp_path, monkeypatch):
    """A run that ends in the middle of a stage: half of the photos are not looked at again."""
    settings = sfm.Settings(str(photos), "exhaustive", "OPENCV", 1600, 8192, 0, COUNT)
    work = sfm._Work.begun(tmp_path, settings, 1)
    names = sfm._photos(photos)
    with monkeypatch.context() as patch:
        patch.setattr(sfm, "_photos", lambda folder: names[: COUNT // 2])
        sfm._features(work)
    with work.watched() as database:
        assert sfm._photos_with_features(database) == COUNT // 2
    with pycolmap.Database.open(work.database) as database:
        first = database.read_image_with_name(names[0])
        before = database.read_descriptors(first.image_id).data.copy()
        database.update_keypoints(first.image_id, np.full((len(before), 2), 7.0, np.float32))
    work.once(sfm._features)
    with pycolmap.Database.open(work.database) as database:
        assert sfm._photos_with_features(database) == COUNT
        assert (database.read_keypoints(first.image_id)[:, :2] == 7.0).all()
        assert database.num_cameras() == 2  # one for each of the two folders


@pytest.mark.parametrize(("option", "word"), [(("--max_size", 100), "max_size"), (("--camera", "PINHOLE"), "camera")])
def test_other_settings_are_refused(finished, photos, option, word):
    result = run_program("scripts/photos_to_scene.py", photos, finished[0], *option)
    assert result.returncode == 1 and f"was begun with {word}" in result.stderr and "Traceback" not in result.stderr


# --------------------------------------------------------------------------------------------------- photos and pairs


def test_pairs(sfm):
    names = [f"{index:04d}" for index in range(100)]
    assert len(list(sfm.pairs_of(names, "exhaustive"))) == 100 * 99 // 2
    near = list(sfm.pairs_of(names, "sequential"))
    assert len(near) == len(set(near)) and all(a < b for a, b in near)
    assert {int(b) - int(a) for a, b in near} == {*range(1, 11), 16, 32, 64}
    assert list(sfm.pairs_of(names[:2], "sequential")) == [("0000", "0001")]


def test_cameras_are_shared_by_size_and_device(sfm, tmp_path):
    exif = Image.Exif()
    exif[0x0110] = "Phone 3"
    for name, size in (("a", (40, 30)), ("b", (40, 30)), ("c", (30, 40)), ("d", (40, 30))):
        Image.new("RGB", size).save(tmp_path / f"{name}.jpg", **({"exif": exif} if name == "d" else {}))
    groups = sfm._by_camera(tmp_path, ["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    assert sorted(map(tuple, groups.values())) == [("a.jpg", "b.jpg"), ("c.jpg",), ("d.jpg",)]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "0 photos .* at least 3 are needed"),
        (["a.heic", "b.heic", "c.heic"], "holds .heic files, convert photos among them to JPEG"),
        (["a.jpg", "b.jpg", "c d.jpg"], "no room for a space .* rename it"),
    ],
)
def test_unusable_photos(sfm, tmp_path, files, message):
    for name in files:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=message):
        sfm._photos(tmp_path)


def test_photos_without_anything_to_see(tmp_path):
    for index in range(4):
        write_image(tmp_path / f"photos/{index}.png", 64, 48, level=60 * index)
    result = run_program("scripts/photos_to_scene.py", tmp_path / "photos", tmp_path / "out")
    assert result.returncode == 1 and "no two photos could be placed" in result.stderr
    assert "Traceback" not in result.stderr and result.stderr.count("\n") == 1


def test_a_photo_that_is_none(photos, tmp_path):
    for index in range(3):
        (tmp_path / f"{index}.jpg").write_bytes(b"no image")
    result = run_program("scripts/photos_to_scene.py", tmp_path, tmp_path / "out")
    assert result.returncode == 1 and "0.jpg: cannot be read as an image" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none", "out"), "none: no such folder or video"),
        (("photos", "photos"), "exists and was not begun by this program"),
        (("photos", "out", "--camera", "PINHOL"), "--camera PINHOL: unknown to COLMAP; use one of "),
        (("photos", "out", "--frames", "1"), "--frames at least 2"),
        (("film.txt", "out"), "neither a folder of photos nor a video"),
        (("film.mp4", "out"), "film.mp4: cannot be read as a video"),
    ],
)
def test_bad_arguments(photos, tmp_path, monkeypatch, sfm, arguments, message):
    (tmp_path / "photos").symlink_to(photos)
    (tmp_path / "film.mp4").write_bytes(b"no video")
    (tmp_path / "film.txt").write_text("no video")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sfm.signal, "signal", lambda *arguments: None)
    with pytest.raises(DataError, match=message):
        sfm.main(list(arguments))


def test_an_old_pycolmap(sfm, monkeypatch):
    monkeypatch.delattr(pycolmap, "CancellationToken")
    with pytest.raises(DataError, match="is too old for this: pip install 'pycolmap>=4.2'"):
        sfm.main(["photos", "out"])


# -------------------------------------------------------------------------------------------------------------- video


def test_the_sharpest_frame_of_each_span(sfm):
    rng = np.random.default_rng(0)
    sharp = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    frames = [sharp if index in (2, 7, 8) else np.full_like(sharp, 90) for index in range(12)]
    chosen = [index for index, _ in sfm.sharpest(iter(frames), 12, 4)]
    assert chosen == [2, 3, 7, 9]  # spans of three; the first of equals


def test_a_video_becomes_frames(sfm, photos, tmp_path):
    film = tmp_path / "film.mp4"
    with imageio.get_writer(film, fps=10, codec="libx264", quality=9, macro_block_size=1) as writer:
        for path in sorted(photos.rglob("*.jpg")):
            for _ in range(5):
                writer.append_data(imageio.imread(path))
    assert sfm._default_frames(film) == round(sfm.FRAMES_PER_SECOND * COUNT * 5 / 10)
    sfm.extract_frames(film, tmp_path / "frames", COUNT)
    frames = sorted((tmp_path / "frames").iterdir())
    assert len(frames) == COUNT and not (tmp_path / "frames.partial").exists()
    for frame, path in zip(frames, sorted(photos.rglob("*.jpg")), strict=True):
        assert np.abs(imageio.imread(frame).astype(int) - imageio.imread(path)).mean() < 12
    with pytest.raises(DataError, match="use a smaller --frames"):
        sfm.extract_frames(film, tmp_path / "frames", 999)


def test_video_without_ffmpeg(sfm, tmp_path, monkeypatch):
    (tmp_path / "film.mp4").write_bytes(b"")
    monkeypatch.setattr(sfm, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="reading videos needs ffmpeg: pip install imageio-ffmpeg"):
        sfm._opened(tmp_path / "film.mp4")


@pytest.mark.parametrize("content", ["", "[1]", '{"settings": {}, "done": []}'])
def test_a_damaged_state_is_named(sfm, tmp_path, content):
    (tmp_path / "mine/sfm").mkdir(parents=True)
    (tmp_path / "mine/sfm/state.json").write_text(content)
    with pytest.raises(DataError, match=r"mine/sfm/state\.json: is damaged; delete .*mine and begin again"):
        sfm._Work.begun(tmp_path / "mine", sfm.Settings("photos", "exhaustive", "OPENCV", 1600, 8192, 0, COUNT), 1)
