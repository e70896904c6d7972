"""Pictures of a trained model, from render.py and from `ModelPictures`."""

import json
import shutil
from dataclasses import replace

import imageio.v2 as imageio
import numpy as np
import pycolmap
import pytest
import torch
from demo_runs import DENSE_SCHEDULE, demo_config, run_program
from memory_pressure import RunsOutAt
from PIL import Image
from scene_files import write_colmap
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distwar_datasets import load_scene
from distwar_gs.cli import render_args
from distwar_gs.config import ConfigError
from distwar_gs.evaluation.metrics import to_8bit
from distwar_gs.formats.export import ModelFileError
from distwar_gs.system.devices import enough_memory
from distwar_gs.system.files import WriteError
from distwar_gs.training.trainer import Trainer
from distwar_gs.viewing import camera_paths
from distwar_gs.viewing.pictures import ModelPictures
from distwar_gs.viewing.shown import depth_image, depth_range, depth_sample

pytestmark = pytest.mark.usefixtures("in_process")
PICTURES = "renders/iteration_60"


@pytest.fixture(scope="module")
def rendered(demo_run, tmp_path_factory):
    """A copy of the run folder after `render.py --path ellipse --depth --train`."""
    folder = tmp_path_factory.mktemp("rendered") / "run"
    shutil.copytree(demo_run.folder, folder)
    options = ("--path", "ellipse", "--frames", 6, "--fps", 5, "--depth", "--train", "--device", "cpu")
    result = run_program("render.py", folder, *options, fresh=True)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return folder


def pictures_of(*arguments: object) -> ModelPictures:
    args = render_args([*map(str, arguments), "--device", "cpu"])
    return ModelPictures(args)


def frames_of(path) -> list[np.ndarray]:
    with imageio.get_reader(path) as reader:
        return list(iter(reader))  # list(reader) would ask for its length, which is infinite


def record(path, split: str = "test") -> dict:
    records = [record for record in json.loads(path.read_text()) if record["split"] == split]
    return records[-1]


# --------------------------------------------------------------------------------------------------- from a run folder


def assert_the_same_numbers(measured: dict, trained: dict) -> None:
    """To the last bit, and by the same protocol."""
    for key in ("step", "split", "views", "protocol", "psnr", "ssim", "lpips", "per_view"):
        assert measured[key] == trained[key], key


def test_the_numbers_are_those_of_the_training(rendered, demo_run):
    assert_the_same_numbers(record(rendered / PICTURES / "metrics.json"), record(demo_run.folder / "metrics.json"))


SETTINGS = {
    "its own frame": {},
    "the frame of the input": {"data.normalise": False},
    "antialiased": {"model.antialiased": True},
    "white background": {"data.background": "white"},
    "random background": {"data.background": "random"},
    "degree 2 of 3 active": {"model.sh_degree_interval": 7},
    "degree 0": {"model.sh_degree": 0},
    "images resized": {"data.resolution": 50},
}


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_rendering_measures_what_training_measured(demo_scene, tmp_path, changes):
    """The last step is measured, and saved; so is step 8. Step 5 is only measured, step 11 only saved."""
    events = {"train.iterations": 15, "train.test_iterations": [5, 8], "train.save_iterations": [8, 11]}
    schedule = DENSE_SCHEDULE | {"densification.start": 2, "densification.every": 4}
    run = Trainer(demo_config(demo_scene, tmp_path / "run", schedule | events | changes))
    assert run.run() == 0
    trained = json.loads((run.folder / "metrics.json").read_text())
    assert [entry["step"] for entry in trained] == [5, 8, 15]
    for entry in trained[1:]:
        pictures = pictures_of(run.folder, "--iteration", entry["step"], "--out", tmp_path)
        pictures.render_split("test")
        assert_the_same_numbers(record(tmp_path / f"iteration_{entry['step']}/metrics.json"), entry)
    with pytest.raises(ModelFileError, match="iteration 5; there are: iterations 8, 11, 15"):
        pictures_of(run.folder, "--iteration", 5)
    pictures_of(run.folder, "--iteration", 11, "--out", tmp_path).render_split("test")


