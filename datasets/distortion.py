"""OpenCV's radial, tangential and thin-prism distortion and its inverse, for arrays of points: the twin of
distwar_kernels/projection/lenses/distortion.py, which says what the numbers are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_FARTHEST = {True: 20.0, False: np.pi}
"""Radii of the ideal image that are looked at: of perspective lenses tangents, of fisheyes angles."""
_SAMPLES = 4001
_STEPS = 6


@dataclass(frozen=True)
class Bent:
    """A distortion."""

    rational: bool
    """Whether k4 to k6 are of a denominator (perspective lenses), or of the polynomial (fisheyes)."""
    numbers: tuple[float, ...]
    """k1 to k6, p1, p2, s1 to s4, limit."""

    def apply(self, q: np.ndarray) -> np.ndarray:
        """Where ideal points [P, 2] are in the real image, at focal length 1."""
        x, y = q.T
        p1, p2, s1, s2, s3, s4 = self.numbers[6:12]
        r2 = x * x + y * y
        factor = self._factor(np.sqrt(r2))
        across = factor * x + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) + r2 * (s1 + s2 * r2)
        down = factor * y + 2 * p2 * x * y + p1 * (r2 + 2 * y * y) + r2 * (s3 + s4 * r2)
        return np.stack([across, down], axis=1)

    def undo(self, places: np.ndarray) -> np.ndarray:
        """The ideal points [P, 2] of places in the image, by Newton's method; NaN where there is none."""
        radii, distorted = self._grid()
        r = np.linalg.norm(places, axis=1)
        start = np.interp(r, distorted, radii, right=np.nan)
        q = places * np.where(r > 0, start / np.where(r > 0, r, 1.0), 1.0)[:, None]
        for _ in range(_STEPS):
            q = q - self._newton_step(q, self.apply(q) - places)
        off = np.abs(self.apply(q) - places).max(axis=1)
        good = (off < 1e-7) & (np.linalg.norm(q, axis=1) <= radii[-1])
        return np.where(good[:, None], q, np.nan)

    def limit_for(self, corner: float) -> float:
        """Up to which ideal radius the coefficients are used, of an image whose corner is so far out: a little farther
        than that, and less far than where the distortion folds."""
        radii, distorted = self._grid()
        fold, folds = radii[-1], len(radii) < _SAMPLES
        if corner >= distorted[-1]:
            return 0.99 * fold if folds else fold
        ideal = float(np.interp(corner, distorted, radii))
        return min(1.15 * ideal, ideal + 0.9 * (fold - ideal)) if folds else min(1.15 * ideal, fold)

    def _grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Ideal radii from 0, and what radial distortion makes of them, as far as that rises."""
        return _rising(self)

    def _factor(self, r: np.ndarray) -> np.ndarray:
        limit = self.numbers[12]
        factor = _radial(self, np.minimum(r, limit))
        if not np.isfinite(limit):
            return factor
        near = limit * np.array([1.0 - 1e-5, 1.0, 1.0 + 1e-5])
        before, at, behind = _radial(self, near) * near
        rise = (behind - before) / (near[2] - near[0])
        beyond = np.where(r > limit, r, limit)
        return np.where(r > limit, rise + (at - rise * limit) / beyond, factor)

    def _newton_step(self, q: np.ndarray, off: np.ndarray) -> np.ndarray:
        step = 1e-6
        columns = [(self.apply(q + d) - self.apply(q - d)) / (2 * step) for d in step * np.eye(2)]
        (a, c), (b, d) = (column.T for column in columns)
        determinant = a * d - b * c
        return np.stack([d * off[:, 0] - b * off[:, 1], a * off[:, 1] - c * off[:, 0]], axis=1) / determinant[:, None]


@lru_cache(maxsize=256)
def _rising(bent: Bent) -> tuple[np.ndarray, np.ndarray]:
    radii = np.linspace(0.0, _FARTHEST[bent.rational], _SAMPLES)
    distorted = _radial(bent, radii) * radii
    falls = np.flatnonzero(~(np.diff(distorted) > 0))
    end = int(falls[0]) + 1 if len(falls) else len(radii)
    return radii[:end], distorted[:end]


def _radial(bent: Bent, r: np.ndarray) -> np.ndarray:
    """The factor by which a point moves outwards."""
    k, r2 = bent.numbers[:6], r * r
    if not bent.rational:
        return 1.0 + r2 * np.polynomial.polynomial.polyval(r2, k)
    top, bottom = (1.0 + r2 * np.polynomial.polynomial.polyval(r2, part) for part in (k[:3], k[3:]))
    return top / bottom


def bent_of(rational: bool, numbers: Sequence[float]) -> Bent:
    """k1 to k6, p1, p2, s1 to s4 and the radius up to which they hold."""
    return Bent(rational, tuple(float(number) for number in numbers))
