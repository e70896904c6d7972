"""Which cameras of a folder are taken: each row of READERS alone, and all of them together."""

import logging

import pytest

from distwar_datasets.errors import DataError
from distwar_datasets.pixels.prepare import ImageOptions
from distwar_datasets.readers.kinds import READERS, Reader, find_cameras, others_beside


def add(folder, row: Reader, place: str) -> None:
    """Cameras of this row: empty files, for nothing is read here."""
    if row.kind == "transforms":
        (folder / place).touch()
        return
    (folder / place).mkdir(parents=True, exist_ok=True)
    for name in ("cameras.bin", "images.bin"):
        (folder / place / name).touch()


PLACES = [(index, place) for index, row in enumerate(READERS) for place in row.places]


@pytest.mark.parametrize(("index", "place"), PLACES)
def test_a_row_recognises_its_cameras_at_each_place(tmp_path, index, place):
    (tmp_path / "images").mkdir()
    add(tmp_path, READERS[index], place)
    found = find_cameras(tmp_path, ImageOptions())
    assert (found.reader, found.folder, found.place) == (READERS[index], tmp_path, tmp_path / place)
    assert others_beside(found) == []


def test_the_first_row_that_recognises_a_folder_has_its_cameras(tmp_path):
    (tmp_path / "images").mkdir()
    for index, place in reversed(PLACES):
        add(tmp_path, READERS[index], place)
        found = find_cameras(tmp_path, ImageOptions())
        assert (found.reader, found.place) == (READERS[index], tmp_path / place)


@pytest.mark.parametrize("name", ["transforms.json", "transforms_train.json", "exported cameras.json"])
def test_a_file_of_cameras_is_taken_itself(tmp_path, name):
    add(tmp_path, READERS[1], "sparse/0")
    (tmp_path / name).touch()
    found = find_cameras(tmp_path / name, ImageOptions())
    assert (found.reader.kind, found.folder, found.place) == ("transforms", tmp_path, tmp_path / name)
    assert [place for _, place in others_beside(found)] == [tmp_path / "sparse/0"]


def test_a_model_without_its_scene_leads_to_the_scene(tmp_path):
    (tmp_path / "images").mkdir()
    add(tmp_path, READERS[1], "sparse/0")
    for start in ("sparse", "sparse/0"):
        found = find_cameras(tmp_path / start, ImageOptions())
        assert (found.reader.kind, found.folder, found.place) == ("colmap", tmp_path, tmp_path / "sparse/0")


def test_what_was_looked_for_is_said(tmp_path):
    with pytest.raises(DataError) as raised:
        find_cameras(tmp_path, ImageOptions())
    for place in {place for _, place in PLACES} - {"."}:
        assert place in str(raised.value)


def test_broken_lists_of_unused_cameras_are_left_out(tmp_path, caplog):
    (tmp_path / "transforms.json").write_text("{")
    shared = next(row for row in READERS if row.places == ("transforms.json",))
    with caplog.at_level(logging.WARNING):
        assert shared.lists(tmp_path) == []
    assert "transforms.json" in caplog.text and "it is not used" in caplog.text
