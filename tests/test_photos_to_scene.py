"""Structure from motion on photos whose cameras are known, and what happens to interrupted runs and bad input."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pycolmap
import pytest
from demo_runs import ENVIRONMENT, run_program
from PIL import Image
from scene_files import look_at, write_image
from scripts_as_modules import imported_script, script_path

from distwar_datasets import load_scene
from distwar_datasets.errors import DataError

WIDTH, HEIGHT, FOCAL = 320, 240, 300.0
COUNT = 8
STAGES = ["photos", "features", "matches", "cameras", "intrinsics", "retries", "undistorted"]


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


def off_by(scene: Path, names: list[str], centers: np.ndarray) -> float:
    """How far the cameras of a scene are from where the photos were taken, at most, in units of their spread; up to
    the similarity that structure from motion leaves open."""
    model = pycolmap.Reconstruction(scene / "sparse/0")
    assert sorted(image.name for image in model.images.values()) == sorted(names)
    aligned = pycolmap.align_reconstruction_to_locations(
        model, names, centers, 3, pycolmap.RANSACOptions(max_error=0.1)
    )
    model.transform(aligned)
    found = {image.name: image.projection_center() for image in model.images.values()}
    errors = np.linalg.norm(np.array([found[name] for name in names]) - centers, axis=1)
    return errors.max() / np.ptp(centers, axis=0).max()


def test_the_cameras_are_where_the_photos_were_taken(finished, centers):
    names = [f"{'more/' if index > 4 else ''}p{index}.jpg" for index in range(COUNT)]
    assert off_by(finished[0], names, centers) < 0.02


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
    assert list(report["seconds"]) == STAGES
    assert sorted(camera["photos"] for camera in report["cameras"]) == [3, 5]  # one for each folder
    assert all(camera["parameters"]["f"] == pytest.approx(FOCAL, rel=0.03) for camera in report["cameras"])
    assert "Processed file" in next((out / "sfm").glob("colmap.log*")).read_text()
    assert f"{COUNT} of {COUNT} photos registered" in said and f"next: python train.py -s {out}" in said


def test_the_result_trains(finished, tmp_path):
    result = run_program("train.py", "-s", finished[0], "-m", tmp_path, "--iterations", 5, "--device", "cpu", "-r", "2")
    assert result.returncode == 0, result.stderr


ODD = ["a b.jpg", "# c.jpg", "d\\e.jpg", "ü 日本.png", "f.webp", "g.avif", "h.heic", "frame.0001"]
IN_SCENE = ["a b.jpg", "# c.jpg", "d/e.jpg", "ü 日本.png", "f.jpg", "g.jpg", "h.jpg", "frame.0001.jpg"]


@pytest.fixture(scope="module")
def odd(tmp_path_factory, photos):
    """The same photos, in all formats and under odd names, among other files; and what was said. Read only."""
    pytest.importorskip("pillow_heif").register_heif_opener()
    folder = tmp_path_factory.mktemp("odd") / "my \\photos ü"
    folder.mkdir()
    kinds = {".png": "PNG", ".webp": "WEBP", ".avif": "AVIF", ".heic": "HEIF"}
    for name, source in zip(ODD, sorted(photos.rglob("*.jpg"), key=lambda path: path.name), strict=True):
        with Image.open(source) as image:
            image.save(folder / name, format=kinds.get(name[name.rfind(".") :], "JPEG"), quality=97)
    (folder / "notes to self.txt").write_text("bread")
    (folder / "broken \x1b[31m.jpg").write_bytes(b"no image")
    shutil.copy(folder / "a b.jpg", folder / "a b (1).jpg")
    Image.new("RGB", (32, 24)).save(folder / "thumb.png")
    noise = np.random.default_rng(9).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "elsewhere.jpg")
    out = folder / "the scene"
    result = run_program("scripts/photos_to_scene.py", folder, out, "--threads", 2)
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def test_photos_in_any_format_under_any_name(odd, photos, centers):
    assert off_by(odd[0], IN_SCENE, centers) < 0.02
    sources = sorted(photos.rglob("*.jpg"), key=lambda path: path.name)
    scene = load_scene(odd[0])
    views = {view.name: view for view in (*scene.train, *scene.test)}
    assert len(views) == COUNT
    for name, source in zip(IN_SCENE, sources, strict=True):
        with Image.open(odd[0] / "images" / name) as image, Image.open(source) as original:
            assert image.format == ("PNG" if name.endswith(".png") else "JPEG")
            assert abs(image.width - WIDTH) < 8 and abs(image.height - HEIGHT) < 8
            middle = (WIDTH / 2 - 60, HEIGHT / 2 - 60, WIDTH / 2 + 60, HEIGHT / 2 + 60)
            shift = (image.width - WIDTH) / 2, (image.height - HEIGHT) / 2
            moved = image.crop(tuple(np.add(middle, shift * 2)))
            difference = np.abs(np.asarray(moved).astype(int) - np.asarray(original.crop(middle))).mean()
            assert difference < 9, name


def test_every_file_that_was_left_out_is_named(odd):
    out, said = odd
    reasons = {
        "a b (1).jpg": "a duplicate of a b.jpg", "notes to self.txt": "not an image",
        r"broken \x1b[31m.jpg": "cannot be read as an image",
        "thumb.png": "too small (32x24, each side needs at least 64 pixels)",
    }  # fmt: skip
    for name, reason in reasons.items():
        assert f"left out: {name}: {reason}\n" in said
    assert "left out: elsewhere.jpg: not placed: " in said and said.count("left out:") == 5
    report = json.loads((out / "sfm/report.json").read_text())
    assert len(report["left_out"]) == 5 and "broken \x1b[31m.jpg" in report["reasons"]
    assert f"{COUNT} of {COUNT + 1} photos registered" in said


def test_a_run_with_odd_names_goes_on(odd):
    result = run_program("scripts/photos_to_scene.py", odd[0].parent, odd[0])
    assert result.returncode == 0 and f"going on after {', '.join(STAGES)}" in result.stdout
    assert result.stdout.endswith(odd[1][odd[1].index("photos registered") :])


def test_a_video(photos, centers, tmp_path):
    """Each photo for half a second; of each span its sharpest frame."""
    film = tmp_path / "my film.mp4"
    with imageio.get_writer(film, fps=10, codec="libx264", quality=9, macro_block_size=1) as writer:
        for path in sorted(photos.rglob("*.jpg"), key=lambda path: path.name):
            for _ in range(5):
                writer.append_data(imageio.imread(path))
    result = run_program("scripts/photos_to_scene.py", film, tmp_path / "scene", "--frames", COUNT, "--threads", 2)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("frames ...\n") and f"{COUNT} of {COUNT} photos registered" in result.stdout
    names = sorted(path.name for path in (tmp_path / "scene/images").iterdir())
    assert [int(name.removeprefix("frame_").removesuffix(".jpg")) // 5 for name in names] == list(range(COUNT))
    assert off_by(tmp_path / "scene", names, centers) < 0.05


# ------------------------------------------------------------------------------------------------------- interruptions


def test_a_finished_run_has_nothing_to_do(finished, photos):
    before = (finished[0] / "sparse/0/images.bin").stat().st_mtime_ns
    result = run_program("scripts/photos_to_scene.py", photos, finished[0])
    assert result.returncode == 0 and f"going on after {', '.join(STAGES)}" in result.stdout
    assert (finished[0] / "sparse/0/images.bin").stat().st_mtime_ns == before


@pytest.fixture(
    params=[
        pytest.param(signal.SIGINT, id="Ctrl-C"), pytest.param(signal.SIGTERM, id="SIGTERM", marks=pytest.mark.slow)
    ]
)  # fmt: skip
def interrupted(request, photos, tmp_path):
    """A run that got a signal while it looked for features, or later."""
    command = [sys.executable, script_path("photos_to_scene"), photos, tmp_path / "scene", "--threads", "1"]
    process = subprocess.Popen(
        list(map(str, command)), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    while process.stdout.readline() != "features ...\n":
        assert process.poll() is None
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


@pytest.mark.parametrize(("option", "word"), [(("--max_size", 100), "max_size"), (("--camera", "PINHOLE"), "camera")])
def test_other_settings_are_refused(finished, photos, option, word):
    result = run_program("scripts/photos_to_scene.py", photos, finished[0], *option)
    assert result.returncode == 1 and f"was begun with {word}" in result.stderr and "Traceback" not in result.stderr


def test_photos_without_anything_to_see(tmp_path):
    for index in range(4):
        write_image(tmp_path / f"photos/{index}.png", 96, 72, level=60 * index)
    result = run_program("scripts/photos_to_scene.py", tmp_path / "photos", tmp_path / "out")
    assert result.returncode == 1 and "no two photos could be placed" in result.stderr
    assert "Traceback" not in result.stderr and result.stderr.count("\n") == 1


def test_a_photo_that_is_none(photos, tmp_path):
    for index in range(3):
        (tmp_path / f"{index}.jpg").write_bytes(b"no image")
    result = run_program("scripts/photos_to_scene.py", tmp_path, tmp_path / "out")
    assert result.returncode == 1 and "0 usable photos, at least 3 are needed; left out: 0.jpg: cannot" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none", "out"), "none: no such folder or video"),
        (("photos", "photos"), "exists and was not begun by this program"),
        (("photos", "out", "--camera", "PINHOL"), "--camera PINHOL: unknown to COLMAP; use auto or one of "),
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
