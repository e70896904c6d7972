"""Islands: groups of Gaussians that no chain of touching neighbors connects with the rest."""

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

NEIGHBORS = 16
"""Of each Gaussian, that may connect it."""
TOUCH = 2.0
"""Longest standard deviations: so far a Gaussian reaches to touch another one's reach. Surfaces are drawn by Gaussians
that overlap, in fine parts of a scene and in coarse ones alike; so no length has to be given."""


def islands(means: np.ndarray, widths: np.ndarray, opacities: np.ndarray, least: float) -> np.ndarray:
    """bool [N]: which Gaussians belong to a group with less than `least` of all opacity. The largest one stays always.

    Groups are the connected components of a graph in which each Gaussian has an edge to those of its NEIGHBORS nearest
    ones that it touches.

    Args:
        means: [N, 3], any frame.
        widths: [N] longest standard deviations, in the same unit.
        opacities: [N] in [0, 1].
        least: the share of the sum of opacities that a group must have to stay.
    """
    if len(means) <= 1 or least == 0.0:
        return np.zeros(len(means), dtype=bool)
    distances, others = cKDTree(means).query(means, k=min(NEIGHBORS + 1, len(means)))  # the first is itself, mostly
    near = distances <= TOUCH * (widths[:, None] + widths[others])
    rows = np.broadcast_to(np.arange(len(means))[:, None], others.shape)[near]
    edges = coo_matrix((np.ones(len(rows), dtype=bool), (rows, others[near])), shape=(len(means), len(means)))
    _, groups = connected_components(edges, directed=False)
    sums = np.bincount(groups, weights=opacities)
    small = sums < least * sums.sum()
    small[sums.argmax()] = False
    return small[groups]
