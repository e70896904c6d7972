"""Rigs of cameras and global mapping: COLMAP itself on captures whose cameras are known, and what is refused."""

import json
from dataclasses import replace

import known_lenses
import numpy as np
import pycolmap
import pytest
from known_lenses import begun_work, capture, lens, run_mapping_stages

from distwar_datasets.errors import DataError
from distwar_gs.capture import mapping
from distwar_gs.capture.global_mapping import map_globally
from distwar_gs.capture.report import report_of
from distwar_gs.capture.rigs import FOLDERS, bind_rigs, check_formats, rig_setting, rig_stems, rigs_of
from distwar_gs.capture.staging import Staged, save_stage
from distwar_gs.capture.structure_from_motion import STAGES, settings_for
from distwar_gs.capture.work import Work

TURN, SHIFT = 0.3, np.array([-0.25, 0.02, 0.05])
OTHER_FROM_FIRST = np.array([
    [np.cos(TURN), 0, np.sin(TURN), SHIFT[0]], [0, 1, 0, SHIFT[1]], [-np.sin(TURN), 0, np.cos(TURN), SHIFT[2]],
])  # fmt: skip
MOMENTS = 7


def stereo(monkeypatch) -> pycolmap.Reconstruction:
    """A walk with two cameras on one rig: odd photos are of the first."""
    real, last = known_lenses.look_at, []

    def look(*arguments):
        if len(last) % 2 == 0:
            last.append(real(*arguments))
        else:
            last.append(np.vstack([OTHER_FROM_FIRST @ np.vstack([last[-1][:3], [0, 0, 0, 1]]), [0, 0, 0, 1]]))
        return last[-1]

    monkeypatch.setattr(known_lenses, "look_at", look)
    two = lens("SIMPLE_RADIAL", 1300, 800, 600, -0.05), lens("SIMPLE_RADIAL", 1100, 800, 600, 0.02, number=2)
    model = capture(*two, photos=2 * MOMENTS, points=350)
    for number, image in model.images.items():
        moment, camera = divmod(number - 1, 2)
        image.name = f"rig0/cam{camera}/{moment:06d}.jpg"
    return model


def with_rig(work: Work, setting: str = FOLDERS) -> Work:
    """As if the photos had been left/0.jpg and so on."""
    work.settings = replace(work.settings, rig=setting)
    photos = [
        Staged(f"{('left', 'right')[camera]}/{moment}.jpg", f"rig0/cam{camera}/{moment:06d}.jpg",
               f"{('left', 'right')[camera]}/{moment}.jpg", False)
        for moment in range(MOMENTS) for camera in (0, 1)
    ]  # fmt: skip
    save_stage(work.folder / "photos.json", photos, [])
    return work


def off_by(model: pycolmap.Reconstruction, truth: pycolmap.Reconstruction) -> float:
    """Largest distance of a camera from where it was, after the best similarity; the walk is 3.5 wide."""
    own, real = (
        np.array([one.images[number].projection_center() for number in sorted(model.reg_image_ids())])
        for one in (model, truth)
    )
    own_mean, real_mean = own.mean(axis=0), real.mean(axis=0)
    U, S, Vt = np.linalg.svd((real - real_mean).T @ (own - own_mean))
    flip = np.diag([1, 1, np.sign(np.linalg.det(U @ Vt))])
    scale = (S * np.diag(flip)).sum() / np.square(own - own_mean).sum()
    return float(np.linalg.norm(scale * (own - own_mean) @ (U @ flip @ Vt).T + real_mean - real, axis=1).max())


def place_of_other(model: pycolmap.Reconstruction) -> np.ndarray:
    """The second camera from the first, [3, 4], the distance as it was."""
    (rig,) = model.rigs.values()
    (pose,) = rig.non_ref_sensors.values()
    matrix = pose.matrix()
    matrix[:, 3] *= np.linalg.norm(SHIFT) / np.linalg.norm(matrix[:, 3])
    return matrix


# -------------------------------------------------------------------------------------------------------------- rigs


