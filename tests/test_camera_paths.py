"""Camera paths: rigid poses that look where they should, from one camera up."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from distwar_gs.camera_paths import ellipse, focus_point, interpolate

UP = np.array([0.0, 0.0, 1.0])


def look_at(centre, target, up=UP) -> np.ndarray:
    """World-to-camera, OpenCV axes, written independently of the code under test."""
    centre, target = np.asarray(centre, float), np.asarray(target, float)
    z = (target - centre) / np.linalg.norm(target - centre)
    x = np.cross(z, up) / np.linalg.norm(np.cross(z, up))
    to_world = np.eye(4)
    to_world[:3] = np.stack([x, np.cross(z, x), z, centre], axis=1)
    return np.linalg.inv(to_world)


def ring(count: int, target=(1.0, 2.0, 3.0), radii=(4.0, 2.0), height=1.5, arc=2 * np.pi, up=UP) -> np.ndarray:
    angles = np.arange(count) * arc / count
    offsets = np.stack([radii[0] * np.cos(angles), radii[1] * np.sin(angles), np.full(count, height)], axis=1)
    return np.stack([look_at(np.asarray(target) + offset, target, up) for offset in offsets])


def centres(viewmats: np.ndarray) -> np.ndarray:
    return np.linalg.inv(viewmats)[:, :3, 3]


def scenes() -> dict[str, np.ndarray]:
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", [0.3, -1.0, 2.0]).as_matrix()
    parallel = np.stack([look_at([x, 0.0, 0.0], [x, 1.0, 0.0]) for x in (0.0, 1.0, 2.0)])
    down = np.stack([look_at([x, y, 5.0], [x, y, 0.0], [0.0, 1.0, 0.0]) for x in (0, 1, 2) for y in (0, 1, 2)])
    outwards = np.stack([look_at([0, 0, 0], [np.cos(a), np.sin(a), 0]) for a in np.linspace(0, 6, 9)])
    return {
        "ring": ring(24),
        "ring in another frame": ring(24) @ turn,
        "one": ring(24)[:1],
        "two": ring(24)[:2],
        "three": ring(24)[:3],
        "three around": ring(3),
        "opposite": ring(2),
        "arc": ring(12, arc=1.0),
        "parallel": parallel,
        "straight down": down,
        "outwards from one place": outwards,
        "all at one pose": np.repeat(ring(24)[:1], 4, axis=0),
    }


@pytest.mark.parametrize("frames", [1, 2, 31])
@pytest.mark.parametrize("path", [ellipse, interpolate])
@pytest.mark.parametrize("name", scenes())
def test_poses_are_rigid_and_finite(name, path, frames):
    poses = path(scenes()[name], frames)
    assert poses.shape == (frames, 4, 4) and poses.dtype == np.float64
    rotations = poses[:, :3, :3]
    np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (frames, 1, 1)), atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0, atol=1e-9)
    np.testing.assert_array_equal(poses[:, 3], np.tile([0.0, 0.0, 0.0, 1.0], (frames, 1)))


@pytest.mark.parametrize("name", scenes())
def test_ellipse_looks_at_the_focus_from_in_front_of_it(name):
    viewmats = scenes()[name]
    focus = focus_point(viewmats)
    seen = (ellipse(viewmats, 16) @ np.append(focus, 1.0))[:, :3]
    np.testing.assert_allclose(seen[:, :2], 0.0, atol=1e-9)
    assert (seen[:, 2] > 1e-3).all()


@pytest.mark.parametrize("name", scenes())
def test_neighbouring_frames_are_near_each_other(name):
    for path in (ellipse, interpolate):
        poses = path(scenes()[name], 200)
        turns = np.trace(poses[1:, :3, :3] @ poses[:-1, :3, :3].transpose(0, 2, 1), axis1=1, axis2=2)
        assert np.degrees(np.arccos(np.clip((turns - 1) / 2, -1, 1))).max() < 15.0


def test_focus_of_converging_axes():
    np.testing.assert_allclose(focus_point(ring(5)), [1.0, 2.0, 3.0], atol=1e-9)
    np.testing.assert_allclose(focus_point(ring(24)[:2]), [1.0, 2.0, 3.0], atol=1e-9)


def test_focus_where_axes_do_not_meet_lies_ahead():
    np.testing.assert_allclose(focus_point(scenes()["parallel"]), [1.0, 1.0, 0.0], atol=1e-9)
    alone = look_at([1.0, 1.0, 1.0], [5.0, 1.0, 1.0])[None]
    np.testing.assert_allclose(focus_point(alone), [2.0, 1.0, 1.0], atol=1e-9)


def test_ellipse_follows_a_ring_of_cameras():
    places = centres(ellipse(ring(40, radii=(4.0, 2.0), height=1.5), 100)) - np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(places[:, 2], 1.5, atol=1e-9)
    np.testing.assert_allclose((places[:, 0] / 4.0) ** 2 + (places[:, 1] / 2.0) ** 2, 1.0, atol=0.1)
    assert places[:, 0].min() < -3.5 and places[:, 0].max() > 3.5


def test_ellipse_keeps_the_cameras_upright():
    poses = ellipse(ring(24), 50)
    assert (-poses[:, 1, :3] @ UP > 0.5).all()
    np.testing.assert_allclose(poses[:, 0, :3] @ UP, 0.0, atol=1e-9)


def test_ellipse_is_closed_and_of_constant_speed():
    places = centres(ellipse(ring(40), 60))
    steps = np.linalg.norm(places - np.roll(places, 1, axis=0), axis=1)
    assert steps.max() < 1.02 * steps.min()


def test_ellipse_of_one_sided_captures_stays_on_that_side():
    viewmats = ring(12, arc=1.0, radii=(4.0, 4.0))
    gap = np.linalg.norm(centres(ellipse(viewmats, 64))[:, None] - centres(viewmats)[None], axis=2).min(axis=1)
    assert gap.max() < 1.0


@pytest.mark.parametrize("name", ["ring", "two", "three", "arc", "parallel", "straight down", "ring in another frame"])
def test_interpolate_passes_through_the_keys_in_order(name):
    viewmats = scenes()[name]
    poses = interpolate(viewmats, 4001)
    np.testing.assert_allclose(poses[[0, -1]], viewmats[[0, -1]], atol=1e-9)
    gaps = np.abs(poses[None] - viewmats[:, None]).max(axis=(2, 3))
    assert gaps.min(axis=1).max() < 0.02
    assert (np.diff(gaps.argmin(axis=1)) > 0).all()


def test_interpolate_with_one_camera_stands_still():
    viewmats = ring(24)[:1]
    np.testing.assert_array_equal(interpolate(viewmats, 5), np.repeat(viewmats, 5, axis=0))


def test_interpolate_does_not_overshoot_uneven_spacing():
    viewmats = np.stack([look_at([x, 0.0, 0.0], [x, 1.0, 0.0]) for x in (0.0, 0.01, 5.0, 5.01)])
    along = centres(interpolate(viewmats, 500))[:, 0]
    assert along.min() > -0.5 and along.max() < 5.5


@pytest.mark.parametrize("path", [ellipse, interpolate])
def test_mistakes(path):
    with pytest.raises(ValueError, match="at least one camera"):
        path(np.zeros((0, 4, 4)), 5)
    with pytest.raises(ValueError, match=r"shape \(4, 4\)"):
        path(np.eye(4), 5)
    with pytest.raises(ValueError, match="frames is 0"):
        path(np.eye(4)[None], 0)


@pytest.mark.parametrize("path", [ellipse, interpolate])
@pytest.mark.parametrize(
    "mirror", [np.diag([1.0, 1.0, -1.0, 1.0]), np.diag([-1.0, 1.0, 1.0, 1.0]), np.eye(4)[[1, 0, 2, 3]]]
)
@pytest.mark.parametrize("name", ["ring", "ring in another frame", "one", "arc", "parallel", "all at one pose"])
def test_the_path_of_a_left_handed_world_shows_what_that_of_its_mirror_image_shows(path, mirror, name):
    """Cameras V of a world see its point x as cameras V M see its mirror image M x (M its own inverse)."""
    cameras = scenes()[name]
    found = path(cameras @ mirror, 7)
    assert (np.linalg.det(found[:, :3, :3]) < 0.0).all()
    np.testing.assert_allclose(
        found[:, :3, :3] @ found[:, :3, :3].transpose(0, 2, 1), np.tile(np.eye(3), (7, 1, 1)), atol=1e-9
    )
    expected = path(cameras, 7) @ mirror
    if path is interpolate:  # it does not depend on which mirror was used; an ellipse begins at another point
        np.testing.assert_allclose(found, expected, atol=1e-6)
    else:
        middle = focus_point(cameras)
        in_view = found @ mirror @ np.append(middle, 1.0)
        np.testing.assert_allclose(in_view[:, :2], 0.0, atol=1e-6)  # every frame looks at the common focus
        assert (in_view[:, 2] > 0.0).all()
