"""Camera paths of other programs: whichever file they are in, the cameras are the same; and what is none is told."""

import json
import math
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from demo_runs import demo_config, one_thread
from moved_scenes import write_moved
from scene_files import write_colmap

from distwar_datasets import DataError, View, load_scene
from distwar_gs.cli import render_args
from distwar_gs.evaluation.metrics import psnr
from distwar_gs.training.trainer import Trainer
from distwar_gs.viewing.path_files import read_path
from distwar_gs.viewing.path_views import path_views
from distwar_gs.viewing.pictures import ModelPictures

pytestmark = pytest.mark.usefixtures("in_process")

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


def poses_of(views, frame) -> np.ndarray:
    """Camera-to-world [V, 4, 4], OpenCV axes, in the frame of the input."""
    return np.stack([np.linalg.inv(frame.undo_viewmat(view.viewmat)) for view in views])


def centered(view: View) -> dict:
    """A lens about the middle of the picture, as those formats have that know no other."""
    return {"width": view.width, "height": view.height, "f": 1.3 * view.width}


# ---------------------------------------------------------------------------------- the kinds: what each writes


def cameras_json(file, poses, view):
    K, entries = view.K, []
    for number, pose in enumerate(poses):
        entries.append({
            "id": number, "img_name": f"{number:05d}", "width": view.width, "height": view.height,
            "position": pose[:3, 3].tolist(), "rotation": pose[:3, :3].tolist(), "fy": K[1, 1], "fx": K[0, 0],
            "cx": K[0, 2], "cy": K[1, 2],
        })  # fmt: skip
    file.write_text(json.dumps(entries))


def cameras_json_of_3dgs(file, poses, view):
    """Without a principal point: the middle."""
    cameras_json(file, poses, view)
    entries = json.loads(file.read_text())
    lens = centered(view)
    for entry in entries:
        del entry["cx"], entry["cy"]
        entry |= {"fx": lens["f"], "fy": lens["f"]}
    file.write_text(json.dumps(entries))


def nerfstudio(file, poses, view, **more):
    fov = math.degrees(2 * math.atan(0.5 * view.height / centered(view)["f"]))
    path = [
        {"camera_to_world": (pose @ FLIP).flatten().tolist(), "fov": fov, "aspect": view.width / view.height}
        for pose in poses
    ]
    content = {
        "keyframes": [], "camera_type": "perspective", "render_height": view.height, "render_width": view.width,
        "fps": 24, "seconds": len(poses) / 12, "smoothness_value": 0.5, "is_cycle": False, "crop": None,
        "camera_path": path,
    }  # fmt: skip
    file.write_text(json.dumps(content | more))


def nerfstudio_without_a_size(file, poses, view):
    nerfstudio(file, poses, view)
    content = json.loads(file.read_text())
    del content["render_height"], content["render_width"], content["seconds"], content["fps"]
    file.write_text(json.dumps(content))


def transforms(file, poses, view, encoding="utf-8", **lens):
    lens = lens or {"fl_x": view.K[0, 0], "fl_y": view.K[1, 1], "cx": view.K[0, 2], "cy": view.K[1, 2],
                    "w": view.width, "h": view.height, "camera_model": "OPENCV", "k1": 0.0}  # fmt: skip
    frames = [{"file_path": f"{n}.png", "transform_matrix": (pose @ FLIP).tolist()} for n, pose in enumerate(poses)]
    file.write_bytes(json.dumps({**lens, "frames": frames}).encode(encoding))


def blender(file, poses, view):
    transforms(file, poses, view, camera_angle_x=2 * math.atan(0.5 * view.width / centered(view)["f"]))


def frames_with_a_lens_each(file, poses, view):
    transforms(file, poses, view, fl_x=1.0)
    content = json.loads(file.read_text())
    for frame in content["frames"]:
        frame |= {"fl_x": view.K[0, 0], "fl_y": view.K[1, 1], "cx": view.K[0, 2], "cy": view.K[1, 2]}
        frame |= {"w": view.width, "h": view.height}
    file.write_text(json.dumps(content))


