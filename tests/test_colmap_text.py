"""Text models as COLMAP and others write them: the same cameras, whatever lines, spaces and line ends they have."""

import numpy as np
import pycolmap
import pytest
from scene_files import ring, write_colmap, write_image

from datasets import DataError, load_scene
from datasets.colmap_text import read_text_model

ALL = {"test_every": 0, "normalise": False}
NAMES = ("a.png", "b.png", "c.png", "d.png")


def model(folder, names=NAMES, **how):
    """A text model of COLMAP 3.x; the folder of the model."""
    place = write_colmap(folder, names=names, text=True, **how) / "sparse/0"
    for name in ("rigs.txt", "frames.txt"):
        (place / name).unlink()
    return place


def image_lines(place):
    """The lines of the images, without comments and 2D points."""
    return [line for line in (place / "images.txt").read_text().splitlines() if line.endswith(".png")]


def write_images(place, lines, end="\n"):
    (place / "images.txt").write_bytes((end.join(lines) + end).encode())


POINTS = "10.5 20.25 -1 11 12 7"
LONG = " ".join(f"{i}.5 {i}.25 {i if i % 2 else -1}" for i in range(500))
LAYOUTS = {
    "no second line": lambda lines: lines,
    "an empty second line": lambda lines: [part for line in lines for part in (line, "")],
    "a second line of spaces": lambda lines: [part for line in lines for part in (line, "  \t")],
    "2D points": lambda lines: [part for line in lines for part in (line, POINTS)],
    "many 2D points": lambda lines: [part for line in lines for part in (line, LONG)],
    "one, two and three 2D points": lambda lines: [
        part for i, line in enumerate(lines) for part in (line, " ".join(["3 4 -1"] * (1 + i % 3)))
    ],
    "2D points of some": lambda lines: [*lines[:1], POINTS, *lines[1:3], "", lines[3]],
    "2D points of the last": lambda lines: [*lines, LONG],
    "blank lines and comments": lambda lines: ["# x", "", *(part for line in lines for part in (line, "# 1 2 3", ""))],
    "tabs": lambda lines: [line.replace(" ", "\t") for line in lines],
    "many spaces": lambda lines: ["  " + line.replace(" ", "   ") + "  " for line in lines],
    "quotes": lambda lines: [f'{line.rsplit(" ", 1)[0]} "{line.rsplit(" ", 1)[1]}"' for line in lines],
    "whole numbers as 1.0": lambda lines: [f"{i}.0 {line.split(' ', 1)[1]}" for i, line in enumerate(lines, 1)],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_layout_of_the_lines_is_the_same_model(tmp_path, layout, end):
    place = model(tmp_path)
    plain = load_scene(tmp_path, **ALL)
    write_images(place, LAYOUTS[layout](image_lines(place)), end)
    scene = load_scene(tmp_path, **ALL)
    assert [view.name for view in scene.train] == list(NAMES)
    for view, expected, pose in zip(scene.train, plain.train, ring(4), strict=True):
        np.testing.assert_array_equal(view.viewmat, expected.viewmat)
        np.testing.assert_allclose(view.viewmat, pose, atol=1e-12)


@pytest.mark.parametrize(
    "names",
    [
        ("shot 000.png", "shot 001.png", "shot  002.png", "left side/shot 003.png"),
        ("a\tb.png", "a\t\tb.png", "c d\te.png", "f.png"),
        ("Brücke.png", "橋 1.png", "\u3000x.png", "e\u0301.png"),
        ("#1.png", 'say "a".png', "a,b;c.png", "'.png"),
        ("1.png", "10 20 -1.png", "1 2 3 4 5 6.png", "-1.png"),
    ],
)
@pytest.mark.parametrize("second_line", [None, "", POINTS])
def test_a_name_is_the_rest_of_its_line(tmp_path, names, second_line):
    place = model(tmp_path)
    lines = [f"{line.rsplit(' ', 1)[0]} {name}" for line, name in zip(image_lines(place), names, strict=True)]
    write_images(place, lines if second_line is None else [part for line in lines for part in (line, second_line)])
    for name in names:
        write_image(tmp_path / "images" / name, 64, 40)
    scene = load_scene(tmp_path, **ALL)
    assert {view.name for view in scene.train} == set(names)
    poses = {view.name: view.viewmat for view in scene.train}
    for name, pose in zip(names, ring(4), strict=True):
        np.testing.assert_allclose(poses[name], pose, atol=1e-12)


@pytest.mark.parametrize("second_line", [None, "", POINTS])
def test_names_of_numbers_without_extension_are_names(tmp_path, second_line):
    """An upright camera's quaternion is of whole numbers too, as the ids of 2D points are."""
    place = model(tmp_path)
    names = ["0001", "0002", "3", "-4"]
    lines = [f"{i} 1 0 0 0 {i} 0 0 1 {name}" for i, name in enumerate(names, 1)]
    write_images(place, lines if second_line is None else [part for line in lines for part in (line, second_line)])
    images = read_text_model(place).images
    assert [(image.name, image.cam_from_world[0, 3]) for image in images] == [
        (name, float(i)) for i, name in enumerate(names, 1)
    ]


@pytest.mark.parametrize("file", ["cameras.txt", "images.txt", "points3D.txt", "rigs.txt", "frames.txt"])
@pytest.mark.parametrize("change", ["mark", "crlf", "cr", "tabs", "spaces", "blank lines"])
def test_marks_line_ends_and_spaces_do_not_matter_in_any_file(tmp_path, file, change):
    place = write_colmap(tmp_path, text=True) / "sparse/0"
    plain, content = load_scene(tmp_path, **ALL), (place / file).read_bytes()
    changes = {
        "mark": b"\xef\xbb\xbf" + content,
        "crlf": content.replace(b"\n", b"\r\n"),
        "cr": content.replace(b"\n", b"\r"),
        "tabs": content.replace(b" ", b"\t"),
        "spaces": content.replace(b" ", b"   "),
        "blank lines": b"\n\n" + content.replace(b"\n", b"\n\n"),
    }
    (place / file).write_bytes(changes[change])
    scene = load_scene(tmp_path, **ALL)
    np.testing.assert_array_equal([view.viewmat for view in scene.train], [view.viewmat for view in plain.train])
    np.testing.assert_array_equal([view.K for view in scene.train], [view.K for view in plain.train])
    np.testing.assert_array_equal(scene.points.positions, plain.points.positions)
    np.testing.assert_array_equal(scene.points.colors, plain.points.colors)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_other_encodings_are_refused_in_one_line(tmp_path, encoding):
    path = model(tmp_path) / "images.txt"
    path.write_bytes(path.read_text().encode(encoding))
    with pytest.raises(DataError, match=r"images\.txt: is UTF-16 or UTF-32 text, .*; save it as UTF-8"):
        load_scene(tmp_path)


def test_a_text_model_is_bit_for_bit_what_colmap_reads(tmp_path):
    place = write_colmap(tmp_path, text=True) / "sparse/0"
    ours, theirs = read_text_model(place), pycolmap.Reconstruction(place)
    for image in ours.images:
        np.testing.assert_array_equal(image.cam_from_world, theirs.images[image.image_id].cam_from_world().matrix())
    points = [point for _, point in sorted(theirs.points3D.items())]
    np.testing.assert_array_equal(ours.positions, [point.xyz for point in points])
    np.testing.assert_array_equal(ours.colors, [point.color for point in points])


@pytest.mark.parametrize(
    ("rest", "colours"),
    [
        ("10 200 30 0.5 1 0 2 1", (10, 200, 30)),
        ("10 200 30 0.5", (10, 200, 30)),
        ("10 200 30", (10, 200, 30)),
        ("10.0 200.4 29.6 -1", (10, 200, 30)),
        ("0.25 0.5 1.0 -1 1 1", (64, 128, 255)),
    ],
)
def test_points_with_and_without_tracks_and_errors(tmp_path, rest, colours):
    place = model(tmp_path)
    (place / "points3D.txt").write_text(f"7 1 2 3 {rest}\n5 -1.5 2e-1 3 {rest}\n")
    points = load_scene(tmp_path, **ALL).points
    np.testing.assert_array_equal(points.positions, [[-1.5, 0.2, 3], [1, 2, 3]])  # in the order of the ids
    np.testing.assert_array_equal(points.colors, [colours] * 2)


def test_frames_that_disagree_with_images_are_believed_and_said(tmp_path, caplog):
    place = write_colmap(tmp_path, text=True) / "sparse/0"
    text = (place / "images.txt").read_text()
    number, *pose, camera, name = image_lines(place)[1].split()
    moved = " ".join([number, *pose[:6], str(float(pose[6]) + 1.0), camera, name])
    (place / "images.txt").write_text(text.replace(image_lines(place)[1], moved))
    np.testing.assert_allclose(load_scene(tmp_path, **ALL).train[1].viewmat, ring(4)[1], atol=1e-12)
    assert "frames.txt: has other poses than images.txt for 1 of 4 images (b.png)" in caplog.text
    (place / "rigs.txt").unlink()
    np.testing.assert_allclose(load_scene(tmp_path, **ALL).train[1].viewmat[2, 3], ring(4)[1][2, 3] + 1.0)


def test_an_image_without_a_frame_keeps_its_own_pose(tmp_path):
    place = write_colmap(tmp_path, text=True) / "sparse/0"
    frames = (place / "frames.txt").read_text().splitlines()
    (place / "frames.txt").write_text("\n".join(frames[:-1]) + "\n")
    scene = load_scene(tmp_path, **ALL)
    np.testing.assert_allclose([view.viewmat for view in scene.train], ring(4), atol=1e-12)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("cameras.txt", "PINHOLE", "PINHOLES", "line 4: not a readable COLMAP model (camera model 'PINHOLES' is unkn"),
        ("cameras.txt", " 17", "", "PINHOLE has 4 parameters, here are 3"),
        ("cameras.txt", " 17", " 17,5", "a parameter is '17,5', not a number"),
        ("cameras.txt", "64 40", "64 0", "camera 1 of 64x0 pixels cannot be"),
        ("cameras.txt", "1 PINHOLE", "one PINHOLE", "id is 'one', not a whole number"),
        ("images.txt", " 1 a.png", " one a.png", "the camera id is 'one', not a whole number"),
        ("images.txt", " 1 a.png", " 2 a.png", "image a.png has camera 2, which cameras.txt does not have"),
        ("images.txt", " 1 a.png", " a.png", "neither an image (id, quaternion, translation, camera id, name) nor"),
        ("images.txt", "\n2 ", "\n1 ", "image 1 is there twice"),
        ("images.txt", " 1 a.png\n", " 1 a.png\n1 2 3\n4 5 6\n", "2D points without an image before them"),
        ("points3D.txt", "1 0.", "1 O.", "could not convert string to float"),
        ("points3D.txt", "\n1 ", "\n1 2 3\n1 ", "a point has an id, a position and a colour, here are 3 values"),
        ("frames.txt", "CAMERA 1 1", "CAMERA 1", "it ends too early"),
        ("rigs.txt", "1 1 CAMERA 1", "1 one CAMERA 1", "the number of sensors is 'one', not a whole number"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path, file, old, new, message):
    path = write_colmap(tmp_path, text=True) / "sparse/0" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError) as error:
        load_scene(tmp_path)
    assert message in str(error.value) and f"{file}, line " in str(error.value) and "\n" not in str(error.value)


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    place = model(tmp_path)
    path = place / "images.txt"
    path.write_bytes(path.read_bytes().replace(b"b.png", b"br\xfccke.png"))
    with pytest.raises(DataError, match="the name of image 2 is not UTF-8; rename its file in ASCII"):
        load_scene(tmp_path)


def test_a_missing_file_is_named_as_before(tmp_path):
    (model(tmp_path) / "points3D.txt").unlink()
    with pytest.raises(DataError, match=r"points3D\.txt missing; copy the whole model"):
        load_scene(tmp_path)
