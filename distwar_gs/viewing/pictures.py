"""Pictures of a trained model: its test views measured and saved, and videos along camera paths; in colors, and as
depth, normals and alpha."""

import contextlib
import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import torch
from torch import Tensor

from distwar_datasets import View
from distwar_datasets.names import unique_stems
from distwar_datasets.pixels.cache import leads_out
from distwar_gs.config import ConfigError
from distwar_gs.evaluation.metrics import append_metrics, data_protocol, evaluate, to_8bit
from distwar_gs.rendering.renderer import Rendering
from distwar_gs.rendering.views import measured_images, measures_aligned, measures_color_fit
from distwar_gs.system.files import durable_write, remove_leftovers
from distwar_gs.system.progress import progress
from distwar_gs.system.terminal import log_to_terminal
from distwar_gs.viewing.lens_views import ChosenLens
from distwar_gs.viewing.path_files import read_path
from distwar_gs.viewing.path_views import own_views, path_views, sized
from distwar_gs.viewing.render_args import CAMERA_PATHS, RenderArgs
from distwar_gs.viewing.shown import DepthRange, alpha_image, depth_image, depth_range, depth_sample, normals_image
from distwar_gs.viewing.trained import TrainedModel
from distwar_gs.viewing.video_file import writing_video

log = logging.getLogger(__name__)

FRAMES, FPS = 240, 30.0
"""Of a video, where neither the command line nor a file says otherwise."""

_RANGE_VIEWS, _RANGE_WIDTH = 16, 640
"""So many small pictures, spread over all, say between which depths the colors of all of them lie."""

_DRAWN: dict[str, Callable[[Rendering, DepthRange], Tensor]] = {
    "color": lambda seen, _: seen.colors[0],
    "depth": depth_image,
    "normals": lambda seen, _: normals_image(seen),
    "alpha": lambda seen, _: alpha_image(seen),
}
"""What is seen as a picture [H, W, 3] in [0, 1], by kind (`render_args.SHOWN`)."""
_FOLDERS = {"color": ("renders", "gt"), "depth": ("depth",), "normals": ("normals",), "alpha": ("alpha",)}
"""Of the pictures of test views."""


