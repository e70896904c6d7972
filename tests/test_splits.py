"""Which images are held out: by the lists that come with a dataset or that the user names, compared by name."""

import json
import shutil

import numpy as np
import pytest
from captures import NAMES, Capture
from scene_files import write_blender, write_colmap, write_image

from datasets import DataError, load_scene
from datasets.name_lists import NameLists
from datasets.splits import chosen_split

HELD = ("b.png", "e.png")
REST = ("a.png", "c.png", "d.png", "f.png")


def colmap(folder, names=NAMES, **how):
    return write_colmap(folder, names=names, **how)


def transforms(folder, frames=None, **more):
    capture = Capture()
    capture.write_images(folder / "images")
    return capture.write_transforms(folder, {**capture.intrinsics(), **more}, frames or capture.frames())


def split(folder, **options):
    """Names without folders of training and test views, and the rule."""
    scene = load_scene(folder, **options)
    train, test = ([view.name.rsplit("/", 1)[-1] for view in views] for views in (scene.train, scene.test))
    return tuple(train), tuple(test), scene.split_rule


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))


# ---------------------------------------------------------------------------------------------- where lists lie


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("sparse/0/test.txt", "b.png\ne.png\n"),
        ("sparse/test.txt", "b.png\ne.png\n"),
        ("test.txt", "b.png\ne.png\n"),
        ("test_list.txt", "b.png\ne.png\n"),
        ("splits/test.txt", "b.png\ne.png\n"),
        ("sparse/0/val.txt", "b.png\ne.png\n"),
        ("eval_images.txt", "b.png\ne.png\n"),
        ("Test.TXT", "b.png\ne.png\n"),
        ("train_test_lists.json", {"train": list(REST), "test": list(HELD), "has_masks": False}),
        ("train_test_split.json", {"train": list(REST), "test": list(HELD)}),
        ("split.json", {"test": list(HELD)}),
        ("dataset.json", {"count": 6, "ids": list("abcdef"), "train_ids": list("acdf"), "val_ids": list("be")}),
        ("scene.tsv", "filename\tid\tsplit\tdataset\na.png\t1\ttrain\tx\nb.png\t2\ttest\tx\ne.png\t3\ttest\tx\n"),
        ("split.csv", "filename;split\nb.png;test\na.png;train\nc.png;train\ne.png;test\nd.png;train\nf.png;train\n"),
    ],
)
def test_a_list_beside_the_model_or_above_it_is_honoured(tmp_path, file, content):
    colmap(tmp_path)
    write(tmp_path / file, content)
    train, test, rule = split(tmp_path)
    assert (test, rule) == (HELD, file)
    assert train == (REST if not file.endswith("tsv") else ("a.png",))  # the table names no other for training


@pytest.mark.parametrize("place", ["sparse/0", "sparse", "colmap/sparse/0"])
def test_a_list_in_the_folder_of_the_model_wherever_that_is(tmp_path, place):
    colmap(tmp_path, place=place)
    write(tmp_path / place / "test.txt", "\n".join(HELD))
    assert split(tmp_path) == (REST, HELD, f"{place}/test.txt")


def test_lists_of_both_leave_out_what_is_in_neither(tmp_path, caplog):
    caplog.set_level("INFO")
    colmap(tmp_path)
    write(tmp_path / "train_list.txt", "a.png\nc.png\nb.png\n")
    write(tmp_path / "test_list.txt", "b.png\ne.png\n")
    assert split(tmp_path) == (("a.png", "c.png"), HELD, "train_list.txt and test_list.txt")
    assert "2 images are for training and 2 for testing (1 of them listed as both), 2 are left out" in caplog.text


def test_a_list_of_training_images_alone_holds_out_the_others(tmp_path):
    colmap(tmp_path)
    write(tmp_path / "sparse/0/train.txt", "\n".join(REST))
    assert split(tmp_path) == (REST, HELD, "sparse/0/train.txt, the others held out")
    write(tmp_path / "sparse/0/train.txt", "\n".join(NAMES))  # no test image: the usual rule
    assert split(tmp_path)[1:] == (("a.png",), "every 8th image by name held out")


def test_validation_images_are_neither_trained_nor_measured_where_others_are_for_testing(tmp_path):
    colmap(tmp_path)
    write(tmp_path / "val.txt", "a.png\n")
    write(tmp_path / "test.txt", "b.png\ne.png\n")
    assert split(tmp_path) == (("c.png", "d.png", "f.png"), HELD, "test.txt")


