"""Names of photographs, and the names of files that are made from them."""

import unicodedata
from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.names import (
    LONGEST,
    fold,
    is_rooted,
    looser_stem,
    name_parts,
    portable,
    split_suffix,
    unique_name,
    unique_stems,
)

E_ACUTE, E_DECOMPOSED = "\u00e9", "e\u0301"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.png", ["a.png"]),
        ("./left/a.png", ["left", "a.png"]),
        ("left\\a.png", ["left", "a.png"]),
        ("../images/a.png", ["images", "a.png"]),
        ("images/../a.png", ["a.png"]),
        ("/data/a.png", ["data", "a.png"]),
        ("C:\\data\\a.png", ["data", "a.png"]),
        ("//server/share/a.png", ["server", "share", "a.png"]),
        ("../..", [""]),
        ("", [""]),
    ],
)
def test_no_part_leads_up_or_to_a_root(name, parts):
    assert name_parts(name) == parts


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("a.png", ("a", ".png")),
        ("a.JPEG", ("a", ".JPEG")),
        ("a.HeIc", ("a", ".HeIc")),
        ("frame.0001", ("frame.0001", "")),
        ("frame.0001.png", ("frame.0001", ".png")),
        ("left.png/a", ("left.png/a", "")),
        ("left/.png", ("left/.png", "")),
        (".png", (".png", "")),
        ("a.png ", ("a.png ", "")),
    ],
)
def test_only_the_suffix_of_an_image_is_one(name, split):
    assert split_suffix(name) == split


def test_ends_of_other_programs():
    named = {"a.CR2": "a", "a.3fr": "a", "a.b.dng": "a.b", "frame.0001": None, "a": None, "a.longword": None}
    assert {name: looser_stem(name) for name in named} == named


def test_roots():
    assert [is_rooted(path) for path in ("/a", "C:/a", "c:a", "a/b", "./a", "12:30/a")] == [True] * 3 + [False] * 3


@pytest.mark.parametrize(
    ("one", "other"),
    [("A.PNG", "a.png"), (f"{E_ACUTE}.png", f"{E_DECOMPOSED}.png"), ("left /a", "left/a"), ("a.", "a"), ("ẞ", "ß")],
)
def test_what_some_disk_takes_for_one_file(one, other):
    assert one != other and fold(one) == fold(other)


def test_numbers_are_added_before_the_suffix():
    assert unique_name("left/a.png", {"left/a.png", "left/a-2.png"}) == "left/a-3.png"
    assert unique_name("frame.01", {"frame.01"}) == "frame.01-2"
    assert unique_name("b", {"a"}) == "b"


def test_ordinary_names_stay():
    names = ["a.png", "left/a.png", "right/a.png", "frame.0001", "été 日本.jpg", "#1 'x'.png"]
    assert unique_stems(names, (".png", ".mask.png")) == names
    shortened = ["a", "left/a", "right/a", "frame.0001", "été 日本", "#1 'x'"]
    assert unique_stems(names, (".png",), shorten=True) == shortened


def test_the_suffix_stays_where_it_tells_names_apart():
    assert unique_stems(["a.jpg", "b.jpg", "a.png"], (".png",), shorten=True) == ["a.jpg", "b", "a.png"]


def test_a_mask_of_one_name_is_not_the_image_of_another():
    stems = unique_stems(["a", "a.mask", "b"], (".png", ".mask.png"))
    assert stems[2] == "b" and not {stems[0] + ".mask.png"} & {stems[1] + ".png"}


def test_a_file_is_not_the_folder_of_another():
    one, other = unique_stems(["a", "a.png/b"], (".png",))
    assert other == "a.png/b" and one != "a"


def test_what_a_name_gets_does_not_depend_on_the_order():
    names = ["A.png", "a.png", "b.png"]
    assert unique_stems(names[::-1], (".png",)) == unique_stems(names, (".png",))[::-1]


def test_long_names_and_control_characters():
    long = portable("日" * 83 + ".png")
    assert len(long.encode()) <= LONGEST and long.startswith("日" * 60) and long == portable("日" * 83 + ".png")
    assert portable("x" * 251) != portable("x" * 250 + "y")
    assert portable("a\x1b[31m\n.png").startswith("a_[31m_.png-")
    assert portable("a b.png") == "a b.png"


NAMES = st.lists(
    st.text(st.sampled_from("aA/.\u00e9e\u0301 -\x1b日"), min_size=1, max_size=6)
    .map(lambda text: "/".join(name_parts(text)))
    .flatmap(lambda stem: st.sampled_from([stem, stem + ".png", stem + ".mask", stem + ".mask.png", stem * 60])),
    max_size=8,
)


@settings(deadline=None, max_examples=300)
@given(NAMES, st.booleans())
def test_no_two_files_are_one_on_any_disk(names, shorten):
    suffixes = (".png", ".mask.png", ".npy")
    stems = unique_stems(names, suffixes, shorten=shorten)
    assert len(stems) == len(names)
    files = [unicodedata.normalize("NFC", (stem + suffix).casefold()) for stem in stems for suffix in suffixes]
    assert len(set(files)) == len(files)
    folders = {folder.as_posix() for file in files for folder in PurePosixPath(file).parents}
    assert not folders & set(files)
    for stem in stems:
        assert stem.isprintable() and ".." not in stem.split("/") and not stem.startswith("/")
        assert all(len(part.encode()) + len(".mask.png") <= 255 for part in stem.split("/"))
