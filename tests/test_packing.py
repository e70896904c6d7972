"""Rotations as their three smallest numbers, opacities as bytes: there and back."""

import numpy as np
import pytest
from foreign_models import wave

from distwar_gs.packing import from_smallest_three, logit, smallest_three


def test_rotations_come_back_as_the_same_rotations():
    axes = np.concatenate([np.eye(4), -np.eye(4)])
    quats = np.concatenate([5.0 * wave(200, 4, seed=3), axes]).astype(np.float32)
    largest, others = smallest_three(quats)
    assert np.abs(others).max() <= np.sqrt(0.5) and set(largest) == {0, 1, 2, 3}
    cosines = (from_smallest_three(largest, others) * quats).sum(1) / np.linalg.norm(quats, axis=1)
    np.testing.assert_allclose(np.abs(cosines), 1.0, atol=1e-6)


def test_logits_of_bytes_are_finite_and_give_the_bytes_back():
    opacities = np.arange(256) / 255.0
    back = 1.0 / (1.0 + np.exp(-logit(opacities).astype(np.float64)))
    assert back == pytest.approx(opacities, abs=1.01e-4)
