"""Pictures of a trained model: its test views measured and saved, depth maps, and videos along camera paths."""

import contextlib
import io
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from distwar_datasets import View
from distwar_datasets.names import unique_stems
from distwar_datasets.pixels.cache import leads_out
from distwar_gs.config import ConfigError
from distwar_gs.evaluation.metrics import append_metrics, data_protocol, evaluate, to_8bit
from distwar_gs.rendering.renderer import Rendering
from distwar_gs.rendering.views import measured_images, measures_color_fit
from distwar_gs.system.files import durable_write, remove_leftovers
from distwar_gs.system.terminal import log_to_terminal
from distwar_gs.viewing import camera_paths
from distwar_gs.viewing.path_files import read_path
from distwar_gs.viewing.path_views import path_views
from distwar_gs.viewing.render_args import CAMERA_PATHS, RenderArgs
from distwar_gs.viewing.trained import TrainedModel
from distwar_gs.viewing.video_file import writing_video

log = logging.getLogger(__name__)

FRAMES, FPS = 240, 30.0
"""Of a video, where neither the command line nor a file says otherwise."""


class ModelPictures:
    """A model, the scene it was trained on, and a folder to write to."""

    def __init__(self, args: RenderArgs) -> None:
        """Loads the Gaussians, the scene and a camera path. Errors of the settings and of any file come here."""
        log_to_terminal()
        self.path = None if args.path in CAMERA_PATHS else read_path(Path(args.path))
        self.args, self.model = args, TrainedModel.load(args)
        self.scene = self.model.scene
        self.folder = (args.out or self.model.run_folder / "renders") / f"iteration_{self.model.step}"
        self._within(self.folder)

    @torch.no_grad()
    def render_split(self, split: str) -> None:
        """Renders and measures the views of "test" or "train"; PNGs and metrics.json go to the folder."""
        views = getattr(self.scene, split)
        if not views:
            log.warning("no %s views in %s (%s)", split, self.scene.source, self.scene.split_rule)
            return
        folder = self.folder / split
        stems = unique_stems([view.name for view in views], (".png", ".npy"), shorten=True)
        places = dict(zip(views, map(Path, stems), strict=True))
        kinds = ("renders", "gt", "depth")
        remove_leftovers({self._within((folder / kind / stem).parent) for kind in kinds for stem in stems})
        bar = tqdm(total=len(views), desc=f"{split} views", unit="view", disable=None)  # None: only on a terminal

        def save(view: View, render8: Tensor, photo: Tensor) -> None:
            self._write_image(folder / "renders" / places[view], render8)
            self._write_image(folder / "gt" / places[view], photo)
            bar.update()

        images = measured_images(views, self.model.config)
        protocol = data_protocol(self.scene, self.model.config.data.background)
        evaluation = evaluate(
            lambda view: self._view(view, folder / "depth" / places[view]).colors[0],
            images, views, protocol, save, images.mask, with_flip=self.model.config.log.flip,
            with_color_fit=measures_color_fit(self.model.config),
        )  # fmt: skip
        bar.close()
        append_metrics(self._within(self.folder / "metrics.json"), self.model.step, split, evaluation)
        others = {name.upper(): evaluation.numbers[name] for name in ("lpips", "flip")}
        more = "".join(f", {name} {value:.4f}" for name, value in others.items() if value is not None)
        log.info("%s %s%s (%d views)", split, evaluation.words(), more, len(views))
        log.info("pictures: %s", folder / "renders")

    @torch.no_grad()
    def render_path(self, kind: str) -> None:
        """Renders a camera path to an mp4, and one of its depths.

        kind: `ellipse` or `interpolate`, around the training cameras; or the file that the arguments name.
        """
        name, views, fps = (kind, self._own_path(kind), FPS) if self.path is None else self._path_of_file()
        fps = fps if self.args.fps is None else self.args.fps
        names = [f"{name}.mp4", *([f"{name}_depth.mp4"] if self.args.depth else [])]
        files = [self._within(self.folder / file) for file in names]
        remove_leftovers([self.folder])
        with contextlib.ExitStack() as open_files:
            video, *depth_video = (open_files.enter_context(writing_video(file, fps)) for file in files)
            depth_range, is_seen = None, False
            for view in tqdm(views, desc=f"{name} path", unit="frame", disable=None):
                rendering = self.model.render(view, with_depth=self.args.depth)
                is_seen = is_seen or bool(rendering.alphas.any())
                video.add(to_8bit(rendering.colors[0]))
                for depths in depth_video:
                    depth_range = depth_range or _visible_range(rendering)
                    depths.add(_depth_picture(rendering, *depth_range))
        if not is_seen:
            log.warning(
                "%s path: no Gaussian is seen; its poses must be camera-to-world, in the frame of the input", name
            )
        for file in files:
            log.info("video: %s", file)

    def _own_path(self, kind: str) -> list[View]:
        """A path around the training cameras, through the lens of one of them."""
        views = self.scene.train
        frames = FRAMES if self.args.frames is None else self.args.frames
        poses = getattr(camera_paths, kind)(np.stack([view.viewmat for view in views]), frames)
        return [replace(views[len(views) // 2], viewmat=pose) for pose in poses]

    def _path_of_file(self) -> tuple[str, Sequence[View], float]:
        """Name, views and frames per second of the video along the path that was read."""
        assert self.path is not None
        views = path_views(self.path, self.scene, self.model.origin, self.args.frames)
        return self.path.file.stem, views, self.path.fps or FPS

    def _view(self, view: View, depth: Path) -> Rendering:
        rendering = self.model.render(view, with_depth=self.args.depth)
        if self.args.depth:
            self._write_depth(depth, rendering)
        return rendering

    def _write_image(self, stem: Path, image8: Tensor) -> None:
        with durable_write(self._within(stem.with_name(stem.name + ".png"))) as file:
            imageio.imwrite(file, image8.cpu().numpy(), format="png")

    def _write_depth(self, stem: Path, rendering: Rendering) -> None:
        """Depth in the input's units as float32 .npy, and a picture of it."""
        assert rendering.depths is not None
        depth = rendering.depths[0, ..., 0].cpu().numpy() / self.scene.normalisation.scale
        content = io.BytesIO()  # written by numpy itself, a disk that is full would not say so
        np.save(content, depth.astype(np.float32))
        with durable_write(self._within(stem.with_name(stem.name + ".npy"))) as file:
            file.write(content.getbuffer())
        self._write_image(stem, _depth_picture(rendering, *_visible_range(rendering)))

    def _within(self, path: Path) -> Path:
        """`path`, a place below the run folder or --out. Raises ConfigError where a link on the way leads out of it."""
        home = self.args.out or self.model.run_folder
        if leads_out(home, path):
            raise ConfigError(f"{path}: a link leads out of {home}; remove the link, or choose a folder with --out")
        return path


def _visible_range(rendering: Rendering) -> tuple[float, float]:
    """Inverse depths that 2 % and 98 % of the opaque pixels lie between: far, near."""
    assert rendering.depths is not None
    seen = rendering.depths[rendering.alphas > 0.5]
    if not len(seen):
        return 0.0, 1.0
    far, near = np.quantile(1.0 / seen.cpu().numpy(), (0.02, 0.98)).tolist()
    return far, near


def _depth_picture(rendering: Rendering, far: float, near: float) -> Tensor:
    """Inverse depth as grey [H, W, 3] uint8: near is bright, nothing is black."""
    assert rendering.depths is not None
    inverse = 1.0 / rendering.depths[0].clamp_min(1e-10)
    gray = ((inverse - far) / max(near - far, 1e-12)).clamp(0.0, 1.0) * (rendering.alphas[0] > 0.5)
    return to_8bit(gray).expand(-1, -1, 3)
