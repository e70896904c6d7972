"""What files list; tests/test_splits.py has what becomes of it."""

import json

import pytest

from datasets import DataError
from datasets.name_lists import _role, given_lists, read_list, transforms_lists


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ("test", "test"), ("TEST", "test"), ("test_list", "test"), ("list_test", "test"), ("testset", "test"),
        ("test_image_names", "test"), ("train", "train"), ("training-images", "train"), ("train_ids", "train"),
        ("val", "val"), ("validation", "val"), ("eval_filenames", "val"), ("latest", None), ("contest", None),
        ("train_test", None), ("tests", None), ("ids", None), ("notes", None), ("test_results", None),
    ],
)  # fmt: skip
def test_what_a_name_says_it_lists(text, role):
    assert _role(text) == role


def test_the_nearest_lists_come_first(tmp_path):
    place = tmp_path / "sparse/0"
    place.mkdir(parents=True)
    for path in (tmp_path / "test.txt", place / "test.txt", tmp_path / "sparse/val.txt"):
        path.write_text("a.png\n")
    (tmp_path / "train_test_lists.json").write_text(json.dumps({"test": ["b.png"], "train": []}))
    origins = [lists.origin for lists in given_lists(tmp_path, place)]
    assert origins == ["sparse/0/test.txt", "sparse/val.txt", "test.txt", "train_test_lists.json"]


def test_files_outside_the_dataset_are_not_looked_at(tmp_path):
    (tmp_path / "scene/sparse/0").mkdir(parents=True)
    (tmp_path / "test.txt").write_text("a.png\n")
    assert given_lists(tmp_path / "scene", tmp_path / "scene/sparse/0") == []


def test_the_shortest_name_is_taken_for_a_role(tmp_path):
    for name in ("test_images.txt", "test.txt", "list_test.txt"):
        (tmp_path / name).write_text(f"{name[:-4]}.png\n")
    (lists,) = given_lists(tmp_path, tmp_path)
    assert (lists.origin, lists.test) == ("test.txt", ("test.png",))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("x.txt", "a b.png\n# c.png\n\nd.png", (("a b.png", "d.png"), (), ())),
        ("x", "a.png", (("a.png",), (), ())),
        ("x.json", '{"testing": ["a"], "validation_names": ["b"], "training_ids": ["c"]}', (("a",), ("c",), ("b",))),
        ("x.json", '["a", "b"]', (("a", "b"), (), ())),
        (
            "x.tsv",
            "id\tfilename\tsplit\n1\ta b.png\ttest\n2\tc.png\ttrain\n3\td.png\t\n",
            (("a b.png",), ("c.png",), ()),
        ),
        ("x.csv", '"image_name";"set"\n"a.png";"VALIDATION"\n', ((), (), ("a.png",))),
        ("x.csv", "image,split\r\na.png,test\r\n", (("a.png",), (), ())),
    ],
)
def test_what_a_file_lists(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content)
    lists = read_list(tmp_path / name, tmp_path)
    assert (lists.test, lists.train, lists.val) == expected


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"test_filenames": "a"}, "`test_filenames` is a str, not a list of files"),
        ({"val_filenames": {"a": 1}}, "`val_filenames` is a dict, not a list of files"),
    ],
)
def test_lists_of_a_transforms_file_that_are_none(tmp_path, meta, message):
    with pytest.raises(DataError, match=message):
        transforms_lists(tmp_path / "transforms.json", meta)


@pytest.mark.parametrize(
    "meta", [{}, {"frames": []}, {"frames": [{"file_path": "a", "split": "train"}]}, {"frames": 3}]
)
def test_a_transforms_file_that_says_nothing(tmp_path, meta):
    assert transforms_lists(tmp_path / "transforms.json", meta) is None