def test_the_nearest_list_is_used_and_another_one_said(tmp_path, caplog):
    colmap(tmp_path)
    write(tmp_path / "sparse/0/test.txt", "b.png\ne.png\n")
    write(tmp_path / "test.txt", "b.png\ne\n")
    assert split(tmp_path) == (REST, HELD, "sparse/0/test.txt")
    assert "lists" not in caplog.text and "other images" not in caplog.text
    write(tmp_path / "test.txt", "a.png\n")
    assert split(tmp_path) == (REST, HELD, "sparse/0/test.txt")
    assert (
        "test.txt says that other images (1) are for testing than sparse/0/test.txt (2), which is used" in caplog.text
    )


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("test.txt", "This capture is a test.\nIt was made on a Sunday.\n", "2 of 2 names are no image of this scene"),
        ("test.txt", "", "test.txt: lists no image, and is not used"),
        ("test.txt", "# nothing\n", "test.txt: lists no image, and is not used"),
        ("split.json", {"train": [0, 2], "test": [1]}, "`train` lists numbers or other things, not names of images"),
        ("split.json", "{", "split.json: not readable as JSON"),
        ("split.json", {"test": ["x.png"]}, "split.json: 1 of 1 names are no image of this scene: x.png"),
        ("test.txt", "b.png\n".encode("utf-16"), "test.txt: is UTF-16"),
        ("table.csv", "filename;size\nb.png;3\n", ""),
        ("notes.txt", "b.png\n", ""),
        ("split.json", [], ""),
    ],
)
def test_what_names_no_image_is_said_and_the_usual_rule_holds(tmp_path, caplog, file, content, message):
    colmap(tmp_path)
    write(tmp_path / file, content)
    assert split(tmp_path)[1:] == (("a.png",), "every 8th image by name held out")
    assert message in caplog.text


# ------------------------------------------------------------------------------------------------ what names are


FOLDERS = ("left/0001.jpg", "left/0002.jpg", "right/0001.jpg", "right/0003.JPG", "right/night/0004.png")


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ("left/0001.jpg", "left/0001.jpg"),
        ("left/0001", "left/0001.jpg"),
        ("left\\0001.jpg", "left/0001.jpg"),
        ("./left/0001.jpg", "left/0001.jpg"),
        ("images/left/0001.jpg", "left/0001.jpg"),
        ("/home/me/scene/images/left/0001.png", "left/0001.jpg"),
        ("C:\\scene\\images\\left\\0001.JPG", "left/0001.jpg"),
        ("0002.jpg", "left/0002.jpg"),
        ("0002", "left/0002.jpg"),
        ("0003.jpg", "right/0003.JPG"),
        ("RIGHT/0003", "right/0003.JPG"),
        ("night/0004.png", "right/night/0004.png"),
        ("0004", "right/night/0004.png"),
        ('"left/0001.jpg"', "left/0001.jpg"),
        ("left/0001.jpg,", "left/0001.jpg"),
        ("left/0001.jpg 1 0.5", "left/0001.jpg"),
        ("left/0001.jpg\t3", "left/0001.jpg"),
        ("left/0001.jpg;test", "left/0001.jpg"),
    ],
)
def test_names_may_lack_folders_and_extensions(tmp_path, listed, found):
    colmap(tmp_path, FOLDERS)
    write(tmp_path / "test.txt", f"{listed}\n")
    assert [view.name for view in load_scene(tmp_path).test] == [found]


@pytest.mark.parametrize(
    ("names", "listed", "found"),
    [
        (("shot 1.png", "shot 2.png", "shot.png"), "shot 2.png", "shot 2.png"),
        (("shot 1.png", "shot 2.png", "shot.png"), "shot 2", "shot 2.png"),
        (("shot 1.png", "shot 2.png", "shot.png"), "shot 3", "shot.png"),  # a second column
        (("shot 1.png", "shot 2.png", "x.png"), "shot 2.png 0", "shot 2.png"),
        (("Stra\u00dfe.png", "e\u0301.png", "a.png"), "\u00e9.png", "e\u0301.png"),
        (("a.1.png", "a.2.png", "a.png"), "a.2", "a.2.png"),
        (("a.1.png", "a.2.png", "a.png"), "a", "a.png"),
        (("a,b.png", "a.png", "c.png"), "a,b.png", "a,b.png"),
        (("a.jpg", "a.jpg.png", "c.png"), "a.jpg", "a.jpg"),
        (("1.png", "11.png", "111.png"), "11", "11.png"),
    ],
)
def test_the_whole_name_comes_first(tmp_path, names, listed, found):
    colmap(tmp_path, names)
    write(tmp_path / "test.txt", f"{listed}\n")
    assert [view.name for view in load_scene(tmp_path).test] == [found]