def listed(change):
    """JSON of a list of `change`d poses."""

    def write(file, poses, view):
        file.write_text(json.dumps([change(pose).tolist() for pose in poses]))

    return write


def saved(change, dtype=np.float64):
    def write(file, poses, view):
        np.save(file, np.stack([change(pose) for pose in poses]).astype(dtype))

    return write


def rows(change, per_line: int, separator: str = " "):
    def write(file, poses, view):
        numbers = np.stack([change(pose) for pose in poses]).reshape(-1, per_line)
        lines = [separator.join(f"{value:.17g}" for value in line) for line in numbers]
        file.write_text("# poses\n" + "\n".join(lines) + "\n")

    return write


def scaled(pose):
    """With axes of another length, as Blender's objects may have."""
    return pose @ np.diag([2.5, 2.5, 2.5, 1.0])


OWN, MIDDLE = "the lens of the test views", "a lens about the middle"
KINDS = {
    "cameras.json": ("cameras.json", cameras_json, OWN),
    "cameras.json of 3DGS": ("cameras.json", cameras_json_of_3dgs, MIDDLE),
    "nerfstudio": ("camera_path.json", nerfstudio, MIDDLE),
    "nerfstudio without a size": ("camera_path.json", nerfstudio_without_a_size, MIDDLE),
    "transforms.json": ("transforms.json", transforms, OWN),
    "transforms.json in UTF-16": ("transforms.json", lambda *a: transforms(*a, encoding="utf-16"), OWN),
    "transforms.json with a byte order mark": ("transforms.json", lambda *a: transforms(*a, encoding="utf-8-sig"), OWN),
    "a lens for each frame": ("transforms.json", frames_with_a_lens_each, OWN),
    "Blender": ("transforms_train.json", blender, MIDDLE),
    "JSON, OpenCV axes": ("poses.json", listed(lambda pose: pose), OWN),
    "JSON, OpenGL axes": ("poses.json", listed(lambda pose: pose @ FLIP), OWN),
    "JSON of 3x4": ("poses.json", listed(lambda pose: pose[:3]), OWN),
    "JSON, flat": ("poses.json", listed(lambda pose: pose.flatten()), OWN),
    "JSON, flat 3x4": ("poses.json", listed(lambda pose: pose[:3].flatten()), OWN),
    "JSON, by columns": ("poses.json", listed(lambda pose: (pose @ FLIP).T.flatten()), OWN),
    "JSON, scaled axes": ("poses.json", listed(scaled), OWN),
    "npy": ("poses.npy", saved(lambda pose: pose), OWN),
    "npy, OpenGL axes": ("poses.npy", saved(lambda pose: pose @ FLIP), OWN),
    "npy of float32 3x4": ("poses.npy", saved(lambda pose: pose[:3], np.float32), OWN),
    "npy, flat and big-endian": ("poses.npy", saved(lambda pose: pose.flatten(), ">f8"), OWN),
    "text of KITTI": ("poses.txt", rows(lambda pose: pose[:3], 12), OWN),
    "text of 16": ("poses.txt", rows(lambda pose: pose, 16, ", "), OWN),
    "text, four lines a pose": ("poses.txt", rows(lambda pose: pose, 4), OWN),
    "text, three lines a pose": ("poses.txt", rows(lambda pose: pose[:3], 4, "\t"), OWN),
}


@pytest.fixture(scope="module")
def run(demo_scene, tmp_path_factory):
    """A short run, as pictures of it: (scene folder, run folder)."""
    folder = tmp_path_factory.mktemp("run")
    with one_thread():
        Trainer(demo_config(demo_scene, folder / "run", {"model.sh_degree": 1})).run()
    return demo_scene, folder / "run"


