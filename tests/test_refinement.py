"""COLMAP itself on captures whose lens is known: from matches to the final model."""

import re

import numpy as np
import pycolmap
import pytest
from known_lenses import HEIGHT, WIDTH, begun_work, capture, lens, run_mapping_stages, write_matches

from distwar_gs.capture.mapping import find_cameras
from distwar_gs.capture.report import report_of

CENTER = (WIDTH / 2, HEIGHT / 2)


@pytest.mark.parametrize(
    ("truth", "name"),
    [
        # The choice among these is tested in test_intrinsics.py; the way to it is the same for all.
        pytest.param(lens("SIMPLE_PINHOLE", 1300, *CENTER), "SIMPLE_PINHOLE", marks=pytest.mark.slow),
        (lens("SIMPLE_RADIAL", 1300, *CENTER, -0.1), "SIMPLE_RADIAL"),
        pytest.param(lens("OPENCV", 1300, 1300, *CENTER, -0.2, 0.06, 0.002, 0.002), "OPENCV", marks=pytest.mark.slow),
        (lens("PINHOLE", 1300, 1365, *CENTER), "PINHOLE"),
        (lens("SIMPLE_RADIAL_FISHEYE", 750, *CENTER, 0.02), "SIMPLE_RADIAL_FISHEYE"),
    ],
)
def test_the_lens_of_a_capture(tmp_path, truth, name):
    model = run_mapping_stages(work := begun_work(tmp_path / "out", capture(truth)))
    (found,) = model.cameras.values()
    assert found.model_name == name and model.num_reg_images() == 10
    assert abs(found.focal_length_x / truth.focal_length_x - 1) < 0.005
    assert abs(found.focal_length_y / truth.focal_length_y - 1) < 0.005
    assert model.compute_mean_reprojection_error() < 0.7 and work.notes["contradicted_pairs"] == 0
    report = report_of(work)
    assert f"lens of camera 1 (10 photos of 1600x1200): {name}, error on held-out photos" in str(report)
    assert bool(report.numbers["implausible"]) == (name == "PINHOLE") == ("warning: implausible" in str(report))


def test_a_principal_point_is_freed_where_photos_were_cropped(tmp_path):
    model = run_mapping_stages(begun_work(tmp_path / "out", capture(lens("SIMPLE_PINHOLE", 1300, 850, 570))))
    assert np.abs(model.cameras[1].params - (1300, 850, 570)).max() < 8


def test_each_camera_gets_its_own_lens(tmp_path):
    truths = lens("SIMPLE_PINHOLE", 1500, *CENTER), lens("RADIAL", 1000, *CENTER, -0.15, 0.04, number=2)
    model = run_mapping_stages(work := begun_work(tmp_path / "out", capture(*truths, photos=16)))
    assert [model.cameras[number].model_name for number in (1, 2)] == ["SIMPLE_PINHOLE", "RADIAL"]
    for number, truth in enumerate(truths, start=1):
        assert abs(model.cameras[number].mean_focal_length() / truth.mean_focal_length() - 1) < 0.005
    assert model.num_reg_images() == 16
    assert [each["photos"] for each in work.notes["lenses"]] == [8, 8]


@pytest.mark.parametrize(
    "camera", ["OPENCV", *(pytest.param(name, marks=pytest.mark.slow) for name in ("SIMPLE_RADIAL", "RADIAL"))]
)
def test_a_lens_model_that_was_asked_for_stays(tmp_path, camera):
    truth = lens("SIMPLE_PINHOLE", 1300, *CENTER)
    work = begun_work(tmp_path / "out", capture(truth), camera)
    model = run_mapping_stages(work)
    assert model.cameras[1].model_name == camera and "lenses" not in work.notes
    assert abs(model.cameras[1].mean_focal_length() / 1300 - 1) < 0.01