def test_an_ambiguous_name_is_refused(tmp_path):
    colmap(tmp_path, FOLDERS)
    write(tmp_path / "test.txt", "0001.jpg\n")
    with pytest.raises(DataError, match=r"test\.txt: 0001\.jpg could be left/0001\.jpg or right/0001\.jpg; write its"):
        load_scene(tmp_path)
    assert load_scene(tmp_path, test_list="none").split_rule == "every 8th image by name held out"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_marks_comments_and_blank_lines_of_lists(tmp_path, end, mark):
    colmap(tmp_path)
    write(tmp_path / "test.txt", mark + end.join([b"# test", b"", b"b.png  ", b"  e.png", b""]))
    assert split(tmp_path) == (REST, HELD, "test.txt")


def test_names_that_match_nothing_are_named(tmp_path, caplog):
    colmap(tmp_path)
    write(tmp_path / "test.txt", "\n".join([*HELD, *(f"x{i}.png" for i in range(7)), "two\x1b[31m"]))
    assert split(tmp_path) == (REST, HELD, "test.txt")
    assert (
        "test.txt: 8 of 10 names are no image of this scene: x0.png, x1.png, x2.png, x3.png, x4.png, ..." in caplog.text
    )


# --------------------------------------------------------------------------------------------- transforms files


FRAMES = Capture().frames()
NAMED = {name: f"images/{name}" for name in NAMES}
FILE_LISTS = {
    "test_filenames": {"train_filenames": [NAMED[n] for n in REST], "test_filenames": [NAMED[n] for n in HELD]},
    "val_filenames": {"train_filenames": [NAMED[n] for n in REST], "val_filenames": [NAMED[n] for n in HELD]},
    "test_filenames alone": {"test_filenames": [NAMED[n] for n in HELD]},
    "bare names": {"test_filenames": [name.removesuffix(".png") for name in HELD]},
    "an empty list too": {"val_filenames": [], "test_filenames": [NAMED[n] for n in HELD]},
}


@pytest.mark.parametrize("lists", FILE_LISTS.values(), ids=FILE_LISTS)
@pytest.mark.parametrize("beside", [False, True])
def test_lists_of_file_names_with_either_source_of_cameras(tmp_path, lists, beside):
    """nerfstudio's lists; with a COLMAP model in the folder the cameras are that model's."""
    transforms(tmp_path, **lists)
    if beside:
        colmap(tmp_path, images=None, size=(96, 64))
    key = next(key for key in ("test_filenames", "val_filenames") if lists.get(key))
    assert split(tmp_path) == (REST, HELD, f"{key} of transforms.json")
    assert load_scene(tmp_path).kind == ("colmap" if beside else "transforms")


def frames_of(names):
    return [frame for frame, name in zip(FRAMES, NAMES, strict=True) if name in names]


@pytest.mark.parametrize("beside", [False, True])
def test_frames_for_testing_apart(tmp_path, beside):
    transforms(tmp_path, frames_of(REST), test_frames=frames_of(HELD))
    if beside:
        colmap(tmp_path, images=None, size=(96, 64))
    assert split(tmp_path) == (REST, HELD, "test_frames of transforms.json")
    scene = load_scene(tmp_path, normalise=False)
    if not beside:
        poses = dict(zip(NAMES, Capture().poses, strict=True))
        for view in (*scene.train, *scene.test):
            np.testing.assert_allclose(view.viewmat, poses[view.name.removeprefix("images/")], atol=1e-9)


def test_frames_for_testing_that_are_among_the_others(tmp_path):
    transforms(tmp_path, FRAMES, test_frames=frames_of(HELD))
    assert split(tmp_path) == (REST, HELD, "test_frames of transforms.json")