def test_the_place_of_a_camera_on_its_rig_is_found(tmp_path, monkeypatch):
    """And one whose photo matches nothing stands where the other camera of its moment says."""
    truth = stereo(monkeypatch)
    lonely = 6  # right/2.jpg
    work = with_rig(begun_work(tmp_path / "out", truth, most={lonely: 5}))
    for name in ("cameras", "rigs", "retries"):
        work.once(name, STAGES[name])
    model = pycolmap.Reconstruction(work.model)
    assert model.num_rigs() == 1 and model.num_reg_frames() == MOMENTS and model.num_reg_images() == 2 * MOMENTS
    assert np.abs(place_of_other(model) - OTHER_FROM_FIRST).max() < 0.01
    assert off_by(model, truth) < 0.03 and lonely in model.reg_image_ids()
    report = report_of(work)
    assert f"rig of left/, right/: placed at {MOMENTS} moments" in str(report)
    assert report.numbers["rigs"] == [{"cameras": ["left/", "right/"], "moments": MOMENTS}]


def test_a_place_that_is_known_gives_the_scale(tmp_path, monkeypatch):
    truth = stereo(monkeypatch)
    quaternion = pycolmap.Rigid3d(OTHER_FROM_FIRST).rotation.quat  # x, y, z, w
    known = [{"cameras": [
        {"image_prefix": "left/", "ref_sensor": True},
        {"image_prefix": "right", "cam_from_rig_rotation": [quaternion[3], *quaternion[:3]],
         "cam_from_rig_translation": SHIFT.tolist()},
    ]}]  # fmt: skip
    (tmp_path / "rig.json").write_text(json.dumps(known))
    setting = rig_setting(str(tmp_path / "rig.json"))
    work = with_rig(begun_work(tmp_path / "out", truth), setting)
    for name in ("cameras", "rigs"):
        work.once(name, STAGES[name])
    model = pycolmap.Reconstruction(work.model)
    assert model.num_rigs() == 1 and model.num_reg_images() == 2 * MOMENTS and off_by(model, truth) < 0.03
    own, real = (np.var([image.projection_center() for image in one.images.values()], axis=0) for one in (model, truth))
    assert own.sum() == pytest.approx(real.sum(), rel=0.05)
    (rig,) = model.rigs.values()
    (pose,) = rig.non_ref_sensors.values()
    assert np.abs(pose.matrix() - OTHER_FROM_FIRST).max() < 0.02  # the distance, too


def test_a_camera_that_was_never_placed_with_the_first_is_named(tmp_path, monkeypatch):
    truth = stereo(monkeypatch)
    work = with_rig(begun_work(tmp_path / "out", truth, most={number: 5 for number in range(2, 2 * MOMENTS + 1, 2)}))
    work.once("cameras", mapping.find_cameras)
    with pytest.raises(DataError, match="right/: no photo of it was placed together with .* in left/.*--rig out"):
        bind_rigs(work, rigs_of(FOLDERS, ["left/0.jpg", "right/0.jpg"]))


NAMES = ["a/x.jpg", "b/x.png", "b/y.jpg", "c/sub/x.jpg", "z.jpg"]


def test_photos_of_one_moment_get_one_name():
    two = rigs_of(json.dumps([{"cameras": [{"image_prefix": "b", "ref_sensor": True}, {"image_prefix": "a"}]}]), NAMES)
    stems = rig_stems(two, NAMES)
    assert stems == ["rig0/cam1/000000", "rig0/cam0/000000", "rig0/cam0/000001", "other/000003", "other/000004"]
    assert [rig.folders for rig in rigs_of(FOLDERS, NAMES)] == [("a/", "b/", "c/sub/")]
    assert two[0].poses == (None,)
    check_formats([])
    check_formats(["rig0/cam0/000000.jpg", "rig0/cam1/000000.jpg", "other/000003.png"])
    with pytest.raises(DataError, match="photos of one rig are read as .jpg, .png; convert them to one format"):
        check_formats(["rig0/cam0/000000.jpg", "rig0/cam1/000000.png"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.jpg", "b.jpg"], "--rig folders: the photos lie in 0 folders"),
        (["a/1.jpg", "b/2.jpg"], "b/: has no photo of the name of one in a/"),
        (["a/1.jpg", "a/1.png", "b/1.jpg"], "a/1.png: a/1.jpg is of the same camera and moment by its name"),
    ],
)
def test_folders_that_are_no_rig(names, message):
    with pytest.raises(DataError, match=message):
        rig_stems(rigs_of(FOLDERS, names), names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "rig.json: not COLMAP's JSON of rigs"),
        ('{"cameras": 3}', "rig.json: not COLMAP's JSON of rigs"),
        ("[]", "rig.json: has no rig"),
        ('[{"cameras": [{"image_prefix": "a", "ref_sensor": true}]}]', "a rig needs two cameras or more"),
        ('[{"cameras": [{"image_prefix": "a"}, {"image_prefix": "b"}]}]', "Rig must have one reference sensor"),
    ],
)
def test_files_that_are_no_rig(tmp_path, text, message):
    (tmp_path / "rig.json").write_text(text)
    with pytest.raises(DataError, match=message):
        rig_setting(str(tmp_path / "rig.json"))
    with pytest.raises(DataError, match="--rig .*nothing.json: cannot be read"):
        rig_setting(str(tmp_path / "nothing.json"))


