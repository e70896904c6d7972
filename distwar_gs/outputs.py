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

from datasets import View
from distwar_gs import camera_paths
from distwar_gs.cli import CAMERA_PATHS, RenderArgs
from distwar_gs.files import remove_leftovers, replacing
from distwar_gs.metrics import append_metrics, data_protocol, evaluate, to_8bit
from distwar_gs.path_files import read_path
from distwar_gs.path_views import path_views
from distwar_gs.renderer import Rendering
from distwar_gs.trained import TrainedModel
from distwar_gs.video import writing_video
from distwar_gs.views import measured_images

log = logging.getLogger(__name__)

FRAMES, FPS = 240, 30.0
"""Of a video, where neither the command line nor a file says otherwise."""


class ModelPictures:
    """A model, the scene it was trained on, and a folder to write to."""

    def __init__(self, args: RenderArgs) -> None:
        """Loads the Gaussians, the scene and a camera path. Errors of the settings and of any file come here."""
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        self.path = None if args.path in CAMERA_PATHS else read_path(Path(args.path))
        self.args, self.model = args, TrainedModel.load(args)
        self.scene = self.model.scene
        self.folder = (args.out or self.model.run_folder / "renders") / f"iteration_{self.model.step}"

    @torch.no_grad()
    def render_split(self, split: str) -> None:
        """Renders and measures the views of "test" or "train"; PNGs and metrics.json go to the folder."""
        views = getattr(self.scene, split)
        if not views:
            log.warning("no %s views in %s (%s)", split, self.scene.source, self.scene.split_rule)
            return
        folder = self.folder / split
        remove_leftovers(folder / kind for kind in ("renders", "gt", "depth"))
        bar = tqdm(total=len(views), desc=f"{split} views", unit="view", disable=None)  # None: only on a terminal

        def save(view: View, render8: Tensor, photo: Tensor) -> None:
            self._write_image(folder / "renders", view, render8)
            self._write_image(folder / "gt", view, photo)
            bar.update()

        images = measured_images(views, self.model.config)
        protocol = data_protocol(self.scene, self.model.config.data.background)
        evaluation = evaluate(
            lambda view: self._view(view, folder).colors[0], images, views, protocol, save, images.mask
        )
        bar.close()
        append_metrics(self.folder / "metrics.json", self.model.step, split, evaluation)
        lpips = "" if evaluation.lpips is None else f", LPIPS {evaluation.lpips:.4f}"
        numbers = (evaluation.psnr, evaluation.ssim, lpips, len(views))
        log.info("%s PSNR %.2f dB, SSIM %.4f%s (%d views)", split, *numbers)
        log.info("pictures: %s", folder / "renders")

    @torch.no_grad()
    def render_path(self, kind: str) -> None:
        """Renders a camera path to an mp4, and one of its depths.

        kind: `ellipse` or `interpolate`, around the training cameras; or the file that the arguments name.
        """
        name, views, fps = (kind, self._own_path(kind), FPS) if self.path is None else self._path_of_file()
        fps = fps if self.args.fps is None else self.args.fps
        names = [f"{name}.mp4", *([f"{name}_depth.mp4"] if self.args.depth else [])]
        remove_leftovers([self.folder])
        with contextlib.ExitStack() as files:
            video, *depth_video = (files.enter_context(writing_video(self.folder / file, fps)) for file in names)
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
        for file in names:
            log.info("video: %s", self.folder / file)

    def _own_path(self, kind: str) -> list[View]:
        """A path around the training cameras, through the lens of one of them."""
        views = self.scene.train
        frames = FRAMES if self.args.frames is None else self.args.frames
        poses = getattr(camera_paths, kind)(np.stack([view.viewmat for view in views]), frames)
        return [replace(views[len(views) // 2], viewmat=pose) for pose in poses]

    def _path_of_file(self) -> tuple[str, Sequence[View], float]:
        """Name, views and frames per second of the video along the path that was read."""
        views = path_views(self.path, self.scene, self.model.origin, self.args.frames)
        return self.path.file.stem, views, self.path.fps or FPS

    def _view(self, view: View, folder: Path) -> Rendering:
        rendering = self.model.render(view, with_depth=self.args.depth)
        if self.args.depth:
            self._write_depth(folder / "depth", view, rendering)
        return rendering

    def _write_image(self, folder: Path, view: View, image8: Tensor) -> None:
        _write_png((folder / view.name).with_suffix(".png"), image8)

    def _write_depth(self, folder: Path, view: View, rendering: Rendering) -> None:
        """Depth in the input's units as float32 .npy, and a picture of it."""
        depth = rendering.depths[0, ..., 0].cpu().numpy() / self.scene.normalisation.scale
        path = folder / view.name
        content = io.BytesIO()
        np.save(content, depth.astype(np.float32))
        with replacing(path.with_suffix(".npy")) as temporary:
            temporary.write_bytes(content.getvalue())
        _write_png(path.with_suffix(".png"), _depth_picture(rendering, *_visible_range(rendering)))


def _write_png(path: Path, image8: Tensor) -> None:
    """[H, W, 3] uint8 as a file that appears whole; missing folders are made."""
    with replacing(path) as temporary:
        imageio.imwrite(temporary, image8.cpu().numpy(), format="png")


def _visible_range(rendering: Rendering) -> tuple[float, float]:
    """Inverse depths that 2 % and 98 % of the opaque pixels lie between: far, near."""
    seen = rendering.depths[rendering.alphas > 0.5]
    if not len(seen):
        return 0.0, 1.0
    return tuple(np.quantile(1.0 / seen.cpu().numpy(), (0.02, 0.98)).tolist())


def _depth_picture(rendering: Rendering, far: float, near: float) -> Tensor:
    """Inverse depth as grey [H, W, 3] uint8: near is bright, nothing is black."""
    inverse = 1.0 / rendering.depths[0].clamp_min(1e-10)
    grey = ((inverse - far) / max(near - far, 1e-12)).clamp(0.0, 1.0) * (rendering.alphas[0] > 0.5)
    return to_8bit(grey).expand(-1, -1, 3)