def test_frames_for_testing_whose_images_are_not_published(tmp_path, caplog):
    transforms(tmp_path, frames_of(REST), test_frames=frames_of(HELD))
    for name in HELD:
        (tmp_path / "images" / name).unlink()
    assert split(tmp_path) == (("c.png", "d.png", "f.png"), ("a.png",), "every 8th image by name held out")
    assert "2 of 2 test images are missing, left out: images/b.png, images/e.png" in caplog.text


@pytest.mark.parametrize(
    "mark",
    [
        lambda held: {"split": "test" if held else "train"},
        lambda held: {"split": "VAL" if held else "train"},
        lambda held: {"split": "test"} if held else {},
        lambda held: {"is_test": held},
    ],
)
def test_a_split_in_the_frames(tmp_path, mark):
    frames = [{**frame, **mark(name in HELD)} for frame, name in zip(FRAMES, NAMES, strict=True)]
    transforms(tmp_path, frames)
    assert split(tmp_path) == (REST, HELD, "`split` of the frames of transforms.json")


def scannetpp(folder, undistorted):
    """ScanNet++'s own folders: names without a folder, images and masks beside the folder of the cameras."""
    capture = Capture()
    kind = "undistorted" if undistorted else "resized"
    capture.write_images(folder / f"dslr/{kind}_images")
    capture.write_masks(folder / f"dslr/{kind}_anon_masks")
    frames = [{**frame, "mask_path": f"{frame['file_path']}.png", "is_bad": False} for frame in capture.frames("")]
    held = [frame for frame in frames if frame["file_path"] in HELD]
    meta = {**capture.intrinsics(), "camera_model": "PINHOLE", "test_frames": held}
    meta["frames"] = [frame for frame in frames if frame["file_path"] in REST]
    file = folder / "dslr/nerfstudio" / f"transforms{'_undistorted' if undistorted else ''}.json"
    write(file, meta)
    write(folder / "dslr/train_test_lists.json", {"train": list(REST), "test": list(HELD), "has_masks": True})
    return file


@pytest.mark.parametrize("undistorted", [False, True])
def test_scannetpp_as_it_is_published(tmp_path, undistorted):
    file = scannetpp(tmp_path, undistorted)
    assert split(file) == (REST, HELD, f"test_frames of {file.name}")
    for view in load_scene(file).train:
        assert view.image_path.parent.name == ("undistorted_images" if undistorted else "resized_images")
        assert view.mask.path.parent.name == ("undistorted_anon_masks" if undistorted else "resized_anon_masks")


def test_scannetpp_by_its_list_alone(tmp_path):
    file = scannetpp(tmp_path, False)
    meta = json.loads(file.read_text())
    write(file, {**meta, "frames": meta["frames"] + meta.pop("test_frames"), "test_frames": []})
    assert split(file) == (REST, HELD, "train_test_lists.json")


@pytest.mark.parametrize("held", ["transforms_test.json", "transforms_val.json"])
@pytest.mark.parametrize("main", [True, False])
def test_a_second_file_of_test_views_beside_a_colmap_model(tmp_path, held, main):
    transforms(tmp_path, frames_of(REST))
    if not main:
        (tmp_path / "transforms.json").unlink()
    write(tmp_path / held, {**Capture().intrinsics(), "frames": frames_of(HELD)})
    colmap(tmp_path, images=None, size=(96, 64))
    assert split(tmp_path) == (REST, HELD, held)
    assert load_scene(tmp_path).kind == "colmap"


@pytest.mark.parametrize("held", ["transforms_test.json", "transforms_val.json", "transforms_eval.json"])
@pytest.mark.parametrize("main", ["transforms_train.json", "transforms.json"])
@pytest.mark.parametrize("apart", [True, False])
def test_a_second_file_of_test_views(tmp_path, held, main, apart):
    """Beside a transforms.json it may hold some of the same images."""
    apart = apart or main == "transforms_train.json"  # what that has is for training
    transforms(tmp_path, frames_of(REST) if apart else FRAMES)
    (tmp_path / "transforms.json").rename(tmp_path / main)
    write(tmp_path / held, {**Capture().intrinsics(), "frames": frames_of(HELD)})
    assert split(tmp_path) == (REST, HELD, held)


