"""The Gaussians that a run begins with: from the scene's points, at random, from a point cloud or from a model.

`model.init_ply` names a file in the frame of the input's poses. A point cloud takes the place of the scene's points
(3DGS users put theirs into sparse/0/points3D.ply). Gaussians, of this trainer or another, keep all their parameters,
and only the optimiser starts anew; what `--resume` continues is a checkpoint.
"""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import Parameter

from distwar_datasets.readers.pointcloud import read_points
from distwar_gs.config import STRATEGIES, Config, ModelConfig
from distwar_gs.formats.compressed_ply import is_compressed
from distwar_gs.formats.export import find_ply, load_model, read_origin, read_render_mode
from distwar_gs.formats.parameters import harmonics_of
from distwar_gs.formats.ply import ModelFileError, read_ply
from distwar_gs.formats.table import PLY
from distwar_gs.gaussians.model import as_parameters, initialize, sh_degree_of, starting_points
from distwar_gs.gaussians.random_start import seen_share

if TYPE_CHECKING:
    from distwar_datasets.scene import Scene
    from distwar_gs.gaussians.memory import Cap

log = logging.getLogger(__name__)

FEW_SEEN, FAR = 0.1, 100.0
"""A file is likely in another frame where a smaller share of it is in any camera's picture, or where half of it is
farther from the cameras, in scene extents: from so far their pictures of it would hardly differ."""
ROOM_TO_GROW = 0.5
"""Share of what memory holds that a run may begin with."""
_LOOKED_AT = 10_000


def first_gaussians(
    scene: Scene, config: Config, generator: torch.Generator, device: torch.device, cap: Cap
) -> dict[str, Parameter]:
    """Parameters on `device`, in the scene's training frame.

    A cloud of `model.init_ply` with more points than densification.cap_max, or half of what memory holds, and a scene's
    with more than memory holds, is thinned at random, which is said; Gaussians are all kept.

    Args:
        scene: what will be trained on.
        config: sections model and densification count.
        generator: all randomness, on the CPU.
        device: where the parameters go.
        cap: the run's, before it has begun.

    Raises: ModelFileError, DataError or ModelError for a file, or a scene, that nothing can start from.
    """
    model = config.model
    if not model.init_ply:
        limit = cap.for_start(share=1.0) if config.densification.cap_max is None else None
        points = starting_points(scene, model, generator)
        return initialize(*_thinned(*points, limit, generator), model, device, scene.train)
    path = find_start(model.init_ply)
    if holds_gaussians(path):
        gaussians = _gaussians(path, scene, model)
        _say_cap(len(gaussians["means"]), config)
        return as_parameters(gaussians, device)
    points = _cloud(path, scene)
    return initialize(*_thinned(*points, cap.for_start(ROOM_TO_GROW), generator), model, device, scene.train)


