"""Point clouds as other programs write them: the same points and colours, whatever their types, ranges and names."""

import logging

import numpy as np
import plyfile
import pytest
from scene_files import write_blender, write_colmap

from datasets import DataError, load_scene, pointcloud
from datasets.pointcloud import read_points
from distwar_kernels.constants import HARMONIC0 as SH_C0

RGB = np.array([[0, 128, 255], [10, 20, 30], [255, 0, 1], [77, 200, 13]], np.uint8)
XYZ = np.array([[0.5, -1.0, 2.0], [1.0, 0.0, 0.25], [-3.0, 4.0, 1.5], [0.0, 0.0, -2.0]])
AXES = [(axis, "f4") for axis in "xyz"]
USUAL = ("red", "green", "blue")


def write_cloud(path, colors=None, names=USUAL, xyz=XYZ, axes=AXES, more=(), **how):
    """A PLY of points with a column for each name, of the array's type; `more` are further (name, type) of zeros."""
    kind = [] if colors is None else [(name, np.asarray(colors).dtype.str) for name in names]
    table = np.zeros(len(xyz), [*more, *axes, *kind])
    for index, (axis, _) in enumerate(axes):
        table[axis] = xyz[:, index]
    for index, (name, _) in enumerate(kind):
        table[name] = colors[:, index]
    path.parent.mkdir(parents=True, exist_ok=True)
    plyfile.PlyData([plyfile.PlyElement.describe(table, "vertex")], **how).write(str(path))
    return path


def read(path):
    return read_points(path, "copy it again")


FRACTIONS = RGB / 255.0
HARMONICS = (FRACTIONS - 0.5) / 0.28209479177387814
RANGES = {
    "bytes": RGB,
    "signed bytes": RGB.view(np.int8),
    "16 bits": RGB.astype(np.uint16) * 257,
    "8 bits in 16": RGB.astype(np.uint16),
    "16 bits, declared signed": (RGB.astype(np.uint16) * 257).view(np.int16),
    "8 bits in 32": RGB.astype(np.int32),
    "16 bits in 32": RGB.astype(np.uint32) * 257,
    "32 bits": RGB.astype(np.uint32) * 16843009,
    "fractions": FRACTIONS.astype(np.float32),
    "double fractions": FRACTIONS,
    "float levels of 8 bits": RGB.astype(np.float32),
    "double levels of 16 bits": RGB * 257.0,
}


@pytest.mark.parametrize("case", RANGES)
@pytest.mark.parametrize("form", ["<", ">", "text"])
def test_types_and_ranges(tmp_path, case, form):
    how = {"text": True} if form == "text" else {"byte_order": form}
    cloud = read(write_cloud(tmp_path / "a.ply", RANGES[case], **how))
    assert np.array_equal(cloud.colors, RGB) and np.array_equal(cloud.positions, XYZ)


@pytest.mark.parametrize(
    "names",
    [
        ("r", "g", "b"), ("Red", "Green", "Blue"), ("R", "G", "B"), ("diffuse_red", "diffuse_green", "diffuse_blue"),
        ("scalar_R", "scalar_G", "scalar_B"), ("blue", "green", "red"),
    ],
)  # fmt: skip
def test_names_of_columns(tmp_path, names):
    colors = RGB if names != ("blue", "green", "red") else RGB[:, ::-1]
    assert np.array_equal(read(write_cloud(tmp_path / "a.ply", colors, names)).colors, RGB)


def test_harmonics_are_colours_unless_there_are_others(tmp_path):
    names = ("f_dc_0", "f_dc_1", "f_dc_2")
    cloud = read(write_cloud(tmp_path / "a.ply", HARMONICS.astype(np.float32), names))
    assert np.array_equal(cloud.colors, RGB)
    both = read(write_cloud(tmp_path / "b.ply", RGB, more=[(name, "f4") for name in names]))
    assert np.array_equal(both.colors, RGB)