def test_the_test_file_comes_before_the_validation_file(tmp_path):
    write_blender(tmp_path)
    shutil.copy(tmp_path / "transforms_train.json", tmp_path / "transforms_val.json")
    scene = load_scene(tmp_path)
    assert (len(scene.train), len(scene.test), scene.split_rule) == (4, 2, "transforms_test.json")


@pytest.mark.parametrize("content", ["{", "images are gone"])
def test_a_validation_file_that_cannot_be_used_is_left_out(tmp_path, caplog, content):
    write_blender(tmp_path, test=None)
    meta = json.loads((tmp_path / "transforms_train.json").read_text().replace("./train/", "./val/"))
    write(tmp_path / "transforms_val.json", meta if content == "images are gone" else content)
    assert load_scene(tmp_path).split_rule == "every 8th image by name held out"
    assert "transforms_val.json is not used" in caplog.text


def test_text_lists_count_for_transforms_files_too(tmp_path):
    transforms(tmp_path)
    colmap(tmp_path, images=None, size=(96, 64))
    write(tmp_path / "sparse/0/test.txt", "b.png\ne.png\n")
    for source in (tmp_path, tmp_path / "transforms.json"):
        assert split(source) == (REST, HELD, "sparse/0/test.txt")


def test_it_is_said_which_cameras_are_taken(tmp_path, caplog):
    caplog.set_level("INFO")
    transforms(tmp_path, test_filenames=[NAMED[name] for name in HELD])
    colmap(tmp_path, images=None, size=(96, 64))
    load_scene(tmp_path)
    assert "cameras are those of the COLMAP model sparse/0, not of transforms.json" in caplog.text
    load_scene(tmp_path / "transforms.json")
    assert "cameras are those of transforms.json, not of the COLMAP model sparse/0" in caplog.text


def test_a_broken_file_beside_the_model_is_no_error(tmp_path, caplog):
    colmap(tmp_path)
    write(tmp_path / "transforms.json", "{")
    assert split(tmp_path)[1] == ("a.png",)
    assert "transforms.json: not readable as JSON" in caplog.text


# ------------------------------------------------------------------------------------------------ what users choose


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("mine.txt", "b.png\ne.png\n"),
        ("mine", "b\ne\n"),
        ("mine.lst", "images/b.png\nimages/e.png\n"),
        ("mine.json", list(HELD)),
        ("mine.json", {"train": list(REST), "test": list(HELD)}),
        ("mine.json", {"frames": [{"file_path": f"images/{name}"} for name in HELD]}),
        ("mine.csv", "image,set\nb.png,test\ne.png,test\n"),
        ("mine.csv", "b.png,1\ne.png,2\n"),
    ],
)
def test_a_list_that_the_user_names_comes_first(tmp_path, file, content):
    colmap(tmp_path / "scene")
    write(tmp_path / "scene/sparse/0/test.txt", "a.png\n")
    write(tmp_path / file, content)
    assert split(tmp_path / "scene", test_list=tmp_path / file) == (REST, HELD, f"{file} (data.test_list)")


def test_where_a_list_is_looked_for(tmp_path, monkeypatch):
    colmap(tmp_path / "scene")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write(tmp_path / "scene/mine.txt", "a.png\n")
    assert split(tmp_path / "scene", test_list="mine.txt")[1] == ("a.png",)
    write(tmp_path / "here/mine.txt", "b.png\ne.png\n")  # the working directory comes first, as for the scene itself
    assert split(tmp_path / "scene", test_list="mine.txt")[1] == HELD