def pictures_of(*arguments: object) -> ModelPictures:
    return ModelPictures(render_args([*map(str, arguments), "--device", "cpu"]))


def lens_of(kind: str, view: View) -> np.ndarray:
    if KINDS[kind][2] == OWN:
        return view.K
    f = centered(view)["f"]
    return np.array([[f, 0, 0.5 * view.width], [0, f, 0.5 * view.height], [0, 0, 1]])


@pytest.mark.parametrize("kind", KINDS)
def test_the_cameras_are_those_that_were_written(demo_scene, tmp_path, kind):
    name, write, _ = KINDS[kind]
    scene = load_scene(demo_scene)
    wanted = [*scene.train[3:9], scene.test[0]]
    write(tmp_path / name, poses_of(wanted, scene.normalisation), scene.test[0])
    found = path_views(read_path(tmp_path / name), scene, np.zeros(3))
    assert len(found) == len(wanted)
    for view, expected in zip(found, wanted, strict=True):
        np.testing.assert_allclose(view.viewmat, expected.viewmat, rtol=0, atol=1e-6)
        np.testing.assert_allclose(view.K, lens_of(kind, scene.test[0]), rtol=1e-6)
        assert (view.width, view.height, view.mask) == (80, 60, None)


@pytest.mark.parametrize("kind", ["cameras.json", "transforms.json", "JSON, OpenGL axes", "npy"])
def test_the_video_shows_what_the_test_views_show(run, tmp_path, kind):
    name, write, _ = KINDS[kind]
    scene = load_scene(run[0])
    views = [*scene.test, *scene.train[:3]]
    write(tmp_path / name, poses_of(views, scene.normalisation), scene.test[0])
    pictures = pictures_of(run[1], "--path", tmp_path / name, "--out", tmp_path)
    pictures.render_path(str(tmp_path / name))
    video = tmp_path / f"iteration_10/{Path(name).stem}.mp4"
    with imageio.get_reader(video) as reader:
        frames = [torch.from_numpy(np.asarray(frame)).float() / 255 for frame in reader]
        assert reader.get_meta_data()["fps"] == 30.0
    assert len(frames) == len(views)
    for frame, view in zip(frames, views, strict=True):
        assert psnr(frame, pictures.model.render(view).colors[0].clamp(0, 1)) > 38.0  # but for the codec, the same
    assert os.listdir(tmp_path / "iteration_10") == [video.name]


def test_our_own_cameras_json(run, tmp_path):
    pictures = pictures_of(run[1], "--path", run[1] / "cameras.json", "--out", tmp_path)
    views = path_views(pictures.path, pictures.scene, pictures.model.origin)
    for view, expected in zip(views, (*pictures.scene.train, *pictures.scene.test), strict=True):
        image, original = (pictures.model.render(seen).colors[0] for seen in (view, expected))
        assert psnr(image, original) > 80.0


# ------------------------------------------------------------------------------------------ size, lens, speed, length


def test_size_fov_and_speed_of_a_nerfstudio_path(run, tmp_path):
    scene = load_scene(run[0])
    poses = poses_of(scene.train[:6], scene.normalisation)
    more = {"render_width": 64, "render_height": 36, "seconds": 2.0, "fps": 30}
    nerfstudio(tmp_path / "camera_path.json", poses, scene.test[0], **more)
    content = json.loads((tmp_path / "camera_path.json").read_text())
    for index, camera in enumerate(content["camera_path"]):
        camera["fov"] = 40.0 + 10.0 * index  # zooms
    (tmp_path / "camera_path.json").write_text(json.dumps(content))
    pictures = pictures_of(run[1], "--path", tmp_path / "camera_path.json", "--out", tmp_path, "--depth")
    for index, view in enumerate(path_views(pictures.path, scene, np.zeros(3))):
        f = 18 / math.tan(math.radians(20.0 + 5.0 * index))
        np.testing.assert_allclose(view.K, [[f, 0, 32], [0, f, 18], [0, 0, 1]], rtol=1e-12)
    pictures.render_path("camera_path.json")
    for name in ("camera_path.mp4", "camera_path_depth.mp4"):
        with imageio.get_reader(tmp_path / "iteration_10" / name) as reader:
            meta = reader.get_meta_data()
            assert meta["fps"] == 3.0 and meta["size"] == (64, 36)
            assert sum(1 for _ in reader) == 6


