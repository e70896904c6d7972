"""How a page shows a model: from where one looks at first, along what loop the camera goes, and what is up.

Positions are in the frame of the model's file, in its units; distwar_gs.viewing.tours makes one from a run's cameras.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Look:
    """A camera, which is held upright."""

    position: np.ndarray
    """Float64 [3]."""
    target: np.ndarray
    """Float64 [3], in the middle of the picture; what one turns about."""

    def moved(self, offset: np.ndarray) -> Look:
        """The same, of a model whose positions have this added, [3]."""
        return Look(self.position + offset, self.target + offset)


@dataclass(frozen=True)
class Tour:
    """See above."""

    upright: np.ndarray
    """Float64 [3, 3], orthogonal: turns directions so that up becomes 0, -1, 0. Its determinant is -1 for models of a
    left-handed world, which are mirrored by it."""
    start: Look
    loop: tuple[Look, ...] = ()
    """Passed at even times, from the first to the last and on to the first."""
    angle: float = 60.0
    """In degrees, along the longer side of the picture."""
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """RGB in [0, 1]."""

    def moved(self, offset: np.ndarray) -> Tour:
        """As `Look.moved`."""
        loop = tuple(look.moved(offset) for look in self.loop)
        return replace(self, start=self.start.moved(offset), loop=loop)