def test_a_list_that_the_user_names_beats_test_views_apart(tmp_path):
    transforms(tmp_path, frames_of(REST), test_frames=frames_of(HELD))
    write(tmp_path / "mine.txt", "a.png\n")
    assert split(tmp_path, test_list="mine.txt") == (NAMES[1:], ("a.png",), "mine.txt (data.test_list)")
    write_blender(tmp_path / "blender")
    write(tmp_path / "blender/mine.txt", "train/r_3\n")
    scene = load_scene(tmp_path / "blender", test_list="mine.txt")
    assert [view.name for view in scene.test] == ["train/r_3.png"] and len(scene.train) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "mine.txt: no such list of test images, nor is it in"),
        ("", "mine.txt: lists no image; write the name of a test image into each line"),
        ("x.png\n", "mine.txt: none of its names is for testing and an image of"),
        (
            "\n".join(NAMES),
            r"6 image\(s\), all held out for testing \(mine.txt \(data.test_list\)\); train on all with",
        ),
    ],
)
def test_a_list_that_cannot_be_used_is_an_error(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    colmap(tmp_path / "scene")
    if content is not None:
        write(tmp_path / "mine.txt", content)
    with pytest.raises(DataError, match=message):
        load_scene(tmp_path / "scene", test_list="mine.txt")


def test_no_list_at_all(tmp_path):
    colmap(tmp_path)
    write(tmp_path / "sparse/0/test.txt", "b.png\ne.png\n")
    assert split(tmp_path, test_list="none", test_every=4)[1:] == (
        ("a.png", "e.png"), "every 4th image by name held out",
    )  # fmt: skip
    transforms(tmp_path / "ns", test_filenames=["b"])
    assert split(tmp_path / "ns", test_list="none")[1] == ("a.png",)


def test_without_holding_out_all_images_of_a_list_are_trained(tmp_path, caplog):
    caplog.set_level("INFO")
    colmap(tmp_path / "colmap")
    write(tmp_path / "colmap/sparse/0/test.txt", "b.png\ne.png\n")
    transforms(tmp_path / "ns", train_filenames=[NAMED[n] for n in REST], test_filenames=[NAMED[n] for n in HELD])
    for scene in ("colmap", "ns"):
        assert split(tmp_path / scene, hold_out=False) == (NAMES, (), "none")
    transforms(tmp_path / "apart", frames_of(REST), test_frames=frames_of(HELD))
    assert split(tmp_path / "apart", hold_out=False) == (REST, (), "none")  # those are for testing only
    split(tmp_path / "colmap", hold_out=False, test_list="mine.txt")
    assert "mine.txt is not used: no image is held out" in caplog.text


def test_a_choice_of_test_every_that_has_no_effect_is_said(tmp_path, caplog):
    caplog.set_level("INFO")
    colmap(tmp_path)
    write(tmp_path / "test.txt", "b.png\ne.png\n")
    assert split(tmp_path, test_every=2) == (REST, HELD, "test.txt")
    assert "test_every 2 has no effect, since it is given which images are for testing (test.txt)" in caplog.text
    caplog.clear()
    split(tmp_path)
    assert "has no effect" not in caplog.text and "test_every is not used" in caplog.text
    write_blender(tmp_path / "blender")
    load_scene(tmp_path / "blender", test_every=3)
    assert "test_every 3 has no effect, since it is given which images are for testing (transforms_t" in caplog.text


@pytest.mark.parametrize("pattern", ["cam{0}/{1:06d}.jpg", "{1:06d}/frame.jpg"])
def test_many_names_take_little_time(tmp_path, pattern):
    """20,000 views and a list of half of them: comparing each with each would take minutes."""
    names = [pattern.format(i % 10, i) for i in range(20_000)]
    listed = tuple(f"/data/{name[:-4]}" for name in names[::2])
    found = chosen_split([NameLists("list", tmp_path, test=listed)], names)
    assert found.test == set(names[::2]) and found.train == set(names[1::2])


def test_a_photo_at_the_top_and_in_a_folder(tmp_path):
    """Equal ends: the whole path wins, then a deeper one that is written out."""
    colmap(tmp_path, ("a.png", "x/a.png", "x/y/a.png"))
    for listed, found in (("a.png", "a.png"), ("x/a.png", "x/a.png"), ("x/y/a", "x/y/a.png"), ("y/a.png", "x/y/a.png")):
        write(tmp_path / "test.txt", listed)
        assert [view.name for view in load_scene(tmp_path).test] == [found]


def test_images_that_the_model_lacks_do_not_matter(tmp_path, caplog):
    colmap(tmp_path)
    write_image(tmp_path / "images/g.png", 64, 40)
    write(tmp_path / "test.txt", "b.png\ne.png\ng.png\n")  # not registered by structure from motion
    assert split(tmp_path)[1] == HELD
    assert "1 of 3 names are no image of this scene: g.png" in caplog.text


# -------------------------------------------------------------------------------------- with the names of other things


SPELLINGS = ("scene", "scene/sparse/0", "scene/sparse", "scene\\sparse\\0", "scene/sparse/../sparse/0")


@pytest.mark.parametrize("source", SPELLINGS)
@pytest.mark.parametrize("file", ["scene/sparse/0/test.txt", "scene/sparse/test.txt", "scene/test.txt"])
def test_a_list_counts_however_the_scene_is_named(tmp_path, monkeypatch, source, file):
    colmap(tmp_path / "scene")
    write(tmp_path / file, "\n".join(HELD))
    monkeypatch.chdir(tmp_path)
    assert split(source) == (REST, HELD, file.removeprefix("scene/"))


def test_a_list_counts_from_within_the_folder_of_the_model(tmp_path, monkeypatch):
    colmap(tmp_path)
    write(tmp_path / "test.txt", "\n".join(HELD))
    monkeypatch.chdir(tmp_path / "sparse/0")
    assert [split(source) for source in (".", "..", "../..", "../0")] == 4 * [(REST, HELD, "test.txt")]


def test_lists_beside_a_model_in_the_colmap_folder(tmp_path):
    colmap(tmp_path, place="colmap/sparse/0")
    write(tmp_path / "test.txt", "\n".join(HELD))
    for source in ("", "colmap", "colmap/sparse", "colmap/sparse/0"):
        assert split(tmp_path / source) == (REST, HELD, "test.txt")


def test_the_users_list_may_have_the_backslashes_of_windows(tmp_path, monkeypatch):
    colmap(tmp_path / "scene")
    write(tmp_path / "scene/lists/mine.txt", "\n".join(HELD))
    monkeypatch.chdir(tmp_path)
    for file in ("lists\\mine.txt", "scene\\lists\\mine.txt"):
        assert split("scene", test_list=file) == (REST, HELD, "mine.txt (data.test_list)")


DOTTED = [f"day {1 + i // 3}/frame.{i:04}" for i in range(6)]


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        (DOTTED[1], DOTTED[1]),
        ("frame.0004", DOTTED[4]),
        ("frame.0004.jpg", DOTTED[4]),
        ("DAY 2\\Frame.0004", DOTTED[4]),
        (f"/home/me/images/{DOTTED[2]}", DOTTED[2]),
        ("frame.0004.CR2", DOTTED[4]),
    ],
)
def test_dots_of_names_without_extension_are_part_of_them(tmp_path, listed, found):
    colmap(tmp_path, DOTTED, images=None)
    for name in DOTTED:
        write_image(tmp_path / "images/a.png", 64, 40)
        (tmp_path / "images" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "images/a.png").rename(tmp_path / "images" / name)
    write(tmp_path / "test.txt", f"frame.0009\n{listed}\n")
    assert [view.name for view in load_scene(tmp_path).test] == [found]


