"""Whether a COLMAP model agrees with the matches it was made from.

Incremental mapping can put a group of photos at a wrong distance from the others and still have small residuals: the
points that should tie the group to the rest are then triangulated twice, once by each side. The reprojection error does
not show that; matches whose two ends belong to different points do.
"""

from dataclasses import dataclass

import numpy as np
import pycolmap

LEAST_MATCHES = 100
"""Of a pair of photos that is judged: fewer can be those of a look-alike."""
CONTRADICTED = 0.1
"""A pair is contradicted when less than this share of its matches became one point."""


@dataclass(frozen=True)
class Pair:
    """Two photos of the model that have been matched."""

    image_ids: tuple[int, int]
    matches: int
    """Verified by the geometry of the two photos alone."""
    agreeing: int
    """Matches whose two ends are observations of one point of the model."""
    disputed: int
    """Matches whose two ends are observations of two different points."""

    @property
    def contradicted(self) -> bool:
        """Whether the model has the two photos otherwise than their matches; points merely lost do not tell."""
        return self.agreeing < CONTRADICTED * self.matches <= self.disputed


def judged_pairs(database: pycolmap.Database, model: pycolmap.Reconstruction) -> list[Pair]:
    """The pairs of placed photos with at least LEAST_MATCHES matches."""
    points = {image.image_id: _point_ids(image) for image in model.images.values() if image.has_pose}
    pairs = []
    for pair_id, geometry in zip(*database.read_two_view_geometries(), strict=True):
        first, second = pycolmap.pair_id_to_image_pair(pair_id)
        matches = np.asarray(geometry.inlier_matches)
        if first in points and second in points and len(matches) >= LEAST_MATCHES:
            one, other = points[first][matches[:, 0]], points[second][matches[:, 1]]
            both = (one >= 0) & (other >= 0)
            agreeing, disputed = (int(np.count_nonzero(both & rule)) for rule in (one == other, one != other))
            pairs.append(Pair((first, second), len(matches), agreeing, disputed))
    return pairs


def _point_ids(image: pycolmap.Image) -> np.ndarray:
    """The point that each feature of a photo observes, int64 [F]; -1: none."""
    ids = [point.point3D_id if point.has_point3D() else -1 for point in image.points2D]
    return np.array(ids, dtype=np.int64)
