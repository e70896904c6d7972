"""Poses from files: rotations to the last digit, whatever was written, or one line that says why not."""

import json
import math

import numpy as np
import pycolmap
import pytest
from captures import SPOTS, Capture
from scene_files import look_at, write_blender, write_colmap

from datasets import DataError, load_scene
from datasets.poses import PoseError, rigid_pose, unit_quaternion

ALL = {"test_every": 0, "normalise": False}
GL = np.diag([1.0, -1.0, -1.0, 1.0])
IRREGULAR = [look_at((np.cos(a) * (2 + a), 2.5 * np.sin(a), 0.3 + 0.2 * a)) for a in (0.1, 0.9, 2.2, 3.1, 4.4, 5.3)]
"""World-to-camera poses whose numbers have many digits."""


def transforms(folder, change=lambda matrix: matrix, **more):
    """A transforms.json of IRREGULAR, each matrix changed."""
    capture = Capture(poses=IRREGULAR)
    capture.write_images(folder / "images")
    frames = capture.frames()
    for frame in frames:
        frame["transform_matrix"] = np.asarray(change(np.array(frame["transform_matrix"]))).tolist()
    capture.write_transforms(folder, {**capture.intrinsics(), **more}, frames)
    return folder


def scaled(matrix, number):
    matrix = matrix.copy()
    matrix[:3, :3] *= number
    return matrix


def viewmats(folder, **options):
    return np.stack([view.viewmat for view in load_scene(folder, **ALL, **options).train])


def angles(a, b):
    """Degrees between rotations [V, 3, 3]."""
    trace = np.einsum("nij,nij->n", a[:, :3, :3], b[:, :3, :3])
    return np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))


def centres(matrices):
    return -np.einsum("nji,nj->ni", matrices[:, :3, :3], matrices[:, :3, 3])


def check_rigid(matrices):
    products = matrices[:, :3, :3] @ matrices[:, :3, :3].transpose(0, 2, 1)
    assert np.abs(products - np.eye(3)).max() < 1e-9
    np.testing.assert_array_equal(matrices[:, 3], [[0, 0, 0, 1]] * len(matrices))


# ------------------------------------------------------------------------------------------------- 4x4 matrices


@pytest.mark.parametrize(
    "change",
    [
        lambda matrix: matrix,
        lambda matrix: matrix[:3],
        lambda matrix: matrix.ravel(),
        lambda matrix: matrix[:3].ravel(),
        lambda matrix: 2.5 * matrix,  # homogeneous: the last row is 0 0 0 2.5
        lambda matrix: scaled(matrix, 0.25),
        lambda matrix: scaled(matrix, 3.0),
        lambda matrix: scaled(matrix, 1000.0),
        lambda matrix: scaled(matrix, 1.01),
        lambda matrix: matrix.astype(np.float32).astype(float),
        lambda matrix: matrix + np.outer([0, 0, 0, 1], [1e-9, -1e-9, 1e-17, 0]),
    ],
)
def test_the_same_pose_however_it_is_written(tmp_path, change):
    found = viewmats(transforms(tmp_path, change))
    check_rigid(found)
    np.testing.assert_allclose(found, IRREGULAR, atol=1e-6)
    np.testing.assert_allclose(centres(found), centres(np.stack(IRREGULAR)), atol=1e-6)


@pytest.mark.parametrize(("digits", "degrees"), [(2, 0.6), (3, 0.06), (4, 0.006)])
@pytest.mark.parametrize("number", [1.0, 0.5, 10.0])
def test_rounded_matrices_become_the_nearest_rotation(tmp_path, caplog, digits, degrees, number):
    found = viewmats(transforms(tmp_path, lambda matrix: scaled(np.round(matrix, digits), number)))
    check_rigid(found)
    assert angles(found, np.stack(IRREGULAR)).max() < degrees
    np.testing.assert_allclose(centres(found), np.round(centres(np.stack(IRREGULAR)), digits), atol=1e-9)
    assert ("have few digits" in caplog.text) == (digits < 4)
    assert ("is a rotation times" in caplog.text) == (number != 1.0)


@pytest.mark.parametrize("number", [0.5, 1.01, 30.0])
def test_scaled_poses_are_said_with_the_number(tmp_path, caplog, number):
    viewmats(transforms(tmp_path, lambda matrix: scaled(matrix, number)))
    said = f"transforms.json: the 3x3 part of 6 of 6 poses is a rotation times {number:g} (images/a.png): the rotation"
    assert said in caplog.text


def test_an_exact_pose_is_left_as_it_is():
    matrix = np.linalg.inv(IRREGULAR[1]) @ GL
    pose = rigid_pose(matrix.tolist())
    np.testing.assert_array_equal(pose.matrix, matrix)
    assert (pose.scale, pose.rounding) == (1.0, 0.0)


