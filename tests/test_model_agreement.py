"""Matches against a model: made by COLMAP's synthesiser, then with points torn in two."""

import pycolmap
import pytest

from distwar_gs.capture import model_agreement
from distwar_gs.capture.model_agreement import judged_pairs


@pytest.fixture
def made(tmp_path):
    """A model of 6 photos that see all 150 points, and the matches it follows from."""
    options = pycolmap.SyntheticDatasetOptions(
        num_rigs=1, num_cameras_per_rig=1, num_frames_per_rig=6, num_points3D=150, num_points2D_without_point3D=7
    )
    database = pycolmap.Database.open(tmp_path / "database.db")
    model = pycolmap.synthesize_dataset(options, database)
    yield database, model
    database.close()


def test_a_model_that_its_matches_follow_from(made):
    pairs = judged_pairs(*made)
    assert len(pairs) == 6 * 5 // 2
    assert all(pair.agreeing == pair.matches >= 100 and pair.disputed == 0 and not pair.contradicted for pair in pairs)


def test_points_torn_in_two(made):
    """Two photos observe points of their own, as a group at a wrong distance does."""
    database, model = made
    apart = {image.image_id for image in list(model.images.values())[:2]}
    for point_id in list(model.point3D_ids()):
        observed = [(element.image_id, element.point2D_idx) for element in model.points3D[point_id].track.elements]
        track = pycolmap.Track()
        for image_id, feature in observed:
            if image_id in apart:
                model.delete_observation(image_id, feature)
                track.add_element(image_id, feature)
        model.add_point3D(model.points3D[point_id].xyz + 9.0, track)
    pairs = judged_pairs(database, model)
    across = [pair for pair in pairs if len(apart & set(pair.image_ids)) == 1]
    assert len(across) == 2 * 4 and all(pair.contradicted and pair.agreeing == 0 for pair in across)
    assert not any(pair.contradicted for pair in pairs if pair not in across)


def test_lost_points_are_no_contradiction(made):
    database, model = made
    for point_id in list(model.point3D_ids()):
        model.delete_point3D(point_id)
    assert all(pair.agreeing == pair.disputed == 0 and not pair.contradicted for pair in judged_pairs(database, model))


def test_few_matches_are_not_judged(made, monkeypatch):
    monkeypatch.setattr(model_agreement, "LEAST_MATCHES", 10_000)
    assert judged_pairs(*made) == []
