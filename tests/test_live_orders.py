"""The live viewer's small parts: messages checked, the desk between threads, cameras, the crop box, key views."""

import contextlib
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from live_pages import POSE, look
from scipy.spatial.transform import Rotation

from distwar_datasets import load_scene
from distwar_datasets.scene import Normalisation
from distwar_gs.viewing.live.cameras import free_view, vertical_fov, view_of
from distwar_gs.viewing.live.crop import FILE, load_crop, rows_inside, save_crop
from distwar_gs.viewing.live.desk import MOST_COMMANDS, Desk
from distwar_gs.viewing.live.orders import Command, CropBox, Look, OrderError, Pose, SaveKeys, SetCrop, parse
from distwar_gs.viewing.live.site import Site
from distwar_gs.viewing.path_files import read_path
from distwar_gs.viewing.path_views import path_views

FRAME = Normalisation(np.array([3.0, -2.0, 5.0]), 0.25)
BOX = CropBox(np.array([0.5, -1.0, 2.0]), np.array([1.0, 2.0, 3.0]), Rotation.from_rotvec([0.3, -0.5, 0.2]).as_matrix())


def box_values(**changes: object) -> dict:
    return {"center": [0, 0, 0], "size": [1, 1, 1], "axes": np.eye(3).tolist(), **changes}


# ---------------------------------------------------------------------------------------------------------- orders


def test_a_look():
    order = parse(json.dumps(look(7, photo=None, mode="depth", moving=True)), 3)
    assert isinstance(order, Look) and np.array_equal(order.pose.viewmat, np.eye(4))
    rest = (order.number, order.pose.fov, order.photo, order.mode, order.size, order.is_moving)
    assert rest == (7, 0.9, None, "depth", (64, 48), True)


def test_a_look_may_ask_for_the_depth_of_a_place():
    assert parse(json.dumps(look(pick=[0.25, 1])), 3).pick == (0.25, 1.0) and parse(json.dumps(look()), 3).pick is None


def test_the_other_orders():
    assert [parse(json.dumps({"do": name}), 3) for name in ("pause", "export")] == [Command("pause"), Command("export")]
    assert parse('{"do": "crop", "box": null}', 3) == SetCrop(None)
    box = parse(json.dumps({"do": "crop", "box": box_values()}), 3).box
    assert np.array_equal(box.size, [1, 1, 1])
    keys = parse(json.dumps({"do": "keys", "name": "a-1", "poses": [POSE, POSE]}), 3)
    assert isinstance(keys, SaveKeys) and (keys.name, len(keys.poses)) == ("a-1", 2)


BAD_POSES = [
    None, [], {"viewmat": [1.0] * 16, "fov": 0.9}, {**POSE, "fov": 0.0}, {**POSE, "fov": True}, {**POSE, "fov": 3.1},
    {"viewmat": [*np.eye(4).ravel()[:-1], math.nan], "fov": 0.9}, {"viewmat": [1e9] * 16, "fov": 0.9},
    {"viewmat": ["a"] * 16, "fov": 0.9}, {"viewmat": np.eye(3).ravel().tolist(), "fov": 0.9},
    {"viewmat": [0.0] * 16, "fov": 0.9},
]  # fmt: skip
BAD = [
    "", "no JSON", "[]", "null", "{}", '{"do": "delete"}', '{"do": ["pause"]}', b"\xff\xfe\x00", "[" * 100_000,
    *[json.dumps(look(pose=pose)) for pose in BAD_POSES],
    *[json.dumps(look(photo=photo)) for photo in (3, -1, True, "0", 1.0)],
    *[json.dumps(look(size=size)) for size in ([64], [64, 1e9], [0, 64], [64.0, 64], None, [64, 4096])],
    *[json.dumps(look(mode=mode)) for mode in ("color", None, ["depth"])],
    *[json.dumps(look(pick=pick)) for pick in ([0.5], [0.5, 1.1], [-0.1, 0.5], "ab", [None, 0.5], {})],
    *[json.dumps(look(number)) for number in (-1, None, 1.5, 2**60)],
    *[json.dumps({"do": "crop", "box": box}) for box in (
        1, {}, box_values(size=[1, 0, 1]), box_values(axes=[[1, 1, 1]] * 3), box_values(center=[0, 1e300, 0]))],
    *[json.dumps({"do": "keys", "name": name, "poses": [POSE]}) for name in ("", "../a", "a/b", ".a", 1, "a" * 99)],
    *[json.dumps({"do": "keys", "name": "a", "poses": [POSE] * count}) for count in (0, 301)],
]  # fmt: skip