@pytest.mark.parametrize(("split", "count"), [("test", 2), ("train", 14)])
def test_the_saved_pictures_are_what_was_measured(rendered, demo_run, split, count):
    folder = rendered / PICTURES / split
    names = sorted(path.name for path in (folder / "renders").iterdir())
    assert len(names) == count and names == sorted(path.name for path in (folder / "gt").iterdir())
    values = []
    for name in names:
        render, photo = (imageio.imread(folder / kind / name).astype(float) for kind in ("renders", "gt"))
        assert render.shape == (60, 80, 3)
        np.testing.assert_array_equal(photo, imageio.imread(demo_run.scene / "images" / name))
        values.append(-10 * np.log10(np.mean(((render - photo) / 255) ** 2)))
    metrics = record(rendered / PICTURES / "metrics.json", split)
    assert np.mean(values) == pytest.approx(metrics["psnr"], abs=1e-3)
    assert [view["psnr"] for view in metrics["per_view"]] == pytest.approx(values, abs=1e-3)


def test_the_video(rendered):
    for name in ("ellipse.mp4", "ellipse_depth.mp4"):
        frames = frames_of(rendered / PICTURES / name)
        assert len(frames) == 6 and all(frame.shape == (60, 80, 3) for frame in frames), name
        assert np.abs(frames[0].astype(int) - frames[3]).mean() > 5, f"{name} stands still"


def test_depths_are_in_the_units_of_the_input(rendered, demo_run):
    """Against the points of the COLMAP model, seen by the held-out cameras: most are not hidden.

    After so few steps the surfaces are fog, so the bound is wide; a scale left out would be a factor of 3.
    """
    model = pycolmap.Reconstruction(demo_run.scene / "sparse/0")
    points = np.array([point.xyz for point in model.points3D.values()])
    ratios = []
    for view in load_scene(demo_run.scene, normalise=False).test:
        depth = np.load((rendered / PICTURES / "test/depth" / view.name).with_suffix(".npy"))
        assert depth.shape == (60, 80) and depth.dtype == np.float32
        seen = points @ view.viewmat[:3, :3].T + view.viewmat[:3, 3]
        x, y = (seen @ view.K.T)[:, :2].T / seen[:, 2]
        inside = (seen[:, 2] > 0.1) & (x >= 0) & (x < 80) & (y >= 0) & (y < 60)
        ratios.append(depth[y[inside].astype(int), x[inside].astype(int)] / seen[inside, 2])
        assert imageio.imread((rendered / PICTURES / "test/depth" / view.name).with_suffix(".png")).shape == (60, 80, 3)
    assert np.median(np.concatenate(ratios)) == pytest.approx(1.0, abs=0.3)


def test_depths_do_not_depend_on_the_training_frame(rendered, demo_run, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text((demo_run.folder / "config.yaml").read_text().replace("normalise: true", "normalise: false"))
    pictures = pictures_of(demo_run.folder, "--config", config, "--depth", "--out", tmp_path)
    pictures.render_split("test")
    name = "test/depth/view_000.npy"
    expected = np.load(rendered / PICTURES / name)
    np.testing.assert_allclose(np.load(tmp_path / "iteration_60" / name), expected, rtol=1e-3)


NAMES = [
    "a.jpg", "a.png", "A.png", "frame.0001", "frame.0002", "left/a.png", "right/a.png", "é.png", "e\u0301.png",
    f"{'x' * 247}.png", f"{'x' * 246}y.png", f"{'日' * 83}.png", "\x1b[31mred\x1b[0m\n.png", " # 'b' .png", "b.npy",
    "b",
]  # fmt: skip


@pytest.fixture(scope="module")
def oddly_named(tmp_path_factory):
    """A run of one step on photographs of flat grey, each of another level; half of them held out."""
    scene = write_colmap(tmp_path_factory.mktemp("odd") / "scene", names=NAMES, images=None)
    for index, name in enumerate(NAMES):
        (scene / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 40), (15 * index,) * 3).save(scene / "images" / name, "PNG")
    arguments = (
        "--device",
        "cpu",
        "--iterations",
        1,
        "--test_every",
        2,
        "--set",
        "model.init_points=50",
        "log.images=9",
    )
    result = run_program("train.py", "-s", scene, "-m", scene.parent / "run", *arguments)
    assert result.returncode == 0, result.stderr
    return scene.parent / "run", result.stderr


