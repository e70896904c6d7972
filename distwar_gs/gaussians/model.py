"""The Gaussians: a plain dict of parameters (the rows of distwar_gs.formats.parameters), and how they begin.

| key       | shape            | holds                                                                  |
|-----------|------------------|------------------------------------------------------------------------|
| means     | [N, 3]           | centres, training frame                                                |
| quats     | [N, 4]           | rotations, wxyz, normalised by whoever uses them                       |
| scales    | [N, 3]           | logarithm of the standard deviations along the rotated axes            |
| opacities | [N]              | logit of the opacity                                                   |
| sh0       | [N, 1, 3]        | spherical harmonics of degree 0; colour = 0.5 + SH_C0 * sh0            |
| shN       | [N, (d+1)^2-1, 3] | spherical harmonics of degrees 1 to d                                 |

The start follows 3DGS (Kerbl et al. 2023, section 5.1; reference: scene/gaussian_model.py create_from_pcd).
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import Parameter

from distwar_gs.config import ModelConfig
from distwar_gs.formats.parameters import DEGREES, ROWS, SCHEMA
from distwar_gs.gaussians.random_start import is_within_sight, points_in_view
from distwar_kernels.constants import HARMONIC0 as SH_C0

if TYPE_CHECKING:  # rendering a saved model needs no dataset readers
    from distwar_datasets.scene import Scene, View

log = logging.getLogger(__name__)

PARAMETER_NAMES = tuple(row.name for row in SCHEMA)
NEIGHBORS = 3
SCALE_BOUNDS = (1e-4, 1.0)
"""Smallest and largest standard deviation to begin with, relative to the size of the cloud."""
DEGENERATE_SCALE = 0.01
"""Standard deviation to begin with where all points coincide, in the frame's units (scene extents by default)."""
FARTHEST = 100.0
"""In multiples of the median: where pixels are wider than that, at stray points, their width does not count."""


class ModelError(ValueError):
    """Points that no model can start from; the message names the remedy."""


def initialize(
    positions: ArrayLike | Tensor,
    colors: ArrayLike | Tensor,
    config: ModelConfig,
    device: torch.device | str,
    views: Sequence["View"] = (),
) -> dict[str, Parameter]:
    """Gaussians at the points: round, grey-transparent to `init_opacity`, as large as the gaps between them.

    Args:
        positions: [P, 3], training frame.
        colors: [P, 3], uint8, or float in [0, 1].
        config: the section `model`.
        device: where the parameters go, as float32.
        views: what they will be trained on; `init_pixels` is in pixels of these.

    Raises:
        ModelError: there are no points, or they are not finite, or not as many as colours.
    """
    positions = np.asarray(torch.as_tensor(positions).cpu(), dtype=np.float64)
    colors = torch.as_tensor(colors)
    _check_points(positions, colors)
    count = len(positions)
    rgb = colors.float() / 255.0 if colors.dtype == torch.uint8 else colors.float()
    least = config.init_pixels * pixel_sizes(positions, views) if config.init_pixels > 0.0 and views else None
    scales = torch.from_numpy(np.log(initial_scales(positions, config.init_scale, least)))
    values = {
        "means": torch.from_numpy(positions),
        "quats": torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
        "scales": scales[:, None].repeat(1, 3),
        "opacities": torch.full((count,), math.log(config.init_opacity / (1.0 - config.init_opacity))),
        "sh0": ((rgb - 0.5) / SH_C0)[:, None, :],
        "shN": torch.zeros(count, *ROWS["shN"].shape_at(config.sh_degree)),
    }
    return as_parameters(values, device)


def as_parameters(values: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Parameter]:
    """Trainable float32 parameters on `device` with copies of the values, in the order of `PARAMETER_NAMES`."""
    return {
        name: Parameter(values[name].detach().to(device, torch.float32, copy=True).contiguous())
        for name in PARAMETER_NAMES
    }


def initial_scales(positions: np.ndarray, factor: float = 1.0, least: np.ndarray | None = None) -> np.ndarray:
    """Standard deviation [P] of each point's Gaussian: the root mean square distance to its 3 nearest neighbours.

    That is what the reference's distCUDA2 gives. Both ends are clamped relative to the cloud's size (twice the 90 %
    quantile of the distances from its median, so that stray points do not count): duplicates, or a point at a camera,
    would otherwise be so small, and a stray so large, that rendering gives NaN
    (graphdeco-inria/gaussian-splatting issues 23, 41, 781).

    Args:
        positions: [P, 3] float64, finite, P >= 1.
        factor: multiplies the distances, before the clamp.
        least: [P], what they are at least, whatever the clamp says; at strays (`FARTHEST`) less.
    """
    scales = _gaps(positions, factor)
    return scales if least is None else np.maximum(scales, np.minimum(least, FARTHEST * np.median(least)))