def test_fps_and_frames_of_the_command_line_win(run, tmp_path):
    scene = load_scene(run[0])
    nerfstudio(tmp_path / "p.json", poses_of(scene.train[:3], scene.normalisation), scene.test[0])
    pictures = pictures_of(run[1], "--path", tmp_path / "p.json", "--out", tmp_path, "--frames", 7, "--fps", 5)
    pictures.render_path("p.json")
    with imageio.get_reader(tmp_path / "iteration_10/p.mp4") as reader:
        assert reader.get_meta_data()["fps"] == 5.0 and sum(1 for _ in reader) == 7
    smooth = path_views(pictures.path, scene, np.zeros(3), 7)
    for found, key in zip((smooth[0], smooth[-1]), (scene.train[0], scene.train[2]), strict=True):
        np.testing.assert_allclose(found.viewmat, key.viewmat, atol=1e-9)


def test_lenses_between_two_poses_are_between_theirs(demo_scene, tmp_path):
    scene = load_scene(demo_scene)
    nerfstudio(tmp_path / "p.json", poses_of(scene.train[:2], scene.normalisation), scene.test[0])
    content = json.loads((tmp_path / "p.json").read_text())
    content["camera_path"][1]["fov"] = 2 * content["camera_path"][0]["fov"]
    (tmp_path / "p.json").write_text(json.dumps(content))
    focals = [view.K[1, 1] for view in path_views(read_path(tmp_path / "p.json"), scene, np.zeros(3), 5)]
    np.testing.assert_allclose(np.diff(focals), (focals[-1] - focals[0]) / 4, rtol=1e-9)


