"""Pictures of a trained model: its test views measured and saved, depth maps, and videos along camera paths."""

import logging
from dataclasses import replace
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from datasets import View
from distwar_gs import camera_paths
from distwar_gs.cli import RenderArgs
from distwar_gs.metrics import append_metrics, data_protocol, evaluate, to_8bit
from distwar_gs.renderer import Rendering
from distwar_gs.terminal import log_to_terminal
from distwar_gs.trained import TrainedModel
from distwar_gs.views import measured_images

log = logging.getLogger(__name__)


class ModelPictures:
    """A model, the scene it was trained on, and a folder to write to."""

    def __init__(self, args: RenderArgs) -> None:
        """Loads the Gaussians and the scene. Errors of the settings and of either file come here."""
        log_to_terminal()
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
        """Renders an `ellipse` or `interpolate` path around the training cameras to an mp4, and one of its depths."""
        views = self.scene.train
        poses = getattr(camera_paths, kind)(np.stack([view.viewmat for view in views]), self.args.frames)
        template = views[len(views) // 2]
        video = _Video(self.folder / f"{kind}.mp4", self.args.fps)
        depth_video = _Video(self.folder / f"{kind}_depth.mp4", self.args.fps) if self.args.depth else None
        depth_range = None
        for pose in tqdm(poses, desc=f"{kind} path", unit="frame", disable=None):
            rendering = self.model.render(replace(template, viewmat=pose), with_depth=self.args.depth)
            video.add(to_8bit(rendering.colors[0]))
            if depth_video:
                depth_range = depth_range or _visible_range(rendering)
                depth_video.add(_depth_picture(rendering, *depth_range))
        for finished in filter(None, (video, depth_video)):
            finished.close()
            log.info("video: %s", finished.path)

    def _view(self, view: View, folder: Path) -> Rendering:
        rendering = self.model.render(view, with_depth=self.args.depth)
        if self.args.depth:
            self._write_depth(folder / "depth", view, rendering)
        return rendering

    def _write_image(self, folder: Path, view: View, image8: Tensor) -> None:
        path = (folder / view.name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        imageio.imwrite(path, image8.cpu().numpy())

    def _write_depth(self, folder: Path, view: View, rendering: Rendering) -> None:
        """Depth in the input's units as float32 .npy, and a picture of it."""
        depth = rendering.depths[0, ..., 0].cpu().numpy() / self.scene.normalisation.scale
        path = folder / view.name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path.with_suffix(".npy"), depth.astype(np.float32))
        imageio.imwrite(path.with_suffix(".png"), _depth_picture(rendering, *_visible_range(rendering)).cpu().numpy())


class _Video:
    """An mp4 that grows frame by frame; H.264 in yuv420p, which every player shows."""

    def __init__(self, path: Path, fps: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._writer = imageio.get_writer(path, fps=fps, codec="libx264", quality=8, macro_block_size=1)

    def add(self, frame8: Tensor) -> None:
        """Appends [H, W, 3] uint8; an odd last row or column, which yuv420p cannot hold, is left out."""
        height, width = frame8.shape[0] // 2 * 2, frame8.shape[1] // 2 * 2
        self._writer.append_data(frame8[:height, :width].cpu().numpy())

    def close(self) -> None:
        """Finishes the file."""
        self._writer.close()


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