def _gaps(positions: np.ndarray, factor: float) -> np.ndarray:
    """[P], see `initial_scales`."""
    from_median = np.linalg.norm(positions - np.median(positions, axis=0), axis=1)
    size = 2.0 * (np.quantile(from_median, 0.9) or from_median.max())
    if size == 0.0:
        return np.full(len(positions), DEGENERATE_SCALE * factor)
    nearest = min(NEIGHBORS, len(positions) - 1)
    distances, _ = cKDTree(positions).query(positions, k=nearest + 1, workers=-1)  # the first is the point itself
    distances = factor * np.sqrt(np.mean(distances[:, 1:] ** 2, axis=1))
    return np.clip(distances, SCALE_BOUNDS[0] * size, SCALE_BOUNDS[1] * size)


def pixel_sizes(positions: np.ndarray, views: Sequence["View"]) -> np.ndarray:
    """How wide a pixel of the nearest view is at each point: [P], in the units of the positions [P, 3]."""
    distances, nearest = cKDTree(np.stack([view.center for view in views])).query(positions, workers=-1)
    return distances / np.array([min(view.K[0, 0], view.K[1, 1]) for view in views])[nearest]


def starting_points(
    scene: "Scene", config: ModelConfig, generator: torch.Generator
) -> tuple[ArrayLike | Tensor, ArrayLike | Tensor]:
    """Positions [P, 3] (training frame) and colours [P, 3] the config's `init` asks for, as `initialize` takes them.

    Raises:
        ModelError: `init` is "sfm" and the scene has no points.
    """
    if config.init == "sfm" and scene.points is None:
        raise ModelError(f"{scene.source} holds no points to start from; use model.init=random (or auto)")
    if config.init == "random" or scene.points is None:
        return random_points(scene, config.init_points, generator)
    return scene.points.positions, scene.points.colors


def random_points(scene: "Scene", count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points [count, 3] (training frame) and colours [count, 3] about grey (3DGS: SH coefficients of random / 255).

    They fill the scene's bounds where it knows them (NeRF-synthetic scenes) and its cameras look there, else what the
    training cameras see.

    Args:
        scene: what to fill.
        count: how many.
        generator: all randomness, on the CPU.
    """
    if scene.bounds is None or not is_within_sight(scene.train, *scene.bounds, scene.extent):
        log.info("starting from %s random points before the cameras", f"{count:,}")
        positions = points_in_view(scene.train, scene.extent, count, generator)
    else:
        low, high = (torch.from_numpy(corner).float() for corner in scene.bounds)
        log.info("starting from %s random points in a box %.3g wide", f"{count:,}", float(high[0] - low[0]))
        positions = low + (high - low) * torch.rand(count, 3, generator=generator)
    return positions, 0.5 + SH_C0 * torch.rand(count, 3, generator=generator) / 255.0


def are_parameters(values: Mapping[str, Tensor]) -> bool:
    """Whether these are a model's values: floating-point tensors of the shapes above for one number of Gaussians."""
    count, degree = len(values["means"]), sh_degree_of(values)
    shapes = {row.name: (count, *row.shape_at(degree)) for row in SCHEMA}
    sound = all(values[name].shape == shape and values[name].is_floating_point() for name, shape in shapes.items())
    return sound and degree in DEGREES


def active_sh_degree(step: float, config: ModelConfig, first: int = 0) -> int:
    """The degree of spherical harmonics in use at a step, counted from 1: one more every `sh_degree_interval`.

    As in the reference (train.py), step 1000 itself is already rendered with degree 1.

    Args:
        step: or where the run is that far (the position of distwar_gs.config.schedule).
        config: the section `model`.
        first: the degree that a model which the run began with had in use (`degree_in_use`); none below it is.
    """
    return min(max(first, int(step // config.sh_degree_interval)), config.sh_degree)


def degree_in_use(params: Mapping[str, Tensor]) -> int:
    """The highest degree whose harmonics are not all zero, as those that have not been trained are."""
    for degree in range(sh_degree_of(params), 0, -1):
        if params["shN"][:, degree**2 - 1 : (degree + 1) ** 2 - 1].any():
            return degree
    return 0


def sh_degree_of(params: Mapping[str, Tensor]) -> int:
    """The highest degree of spherical harmonics the parameters hold."""
    return math.isqrt(params["shN"].shape[1] + 1) - 1


def parameter_count(params: Mapping[str, Tensor]) -> int:
    """How many numbers are trained: 59 for each Gaussian at degree 3."""
    return sum(param.numel() for param in params.values())


def _check_points(positions: np.ndarray, colors: Tensor) -> None:
    """Refuse points that would fail far from here."""
    if positions.ndim != 2 or positions.shape[1] != 3 or len(positions) == 0 or positions.shape != tuple(colors.shape):
        raise ModelError(
            f"the model needs points and colours [P, 3] with P > 0, got {[*positions.shape]} and {[*colors.shape]}; "
            "use model.init=random if the scene has none"
        )
    with np.errstate(over="ignore"):
        bad = int((~np.isfinite(positions.astype(np.float32))).any(axis=1).sum())
    if bad:
        raise ModelError(
            f"{bad} of {len(positions)} points are not finite, or too far away for 32-bit numbers; remove them, or use "
            "model.init=random"
        )
