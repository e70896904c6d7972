"""Gaussians in turned and mirrored axes look, from the turned camera, as they did."""

import numpy as np
import pytest
import torch
from foreign_models import waves
from scipy.spatial.transform import Rotation

from distwar_gs.formats.turning import turned
from distwar_kernels.sh.sh_torch import spherical_harmonics_torch

TURN = Rotation.from_euler("xyz", [0.3, -1.0, 2.0]).as_matrix()
AXES = {"turned": TURN, "mirrored": TURN @ np.diag([1.0, 1.0, -1.0]), "half a turn": np.diag([1.0, -1.0, -1.0])}


def arrays(degree):
    return {name: tensor.numpy() for name, tensor in waves(40, degree).items()}


def covariances(arrays):
    turns = Rotation.from_quat(np.roll(arrays["quats"], -1, axis=1)).as_matrix()
    return np.einsum("nij,nj,nkj->nik", turns, np.exp(2.0 * arrays["scales"].astype(np.float64)), turns)


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
def test_places_and_shapes(axes):
    before, after = arrays(0), turned(arrays(0), axes)
    np.testing.assert_allclose(after["means"], before["means"] @ axes.T, rtol=0, atol=1e-5)
    wanted = axes @ covariances(before) @ axes.T
    np.testing.assert_allclose(covariances(after), wanted, rtol=0, atol=1e-6 * wanted.max())
    assert {array.dtype for array in after.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
def test_colors_from_every_direction(axes, degree):
    before, after = arrays(degree), turned(arrays(degree), axes)
    directions = np.random.default_rng(1).standard_normal((40, 3))
    np.testing.assert_allclose(
        colors(after, directions @ axes.T, degree), colors(before, directions, degree), rtol=0, atol=1e-5
    )


def colors(arrays, directions, degree):
    coefficients = np.concatenate([arrays["sh0"], arrays["shN"]], axis=1).astype(np.float64)
    return spherical_harmonics_torch(degree, torch.from_numpy(directions), torch.from_numpy(coefficients)).numpy()


def test_axes_that_stay_change_no_bit():
    before = arrays(2)
    after = turned(before, np.eye(3))
    assert all(after[name] is before[name] for name in before)