@pytest.mark.parametrize("message", BAD, ids=lambda message: str(message)[:60])
def test_what_no_page_sends_is_refused(message):
    with pytest.raises(OrderError):
        parse(message, 3)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(["look", "crop", "keys", "pause"]), st.dictionaries(
    st.sampled_from(["number", "pose", "photo", "mode", "size", "box", "name", "poses"]), PLAIN))  # fmt: skip
def test_any_message_is_an_order_or_an_order_error(kind, changes):
    with contextlib.suppress(OrderError):
        parse(json.dumps({**look(), "do": kind, **changes}), 3)


# ------------------------------------------------------------------------------------------------------------ desk


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def wish(number: int) -> Look:
    return parse(json.dumps(look(number)), 3)


def test_of_each_page_the_newest_wish_counts():
    desk = Desk(10.0)
    assert not desk.is_due() and desk.next_look() is None
    for number in range(5):
        desk.ask(1, wish(number))
    assert desk.is_due()
    page, newest = desk.next_look()
    assert (page, newest.number) == (1, 4) and not desk.is_due()


def test_who_has_waited_longest_is_served_first():
    clock = Clock()
    desk, served = Desk(10.0, clock), []
    for _ in range(6):
        for page in (1, 2, 3):
            desk.ask(page, wish(0))
        clock.now += 1.0
        served.append(desk.next_look()[0])
        desk.taken(served[-1])
    assert served == [1, 2, 3, 1, 2, 3]


def test_a_page_that_does_not_take_its_picture_gets_no_other():
    clock = Clock()
    desk = Desk(10.0, clock)
    desk.ask(1, wish(0))
    assert desk.next_look()[0] == 1
    for number in range(1000):
        desk.ask(1, wish(number))
    assert not desk.is_due() and desk.next_look() is None
    desk.ask(2, wish(0))
    assert desk.next_look()[0] == 2
    desk.taken(1)
    assert desk.next_look()[1].number == 999
    desk.forget(2)
    desk.taken(2)  # the picture of one that has left
    assert not desk.is_due()


@pytest.mark.parametrize(("took", "others_wait", "pause"), [(0.01, True, 0.09), (0.4, True, 0.4), (0.4, False, 0.0)])
def test_pictures_take_so_many_a_second_and_half_of_the_time(took, others_wait, pause):
    clock = Clock()
    desk = Desk(10.0, clock)
    desk.ask(1, wish(0))
    desk.next_look()
    desk.taken(1)
    desk.ask(1, wish(1))
    desk.spent(took, others_wait=others_wait)
    clock.now += max(pause - 0.001, 0.0)
    assert desk.is_due() == (pause == 0.0)
    clock.now += 0.002
    assert desk.is_due()


def test_commands_are_bounded_and_wait_for_no_time():
    desk = Desk(10.0)
    desk.spent(1000.0)
    taken = [desk.order(Command("step")) for _ in range(MOST_COMMANDS + 1)]
    assert taken == [True] * MOST_COMMANDS + [False] and desk.is_due()
    while desk.next_command():
        pass
    assert not desk.is_due()


# --------------------------------------------------------------------------------------------------------- cameras


@pytest.fixture
def scene(demo_scene: Path):
    return load_scene(demo_scene)


def test_at_a_photo_the_camera_is_the_photos(scene):
    """At the largest size of its shape; a point is seen at the same share of the picture."""
    view = scene.train[3]
    seen = view_of(parse(json.dumps(look(photo=3, size=[300, 120])), 16), scene.train)
    assert (seen.width, seen.height) == (160, 120) and np.array_equal(seen.viewmat, view.viewmat)
    assert np.allclose(seen.K[0] / 160, view.K[0] / 80) and np.allclose(seen.K[1] / 120, view.K[1] / 60)
    same = view_of(parse(json.dumps(look(photo=3, size=[80, 60])), 16), scene.train)
    assert np.array_equal(same.K, view.K)


