"""Rotations as their three smallest numbers, opacities as bytes: there and back."""

import numpy as np
import pytest
from foreign_models import wave

from distwar_gs.packing import check_growth, from_smallest_three, logit, smallest_three


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


@pytest.mark.parametrize(
    ("count", "degree", "packed", "sound"),
    [
        (5_000_000, 3, 60_000_000, True),  # 12 bytes each: a SOG with few harmonics
        (5_000_000, 0, 10_000_000, True),  # 2 bytes each, without harmonics
        (100_000, 3, 300, True),  # small ones may be what they like
        (5_000_000, 3, 5_000_000, False),
        (50_000_000, 3, 3_000_000, False),
        (10**18, 0, 2**40, False),
    ],
)
def test_growth(count, degree, packed, sound):
    if sound:
        return check_growth(count, degree, packed)
    with pytest.raises(ValueError, match=f"{packed:,} bytes that promise {count:,} Gaussians"):
        check_growth(count, degree, packed)