@pytest.mark.parametrize("matches", [pytest.param(26, marks=pytest.mark.slow), 22])
def test_a_photo_with_few_matches_is_placed_at_the_second_try(tmp_path, matches):
    """Mapping wants 30 observations that agree."""
    made = capture(lens("SIMPLE_RADIAL", 1300, *CENTER, -0.1), wrong=0.0)
    model = run_mapping_stages(work := begun_work(tmp_path / "out", made, most={5: matches}))
    assert work.notes["retries"] == [
        {"needed": 30, "photos": 1, "placed": 0}, {"needed": 15, "photos": 1, "placed": 1},
    ]  # fmt: skip
    assert model.num_reg_images() == 10 and model.images[5].num_points3D >= 15
    centers = {number: image.projection_center() for number, image in made.images.items()}
    names = [made.images[number].name for number in sorted(centers)]
    where = np.array([centers[number] for number in sorted(centers)])
    model.transform(
        pycolmap.align_reconstruction_to_locations(model, names, where, 3, pycolmap.RANSACOptions(max_error=0.1))
    )
    assert np.linalg.norm(model.images[5].projection_center() - centers[5]) < 0.1


def reasons(work) -> dict[str, str]:
    """Of photos left out, by the report."""
    return report_of(work).numbers["reasons"]


def test_a_photo_without_matches_is_named_with_what_was_tried(tmp_path):
    work = begun_work(tmp_path / "out", capture(lens("SIMPLE_PINHOLE", 1300, *CENTER)), most={5: 0})
    features = work_features(work, 5)
    model = run_mapping_stages(work)
    assert model.num_reg_images() == 9
    assert reasons(work) == {
        "005.jpg": f"not placed: {features} features were compared with 0 photos, none has 15 verified matches with it "
        f"(blurred, or {'without texture' if features < 200 else 'no other shows the same'}?)"
    }


def work_features(work, number: int) -> int:
    with pycolmap.Database.open(work.database) as database:
        return database.num_keypoints_for_image(number)


def test_a_photo_whose_matches_are_wrong_is_named_with_what_was_tried(tmp_path):
    work = begun_work(tmp_path / "out", capture(lens("SIMPLE_PINHOLE", 1300, *CENTER)), most={5: 0})
    work.once("cameras", find_cameras)  # which would try for a minute
    rng = np.random.default_rng(0)
    with pycolmap.Database.open(work.database) as database:
        for other in (1, 2, 3):
            counts = [database.num_keypoints_for_image(number) for number in (other, 5)]
            wrong = np.stack([rng.permutation(count)[:60] for count in counts], axis=1).astype(np.uint32)
            write_matches(database, other, 5, wrong)
    model = run_mapping_stages(work)
    assert model.num_reg_images() == 9
    (name, reason), *others = reasons(work).items()
    assert name == "005.jpg" and not others
    assert "features were compared with 3 photos, 3 of the placed ones match it (00" in reason
    assert "best, with 60); of " in reason and "agree on a pose (30 are needed)" in reason
    assert "; tried again with the final lens, with 30 and 15 as the least: add photos close to it" in reason


def test_photos_that_match_only_each_other_are_named_with_what_was_tried(tmp_path):
    made = capture(lens("SIMPLE_PINHOLE", 1300, *CENTER))
    work = begun_work(tmp_path / "out", made, most={4: 0, 5: 0})
    points = [
        {point.point3D_id: index for index, point in enumerate(made.images[number].points2D) if point.has_point3D()}
        for number in (4, 5)
    ]
    shared = sorted(points[0].keys() & points[1].keys())[:40]
    with pycolmap.Database.open(work.database) as database:
        write_matches(database, 4, 5, np.array([[each[point] for each in points] for point in shared], np.uint32))
    run_mapping_stages(work)
    found = reasons(work)
    assert list(found) == ["004.jpg", "005.jpg"]
    assert "only photos that were left out too match it (005.jpg best, with 40): add photos between" in found["004.jpg"]


def test_implausible_intrinsics_of_a_lens_that_was_asked_for(tmp_path):
    work = begun_work(tmp_path / "out", capture(lens("PINHOLE", 1300, 1365, *CENTER)), "OPENCV")
    run_mapping_stages(work)
    report = report_of(work)
    (said,) = report.numbers["implausible"]
    assert re.match(r"camera 1 \(10 photos of 1600x1200\): fx and fy differ by 4\.\d % \(those of square pixels", said)
    assert f"warning: implausible intrinsics of {said}; --camera auto frees fewer parameters" in str(report)
