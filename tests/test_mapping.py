"""Attempts at mapping: which are made, and which is kept."""

import numpy as np
import pycolmap
import pytest
from known_lenses import begun_work, capture, lens

from datasets.errors import DataError
from distwar_gs.capture import mapping
from distwar_gs.capture.mapping import Mapped, consistent_model, find_cameras, mapped, set_lens
from distwar_gs.capture.model_agreement import Pair
from distwar_gs.capture.staging import Staged, save_stage
from distwar_gs.capture.work import Settings, Work

COUNT = 8


@pytest.fixture
def work(tmp_path):
    """Of eight photos that nobody looks at."""
    work = Work.begun(tmp_path, Settings("p", "exhaustive", "auto", 1600, 8192, 0, COUNT), 1, lambda line: None)
    names = [f"{index}.jpg" for index in range(COUNT)]
    save_stage(work.folder / "photos.json", [Staged(name, name, name, False) for name in names], [])
    return work


def pair(matches: int) -> Pair:
    """That contradicts a model."""
    return Pair((matches, matches + 1), matches, 0, matches)


def made(folder, images: int, contradicted: list[int], origin: str) -> Mapped:
    (folder / "0").mkdir(parents=True)
    (folder / "0/from").write_text(origin)
    return Mapped(folder / "0", 1, images, 20, [pair(count) for count in contradicted])


@pytest.mark.parametrize(
    ("attempts", "kept", "firsts"),
    [
        ([(8, [])], 1, [None]),  # nothing contradicts the first: no other
        ([(8, [500, 900]), (8, [])], 2, [None, (900, 901)]),
        ([(8, [500, 600]), (7, []), (8, [300])], 3, [None, (600, 601), (500, 501)]),  # all photos before no complaint
        ([(8, [500]), None], 1, [None, (500, 501)]),  # no other pair to begin with
        ([(8, [400, 500]), None, (8, [400, 600, 700])], 1, [None, (500, 501), (400, 401)]),
    ],
)
def test_a_contradicted_model_is_made_again(work, monkeypatch, attempts, kept, firsts):
    asked = []

    def attempt(work, folder, first):
        asked.append(first)
        result = attempts[len(asked) - 1]
        return result and made(folder, *result, str(len(asked)))

    monkeypatch.setattr(mapping, "mapped", attempt)
    best = consistent_model(work, work.folder / "models")
    assert (best.folder / "from").read_text() == str(kept) and asked == firsts
    assert len(best.contradicted) == len(attempts[kept - 1][1])


@pytest.mark.parametrize(
    ("camera", "results", "kept", "tried"),
    [
        ("auto", [8], "SIMPLE_RADIAL", ["SIMPLE_RADIAL"]),
        ("auto", [4], "SIMPLE_RADIAL", ["SIMPLE_RADIAL"]),  # half of the photos
        ("auto", [3, 8], "OPENCV", ["SIMPLE_RADIAL", "OPENCV"]),
        ("auto", [None, 2, 3], "OPENCV_FISHEYE", ["SIMPLE_RADIAL", "OPENCV", "OPENCV_FISHEYE"]),
        ("auto", [3, 3, None], "SIMPLE_RADIAL", ["SIMPLE_RADIAL", "OPENCV", "OPENCV_FISHEYE"]),
        ("FOV", [2], "FOV", ["FOV"]),  # as asked, and no other
    ],
)
def test_other_lens_models_to_begin_with(work, monkeypatch, camera, results, kept, tried):
    work.settings = Settings(**{**vars(work.settings), "camera": camera})
    lenses, left = [], iter(results)
    monkeypatch.setattr(mapping, "set_lens", lambda work, name: lenses.append(name))

    def attempt(work, folder):
        images = next(left)
        return images and made(folder, images, [], folder.name)

    monkeypatch.setattr(mapping, "consistent_model", attempt)
    find_cameras(work)
    assert lenses == tried and (work.model / "from").read_text() == kept
    notes = {"parts": 1, "pairs": 20, "contradicted_pairs": 0, "start": kept, "starts_tried": tried}
    assert work.notes == notes


def test_no_model_at_all(work, monkeypatch):
    monkeypatch.setattr(mapping, "set_lens", lambda work, name: None)
    monkeypatch.setattr(mapping, "consistent_model", lambda work, folder: None)
    with pytest.raises(DataError, match="p: no two photos could be placed relative to each other; take more"):
        find_cameras(work)


@pytest.mark.parametrize("first", [None, (2, 4), (5, 3)])
def test_mapping_from_any_first_pair(tmp_path, first):
    work = begun_work(tmp_path / "out", capture(lens("SIMPLE_RADIAL", 1300, 800, 600, -0.05)))
    model = mapped(work, work.folder / "again", first)
    assert model.images == 10 and model.pairs > 10 and not model.wrong


@pytest.mark.parametrize(
    ("name", "prior", "focal"),
    [("OPENCV", False, 1.2 * 1600), ("OPENCV_FISHEYE", False, 0.45 * 1600), ("OPENCV", True, 777.0),
     ("OPENCV_FISHEYE", True, 777.0), ("SIMPLE_RADIAL_FISHEYE", False, 0.45 * 1600)],
)  # fmt: skip
def test_the_lens_to_begin_with(tmp_path, name, prior, focal):
    work = begun_work(tmp_path / "out", capture(lens("SIMPLE_PINHOLE", 1300, 800, 600), photos=3))
    with pycolmap.Database.open(work.database) as database:
        known = lens("SIMPLE_RADIAL", 777, 800, 600, 0.3)
        known.has_prior_focal_length = prior
        database.update_camera(known)
    set_lens(work, name)
    with pycolmap.Database.open(work.database) as database:
        (camera,) = database.read_all_cameras()
    assert camera.model_name == name and camera.has_prior_focal_length == prior
    assert (camera.focal_length_x, camera.focal_length_y) == (focal, focal)
    assert np.all(camera.params[camera.extra_params_idxs()] == 0)
    assert (camera.principal_point_x, camera.principal_point_y) == (800, 600)