def test_cameras_of_several_sizes_make_one_video(demo_scene, tmp_path):
    """Of the commonest size; larger pictures are scaled, upright ones shown whole."""
    scene = load_scene(demo_scene)
    cameras_json(tmp_path / "cameras.json", poses_of(scene.train[:4], scene.normalisation), scene.test[0])
    entries = json.loads((tmp_path / "cameras.json").read_text())
    for key in ("width", "height", "fx", "fy", "cx", "cy"):
        entries[1][key] *= 3
    entries[2] |= {"width": 60, "height": 80, "cx": 30.0, "cy": 40.0}
    (tmp_path / "cameras.json").write_text(json.dumps(entries))
    plain, larger, upright, _ = path_views(read_path(tmp_path / "cameras.json"), scene, np.zeros(3))
    np.testing.assert_allclose(larger.K, plain.K)
    assert {(view.width, view.height) for view in (plain, larger, upright)} == {(80, 60)}
    scale = 60 / 80
    np.testing.assert_allclose(upright.K[[0, 1], [0, 1]], scale * scene.test[0].K[[0, 1], [0, 1]])
    np.testing.assert_allclose(upright.K[:2, 2], [40, 30])


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 40), (3, 1), (2, 2)])
def test_videos_of_a_pixel_or_two(run, tmp_path, width, height):
    scene = load_scene(run[0])
    more = {"render_width": width, "render_height": height}
    nerfstudio(tmp_path / "p.json", poses_of(scene.train[:3], scene.normalisation), scene.test[0], **more)
    pictures_of(run[1], "--path", tmp_path / "p.json", "--out", tmp_path, "--depth").render_path("p.json")
    for name in ("p.mp4", "p_depth.mp4"):
        with imageio.get_reader(tmp_path / "iteration_10" / name) as reader:
            assert sum(1 for _ in reader) == 3
            assert reader.get_meta_data()["size"] == (max(width // 2 * 2, 2), max(height // 2 * 2, 2))


# --------------------------------------------------------------------------------------------------------- the frame


@pytest.mark.parametrize("kind", ["cameras.json", "nerfstudio", "transforms.json", "JSON, OpenGL axes", "npy"])
@pytest.mark.parametrize("frame", ["input", "file"])
def test_far_paths_may_be_in_either_frame(utm, tmp_path, kind, frame):
    """Those of the survey, or those someone took from a viewer that showed the PLY."""
    name, write, _ = KINDS[kind]
    pictures = pictures_of(utm[1], "--out", tmp_path)
    scene, origin = pictures.scene, pictures.model.origin
    poses = poses_of(scene.train, scene.normalisation)
    poses[:, :3, 3] -= origin if frame == "file" else 0.0
    write(tmp_path / name, poses, scene.test[0])
    views = path_views(read_path(tmp_path / name), scene, origin)
    for view, expected in zip(views, scene.train, strict=True):
        np.testing.assert_allclose(view.viewmat, expected.viewmat, rtol=0, atol=1e-6)
    if KINDS[kind][2] == OWN:
        images = [pictures.model.render(view).colors[0] for view in (views[5], scene.train[5])]
        assert psnr(*images) > 60.0


def test_cameras_json_of_a_far_run(utm, tmp_path):
    pictures = pictures_of(utm[1], "--path", utm[1] / "cameras.json", "--out", tmp_path)
    views = path_views(pictures.path, pictures.scene, pictures.model.origin)
    for view, expected in zip(views, (*pictures.scene.train, *pictures.scene.test), strict=True):
        np.testing.assert_allclose(view.viewmat, expected.viewmat, rtol=0, atol=1e-7)
    # Of a model in the frame of the input, too: cameras.json says itself what it is relative to.
    elsewhere = path_views(pictures.path, pictures.scene, np.zeros(3))
    np.testing.assert_array_equal([view.viewmat for view in elsewhere], [view.viewmat for view in views])


def test_cameras_json_of_a_run_with_a_small_origin(demo_scene, tmp_path):
    """One that no distance could tell from none."""
    scene = write_moved(demo_scene, tmp_path / "scene", (5.0, -3.0, 2.0))
    Trainer(demo_config(scene, tmp_path / "run", {"train.export_origin": "local", "model.sh_degree": 0})).run()
    pictures = pictures_of(tmp_path / "run", "--path", tmp_path / "run/cameras.json", "--out", tmp_path)
    assert pictures.model.origin.any()
    views = path_views(pictures.path, pictures.scene, pictures.model.origin)
    np.testing.assert_allclose(views[0].viewmat, pictures.scene.train[0].viewmat, rtol=0, atol=1e-9)


def test_a_path_of_another_place_is_said(run, tmp_path, caplog):
    scene = load_scene(run[0])
    poses = poses_of(scene.train, scene.normalisation)
    poses[:, :3, 3] = 5000.0 * poses[:, :3, 2]  # far ahead, beyond all there is
    cameras_json(tmp_path / "p.json", poses, scene.test[0])
    pictures_of(run[1], "--path", tmp_path / "p.json", "--out", tmp_path).render_path("p.json")
    assert "scene extents away from those of" in caplog.text and "no Gaussian is seen" in caplog.text


def test_cameras_that_look_outwards_tell_axes_too(tmp_path):
    """Not by where they meet, for they do not."""
    turns = np.linspace(0.0, 2 * np.pi, 8, endpoint=False)
    poses = []
    for turn in turns:
        forward = np.array([np.cos(turn), np.sin(turn), 0.0])
        right = np.cross(forward, [0.0, 0.0, 1.0])
        pose = np.eye(4)
        pose[:3] = np.stack([right, np.cross(forward, right), forward, 0.5 * forward], axis=1)
        poses.append(pose)
    names = [f"{number}.png" for number in range(8)]
    write_colmap(tmp_path / "scene", names=names, poses=[np.linalg.inv(pose) for pose in poses])
    scene = load_scene(tmp_path / "scene")
    for flip in (np.eye(4), FLIP):
        np.save(tmp_path / "p.npy", np.stack([pose @ flip for pose in poses[1:5]]))
        views = path_views(read_path(tmp_path / "p.npy"), scene, np.zeros(3))
        np.testing.assert_allclose(
            [view.viewmat for view in views], [view.viewmat for view in scene.train[:4]], atol=1e-9
        )


# ------------------------------------------------------------------------------------------------------ handedness

MIRROR = np.diag([1.0, 1.0, -1.0, 1.0])


@pytest.fixture(scope="module")
def left_handed(demo_scene, tmp_path_factory):
    """A run on the scene in a mirrored world: (scene folder, run folder)."""
    folder, scene = tmp_path_factory.mktemp("left"), load_scene(demo_scene)
    (folder / "scene").mkdir()
    (folder / "scene/images").symlink_to(demo_scene / "images")
    poses = MIRROR @ poses_of(scene.train, scene.normalisation)
    transforms(folder / "scene/transforms.json", poses, scene.train[0])
    content = json.loads((folder / "scene/transforms.json").read_text())
    for frame, view in zip(content["frames"], scene.train, strict=True):
        frame["file_path"] = f"images/{view.name}"
    (folder / "scene/transforms.json").write_text(json.dumps(content))
    with one_thread():
        changes = {"model.sh_degree": 0, "model.init_points": 500, "train.iterations": 20}
        Trainer(demo_config(folder / "scene", folder / "run", changes)).run()
    return folder / "scene", folder / "run"


@pytest.mark.parametrize("kind", ["cameras.json", "transforms.json", "nerfstudio", "JSON, OpenGL axes", "npy"])
def test_paths_in_a_left_handed_world_are_the_cameras_of_it(left_handed, tmp_path, kind, caplog):
    name, write, _ = KINDS[kind]
    scene = load_scene(left_handed[0])
    write(tmp_path / name, poses_of(scene.train, scene.normalisation), scene.test[0])
    path = read_path(tmp_path / name)
    for frames in (None, len(scene.train)):
        views = path_views(path, scene, np.zeros(3), frames)
        for index in (0, -1):
            np.testing.assert_allclose(views[index].viewmat, scene.train[index].viewmat, rtol=0, atol=1e-6)
    assert "mirror images" not in caplog.text


def test_our_own_cameras_json_of_a_left_handed_world(left_handed, tmp_path):
    pictures = pictures_of(left_handed[1], "--path", left_handed[1] / "cameras.json", "--out", tmp_path)
    views = path_views(pictures.path, pictures.scene, pictures.model.origin)
    for view, expected in zip(views, (*pictures.scene.train, *pictures.scene.test), strict=True):
        image, original = (pictures.model.render(seen).colors[0] for seen in (view, expected))
        assert psnr(image, original) > 80.0


def test_right_handed_cameras_in_a_left_handed_world_show_its_mirror_image(left_handed, tmp_path, caplog):
    pictures = pictures_of(left_handed[1], "--out", tmp_path)
    scene, x = pictures.scene, np.diag([-1.0, 1.0, 1.0, 1.0])
    np.save(tmp_path / "p.npy", poses_of(scene.train, scene.normalisation) @ x)
    view = path_views(read_path(tmp_path / "p.npy"), scene, np.zeros(3))[0]
    K = view.K.copy()
    K[0, 2] = view.width - K[0, 2]
    plain, turned = (pictures.model.render(seen).colors[0] for seen in (scene.train[0], replace(view, K=K)))
    assert psnr(turned.flip(1), plain) > 50.0 and "are mirror images of the photos" in caplog.text


@pytest.mark.parametrize("count", [1, 3])
def test_mirrored_poses_of_a_right_handed_scene_are_refused(demo_scene, tmp_path, count):
    scene = load_scene(demo_scene)
    poses = poses_of(scene.train[:4], scene.normalisation)
    poses[-count:] @= np.diag([-1.0, 1.0, 1.0, 1.0])
    np.save(tmp_path / "p.npy", poses)
    with pytest.raises(DataError, match=rf"p\.npy: pose {4 - count}: its axes are left-handed .* flip one of them"):
        path_views(read_path(tmp_path / "p.npy"), scene, np.zeros(3))


# ------------------------------------------------------------------------------------------------- what is no path


def text(content: str):
    return lambda file: file.write_text(content)


def array(*shape, dtype=np.float64):
    return lambda file: np.save(file, np.zeros(shape, dtype))


def nan_pose():
    pose = np.eye(4)
    pose[1, 3] = np.nan
    return json.dumps([np.eye(4).tolist(), pose.tolist()])


def camera(**changes):
    entry = {"position": [0, 0, 0], "rotation": np.eye(3).tolist(), "width": 80, "height": 60, "fx": 70, "fy": 70}
    return json.dumps([{key: value for key, value in (entry | changes).items() if value is not ...}])


def studio(camera=None, **changes):
    entry = {"camera_to_world": np.eye(4).flatten().tolist(), "fov": 50, "aspect": 1.3} | (camera or {})
    return json.dumps({"camera_type": "perspective", "camera_path": [entry]} | changes)


def zipped(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", b"")


IDENTITY = np.eye(4).tolist()
BROKEN = {
    "nothing": ("p.json", text(""), "not readable as JSON"),
    "words": ("p.json", text("hello"), "not readable as JSON"),
    "a picture": ("p.json", lambda file: file.write_bytes(b"\x89PNG\r\n\x1a\n"), "not readable as JSON"),
    "many brackets": ("p.json", text("[" * 100_000), "not readable as JSON"),
    "a number": ("p.json", text("5"), "neither a list of cameras or poses, nor an object with `camera_path`"),
    "another object": ("p.json", text('{"path": []}'), "neither a list of cameras or poses"),
    "no poses": ("p.json", text("[]"), "holds no poses"),
    "no frames": ("p.json", text('{"frames": []}'), "holds no poses"),
    "no camera path": ("p.json", text('{"camera_path": [], "seconds": 3}'), "holds no poses"),
    "numbers": ("p.json", text("[1, 2, 3]"), "pose 0 is not a 4x4 or 3x4 matrix of finite numbers"),
    "a ragged pose": ("p.json", text("[[[1, 0], [0]]]"), "pose 0 is not a 4x4 or 3x4 matrix"),
    "a pose of words": ("p.json", text(json.dumps([[["a"] * 4] * 4])), "pose 0 is not a 4x4 or 3x4 matrix"),
    "a pose of NaN": ("p.json", text(nan_pose()), "pose 1 is not a 4x4 or 3x4 matrix of finite numbers"),
    "a huge number": ("p.json", text(f"[[{'9' * 400}{', 0' * 15}]]"), "pose 0 is not a 4x4 or 3x4 matrix"),
    "no rotation": ("p.json", text(json.dumps([np.zeros((4, 4)).tolist()])), "its last row is not 0 0 0 1"),
    "a sheared pose": ("p.json", text(json.dumps([[[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]])), "or sheared by"),
    "a projection": ("p.json", text(json.dumps([[[1, 0, 0, 1]] * 4])), "its last row is not 0 0 0 1"),
    "a mixture": ("p.json", text(json.dumps([IDENTITY, {"position": [0, 0, 0]}])), "pose 1 is not a 4x4"),
    "a camera without a place": ("p.json", text(camera(position=...)), "camera 0: `position` is not 3 finite numbers"),
    "a camera with half a rotation": ("p.json", text(camera(rotation=[[1, 0, 0]])), "`rotation` is not 3 x 3 finite"),
    "a camera of no width": ("p.json", text(camera(width=0)), "`width` is 0; it must be positive"),
    "a camera as wide as a planet": ("p.json", text(camera(width=10**9)), "pictures are 1 to 16384 pixels"),
    "a camera of focal length NaN": ("p.json", text(camera(fx=float("nan"))), "`fx` is not a finite number"),
    "a camera with an origin of words": ("p.json", text(camera(origin="here")), "`origin` is not 3 finite numbers"),
    "a frame without a pose": ("p.json", text('{"frames": [{"file_path": "a"}]}'), "frame 0 has no `transform_matrix`"),
    "a frame that is none": ("p.json", text('{"frames": [5]}'), "frame 0 is no object with `transform_matrix`"),
    "a path entry that is none": ("p.json", text('{"camera_path": [5]}'), "camera_path 0 is no object"),
    "a panorama": ("p.json", text(studio(camera_type="equirectangular")), "only perspective cameras are read"),
    "a fisheye": ("p.json", text(studio({"camera_type": "fisheye"})), "only perspective cameras are read"),
    "a field of view of 180 degrees": ("p.json", text(studio({"fov": 180})), "`fov` is 180; it must be above 0"),
    "a negative field of view": ("p.json", text(studio({"fov": -5})), "`fov` is -5; it must be above 0 and below 180"),
    "no time": ("p.json", text(studio(seconds=0)), "`seconds` is 0; it must be positive"),
    "too fast": ("p.json", text(studio(seconds=1e-9)), "1e+09 frames per second; it must be between 0.01 and 1000"),
    "an array of 17 numbers": ("p.npy", array(5, 17), r"an array [5, 17]; poses are [N, 4, 4]"),
    "an array of 3x3": ("p.npy", array(5, 3, 3), "an array [5, 3, 3]"),
    "an array of nothing": ("p.npy", array(0, 4, 4), "holds no poses"),
    "an array of words": ("p.npy", array(5, 4, 4, dtype="U3"), "not an array of plain numbers"),
    "an array of objects": ("p.npy", array(5, 4, 4, dtype=object), "not an array of plain numbers"),
    "an empty npy": ("p.npy", text(""), "not an array of plain numbers"),
    "words in an npy": ("p.npy", text("hello"), "not an array of plain numbers"),
    "a broken header in an npy": ("p.npy", lambda file: file.write_bytes(b"\x93NUMPY\x01\x00\x0c\x00{'descr': (((\n"),
                                  "not an array of plain numbers"),
    "a place beyond all": ("p.json", text(camera(position=[1e308, 0, 0])), "`position` is not 3 finite numbers"),
    "a zip in an npy": ("p.npy", zipped, "not an array of plain numbers"),
    "an array cut short": ("p.npy", lambda file: (np.save(file, np.ones((99, 4, 4))), os.truncate(file, 4000)),
                           "not an array of plain numbers"),
    "words in a txt": ("p.txt", text("hello\n"), "not readable as rows of numbers"),
    "an empty txt": ("p.txt", text(""), "holds no poses"),
    "rows of 7": ("p.txt", text("1 2 3 4 5 6 7\n"), "1 rows of 7 numbers; a pose has 12 or 16"),
    "rows that are too few": ("p.txt", text("1 0 0 0\n0 1 0 0\n"), "2 rows of 4 numbers; a pose has 12 or 16"),
    "a folder": ("p.json", lambda file: file.mkdir(), "no such file"),
    "not there": ("p.json", lambda file: None, "no such file"),
    "a pipe": ("p.json", os.mkfifo, "no such file"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "write", "names"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_path_is_told_in_one_line(tmp_path, name, write, names):
    write(tmp_path / name)
    with pytest.raises(DataError) as caught:
        read_path(tmp_path / name)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / name}") and names in message and "\n" not in message