def sheared(amount):
    def change(matrix):
        matrix[0, 1] += amount
        return matrix

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (sheared(0.2), "stretched or sheared by"),
        (lambda matrix: matrix @ np.diag([1, 1, 1.1, 1]), "stretched or sheared by"),
        (lambda matrix: matrix @ np.diag([1, 1, 0, 1]), "stretched or sheared by"),
        (lambda matrix: scaled(matrix, 0.0), "its 3x3 part is 0"),
        (lambda matrix: np.vstack([matrix[:3], [0, 0, 1, 1]]), "its last row is not 0 0 0 1; export"),
        (lambda matrix: np.vstack([matrix[:3], [0, 0, 0, 0]]), "its last row is not 0 0 0 1; export"),
        (lambda matrix: matrix.T, "its last row is not 0 0 0 1: is it transposed?"),
        (lambda matrix: matrix[:, :3], "it is not 4x4 numbers"),
        (lambda matrix: [[1, 2], [3]], "it is not 4x4 numbers"),
        (lambda matrix: [["x"] * 4] * 4, "it is not 4x4 numbers"),
        (lambda matrix: None, "it is not 4x4 numbers"),
        (lambda matrix: matrix * np.where(np.eye(4), np.nan, 1), "not all its numbers are finite"),
        (lambda matrix: matrix * np.where(np.eye(4), np.inf, 1), "not all its numbers are finite"),
    ],
)
def test_what_is_no_pose_is_refused_with_the_reason(tmp_path, change, message):
    transforms(tmp_path)
    meta = json.loads((tmp_path / "transforms.json").read_text())
    matrix = change(np.array(meta["frames"][2]["transform_matrix"]))
    meta["frames"][2]["transform_matrix"] = matrix.tolist() if isinstance(matrix, np.ndarray) else matrix
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    with pytest.raises(DataError) as error:
        load_scene(tmp_path)
    assert message in str(error.value)
    assert "transforms.json: frame 2, images/c.png: `transform_matrix` is not a pose: " in str(error.value)


def test_numbers_too_large_for_a_float_are_no_pose():
    with pytest.raises(PoseError, match="not 4x4 numbers"):
        rigid_pose([[10**400] * 4] * 4)


def test_the_nearest_rotation_is_nearer_than_any_other_tried():
    rng = np.random.default_rng(3)
    for pose in IRREGULAR:
        wanted = np.linalg.inv(pose)
        wanted[:3, :3] = np.round(wanted[:3, :3], 2)
        found = rigid_pose(wanted).matrix[:3, :3]
        for _ in range(20):
            quaternion, _ = unit_quaternion(np.append(1e-3 * rng.normal(size=3), 1.0))
            other = pycolmap.Rotation3d(quaternion).matrix() @ found
            assert np.linalg.norm(found - wanted[:3, :3]) <= np.linalg.norm(other - wanted[:3, :3])


# -------------------------------------------------------------------------------------------------- left-handed


MIRRORS = (np.diag([1.0, 1.0, -1.0, 1.0]), np.diag([-1.0, 1.0, 1.0, 1.0]), np.eye(4)[[1, 0, 2, 3]])


@pytest.mark.parametrize("mirror", MIRRORS)
def test_a_mirrored_world_is_said_and_seen_as_it_is(tmp_path, caplog, mirror):
    found = viewmats(transforms(tmp_path, lambda matrix: mirror @ matrix))
    check_rigid(found)
    assert (np.linalg.det(found[:, :3, :3]) < 0).all()
    assert "all 6 poses are mirrored (determinant -1)" in caplog.text and "negate the third row" in caplog.text
    spots = np.hstack([SPOTS, np.ones((2, 1))])
    np.testing.assert_allclose(found @ (mirror @ spots.T), np.stack(IRREGULAR) @ spots.T, atol=1e-9)


def test_mirrored_and_scaled_at_once(tmp_path, caplog):
    found = viewmats(transforms(tmp_path, lambda matrix: scaled(MIRRORS[0] @ matrix, 2.0)))
    check_rigid(found)
    np.testing.assert_allclose(centres(found), centres(np.stack(IRREGULAR)) * [1, 1, -1], atol=1e-9)
    assert "are mirrored" in caplog.text and "a rotation times 2" in caplog.text


def test_some_mirrored_poses_are_refused(tmp_path):
    count = iter(range(6))
    transforms(tmp_path, lambda matrix: MIRRORS[0] @ matrix if next(count) in (1, 4) else matrix)
    with pytest.raises(DataError, match=r"2 of 6 poses are mirrored .*: images/b\.png, images/e\.png; export all"):
        load_scene(tmp_path)