def test_settings_of_a_rig(tmp_path, monkeypatch):
    from distwar_gs.capture import structure_from_motion

    monkeypatch.setattr(structure_from_motion, "_count", lambda folder, out: 6)
    settings = settings_for(tmp_path, tmp_path / "out", mapper="global", rig=FOLDERS)
    assert (settings.mapper, settings.rig) == ("global", FOLDERS)
    assert settings_for(tmp_path, tmp_path / "out").rig == ""


# --------------------------------------------------------------------------------------------------- global mapping


def with_geometry(work: Work) -> Work:
    """Pairs get fundamental matrices, of which global mapping makes focal lengths."""
    with pycolmap.Database.open(work.database) as database:
        cameras = {camera.camera_id: camera for camera in database.read_all_cameras()}
        for pair, known in zip(*database.read_two_view_geometries(), strict=True):
            one, other = pycolmap.pair_id_to_image_pair(pair)
            pixels = [database.read_keypoints(number)[:, :2].astype(np.float64) for number in (one, other)]
            lenses = [cameras[database.read_image(number).camera_id] for number in (one, other)]
            found = pycolmap.estimate_two_view_geometry(
                lenses[0], pixels[0], lenses[1], pixels[1], np.asarray(known.inlier_matches)
            )
            database.update_two_view_geometry(one, other, found)
    return work


def test_all_at_once(tmp_path):
    truth = capture(lens("SIMPLE_RADIAL", 1300, 800, 600, -0.05), photos=9, points=300)
    work = with_geometry(begun_work(tmp_path / "out", truth))
    work.settings = replace(work.settings, mapper="global")
    model = run_mapping_stages(work)
    assert model.num_reg_images() == 9 and off_by(model, truth) < 0.03
    (camera,) = model.cameras.values()
    assert abs(camera.mean_focal_length() / 1300 - 1) < 0.005
    assert work.notes["starts_tried"] == ["SIMPLE_RADIAL"] and work.notes["contradicted_pairs"] == 0


def test_why_colmap_failed_is_told(tmp_path):
    """Here since the pairs have no fundamental matrices."""
    work = begun_work(tmp_path / "out", capture(lens("SIMPLE_RADIAL", 1300, 800, 600, -0.05), photos=4))
    (tmp_path / "models").mkdir()
    with pytest.raises(RuntimeError, match="Two-view geometry must have F matrix"):
        map_globally(work, tmp_path / "models")


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    """Whose settings say nothing of mapper and rig."""
    work = begun_work(tmp_path / "out", capture(lens("SIMPLE_RADIAL", 1300, 800, 600, -0.05), photos=3))
    state = json.loads((tmp_path / "out/sfm/state.json").read_text())
    del state["settings"]["mapper"], state["settings"]["rig"]
    (tmp_path / "out/sfm/state.json").write_text(json.dumps(state))
    again = Work.begun(tmp_path / "out", work.settings, 1, lambda line: None)
    assert again.settings == work.settings
    with pytest.raises(DataError, match="was begun with mapper incremental, not global"):
        Work.begun(tmp_path / "out", replace(work.settings, mapper="global"), 1, lambda line: None)
