"""What is said of a run, in lines and in numbers."""

import json

import pycolmap
import pytest
from known_lenses import begun_work, capture, lens

from distwar_gs.capture import report
from distwar_gs.capture.photos import LeftOut
from distwar_gs.capture.report import report_of
from distwar_gs.capture.staging import load_stage, save_stage


@pytest.fixture
def work(tmp_path):
    """A finished run of three cameras with four photos each."""
    cameras = [lens("SIMPLE_RADIAL", 1300, 800, 600, 0.0, number=number) for number in (1, 2, 3)]
    made = capture(*cameras, photos=12)
    work = begun_work(tmp_path / "out", made)
    work.model.mkdir()
    made.write(work.model)
    kept = {"principal_point_free": False, "reason": "kept: 4 photos", "kept": True, "errors_px": {}, "photos": 4}
    work.notes = {
        "parts": 1, "pairs": 50, "contradicted_pairs": 0, "retries": [],
        "lenses": [{"camera": number, **kept} for number in (1, 2, 3)],
    }  # fmt: skip
    return work


def test_cameras_without_a_choice_share_a_line(work):
    lines = report_of(work).lines
    assert lines[0].startswith("12 of 12 photos registered, ") and len(lines) == 3
    assert lines[1] == (
        "lenses of 3 cameras with few photos (12 in all): SIMPLE_RADIAL, kept: too few of each share points to judge a "
        "lens by"
    )
    work.notes["lenses"][1:] = []
    assert report_of(work).lines[1] == "lens of camera 1 (4 photos of 1600x1200): SIMPLE_RADIAL, kept: 4 photos"


@pytest.mark.parametrize("count", [3, 7, 20])
def test_long_lists_are_cut(work, monkeypatch, count):
    monkeypatch.setattr(report, "MOST_LINES", 7)
    left_out = [LeftOut(f"{index}.txt", "not an image") for index in range(count)]
    save_stage(work.folder / "photos.json", load_stage(work.folder / "photos.json")[0], left_out)
    made = report_of(work)
    said = [line for line in made.lines if line.startswith("left out")]
    assert said[:7] == [f"left out: {index}.txt: not an image" for index in range(min(count, 7))]
    assert said[7:] == (["left out: 13 more lines in sfm/report.json"] if count == 20 else [])
    numbers = json.loads((work.folder / "report.json").read_text())
    assert numbers["reasons"] == {each.name: each.reason for each in left_out} and len(numbers["left_out"]) == count


def test_doubtful_models_are_warned_of(work):
    work.notes |= {"contradicted_pairs": 3, "parts": 2}
    model = pycolmap.Reconstruction(work.model)
    model.cameras[2].params = [9000, 800, 1100, 0]
    model.write(work.model)
    said = str(report_of(work))
    assert "warning: 3 of 50 pairs of photos contradict the model, some photos may be at the wrong place: add" in said
    assert "warning: the photos fell into 2 parts, this is the largest: add photos between them" in said
    assert (
        "warning: implausible intrinsics of camera 2 (4 photos of 1600x1200): the principal point is at 50 % of the "
        "width and 92 % of the height, the focal length is 5.6 times the longer side (usual: 0.3 to 5); were the photos"
    ) in said


def test_the_numbers(work):
    numbers = json.loads(json.dumps(report_of(work).numbers))
    assert [each["parameters"] for each in numbers["cameras"]] == [{"f": 1300, "cx": 800, "cy": 600, "k": 0}] * 3
    assert [each["photos"] for each in numbers["cameras"]] == [4, 4, 4]
    assert (numbers["photos"], numbers["registered"], numbers["left_out"]) == (12, 12, [])