@pytest.mark.parametrize("split", ["test", "train"])
def test_every_view_has_pictures_of_its_own(oddly_named, tmp_path, split):
    """The photographs that are saved beside the renders are all of the split's, each once."""
    pictures = pictures_of(oddly_named[0], "--out", tmp_path, "--depth")
    pictures.render_split(split)
    folder, views = tmp_path / "iteration_1" / split, getattr(pictures.scene, split)
    levels = [int(imageio.imread(path).max()) for path in (folder / "gt").rglob("*.png")]
    assert sorted(levels) == sorted(15 * NAMES.index(view.name) for view in views)
    for kind, suffix in (("renders", "png"), ("depth", "png"), ("depth", "npy")):
        assert len(list((folder / kind).rglob(f"*.{suffix}"))) == len(views) == 8
    assert all(path.name.isprintable() for path in folder.rglob("*"))
    per_view = record(tmp_path / "iteration_1/metrics.json", split)["per_view"]
    assert [entry["name"] for entry in per_view] == [view.name for view in views]
    assert len({entry["name"] for entry in per_view}) == 8


def test_tables_and_boards_name_every_view(oddly_named):
    run, _ = oddly_named
    cameras = json.loads((run / "cameras.json").read_text())
    assert sorted(entry["img_name"] for entry in cameras) == sorted(NAMES)
    tags = EventAccumulator(str(run / "tensorboard")).Reload().Tags()["images"]
    assert len(tags) == 8 and all(tag.isprintable() for tag in tags)


def test_no_name_steers_the_terminal_or_the_log(oddly_named):
    run, said = oddly_named
    for text in (said, (run / "train.log").read_text()):
        assert "\x1b" not in text and "cover" in text


@pytest.mark.parametrize("link", ["renders", "renders/iteration_60", "renders/iteration_60/test/renders/view_000.png"])
def test_links_that_lead_out_of_the_run_are_not_followed(demo_run, tmp_path, link):
    run = tmp_path / "run"
    shutil.copytree(demo_run.folder, run)
    target = tmp_path / "elsewhere"
    target.mkdir()
    (run / link).parent.mkdir(parents=True, exist_ok=True)
    (run / link).symlink_to(target / "precious.png" if link.endswith("png") else target)
    with pytest.raises(ConfigError, match=r"a link leads out of .*run; remove the link, or choose a folder with --out"):
        pictures_of(run).render_split("test")
    assert list(target.iterdir()) == []
    pictures_of(run, "--out", target).render_split("test")
    assert len(list((target / "iteration_60/test/renders").iterdir())) == 2


def test_a_run_folder_and_its_links_within_may_be_links(demo_run, tmp_path):
    shutil.copytree(demo_run.folder, tmp_path / "run")
    (tmp_path / "run/pictures").mkdir()
    (tmp_path / "run/renders").symlink_to("pictures")
    (tmp_path / "alias").symlink_to("run")
    pictures_of(tmp_path / "alias").render_split("test")
    assert len(list((tmp_path / "run/pictures/iteration_60/test/renders").iterdir())) == 2


def test_interpolated_path_of_odd_images(demo_run, tmp_path, monkeypatch):
    asked = []
    real = camera_paths.interpolate
    monkeypatch.setattr(camera_paths, "interpolate", lambda *args: asked.append(args) or real(*args))
    pictures = pictures_of(demo_run.folder, "--out", tmp_path, "-r", 45, "--frames", 3)
    assert pictures.scene.train[0].width == 45
    pictures.render_path("interpolate")
    frames = frames_of(tmp_path / "iteration_60/interpolate.mp4")
    assert len(frames) == 3 and frames[0].shape == (34, 44, 3)
    assert asked[0][0].shape == (14, 4, 4) and asked[0][1] == 3
    assert sorted(path.name for path in (tmp_path / "iteration_60").iterdir()) == ["interpolate.mp4"]


def test_a_split_without_views(demo_run, tmp_path, caplog):
    shutil.copytree(demo_run.folder, tmp_path / "run")
    config = tmp_path / "run/config.yaml"
    config.write_text(config.read_text().replace("eval: true", "eval: false"))
    pictures = pictures_of(tmp_path / "run")
    pictures.render_split("test")
    assert "no test views in" in caplog.text
    assert not pictures.folder.exists()


# --------------------------------------------------------------------------------------------------------- from a PLY


def test_a_ply_elsewhere_with_a_scene(demo_run, tmp_path):
    ply = tmp_path / "model.ply"
    shutil.copy(demo_run.folder / "point_cloud/iteration_60/point_cloud.ply", ply)
    pictures = pictures_of(ply, "-s", demo_run.scene)
    pictures.render_split("test")
    measured = record(tmp_path / "renders/iteration_0/metrics.json")
    assert measured["psnr"] == pytest.approx(record(demo_run.folder / "metrics.json")["psnr"], abs=2e-3)


