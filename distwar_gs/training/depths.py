"""What is known of the depth of training photos, and how far the rendered depth is from it: a part of the loss.

Rendered is the expected depth E = (sum of weight times depth) / alpha along the camera's axis, so a pixel's depth does
not hang on how much of it is covered; its gradient goes back through both (distwar_gs.engines.base). Compared are

- the scene's points that a photo shows (distwar_datasets.readers.tracks), each with the pixel that it falls on: the
  mean of |E - z| / z, a share of the depth, so that what is far counts as what is near;
- a depth map, metric: the same over its known pixels; inverse, m: the mean of |1/E - (a m + b)| * Z, with the scale a
  and the shift b that fit the photo best by least squares, and Z one over the mean of 1/E, so that it is a share;
- a normal map, with the normals of the surface that the depth shows (distwar_gs.training.normals).

All are small where nothing is wrong, and their weights fall over the run, since photos know better in the end.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distwar_datasets import DataError, Scene, View
from distwar_datasets.pixels.depthmaps import find_map, read_map, read_normals
from distwar_datasets.readers.tracks import seen_points
from distwar_gs.config import Config, DepthConfig
from distwar_gs.training.normals import LEAST_ALPHA, NormalMap, facing_share, rays_of
from distwar_kernels import Cameras

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PointDepths:
    """Of the points in a photo, one for each pixel."""

    pixels: Tensor
    """int64 [P], row times width plus column."""
    depths: Tensor
    """[P], above 0."""

    def gradient(self, depth: Tensor, alpha: Tensor) -> Tensor:
        """dL/d(depth) [H, W] of the mean of |depth - z| / z; arguments [H, W]."""
        rendered, covered = depth.reshape(-1)[self.pixels], alpha.reshape(-1)[self.pixels] > LEAST_ALPHA
        slopes = torch.sign(rendered - self.depths) / (self.depths * max(len(self.depths), 1))
        v_depth = torch.zeros_like(depth)
        v_depth.view(-1)[self.pixels] = torch.where(covered, slopes, 0.0)
        return v_depth


@dataclass(frozen=True)
class MetricMap:
    """A depth map in the units of the means."""

    depths: Tensor
    """[H, W], NaN where nothing is known."""

    def gradient(self, depth: Tensor, alpha: Tensor) -> Tensor:
        """dL/d(depth) [H, W] of the mean of |depth - z| / z over what is known; arguments [H, W]."""
        known = self.depths.isfinite()
        slopes = torch.sign(depth - self.depths) / self.depths
        return torch.where(known & (alpha > LEAST_ALPHA), slopes, 0.0) / known.sum().clamp_min(1)


@dataclass(frozen=True)
class InverseMap:
    """One over the depth, up to a scale and a shift."""

    values: Tensor
    """[H, W], NaN where nothing is known."""

    def fit(self, inverse: Tensor, counted: Tensor) -> Tensor:
        """[H, W]: a m + b, nearest to `inverse` where `counted` (both [H, W]) by least squares, summed in float64."""
        weight = counted.double()
        total = weight.sum().clamp_min(1.0)
        m, target = (torch.where(counted, t, 0.0).double() for t in (self.values, inverse))
        mean_m, mean_t = m.sum() / total, target.sum() / total
        away = torch.where(counted, m - mean_m, 0.0)
        scale = (away * (target - mean_t)).sum() / away.square().sum().clamp_min(1e-30)
        return (scale * (self.values.double() - mean_m) + mean_t).to(inverse.dtype)

    def gradient(self, depth: Tensor, alpha: Tensor) -> Tensor:
        """dL/d(depth) [H, W] of the mean of |1/depth - (a m + b)| Z over what is known, a, b and Z held; arguments
        [H, W]."""
        counted = self.values.isfinite() & (alpha > LEAST_ALPHA) & (depth > 0.0)
        inverse = 1.0 / torch.where(counted, depth, 1.0)
        slopes = -torch.sign(inverse - self.fit(inverse, counted)) * inverse.square()
        return torch.where(counted, slopes, 0.0) / (inverse * counted).sum().clamp_min(1e-30)  # the mean, times Z


Target = PointDepths | MetricMap | InverseMap | NormalMap


class Depths:
    """What is known of each training view, with its weight."""

    def __init__(self, views: Sequence[Sequence[tuple[float, Target]]], sizes: Sequence[tuple[int, int]],
                 final: float) -> None:  # fmt: skip
        """For each view: weights at the first step and targets, for images of these sizes (width, height)."""
        self._views, self._sizes, self._final = views, sizes, final

    def has(self, view: int, camera: Cameras) -> bool:
        """Whether anything is known of a view as large as this camera's; nothing of photos that are smaller than they
        will be (train.coarse_until)."""
        return bool(self._views[view]) and self._sizes[view] == (camera.width, camera.height)

    @torch.no_grad()
    def gradient(self, view: int, depth: Tensor, alpha: Tensor, share: float) -> Tensor:
        """dL/d(depth) [H, W], when a share of the run is done; `depth` as it is expected, `alpha`: [H, W]."""
        parts = [weight * target.gradient(depth, alpha) for weight, target in self._views[view]]
        return self._final**share * sum(parts[1:], start=parts[0])


def make_depths(config: Config, scene: Scene, device: torch.device) -> Depths | None:
    """Of a scene, as the config asks for it; None where it asks for nothing. Raises DataError: there is nothing."""
    settings = config.depth
    points = _point_targets(scene, settings, device) if settings.weight > 0.0 else {}
    maps = _map_targets(scene, settings, device) if settings.maps and settings.maps_weight > 0.0 else {}
    normals = _normal_targets(scene, settings, device) if settings.normals and settings.normals_weight > 0.0 else {}
    if not points and not maps and not normals:
        return None
    views = [[one for known in (points, maps, normals) for one in known.get(view.name, ())] for view in scene.train]
    return Depths(views, [(view.width, view.height) for view in scene.train], settings.weight_final)


Known = dict[str, list[tuple[float, Target]]]


def _point_targets(scene: Scene, settings: DepthConfig, device: torch.device) -> Known:
    seen, how = seen_points(scene)
    targets = {view.name: of_points(view, seen[view.name], device) for view in scene.train if view.name in seen}
    targets = {name: target for name, target in targets.items() if len(target.depths)}
    if not targets:
        raise DataError(
            f"{scene.source}: depth.weight is above 0, but no point of the scene is seen in any photo; give a scene "
            "with points, or leave --depth_weight out"
        )
    mean = sum(len(target.depths) for target in targets.values()) / len(targets)
    log.info("depth of the scene's points: %d of %d photos show some, %.0f on average, %s",
             len(targets), len(scene.train), mean, how)  # fmt: skip
    return {name: [(settings.weight, target)] for name, target in targets.items()}


def of_points(view: View, points: np.ndarray, device: torch.device) -> PointDepths:
    """The depths of points [P, 3] that fall on the view's pixels; of several on one, the nearest's."""
    if view.lens is None:
        x, y, z = view.K @ (view.viewmat[:3, :3] @ points.reshape(-1, 3).T + view.viewmat[:3, 3:])
        inside = (z > 0) & (x >= 0) & (x < view.width * z) & (y >= 0) & (y < view.height * z)
        x, y, z = x[inside] / z[inside], y[inside] / z[inside], z[inside]
    else:
        places, z, inside = view.look(points.reshape(-1, 3))
        (x, y), z = places[inside].T, z[inside]
    pixels = y.astype(np.int64) * view.width + x.astype(np.int64)
    order = np.argsort(z, kind="stable")
    kept, first = np.unique(pixels[order], return_index=True)
    depths = torch.from_numpy(z[order][first]).float().to(device)
    return PointDepths(torch.from_numpy(kept).to(device), depths)


def _map_targets(scene: Scene, settings: DepthConfig, device: torch.device) -> Known:
    units = settings.maps_scale * scene.normalisation.scale
    targets: Known = {}
    for view, path in _found(scene, settings.maps, "maps", "depth map"):
        numbers = torch.from_numpy(read_map(path, view.width, view.height)).to(device)
        target = MetricMap(units * numbers) if settings.maps_kind == "metric" else InverseMap(numbers)
        targets[view.name] = [(settings.maps_weight, target)]
    log.info("depth maps (%s): of %d of %d photos", settings.maps_kind, len(targets), len(scene.train))
    return targets


def _normal_targets(scene: Scene, settings: DepthConfig, device: torch.device) -> Known:
    targets: Known = {}
    for view, path in _found(scene, settings.normals, "normals", "normal map"):
        vectors = read_normals(path, view.width, view.height, settings.normals_axes == "opengl")
        normals = torch.from_numpy(vectors).to(device)
        rays = torch.from_numpy(rays_of(view)).to(device)
        if not targets:  # one is enough to tell, and waits for the device
            _check_facing(path, float(facing_share(normals, rays)), settings.normals_axes)
        targets[view.name] = [(settings.normals_weight, NormalMap(normals, rays))]
    log.info("normal maps: of %d of %d photos", len(targets), len(scene.train))
    return targets


def _check_facing(path: Path, share: float, axes: str) -> None:
    if share < 0.5:
        other = "opencv" if axes == "opengl" else "opengl"
        raise DataError(
            f"{path}: {1.0 - share:.0%} of its normals look away from the camera in {axes}'s axes; give "
            f"--set depth.normals_axes={other}, or write normals in the axes of the camera"
        )


def _found(scene: Scene, named: str | None, key: str, what: str) -> list[tuple[View, Path]]:
    """The training views that have a map in the folder of a setting. Raises DataError: it is none, or has no map."""
    assert named is not None
    folder = (scene.source if scene.source.is_dir() else scene.source.parent) / named
    if not folder.is_dir():
        raise DataError(f"{folder}: depth.{key} is not a folder; give one with a map for each photo, or null")
    paths = [(view, path) for view in scene.train if (path := find_map(folder, view)) is not None]
    if not paths:
        raise DataError(f"{folder}: has no {what} of any training photo; name them as the photos are, .png or .npy")
    return paths