def test_the_harmonic_of_degree_0_is_that_of_the_kernels():
    assert pointcloud._SH_C0 == SH_C0  # datasets imports nothing of them


def test_bright_fractions_are_not_levels(tmp_path):
    """Resampling, and pictures of a high dynamic range, exceed 1."""
    for top in (1.004, 1.7, 6.0):
        colors = FRACTIONS.astype(np.float32)
        colors[0, 2] = top
        assert np.array_equal(read(write_cloud(tmp_path / "a.ply", colors)).colors, RGB), top


def test_what_is_no_number_is_grey(tmp_path):
    colors = FRACTIONS.copy()
    colors[1] = np.nan
    cloud = read(write_cloud(tmp_path / "a.ply", colors))
    assert cloud.colors[1].tolist() == [128, 128, 128] and np.array_equal(cloud.colors[[0, 2, 3]], RGB[[0, 2, 3]])


@pytest.mark.parametrize(("more", "words"), [((), "no colours;"), ([("intensity", "u2")], "only intensity;")])
def test_without_colours_points_are_grey_and_it_is_said(tmp_path, caplog, more, words):
    assert (read(write_cloud(tmp_path / "a.ply", more=more)).colors == 128).all()
    assert words in caplog.text and "start grey" in caplog.text


def test_how_colours_are_stored_is_said_unless_they_are_bytes(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="datasets")
    read(write_cloud(tmp_path / "a.ply", RGB))
    assert caplog.text == ""
    read(write_cloud(tmp_path / "a.ply", RGB.astype(np.uint16) * 257, ("r", "g", "b")))
    assert "a.ply: colours from r g b (uint16, 0 to 65535)" in caplog.text


@pytest.mark.parametrize("form", ["f8", "i4", "X"])
def test_positions(tmp_path, form):
    axes = [(axis.upper() if form == "X" else axis, "f4" if form == "X" else form) for axis in "xyz"]
    xyz = (
        np.array([[500_000.25, 5_400_000.5, 300.0], [1.0, 2.0, 3.0]]) if form == "f8" else np.arange(6.0).reshape(2, 3)
    )
    assert np.array_equal(read(write_cloud(tmp_path / "a.ply", xyz=xyz, axes=axes)).positions, xyz)


def mesh(before: bool, text: bool) -> plyfile.PlyData:
    """Points among faces, as MeshLab, Poisson reconstruction and Blender write them, and a camera."""
    vertices = np.zeros(4, [*AXES, ("s", "f4"), *((name, "u1") for name in USUAL)])
    for index, name in enumerate((*"xyz", *USUAL)):
        vertices[name] = np.concatenate([XYZ, RGB], axis=1)[:, index]
    faces = np.empty(2, [("vertex_indices", "O"), ("flags", "i4")])
    faces["vertex_indices"], faces["flags"] = [np.arange(3, dtype=np.int32), np.arange(4, dtype=np.int32)], 7
    camera = np.ones(1, [("view_px", "f4")])
    parts = [(faces, "face"), (camera, "camera")]
    parts = [*parts, (vertices, "vertex")] if before else [(vertices, "vertex"), *parts]
    described = [plyfile.PlyElement.describe(table, name) for table, name in parts]
    return plyfile.PlyData(described, text, comments=["TextureFile x.png"], obj_info=["num_cols 4"])


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("text", [False, True])
def test_points_of_a_mesh(tmp_path, before, text):
    mesh(before, text).write(str(tmp_path / "a.ply"))
    content = (tmp_path / "a.ply").read_bytes().replace(b"x.png", "Größe.png".encode("latin-1"))
    (tmp_path / "a.ply").write_bytes(content)
    cloud = read(tmp_path / "a.ply")
    assert np.array_equal(cloud.colors, RGB) and np.array_equal(cloud.positions, XYZ)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"), (b"hello", "no header"),
        (b"ply\nformat ascii 1.0\nelement face 0\nend_header\n", "no `vertex` element among face"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float a\nend_header\n1\n", "no columns x, y and z"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nend_header\n1 2 3\n",
            "`vertex` has 1 rows of 3 numbers, not 1 rows of 2 numbers"),
    ],
)  # fmt: skip
def test_broken_clouds_end_in_one_line(tmp_path, content, words):
    if content is not None:
        (tmp_path / "a.ply").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.ply: not a readable point cloud \(.*({words}).*\); copy it again$"):
        read(tmp_path / "a.ply")


