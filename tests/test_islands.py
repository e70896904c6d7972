"""Groups of Gaussians that touch nothing else."""

import numpy as np
import pytest

from distwar_gs.cleaning.islands import NEIGHBORS, islands


def sheet(side: int = 40, gap: float = 1.0) -> np.ndarray:
    """[side^2, 3] points of a plane, `gap` apart."""
    grid = np.arange(side) * gap
    return np.stack([*(axis.ravel() for axis in np.meshgrid(grid, grid)), np.zeros(side * side)], axis=1)


def found(means: np.ndarray, width: float = 0.5, least: float = 0.001, opacity: float = 0.8) -> np.ndarray:
    return islands(means, np.full(len(means), width), np.full(len(means), opacity), least)


def test_a_sheet_is_one():
    assert not found(sheet()).any()


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e5])
def test_single_ones_and_small_groups_go_in_any_unit(unit):
    generator = np.random.default_rng(0)
    group = np.array([20.0, 20.0, 9.0]) + 0.3 * generator.standard_normal((1, 3))
    single = np.array([[5.0, 5.0, 5.0], [30.0, 8.0, -6.0], [500.0, 0.0, 0.0]])
    means = unit * np.concatenate([sheet(), group, single])
    gone = found(means, width=0.5 * unit)
    assert gone[-4:].all() and not gone[:-4].any()


def test_a_group_with_enough_opacity_stays():
    tower = np.array([20.0, 20.0, 12.0]) + sheet(5, 0.5)
    means = np.concatenate([sheet(), tower])
    assert not found(means, least=0.01).any()
    assert found(means, least=0.02)[-25:].all()


def test_it_is_opacity_that_counts():
    means = np.concatenate([sheet(), [[20.0, 20.0, 9.0]]])
    opacities = np.full(len(means), 0.01)
    opacities[-1] = 0.9
    assert not islands(means, np.full(len(means), 0.5), opacities, 0.001).any()


def test_a_crowd_of_more_than_the_neighbors_is_no_island_of_its_own():
    """Those of one place have each other for neighbors; what they touch beyond holds on to them."""
    crowd = np.repeat([[10.3, 10.3, 0.0]], NEIGHBORS - 1, axis=0)
    assert not found(np.concatenate([sheet(), crowd])).any()


def test_the_largest_stays_whatever_the_share_and_zero_takes_nothing():
    apart = 100.0 * sheet(4)
    gone = found(apart, least=1.0)
    assert gone.sum() == 15
    assert not found(apart, least=0.0).any()
    assert not found(apart[:1], least=1.0).any() and found(apart[:0]).shape == (0,)