def test_mirrored_poses_of_the_test_file_alone_are_refused(tmp_path):
    write_blender(tmp_path)
    meta = json.loads((tmp_path / "transforms_test.json").read_text())
    for frame in meta["frames"]:
        frame["transform_matrix"] = (MIRRORS[0] @ frame["transform_matrix"]).tolist()
    (tmp_path / "transforms_test.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match="2 of 6 poses are mirrored"):
        load_scene(tmp_path)


# -------------------------------------------------------------------------------------------------- quaternions


def edit_text(place, change):
    """Changes the quaternions (w, x, y, z) of images.txt and frames.txt."""
    for file, first in (("images.txt", 1), ("frames.txt", 2)):
        lines = (place / file).read_text().splitlines()
        for index, line in enumerate(lines):
            fields = line.split()
            if fields and fields[0] != "#":
                fields[first : first + 4] = [repr(float(q)) for q in change(np.array(fields[first : first + 4], float))]
                lines[index] = " ".join(fields)
        (place / file).write_text("\n".join(lines) + "\n")


def edit_binary(place, change):
    """The same for a binary model without 2D points, whose frames have one image each."""
    images, frames = bytearray((place / "images.bin").read_bytes()), bytearray((place / "frames.bin").read_bytes())
    offset = 8
    for index in range(int.from_bytes(images[:8], "little")):
        put(images, offset + 4, change)
        offset = images.index(0, offset + 64) + 9
        put(frames, 8 + 84 * index + 8, change)
    (place / "images.bin").write_bytes(images)
    (place / "frames.bin").write_bytes(frames)


def put(data, offset, change):
    quaternion = np.frombuffer(data, "<f8", 4, offset).copy()
    data[offset : offset + 32] = np.asarray(change(quaternion), "<f8").tobytes()


def colmap(folder, change, text, frames=True):
    names = [f"{i}.png" for i in range(len(IRREGULAR))]
    place = write_colmap(folder, names=names, poses=IRREGULAR, text=text) / "sparse/0"
    (edit_text if text else edit_binary)(place, change)
    if not frames:
        for name in ("rigs", "frames"):
            (place / f"{name}{'.txt' if text else '.bin'}").unlink()
    return folder


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("frames", [True, False])
@pytest.mark.parametrize("length", [3.0, 0.1, -2.0, 1e-6, 1e6])
def test_quaternions_of_another_length_are_the_same_rotation(tmp_path, caplog, text, frames, length):
    found = viewmats(colmap(tmp_path, lambda quaternion: length * quaternion, text, frames))
    check_rigid(found)
    np.testing.assert_allclose(found, IRREGULAR, atol=1e-9)
    assert f"the quaternions of 6 of 6 images are not of length 1 (0.png: {abs(length):.4g})" in caplog.text


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize(("digits", "degrees"), [(2, 0.9), (3, 0.09), (4, 0.009), (6, 1e-4)])
def test_rounded_quaternions_become_rotations(tmp_path, caplog, text, digits, degrees):
    found = viewmats(colmap(tmp_path, lambda quaternion: np.round(quaternion, digits), text))
    check_rigid(found)
    assert angles(found, np.stack(IRREGULAR)).max() < degrees
    assert "are not of length 1" not in caplog.text
    assert digits > 3 or "few digits" in caplog.text


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("frames", [True, False])
@pytest.mark.parametrize("quaternion", [(0, 0, 0, 0), (math.nan, 0, 0, 0), (math.inf, 0, 0, 1), (1e200, 1e200, 0, 0)])
def test_a_quaternion_without_a_direction_is_refused_by_name(tmp_path, text, frames, quaternion):
    seen = iter(range(100))
    colmap(tmp_path, lambda old: quaternion if next(seen) // (2 - text) in (2, 8) else old, text, frames)
    with pytest.raises(DataError, match=r"image 2\.png has (no pose: its quaternion|a pose that is not finite)"):
        load_scene(tmp_path)


@pytest.mark.parametrize("text", [True, False])
def test_rigs_are_composed_of_rotations(tmp_path, text):
    """COLMAP multiplies sensor_from_rig as it is: its translations would be wrong too."""
    from test_inputs import rig

    rig(tmp_path, text)
    plain, place = viewmats(tmp_path), tmp_path / "sparse/0"
    model = pycolmap.Reconstruction(place)
    sensor = next(iter(model.rigs[1].non_ref_sensors))
    pose = model.rigs[1].sensor_from_rig(sensor)
    longer = pycolmap.Rigid3d(pycolmap.Rotation3d(3 * pose.rotation.quat), pose.translation)
    model.rigs[1].set_sensor_from_rig(sensor, longer)
    (model.write_text if text else model.write_binary)(place)
    found = viewmats(tmp_path)
    check_rigid(found)
    np.testing.assert_allclose(found, plain, atol=1e-9)


# ---------------------------------------------------------------------------------------------------- all formats


def test_blender_poses_of_single_precision_are_rigid_to_double(tmp_path):
    write_blender(tmp_path)
    for name in ("transforms_train.json", "transforms_test.json"):
        meta = json.loads((tmp_path / name).read_text())
        for frame in meta["frames"]:
            matrix = np.array(frame["transform_matrix"], np.float32)
            frame["transform_matrix"] = matrix.astype(float).tolist()
        (tmp_path / name).write_text(json.dumps(meta))
    scene = load_scene(tmp_path)
    check_rigid(np.stack([view.viewmat for view in (*scene.train, *scene.test)]))
