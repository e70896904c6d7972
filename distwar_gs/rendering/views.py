"""What training and rendering both need of a scene: the scene itself, its cameras on the device, its pixels."""

import logging
import sys
from collections.abc import Sequence

import torch

from distwar_datasets import Scene, View, load_scene, near_origin
from distwar_datasets.pixels.images import FREE_SHARE, ImageStore, available_memory
from distwar_gs.config import Config, ConfigError
from distwar_kernels import Cameras

log = logging.getLogger(__name__)

_COLORS = {"black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0), "random": (0.0, 0.0, 0.0), "learned": (0.0, 0.0, 0.0)}


def cameras_of(views: Sequence[View], device: torch.device) -> tuple[Cameras, ...]:
    """A camera for each view, float32 on the device: copied there together, so that no step has to."""
    cameras: dict[int, Cameras] = {}
    for model in dict.fromkeys(_model_of(view) for view in views):
        places = [index for index, view in enumerate(views) if _model_of(view) == model]
        together = _cameras_of_one_model(model, [views[index] for index in places], device)
        for row, index in enumerate(places):
            cameras[index] = together.one(row)._replace(width=views[index].width, height=views[index].height)
    return tuple(cameras[index] for index in range(len(views)))


def _model_of(view: View) -> str:
    return view.lens.model if view.lens else "pinhole"


def _cameras_of_one_model(model: str, views: Sequence[View], device: torch.device) -> Cameras:
    viewmats, Ks = (torch.tensor([getattr(view, name).tolist() for view in views]) for name in ("viewmat", "K"))
    if model == "pinhole":
        return Cameras.of_matrices(viewmats.float().to(device), Ks.float().to(device), 0, 0)
    numbers = torch.tensor([view.lens.numbers for view in views if view.lens])
    return Cameras(model, viewmats.float().to(device), numbers.float().to(device), 0, 0)


def camera_of(view: View, device: torch.device) -> Cameras:
    """The camera of one view."""
    return cameras_of((view,), device)[0]


def open_scene(config: Config) -> Scene:
    """The scene a configuration names; images are found and measured, not decoded.

    Without data.normalise it is in the frame of the input, unless 32-bit numbers are too coarse there: then a round
    offset is taken off.

    Raises ConfigError if it names none, DataError for one that cannot be used.
    """
    data = config.data
    if not data.source_path:
        raise ConfigError("data.source_path is not set: give the folder of the scene with -s DIR")
    scene = load_scene(
        data.source_path, images=data.images, resolution=data.resolution, masks=data.masks,
        invert_masks=data.invert_masks, alpha=data.alpha, undistort=data.undistort, test_every=data.test_every,
        test_list=data.test_list, hold_out=data.eval, normalise=data.normalise,
    )  # fmt: skip
    scene = scene if data.normalise else near_origin(scene)
    log.info(
        "%s: %d training and %d test views (%s), %s, images: %s",
        scene.source, len(scene.train), len(scene.test), scene.split_rule,
        f"{len(scene.points.positions):,} points" if scene.points else "no points", scene.image_source,
    )  # fmt: skip
    return scene


def measures_color_fit(config: Config) -> bool:
    """Whether test views are measured after a fit of their colours, too."""
    return config.log.colour_fit or config.appearance.model != "none"


def measures_aligned(config: Config) -> bool:
    """Whether test views are measured after a fit of their poses, too."""
    return config.log.align_poses or config.poses.refine


def evaluation_background(config: Config) -> tuple[float, float, float]:
    """The colour behind test views, in [0, 1]; black where training draws it at random, or learns what is there."""
    return _COLORS[config.data.background]


def training_images(
    scene: Scene, config: Config, device: torch.device, often: Sequence[int] | None = None, hosts_ranks: int = 1
) -> ImageStore:
    """The training views' pixels, on the GPU if they fit the budget.

    often: those that this process needs again and again; None: all. hosts_ranks: how many share the host's memory.
    """
    # A random background needs the alpha of every image; a fixed one is mixed in once, while decoding.
    background = None if config.data.background == "random" else evaluation_background(config)
    share = len(scene.train) / (len(scene.train) + len(scene.test))
    images = _open_images(scene.train, config, background, device, share, often, hosts_ranks)
    asked = len(scene.train if often is None else often)
    if images.transparent and scene.kind != "blender":
        log.warning(
            "%d of %d photos have transparent places: data.background (%s) shows through; to ignore these places, as "
            "masks do, use --set data.alpha=mask", images.transparent, asked, config.data.background,
        )  # fmt: skip
    return images


def measured_images(views: Sequence[View], config: Config, host_share: float = 1.0) -> ImageStore:
    """Pixels to compare renders with, in host memory: they are needed rarely. `host_share`: of the host's budget."""
    return _open_images(views, config, evaluation_background(config), torch.device("cpu"), host_share)


def _open_images(
    views: Sequence[View],
    config: Config,
    background: tuple[float, float, float] | None,
    device: torch.device,
    host_share: float,
    often: Sequence[int] | None = None,
    hosts_ranks: int = 1,
) -> ImageStore:
    data, free = config.data, FREE_SHARE * available_memory() / hosts_ranks
    host = free if data.host_budget_gib is None else _bytes_of(data.host_budget_gib)
    return ImageStore(
        views, background=background, device=device, budget_bytes=_bytes_of(data.image_budget_gib),
        host_budget_bytes=int(host * host_share), threads=data.loader_threads, often=often,
    )  # fmt: skip


def _bytes_of(gib: float) -> int:
    """Bytes of so many GiB; of a number that means "all there is", 1e308 perhaps, as many as can be counted."""
    return int(min(gib * 2**30, sys.maxsize))
