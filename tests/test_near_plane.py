"""The near plane follows what the cameras see; explicit values, runs that go on and foreign models keep theirs."""

from types import SimpleNamespace

import numpy as np
import pytest
from scene_files import look_at, ring

from datasets import Normalisation, View
from distwar_gs.config import Config, with_values
from distwar_gs.near_plane import OF_EXTENT, REFERENCE, SHARE, with_near_plane, with_reference_near_plane


def scene(nearest, extent=1.0, scale=1.0, poses=None):
    views = [View(f"{i}", None, 64, 48, np.diag([50.0, 50.0, 1.0]), pose, 1) for i, pose in enumerate(poses or ring(9))]
    return SimpleNamespace(
        nearest=nearest, extent=extent, normalisation=Normalisation(np.zeros(3), scale), train=tuple(views)
    )


def near(config):
    return config.model.near_plane


@pytest.mark.parametrize(("nearest", "extent"), [(0.4, 1.0), (0.023, 1.0), (3.0, 12.0)])
def test_a_share_of_the_nearest_depth(nearest, extent):
    assert near(with_near_plane(Config(), scene(nearest, extent))) == pytest.approx(SHARE * nearest / extent)


def test_an_explicit_value_stays():
    config = with_values(Config(), {"model.near_plane": 0.5})
    assert with_near_plane(config, scene(0.4)) == with_reference_near_plane(config, scene(0.4)) == config


def test_a_run_that_goes_on_keeps_what_it_began_with():
    assert near(with_near_plane(Config(), scene(0.4), {"model.near_plane": 0.03})) == 0.03


def test_without_points_it_is_a_share_of_the_extent_unless_the_cameras_follow_a_wall():
    assert near(with_near_plane(Config(), scene(None))) == OF_EXTENT
    street = [look_at((x, 0, 0), (x, 1, 0)) for x in np.arange(0.0, 80.0, 0.5)]
    assert near(with_near_plane(Config(), scene(None, 43.5, poses=street))) * 43.5 < 0.2


@pytest.mark.parametrize(
    ("nearest", "scale", "expected"),
    [
        (0.4, 0.2, REFERENCE * 0.2),  # COLMAP's units: as the reference
        (0.4, 1e-3, REFERENCE * 1e-3),  # millimetres: the reference draws from 0.2 mm on
        (0.023, 1 / 43.5, REFERENCE / 43.5),  # a wall 1 m away, 80 m long
        (0.4, 10.0, SHARE * 0.4),  # a coin, in metres: 0.2 m would cut it
        (None, 0.2, REFERENCE * 0.2),
    ],
)
def test_a_model_that_stands_alone_is_drawn_from_where_the_reference_draws(nearest, scale, expected):
    assert near(with_reference_near_plane(Config(), scene(nearest, 1.0, scale))) == pytest.approx(expected)
