"""Random points where the cameras look, for scenes that have no points of their own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

if TYPE_CHECKING:
    from distwar_datasets.scene import Scene, View

FALLBACK_DISTANCE = 3.0
"""How far off a scene is taken to be, in scene extents, when its cameras do not look at one place."""
OVERLAP = 0.7
"""Of the same cameras, how much of a photo's width is taken to be in the next photo, too: photos of a wall or a street
overlap by 60 to 80 %, or nothing could be reconstructed from them."""
DEPTHS = (0.3, 4.0)
"""Nearest and farthest depth of a random point, in multiples of the distances that `scene_distances` gives."""
PARALLEL = 1e-3
"""Mean squared sine of the angle between the optical axes and one direction, below which they do not meet."""
_CHECKED_VIEWS = (32, 512)
_CHECKED_POINTS = 5000
"""Of how many views to ask whether they see a point: where all look at one place, and where only neighbours share."""
_TRIES = 8


def points_in_view(views: Sequence["View"], extent: float, count: int, generator: torch.Generator) -> Tensor:
    """Positions [count, 3] float32, each inside the image of a view, and of a second one as far as such are found.

    A view, a pixel and a depth are drawn; equal shares of the points lie in each doubling of the depth, so that near
    ones are small and far ones large. What a single camera sees would become a floater before it.

    Args:
        views: the training views, in the frame of the result.
        extent: the scene's, in the units of that frame.
        count: how many.
        generator: all randomness, on the CPU.
    """
    distances = scene_distances(views, extent)
    checked = _CHECKED_VIEWS[distances[0] < distances[1]]
    found: list[Tensor] = []
    for _ in range(_TRIES):
        points = _draw(views, distances, count, generator)
        found.append(points[_seen_by(views, points, checked, generator) >= min(2, len(views))])
        if sum(map(len, found)) >= count:
            return torch.cat(found)[:count].float()
    alone = _draw(views, distances, count, generator)  # cameras that share nothing
    return torch.cat([*found, alone])[:count].float()


def is_within_sight(views: Sequence["View"], low: np.ndarray, high: np.ndarray, extent: float) -> bool:
    """Whether the box from corner `low` to corner `high` [3] may be what the cameras look at.

    It may be if one stands no farther from it than FALLBACK_DISTANCE extents, or has one of 5^3 points of it in its
    image and it is no dot there. Where cameras were georeferenced, the box is about the origin still, and far away.
    """
    axes = [np.linspace(*ends, 5) for ends in zip(low, high, strict=True)]
    box = torch.from_numpy(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3))
    centers = np.stack([view.center for view in views])
    distance = float(np.linalg.norm(centers - np.clip(centers, low, high), axis=1).min())
    if distance <= FALLBACK_DISTANCE * extent:
        return True
    is_dot = distance > 100.0 * np.linalg.norm(high - low)
    return not is_dot and any(bool(_in_image(view, box).any()) for view in views)


def scene_distances(views: Sequence["View"], extent: float) -> tuple[float, float]:
    """How far before the cameras the scene is, at the least and at the most, as the poses alone tell.

    Both are the median depth of the point nearest to all optical axes. Where the axes are parallel, diverge, or meet
    behind the cameras, a wall may be as near as the overlap of neighbouring photos says (`OVERLAP`), a landscape as far
    as FALLBACK_DISTANCE extents.
    """
    centers = np.stack([view.center for view in views])
    axes = np.stack([view.viewmat[2, :3] for view in views])
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]  # projects onto the plane across each axis
    if np.linalg.eigvalsh(across.mean(axis=0))[0] > PARALLEL:
        meeting = np.linalg.solve(across.sum(axis=0), np.einsum("nij,nj->i", across, centers))
        depth = float(np.median(np.einsum("nj,nj->n", axes, meeting - centers)))
        if depth > 0.05 * extent:
            return depth, depth
    far = FALLBACK_DISTANCE * extent
    return min(_overlap_distance(views, centers) or far, far), far


def _overlap_distance(views: Sequence["View"], centers: np.ndarray) -> float:
    """How far off a wall is of which neighbouring photos show OVERLAP in common; 0 without neighbours."""
    if len(views) < 2:
        return 0.0
    step = float(np.median(cKDTree(centers).query(centers, k=2)[0][:, 1]))
    focal = float(np.median([view.K[0, 0] / view.width for view in views]))
    return step * focal / (1.0 - OVERLAP)


def seen_share(views: Sequence["View"], points: Tensor) -> float:
    """The share of points [N, 3] (float64, the views' frame) that the picture of a view shows, nothing being hidden."""
    return float((_shown_by(views, points) > 0).double().mean())


def showing_share(scene: "Scene") -> float:
    """The share of the training views that a point of the scene is in the picture of, on average: near 1 where all
    photos show the same, 0.015 along a wall of which each shows a piece. 1 for a scene without points."""
    if scene.points is None or not scene.train:
        return 1.0
    points = torch.from_numpy(np.asarray(scene.points.positions, dtype=np.float64))
    some = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:_CHECKED_POINTS]
    return float(_shown_by(scene.train, points[some]).mean())