def test_a_ply_in_its_run_folder_finds_its_scene_and_place(demo_run, tmp_path):
    shutil.copytree(demo_run.folder, tmp_path / "run")
    pictures = pictures_of(tmp_path / "run/point_cloud/iteration_60/point_cloud.ply")
    assert pictures.folder == tmp_path / "run" / PICTURES
    assert pictures.scene.source == demo_run.scene


def test_the_background_shows_where_nothing_is(demo_run, tmp_path):
    pictures = pictures_of(demo_run.folder, "--out", tmp_path, "-w")
    opacities = pictures.model.params["opacities"]
    opacities.fill_(-20.0)
    pictures.render_split("test")
    assert (imageio.imread(tmp_path / "iteration_60/test/renders/view_000.png") == 255).all()


# ------------------------------------------------------------------------------------------------ left-handed worlds


def in_transforms(scene, folder, mirror: np.ndarray):
    """The demo scene as a transforms.json whose world is mirrored."""
    shutil.copytree(scene / "images", folder / "images")
    model = pycolmap.Reconstruction(scene / "sparse/0")
    frames = []
    for image in sorted(model.images.values(), key=lambda image: image.name):
        pose = np.linalg.inv(np.vstack([image.cam_from_world().matrix(), [0, 0, 0, 1]])) @ np.diag([1, -1, -1, 1])
        frames.append({"file_path": f"images/{image.name}", "transform_matrix": (mirror @ pose).tolist()})
    camera = model.cameras[1]
    keys = dict(zip(("fl_x", "fl_y", "cx", "cy"), camera.params.tolist(), strict=True))
    meta = {**keys, "w": camera.width, "h": camera.height, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


def test_a_mirrored_world_trains_and_shows_as_the_world_itself(demo_scene, tmp_path):
    """Same photos, same cameras but for the mirror: the same quality, and videos that are not mirrored."""
    psnr, frames = {}, {}
    for name, mirror in (("plain", np.eye(4)), ("mirrored", np.diag([1.0, 1.0, -1.0, 1.0]))):
        scene, run = in_transforms(demo_scene, tmp_path / name, mirror), tmp_path / f"run_{name}"
        changes = {"train.iterations": 25, "model.init_points": 500, "model.sh_degree": 0}
        assert Trainer(demo_config(scene, run, changes)).run() == 0
        psnr[name] = record(run / "metrics.json")["psnr"]
        pictures = pictures_of(run, "--frames", 4)
        for path in ("interpolate", "ellipse"):
            pictures.render_path(path)
        frames[name] = np.stack(frames_of(run / "renders/iteration_25/interpolate.mp4")).astype(float)
    assert psnr["mirrored"] == pytest.approx(psnr["plain"], abs=0.2) and psnr["plain"] > 13.0
    difference, turned = (
        np.abs(frames["mirrored"] - other).mean() for other in (frames["plain"], frames["plain"][:, :, ::-1])
    )
    assert difference < 0.3 * turned


# ----------------------------------------------------------------------------------- what is shown, and how large


KINDS = {"renders", "gt", "depth", "normals", "alpha"}


def test_every_kind_of_picture(demo_run, tmp_path):
    pictures = pictures_of(demo_run.folder, "--out", tmp_path, "--frames", 2, "--show", "alpha,normals,depth,color")
    pictures.render_split("test")
    pictures.render_path("ellipse")
    folder = tmp_path / "iteration_60"
    names = {path.name for path in (folder / "test").iterdir()}
    assert names == KINDS and all(len(list((folder / "test" / name).glob("*.png"))) == 2 for name in names)
    films = {"ellipse.mp4", "ellipse_depth.mp4", "ellipse_normals.mp4", "ellipse_alpha.mp4"}
    assert {path.name for path in folder.glob("*.mp4")} == films
    assert all(len(frames_of(folder / film)) == 2 for film in films)
    assert_the_same_numbers(record(folder / "metrics.json"), record(demo_run.folder / "metrics.json"))
    first = {name: imageio.imread(folder / "test" / name / "view_000.png").astype(int) for name in sorted(names)}
    assert (first["alpha"][..., 0] == first["alpha"][..., 2]).all() and first["alpha"].std() > 1
    assert np.abs(first["depth"][..., 0] - first["depth"][..., 2]).max() > 50  # not grey
    seen = first["alpha"][..., 0] > 250
    lengths = np.linalg.norm(first["normals"] / 127.5 - 1.0, axis=-1)[seen]
    assert np.median(lengths) == pytest.approx(1.0, abs=0.05)


def test_kinds_that_are_not_asked_for_are_not_made(demo_run, tmp_path):
    pictures = pictures_of(demo_run.folder, "--out", tmp_path, "--frames", 2, "--show", "normals")
    pictures.render_split("test")
    pictures.render_path("ellipse")
    folder = tmp_path / "iteration_60"
    assert sorted(path.name for path in folder.iterdir()) == ["ellipse_normals.mp4", "metrics.json", "test"]
    assert [path.name for path in (folder / "test").iterdir()] == ["normals"]


def test_the_colors_of_depths_are_the_same_all_through_a_film(demo_run, tmp_path):
    """Each frame as one range for the whole film has it, which is not that of its first frame."""
    pictures = pictures_of(demo_run.folder, "--out", tmp_path, "--frames", 5, "--show", "depth")
    views = pictures._own_path("interpolate")
    within = pictures._depth_range(views)
    alone = [depth_range([depth_sample(pictures.model.render(view, with_depth=True))]) for view in views]
    assert min(far for far, _ in alone) < within.far and max(near for _, near in alone) > within.near
    pictures.render_path("interpolate")
    frames = frames_of(tmp_path / "iteration_60/interpolate_depth.mp4")
    for view, frame in zip(views, frames, strict=True):
        expected = to_8bit(depth_image(pictures.model.render(view, with_depth=True), within)).numpy()
        assert np.abs(frame.astype(int) - expected).mean() < 6


@pytest.mark.parametrize(
    ("asked", "shape"),
    [
        (("--width", 160), (120, 160)), (("--height", 30), (30, 40)), (("--width", 160, "--height", 90), (90, 160)),
    ],
)  # fmt: skip
def test_the_size_of_a_video(demo_run, tmp_path, asked, shape):
    for name, arguments in (("plain", ()), ("asked", ("--path", "ellipse", *asked))):
        pictures_of(demo_run.folder, "--out", tmp_path / name, "--frames", 2, *arguments).render_path("ellipse")
    plain, sized = (frames_of(tmp_path / name / "iteration_60/ellipse.mp4")[0] for name in ("plain", "asked"))
    assert sized.shape == (*shape, 3)
    scale = min(shape[0] / 60, shape[1] / 80)
    middle = Image.fromarray(plain).resize((round(80 * scale), round(60 * scale)), Image.Resampling.BILINEAR)
    margin = (shape[1] - middle.width) // 2
    inner = sized[:, margin : margin + middle.width].astype(int)
    assert np.abs(inner - np.asarray(middle)).mean() < 8  # all of the smaller picture, in the middle


def test_the_size_of_a_video_along_a_file(demo_run, tmp_path):
    arguments = ("--path", demo_run.folder / "cameras.json", "--frames", 2, "--width", 120, "--height", 90)
    pictures_of(demo_run.folder, "--out", tmp_path, *arguments).render_path(str(demo_run.folder / "cameras.json"))
    assert frames_of(tmp_path / "iteration_60/cameras.mp4")[0].shape == (90, 120, 3)


def test_a_frame_of_4k(demo_run, tmp_path):
    options = ("--path", "ellipse", "--frames", 1, "--width", 3840, "--height", 2160)
    pictures_of(demo_run.folder, "--out", tmp_path, *options).render_path("ellipse")
    large = frames_of(tmp_path / "iteration_60/ellipse.mp4")
    assert len(large) == 1 and large[0].shape == (2160, 3840, 3)
    pictures_of(
        demo_run.folder, "--out", tmp_path / "small", "--path", "ellipse", "--frames", 1, "--height", 54
    ).render_path("ellipse")
    small = Image.fromarray(frames_of(tmp_path / "small/iteration_60/ellipse.mp4")[0])
    inner = Image.fromarray(large[0][:, 480:-480]).resize(small.size, Image.Resampling.BOX)
    assert np.abs(np.asarray(inner).astype(int) - np.asarray(small)).mean() < 5


def test_memory_that_is_used_up_is_one_message(demo_run, tmp_path):
    pictures = pictures_of(demo_run.folder, "--out", tmp_path, "--path", "ellipse", "--frames", 2, "--width", 3840)
    with (
        RunsOutAt(3),
        pytest.raises(ConfigError, match=r"a picture of 3840 x 2880 pixels of [\d,]+ Gaussians does not"),
    ):
        pictures.render_path("ellipse")
    assert list((tmp_path / "iteration_60").iterdir()) == []


def test_the_hosts_memory_that_is_used_up_is_one_message():
    with (
        pytest.raises(ConfigError, match="out of memory: this does not fit; make a video smaller"),
        enough_memory("this"),
    ):
        torch.empty(2**50, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="size"), enough_memory("this"):
        torch.ones(2) + torch.ones(3)  # another mistake


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--width", "100"), "--width and --height are the size of a video: give --path"),
        (("--path", "ellipse", "--height", "0"), "--height is 0: it must be between 1 and 16384"),
        (("--path", "ellipse", "--width", "20000"), "--width is 20000: it must be between 1 and 16384"),
        (("--show", "color,depths"), "argument --show: invalid choice: 'depths' (choose from color, depth, "),
    ],
)  # fmt: skip
def test_mistakes_in_what_is_shown(capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        render_args(["run", *arguments])
    assert caught.value.code == 2 and message in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------- disks that fill


def pictures_without_room(run, folder, file_limit, *arguments: object) -> str:
    """What is said where no file can have more than 1,000 bytes."""
    pictures = pictures_of(run, "--out", folder, *arguments)
    file_limit(1000)
    with pytest.raises(WriteError) as caught:
        pictures.render_split("test")
    file_limit(None)
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    return str(caught.value)


@pytest.mark.parametrize("arguments", [(), ("--depth",)], ids=["pictures", "depths"])
def test_a_full_disk_names_the_picture_and_leaves_none_that_is_half(demo_run, tmp_path, file_limit, arguments):
    message = pictures_without_room(demo_run.folder, tmp_path, file_limit, *arguments)
    name = "depth/view_000.npy" if arguments else "renders/view_000.png"
    assert message.startswith(f"{tmp_path}/iteration_60/test/{name}: could not be written (File too large)")


def test_a_full_disk_and_a_video(demo_run, tmp_path, file_limit):
    pictures = pictures_of(demo_run.folder, "--out", tmp_path, "--frames", 30, "--depth")
    file_limit(5000)
    with pytest.raises(WriteError, match=r"iteration_60/ellipse(_depth)?\.mp4: could not be written .ffmpeg: "):
        pictures.render_path("ellipse")
    file_limit(None)
    assert list((tmp_path / "iteration_60").iterdir()) == []


def test_what_a_killed_process_left_is_removed(demo_run, tmp_path):
    folder = tmp_path / "iteration_60"
    for place, name in (("", "ellipse.mp4"), ("test/renders", "view_000.png"), ("test/gt", "view_000.png")):
        (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / place / f".{name}.{10**30}.tmp").write_text("half")
    pictures = pictures_of(demo_run.folder, "--out", tmp_path, "--frames", 2)
    pictures.render_path("ellipse")
    pictures.render_split("test")
    assert not list(tmp_path.rglob("*.tmp")) and (folder / "ellipse.mp4").stat().st_size > 500


def test_what_a_killed_process_left_beside_pictures_in_folders_is_removed(demo_run, tmp_path):
    pictures = pictures_of(demo_run.folder, "--out", tmp_path)
    views = [replace(view, name=f"left.zip/{view.name}") for view in pictures.scene.test]
    pictures.scene = replace(pictures.scene, test=tuple(views))
    left = tmp_path / f"iteration_60/test/renders/left.zip/.view_000.png.{10**30}.tmp"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    pictures.render_split("test")
    assert not left.exists() and imageio.imread(left.parent / "view_000.png").shape == (60, 80, 3)


def test_images_a_pixel_wide(demo_run, tmp_path):
    pictures = pictures_of(demo_run.folder, "--out", tmp_path, "--frames", 3)
    narrow = replace(pictures.scene.train[7], width=1)
    pictures.scene = replace(pictures.scene, train=(narrow,) * 3)
    pictures.render_path("interpolate")
    assert [frame.shape for frame in frames_of(tmp_path / "iteration_60/interpolate.mp4")] == [(60, 2, 3)] * 3