def find_start(init_ply: str) -> Path:
    """The file that `model.init_ply` names, of a run folder the newest PLY. Raises ModelFileError if there is none, or
    if it is neither a point cloud nor Gaussians; its rows are not read."""
    path = Path(os.path.expanduser(init_ply))
    if path.suffix == ".pt":
        raise ModelFileError(f"{path}: is a checkpoint; continue it with --resume {path}, or start from its run's PLY")
    path = find_ply(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file; give a point cloud (.ply) or a file of Gaussians with --init_ply")
    holds_gaussians(path)
    return path


def holds_gaussians(path: Path) -> bool:
    """Whether a file holds Gaussians, and not points; ModelFileError for a broken PLY."""
    if path.suffix.lower() != PLY.suffix:
        return True
    ply = read_ply(path)
    names = ply.elements["vertex"].names if "vertex" in ply else ()
    return is_compressed(ply) or {"scale_0", "rot_0"} <= set(names)


def with_degree(params: dict[str, Tensor], degree: int) -> dict[str, Tensor]:
    """The Gaussians with harmonics up to `degree`: those above are left out, those that are missing are zeros."""
    wanted, harmonics = harmonics_of(degree), params["shN"]
    missing = harmonics.new_zeros(len(harmonics), max(0, wanted - harmonics.shape[1]), 3)
    return {**params, "shN": torch.cat([harmonics[:, :wanted], missing], dim=1)}


def _gaussians(path: Path, scene: Scene, config: ModelConfig) -> dict[str, Tensor]:
    params = load_model(path, scene.normalisation)
    degree = sh_degree_of(params)
    log.info("starting from the %s Gaussians of %s", f"{len(params['means']):,}", path)
    _say_degree(path, degree, config.sh_degree)
    mode = read_render_mode(path)
    if mode in ("mip", "default") and (mode == "mip") != config.antialiased:
        trained = "with" if mode == "mip" else "without"
        log.warning(
            "%s: was trained %s model.antialiased, this run is not; its Gaussians will have to adapt", path, trained
        )
    _check_seen(path, scene, params["means"])
    return with_degree(params, config.sh_degree)


def _say_cap(count: int, config: Config) -> None:
    cap = config.densification.cap_max
    if cap and count > cap:
        what = STRATEGIES[config.densification.strategy].over_cap
        log.warning("%s Gaussians are more than densification.cap_max, %s: %s", f"{count:,}", f"{cap:,}", what)


def _say_degree(path: Path, held: int, wanted: int) -> None:
    if held > wanted:
        log.warning(
            "%s: of its harmonics those above degree %d are left out; --sh_degree %d keeps them", path, wanted, held
        )
    elif held < wanted:
        log.info("%s: its harmonics are of degree %d, those up to degree %d start at zero", path, held, wanted)


def _cloud(path: Path, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Positions [P, 3] in the training frame, and colours [P, 3]."""
    cloud = read_points(path, "give another file with --init_ply")
    if cloud is None:
        raise ModelFileError(f"{path}: holds no points to start from; give another file with --init_ply")
    instead = f", not from the {len(scene.points.positions):,} of the scene" if scene.points else ""
    log.info("starting from the %s points of %s%s", f"{len(cloud.positions):,}", path, instead)
    positions = scene.normalisation.about(read_origin(path)).apply_points(cloud.positions)
    _check_seen(path, scene, torch.from_numpy(positions))
    return positions, cloud.colors


def _check_seen(path: Path, scene: Scene, positions: Tensor) -> None:
    """A warning where points [N, 3] are not before the cameras, or very far from them."""
    some = positions[:: max(1, math.ceil(len(positions) / _LOOKED_AT))].double()
    center = np.mean([view.center for view in scene.train], axis=0)
    distance = float((some - torch.from_numpy(center)).norm(dim=1).median()) / scene.extent
    share = seen_share(scene.train, some)
    if share < FEW_SEEN or distance > FAR:
        log.warning(
            "%s: %.0f %% of it are in the picture of a training view, half of it is farther from the cameras than %.3g "
            "scene extents: is it in the frame, and the units, of the poses?", path, 100.0 * share, distance,
        )  # fmt: skip


def _thinned(
    positions: ArrayLike | Tensor, colors: ArrayLike | Tensor, limit: int | None, generator: torch.Generator
) -> tuple[ArrayLike | Tensor, ArrayLike | Tensor]:
    """As many of the points as `limit` allows, drawn at random, in their order."""
    count = np.shape(positions)[0]
    if limit is None or count <= limit:
        return positions, colors
    kept = torch.randperm(count, generator=generator)[:limit].sort().values
    log.warning(
        "starting from %s of the %s points, drawn at random, for want of memory or by densification.cap_max "
        "(--cap_max N sets how many Gaussians there may be)", f"{limit:,}", f"{count:,}",
    )  # fmt: skip
    return torch.as_tensor(positions)[kept], torch.as_tensor(colors)[kept]