def _shown_by(views: Sequence["View"], points: Tensor) -> Tensor:
    """[N] float64: the share of the views, or of some of many, that have each point [N, 3] in their image."""
    generator = torch.Generator().manual_seed(0)  # not the run's: looking changes nothing
    checked = min(max(_CHECKED_VIEWS), len(views))
    return _seen_by(views, points, checked, generator).double() / checked


def _draw(views: Sequence["View"], distances: tuple[float, float], count: int, generator: torch.Generator) -> Tensor:
    """Points [count, 3] float64 at random pixels and depths of random views."""
    chosen = torch.randint(len(views), (count,), generator=generator)
    u, v, w = torch.rand(3, count, dtype=torch.float64, generator=generator)
    matrices, inverse_Ks, sizes = _matrices(views)
    pixels = torch.stack([u, v], dim=-1) * sizes[chosen]
    rays = torch.einsum("nij,nj->ni", inverse_Ks[chosen], torch.nn.functional.pad(pixels, (0, 1), value=1.0))
    _through_lenses(views, chosen, pixels, rays)
    (nearest, farthest), (low, high) = distances, DEPTHS
    in_camera = rays * (nearest * low * (high / low * (farthest / nearest)) ** w)[:, None]
    rotations, shifts = matrices[chosen, :3, :3], matrices[chosen, :3, 3]
    return torch.einsum("nji,nj->ni", rotations, in_camera - shifts)


def _through_lenses(views: Sequence["View"], chosen: Tensor, pixels: Tensor, rays: Tensor) -> None:
    """Writes the rays [N, 3] of the pixels [N, 2] of views `chosen` [N] that are no pinholes; where a pixel has none,
    as in the corner of a fisheye, that of the middle."""
    for index in chosen.unique().tolist():
        view = views[index]
        if view.lens is None:
            continue
        here = (chosen == index).nonzero()[:, 0]
        found = torch.from_numpy(view.lens.rays(pixels[here].numpy()))
        ahead = torch.tensor([0.0, 0.0, 1.0], dtype=rays.dtype)
        rays[here] = torch.where(found.isnan().any(dim=1, keepdim=True), ahead, found)


def _seen_by(views: Sequence["View"], points: Tensor, checked: int, generator: torch.Generator) -> Tensor:
    """How many of the views, or of `checked` random ones of many, have each point [N, 3] in their image: [N]."""
    some = torch.randperm(len(views), generator=generator)[:checked].tolist()
    seen = torch.zeros(len(points), dtype=torch.int64)
    for view in (views[index] for index in some):
        seen += _in_image(view, points)
    return seen


def _in_image(view: "View", points: Tensor) -> Tensor:
    """Which of the points [N, 3] float64 a view has in its image: bool [N]."""
    if view.lens is not None:
        return torch.from_numpy(view.look(points.numpy())[2])
    viewmat, K = torch.from_numpy(view.viewmat), torch.from_numpy(view.K)
    in_camera = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    x, y, z = (in_camera @ K.T).unbind(-1)
    return (z > 0) & (x > 0) & (x < view.width * z) & (y > 0) & (y < view.height * z)


def _matrices(views: Sequence["View"]) -> tuple[Tensor, Tensor, Tensor]:
    """viewmats [V, 4, 4], inverse Ks [V, 3, 3] and sizes [V, 2] (width, height), float64."""
    viewmats = torch.from_numpy(np.stack([view.viewmat for view in views]))
    Ks = torch.from_numpy(np.stack([view.K for view in views]))
    sizes = torch.tensor([[view.width, view.height] for view in views], dtype=torch.float64)
    return viewmats, torch.linalg.inv(Ks), sizes