@pytest.mark.parametrize("key", ["test_filenames", "val_filenames"])
def test_photographs_of_one_name_are_told_apart_by_their_paths(tmp_path, key):
    """As views they are x.png and x-2.png; as lists have them, what the frames have."""
    folder, outside = tmp_path / "scene", [f"../images/{name}" for name in NAMES[:3]]
    paths = [f"images/{name}" for name in NAMES[:3]] + outside
    frames = [{**frame, "file_path": path} for frame, path in zip(FRAMES, paths, strict=True)]
    for index, path in enumerate(paths):
        write_image(folder / path, 96, 64, level=10 * index)
    transforms(folder, frames, **{key: outside})
    for source in ("images/a.png", "../images/a.png"):
        assert (folder / source).is_file()
    assert split(folder)[:2] == (NAMES[:3], tuple(name.replace(".", "-2.") for name in NAMES[:3]))


def test_views_of_a_second_file_are_of_the_same_size_as_the_others(tmp_path):
    """All are smaller copies, or none is, where one lacks its copy."""
    transforms(tmp_path, frames_of(REST))
    write(tmp_path / "transforms_test.json", {**Capture().intrinsics(), "frames": frames_of(HELD)})
    for index, name in enumerate(NAMES):
        write_image(tmp_path / "images_2" / name, 48, 32, level=10 * index)
    for copies in ("images_2", "images resized to 1/2 (Lanczos)"):
        scene = load_scene(tmp_path, resolution=2)
        assert {(view.width, view.height) for view in (*scene.train, *scene.test)} == {(48, 32)}
        assert (len(scene.train), len(scene.test), scene.image_source) == (4, 2, copies)
        (tmp_path / "images_2/e.png").unlink(missing_ok=True)
