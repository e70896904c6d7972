"""A trained model in front of its scene's cameras: what rendering and measuring programs start from."""

import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distwar_datasets import Scene, View
from distwar_gs.adjust.aligning import Aligner
from distwar_gs.config import Config, with_values
from distwar_gs.formats.export import find_ply, load_model, read_origin
from distwar_gs.formats.origins import record_of, words
from distwar_gs.formats.sky import read_sky, sky_of
from distwar_gs.gaussians.model import sh_degree_of
from distwar_gs.rendering.environment import Environment
from distwar_gs.rendering.near_plane import with_near_plane, with_reference_near_plane
from distwar_gs.rendering.renderer import Rendering, RenderSettings, Splats, project, render, render_settings
from distwar_gs.rendering.views import camera_of, evaluation_background, open_scene
from distwar_gs.system.devices import enough_memory, resolve_device
from distwar_gs.viewing.render_args import RenderArgs, belongs_to_run, render_config
from distwar_gs.viewing.shown import facing_normals

log = logging.getLogger(__name__)

FAR_AWAY = 1000.0
"""Scene extents between the cameras and most Gaussians from which on these are taken for another scene's, or another
frame's. What can be seen so far away is sky."""


@dataclass(frozen=True)
class TrainedModel:
    """Gaussians from a file, in the training frame of the scene whose cameras look at them."""

    ply: Path
    """The file they were read from."""
    step: int
    """Training steps, from the file's folder; 0 if it does not tell."""
    config: Config
    """The run's settings, or those asked for."""
    scene: Scene
    params: dict[str, Tensor]
    """As in distwar_gs.gaussians.model, on `device`."""
    origin: np.ndarray
    """What the positions in the file are relative to, float64 [3], in the frame of the input."""
    settings: RenderSettings
    background: Tensor
    """[3], behind every view, unless the settings have an environment."""
    device: torch.device

    @classmethod
    def load(cls, args: RenderArgs) -> "TrainedModel":
        """Reads the model and the scene. Errors of the configuration and of either file come here."""
        return cls.of(args, render_config(args))

    @classmethod
    def of(cls, args: RenderArgs, config: Config) -> "TrainedModel":
        """The same with other settings than `render_config` has for the arguments."""
        device = resolve_device(config.train.device)
        ply = find_ply(args.model, args.iteration)
        scene = open_scene(config)
        config = (with_near_plane if belongs_to_run(args) else with_reference_near_plane)(config, scene)
        params = {name: tensor.to(device) for name, tensor in load_model(ply, scene.normalisation).items()}
        config, environment = _with_sky(ply, args, config, device)
        background = torch.tensor(evaluation_background(config), device=device)
        origin = read_origin(ply)
        relative = f", relative to the origin ({words(origin, ', ')})" if origin.any() else ""
        log.info("%s: %s Gaussians%s", ply, f"{len(params['means']):,}", relative)
        _check_place(ply, params["means"], scene)
        settings = replace(render_settings(config, scene.extent, device), environment=environment)
        return cls(ply, _step_of(ply), config, scene, params, origin, settings, background, device)

    @property
    def run_folder(self) -> Path:
        """The run the PLY belongs to; for one that stands alone, its folder."""
        return self.ply.parents[2] if self.step else self.ply.parent

    def spread_views(self, count: int) -> list[View]:
        """Up to `count` views spread evenly over all of the scene's, training and held out."""
        everything = self.scene.train + self.scene.test
        return [everything[i] for i in np.unique(np.linspace(0, len(everything) - 1, count).round().astype(int))]

    @torch.no_grad()
    def render(self, view: View, *, with_depth: bool = False, with_normals: bool = False) -> Rendering:
        """The model as a view sees it; its normals are the rendering's features.

        Raises ConfigError, with a remedy, where the memory does not suffice for a picture of that size.
        """
        camera = camera_of(view, self.device)
        with enough_memory(
            f"a picture of {view.width} x {view.height} pixels of {len(self.params['means']):,} Gaussians"
        ):
            return render(
                self.params, camera, self.settings, sh_degree=sh_degree_of(self.params), background=self.background,
                with_depth=with_depth, features=facing_normals(self.params, camera) if with_normals else None,
            )  # fmt: skip

    def aligner(self) -> Aligner:
        """Renders views from where the model sees their photos."""
        weight = self.config.optim.lambda_dssim
        return Aligner(self.params, self.settings, self.background, self.scene.extent, weight)

    @torch.no_grad()
    def project(self, view: View) -> Splats:
        """The model's Gaussians as a view sees them, in tiles."""
        return project(self.params, camera_of(view, self.device), self.settings)


def _with_sky(ply: Path, args: RenderArgs, config: Config, device: torch.device) -> tuple[Config, Environment | None]:
    """The sky that lies beside the file, unless another background is asked for; and the settings that say so."""
    coefficients = read_sky(ply) if args.background is None else None
    if coefficients is not None:
        return with_values(config, {"data.background": "learned"}), Environment(coefficients.to(device))
    if config.data.background == "learned":
        log.warning("%s: is not there, so what was learned behind the Gaussians is black; copy it there, or save the "
                    "model again", sky_of(ply))  # fmt: skip
    return config, None


def _check_place(ply: Path, means: Tensor, scene: Scene) -> None:
    """Says that a model is nowhere near the scene's cameras, as one is whose origin was lost on its way."""
    cameras = torch.from_numpy(np.stack([view.center for view in scene.train]))
    distance = float((means.double().median(dim=0).values.cpu() - cameras).norm(dim=1).min()) / scene.extent
    if distance > FAR_AWAY:
        log.warning(
            "%s: most of its Gaussians are %.0f scene extents away from the cameras of %s; if its positions are "
            'relative to another origin, write {"origin": [x, y, z]} into %s',
            ply, distance, scene.source, record_of(ply).name,
        )  # fmt: skip


def _step_of(ply: Path) -> int:
    match = re.fullmatch(r"iteration_(\d+)", ply.parent.name)
    return int(match.group(1)) if match else 0