class ModelPictures:
    """A model, the scene it was trained on, and a folder to write to."""

    def __init__(self, args: RenderArgs) -> None:
        """Loads the Gaussians, the scene and a camera path. Errors of the settings and of any file come here."""
        log_to_terminal()
        self.path = None if args.path in CAMERA_PATHS else read_path(Path(args.path))
        lens = ChosenLens.of(args)
        self.args, self.model = args, TrainedModel.load(args)
        self.scene = self.model.scene
        self.lens = lens and lens.of_frame(self.scene.normalisation.scale)
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
        kinds = [name for names in _FOLDERS.values() for name in names]
        remove_leftovers({self._within((folder / kind / stem).parent) for kind in kinds for stem in stems})
        within = self._depth_range(views)
        bar = progress(total=len(views), desc=f"{split} views", unit="view")

        def save(view: View, render8: Tensor, photo: Tensor) -> None:
            if "color" in self.args.kinds:
                self._write_image(folder / "renders" / places[view], render8)
                self._write_image(folder / "gt" / places[view], photo)
            bar.update()

        def seen(view: View) -> Tensor:
            rendering = self._render(view)
            self._write_others(rendering, within, folder, places[view])
            return rendering.colors[0]

        images = measured_images(views, self.model.config)
        protocol = data_protocol(self.scene, self.model.config.data.background)
        with bar:
            evaluation = evaluate(
                seen, images, views, protocol, save, images.mask, with_flip=self.model.config.log.flip,
                with_color_fit=measures_color_fit(self.model.config),
                aligned=self.model.aligner() if measures_aligned(self.model.config) else None,
            )  # fmt: skip
        append_metrics(self._within(self.folder / "metrics.json"), self.model.step, split, evaluation)
        others = {name.upper(): evaluation.numbers[name] for name in ("lpips", "flip")}
        more = "".join(f", {name} {value:.4f}" for name, value in others.items() if value is not None)
        log.info("%s %s%s (%d views)", split, evaluation.words(), more, len(views))
        log.info("pictures: %s", ", ".join(str(folder / _FOLDERS[kind][0]) for kind in self.args.kinds))

    @torch.no_grad()
    def render_stills(self) -> None:
        """Renders what the chosen lens shows from where the test views (training views, if there are none) were
        taken."""
        assert self.lens is not None
        views = self.scene.test or self.scene.train
        stems = unique_stems([view.name for view in views], (".png",), shorten=True)
        seen = [self.lens.view(view, self.scene.extent) for view in views]
        within = self._depth_range(seen)
        folders = {kind: self.lens.name + ("" if kind == "color" else f"_{kind}") for kind in self.args.kinds}
        for view, stem in zip(progress(seen, desc=f"{self.lens.name} views", unit="view"), stems, strict=True):
            rendering = self._render(view)
            for kind, name in folders.items():
                self._write_image(self.folder / name / Path(stem), to_8bit(_DRAWN[kind](rendering, within)))
        log.info("pictures: %s", ", ".join(str(self.folder / name) for name in folders.values()))

    @torch.no_grad()
    def render_path(self, kind: str) -> None:
        """Renders a camera path to an mp4 for each kind of picture.

        kind: `ellipse` or `interpolate`, around the training cameras; or the file that the arguments name.
        """
        name, views, fps = (kind, self._own_path(kind), FPS) if self.path is None else self._path_of_file()
        fps = fps if self.args.fps is None else self.args.fps
        if self.lens is not None:
            name, views = f"{name}_{self.lens.name}", [self.lens.view(view, self.scene.extent) for view in views]
        endings = {kind: "" if kind == "color" else f"_{kind}" for kind in self.args.kinds}
        files = {kind: self._within(self.folder / f"{name}{ending}.mp4") for kind, ending in endings.items()}
        remove_leftovers([self.folder])
        within, is_seen = self._depth_range(views), False
        with contextlib.ExitStack() as open_files:
            videos = {kind: open_files.enter_context(writing_video(file, fps)) for kind, file in files.items()}
            for view in open_files.enter_context(progress(views, desc=f"{name} path", unit="frame")):
                rendering = self._render(view)
                is_seen = is_seen or bool(rendering.alphas.any())
                for shown, video in videos.items():
                    video.add(to_8bit(_DRAWN[shown](rendering, within)))
        if not is_seen:
            log.warning(
                "%s path: no Gaussian is seen; its poses must be camera-to-world, in the frame of the input", name
            )
        for file in files.values():
            log.info("video: %s", file)

    def _own_path(self, kind: str) -> list[View]:
        """A path around the training cameras, through the lens of one of them."""
        frames = FRAMES if self.args.frames is None else self.args.frames
        return own_views(kind, self.scene, frames, (self.args.width, self.args.height))

    def _path_of_file(self) -> tuple[str, Sequence[View], float]:
        """Name, views and frames per second of the video along the path that was read."""
        assert self.path is not None
        asked = (self.args.width, self.args.height)
        views = path_views(self.path, self.scene, self.model.origin, self.args.frames, asked)
        return self.path.file.stem, views, self.path.fps or FPS

    def _render(self, view: View) -> Rendering:
        """With all that the kinds of pictures are made of."""
        kinds = self.args.kinds
        options = {"with_depth": "depth" in kinds, "with_normals": "normals" in kinds}
        if self.lens is None:
            return self.model.render(view, **options)
        return self.lens.finished([self.model.render(eye, **options) for eye in self.lens.eyes(view)], view)

    def _depth_range(self, views: Sequence[View]) -> DepthRange:
        """Of all these views together, so that a film does not flicker and pictures can be compared."""
        if "depth" not in self.args.kinds:
            return DepthRange(0.0, 1.0)
        chosen = np.unique(np.linspace(0, len(views) - 1, _RANGE_VIEWS).round().astype(int))
        small = (sized(view, (min(view.width, _RANGE_WIDTH), None)) for view in (views[index] for index in chosen))
        return depth_range([depth_sample(self.model.render(view, with_depth=True)) for view in small])

    def _write_others(self, rendering: Rendering, within: DepthRange, folder: Path, stem: Path) -> None:
        """The pictures of a test view that are not its colors."""
        if self.args.depth:
            self._write_depth(folder / "depth" / stem, rendering)
        for kind in set(self.args.kinds) - {"color"}:
            self._write_image(folder / kind / stem, to_8bit(_DRAWN[kind](rendering, within)))

    def _write_image(self, stem: Path, image8: Tensor) -> None:
        with durable_write(self._within(stem.with_name(stem.name + ".png"))) as file:
            imageio.imwrite(file, image8.cpu().numpy(), format="png")

    def _write_depth(self, stem: Path, rendering: Rendering) -> None:
        """Depth in the input's units as float32 .npy."""
        assert rendering.depths is not None
        depth = rendering.depths[0, ..., 0].cpu().numpy() / self.scene.normalisation.scale
        content = io.BytesIO()  # written by numpy itself, a disk that is full would not say so
        np.save(content, depth.astype(np.float32))
        with durable_write(self._within(stem.with_name(stem.name + ".npy"))) as file:
            file.write(content.getbuffer())

    def _within(self, path: Path) -> Path:
        """`path`, a place below the run folder or --out. Raises ConfigError where a link on the way leads out of it."""
        home = self.args.out or self.model.run_folder
        if leads_out(home, path):
            raise ConfigError(f"{path}: a link leads out of {home}; remove the link, or choose a folder with --out")
        return path