def test_a_camera_of_its_own(scene):
    seen = view_of(parse(json.dumps(look(photo=None, size=[64, 48])), 16), scene.train)
    assert (seen.width, seen.height) == (64, 48) and vertical_fov(seen) == pytest.approx(0.9)
    assert seen.K[0, 0] == seen.K[1, 1] and seen.K[:2, 2].tolist() == [32.0, 24.0]
    assert seen.mask is None and np.array_equal(seen.viewmat, np.eye(4))


# ------------------------------------------------------------------------------------------------------------ crop


def test_rows_inside_a_turned_box():
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * 0.5
    inside = (0.99 * corners * BOX.size) @ BOX.axes + BOX.center
    outside = (1.01 * corners * BOX.size) @ BOX.axes + BOX.center
    rows = rows_inside(BOX, torch.tensor(np.concatenate([inside, outside]), dtype=torch.float32))
    assert rows.tolist() == [True] * 8 + [False] * 8
    assert rows_inside(BOX, torch.full((2, 3), torch.nan)).tolist() == [False, False]


def test_a_box_is_kept_in_the_frame_of_the_input(tmp_path):
    save_crop(tmp_path, BOX, FRAME)
    kept, again = json.loads((tmp_path / FILE).read_text()), load_crop(tmp_path, FRAME)
    assert np.allclose(kept["center"], FRAME.undo_points(BOX.center)) and np.allclose(kept["size"], BOX.size / 0.25)
    for name in ("center", "size", "axes"):
        assert np.allclose(getattr(again, name), getattr(BOX, name))
    save_crop(tmp_path, None, FRAME)
    assert load_crop(tmp_path, FRAME) is None and not (tmp_path / FILE).exists()


@pytest.mark.parametrize("text", ["", "{}", "[1, 2]", '{"center": 1}', "[" * 9000])
def test_a_file_that_holds_no_box_is_none(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    assert load_crop(tmp_path, FRAME) is None


# ------------------------------------------------------------------------------------------------------- key views


@pytest.mark.parametrize("origin", [[0.0, 0.0, 0.0], [1e5, -2e5, 300.0]])
def test_key_views_are_saved_as_render_py_plays_them(scene, tmp_path, origin):
    site = Site(scene, tmp_path, np.array(origin), (0.0, 0.0, 0.0), is_live=False)
    poses = tuple(Pose(view.viewmat, 0.5 + 0.1 * index) for index, view in enumerate(scene.train[:4]))
    words = site.save_keys(SaveKeys("keys", poses))
    file = tmp_path / "camera_paths/keys.json"
    assert f"--path {file}" in words
    views = path_views(read_path(file), scene, np.array(origin))
    for view, pose in zip(views, poses, strict=True):
        assert np.allclose(view.viewmat, pose.viewmat, atol=1e-6) and vertical_fov(view) == pytest.approx(pose.fov)
    told = json.loads(site.description())["keys"]
    assert [key["fov"] for key in told] == pytest.approx([pose.fov for pose in poses])


def test_key_views_that_cannot_be_read_cost_themselves_only(scene, tmp_path, caplog):
    (tmp_path / "camera_paths").mkdir()
    (tmp_path / "camera_paths/keys.json").write_text("{}")
    site = Site(scene, tmp_path, np.zeros(3), (0.0, 0.0, 0.0), is_live=False)
    assert json.loads(site.description())["keys"] == [] and "begins without its key views" in caplog.text


def test_a_free_view_of_a_mirrored_world_stays_mirrored(scene):
    mirrored = np.diag([1.0, 1.0, -1.0, 1.0])
    order = parse(json.dumps(look(photo=None, pose={"viewmat": mirrored.ravel().tolist(), "fov": 0.9})), 16)
    assert np.linalg.det(free_view(order.pose, (64, 48), replace(scene.train[0])).viewmat) == pytest.approx(-1.0)