def test_an_empty_cloud_is_none(tmp_path, caplog):
    assert read(write_cloud(tmp_path / "a.ply", RGB[:0], xyz=XYZ[:0])) is None
    assert "a.ply: holds no points" in caplog.text


# ----------------------------------------------------------------------------------- clouds that come with the cameras


@pytest.mark.parametrize("name", ["points3d.ply", "points3D.ply"])
def test_a_cloud_beside_blender_cameras(tmp_path, caplog, name):
    caplog.set_level(logging.INFO, logger="datasets")
    write_cloud(write_blender(tmp_path) / name, RGB)
    scene = load_scene(tmp_path)
    np.testing.assert_allclose(scene.normalisation.undo_points(scene.points.positions), XYZ, atol=1e-12)
    assert np.array_equal(scene.points.colors, RGB) and f"starting points: {tmp_path / name}" in caplog.text


def test_ply_file_path_comes_first(tmp_path):
    write_cloud(write_blender(tmp_path) / "points3d.ply", RGB)
    write_cloud(tmp_path / "mine/scan.ply", RGB[:2], xyz=XYZ[:2])
    path = tmp_path / "transforms_train.json"
    path.write_text(path.read_text().replace("{", '{"ply_file_path": "mine\\\\scan.ply", ', 1))
    assert len(load_scene(tmp_path).points.positions) == 2


def test_a_broken_cloud_beside_cameras_names_the_remedy(tmp_path):
    (write_blender(tmp_path) / "points3d.ply").write_bytes(b"404")
    with pytest.raises(DataError, match=r"points3d\.ply: not a readable.*; copy it again, or delete it to start from"):
        load_scene(tmp_path)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("state", ["absent", "empty", "without points"])
def test_a_cloud_beside_a_colmap_model_without_points(tmp_path, caplog, text, state):
    caplog.set_level(logging.INFO, logger="datasets")
    write_colmap(tmp_path, text=text, points=0)
    place = tmp_path / "sparse/0"
    write_cloud(place / "points3D.ply", RGB)
    file = place / f"points3D{'.txt' if text else '.bin'}"
    if state == "absent":
        file.unlink()
    elif state == "empty":
        file.write_bytes(b"")
    scene = load_scene(tmp_path, normalise=False)
    assert np.array_equal(scene.points.positions, XYZ) and np.array_equal(scene.points.colors, RGB)
    assert f"read from {place / 'points3D.ply'}" in caplog.text
    assert file.is_file() == (state != "absent") and len(scene.train) == 3


def test_a_model_with_points_keeps_them(tmp_path, caplog):
    """3DGS writes points3D.ply from the model: it is another only where somebody replaced it."""
    write_colmap(tmp_path, points=4)
    write_cloud(tmp_path / "sparse/0/points3D.ply", RGB)
    assert not np.array_equal(load_scene(tmp_path).points.colors, RGB) and caplog.text == ""
    write_cloud(tmp_path / "sparse/0/points3D.ply", RGB[:3], xyz=XYZ[:3])
    assert len(load_scene(tmp_path).points.positions) == 4
    assert "its 3 points are not used, but the 4 of the COLMAP model; start from them with --init_ply" in caplog.text


def test_a_model_without_points_and_cloud_is_refused(tmp_path):
    (write_colmap(tmp_path) / "sparse/0/points3D.bin").unlink()
    with pytest.raises(DataError, match="points3D.bin missing; copy the whole model"):
        load_scene(tmp_path)
