"""What is rendered, and with which settings: those of the run, of a file, or those given. Imports no torch."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from distwar_gs.config import Config, load_config, validate, with_values
from distwar_gs.config.shipped import found_config
from distwar_gs.formats.table import is_model_file, unread_model
from distwar_gs.system.errors import ConfigError

CAMERA_PATHS = ("ellipse", "interpolate", "none")
"""What `render.py --path` takes beside files; the first two are functions of distwar_gs.viewing.camera_paths."""

SHOWN = ("color", "depth", "normals", "alpha")
"""What `render.py --show` takes."""

LENSES = ("pinhole", "fisheye", "equirectangular", "orthographic")
"""What `render.py --lens` takes."""

VIEWER_PORT = 7007
"""Where the live viewer's page is, unless another port is named."""


@dataclass(frozen=True, kw_only=True)
class RenderArgs:
    """The arguments of render.py. None: as the run was trained (`render_config`)."""

    model: Path
    """A run folder, or a file of Gaussians (MODEL_SUFFIXES)."""
    config: Path | None = None
    """Settings to use instead of the run's config.yaml."""
    source_path: str | None = None
    images: str | None = None
    resolution: int | None = None
    test_list: str | None = None
    background: str | None = None
    iteration: int | None = None
    """Which saved model of the run folder; None: the newest."""
    path: str = "none"
    """Camera path to render as a video, one of CAMERA_PATHS or a file (distwar_gs.viewing.path_files)."""
    frames: int | None = None
    """Length of the video; None: as many as a file has poses, else 240."""
    fps: float | None = None
    """None: as a file says, else 30."""
    width: int | None = None
    """Of the video, in pixels; None: as the file or the photos have it, or what goes with the height."""
    height: int | None = None
    """Likewise."""
    lens: str | None = None
    """What to render through instead of the lens of the photos, of LENSES."""
    fov: float | None = None
    """Degrees across the picture; None: as usual for the lens."""
    stereo: float | None = None
    """How far two eyes are apart, in the unit of the input; None: one eye."""
    skip_test: bool = False
    train: bool = False
    """Render the training views too."""
    show: tuple[str, ...] = ("color",)
    """Which pictures to make of each view, of SHOWN."""
    depth: bool = False
    """Show depth, too, and write the depths of test views as numbers."""
    flip: bool | None = None
    """Measure FLIP, too."""
    colour_fit: bool | None = None
    """Measure after a fit of colours, too."""
    align_poses: bool | None = None
    """Measure after a fit of the test views' poses, too."""
    out: Path | None = None
    """Where images and videos go; None: into the run folder."""
    device: str = "auto"
    quiet: bool = False
    """No progress bars."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The pictures to make, in the order of SHOWN."""
        return tuple(kind for kind in SHOWN if kind in self.show or (kind == "depth" and self.depth))


def add_scene_options(parser: argparse.ArgumentParser) -> None:
    """What every program that shows a trained model asks of its scene: the fields of RenderArgs from `config` on."""
    parser.add_argument("--config", type=found_config, metavar="YAML", help="settings instead of the run's config.yaml")
    parser.add_argument("-s", "--source_path", metavar="DIR", help="the scene, if it is not where it was trained from")
    parser.add_argument("-i", "--images", metavar="NAME", help="sub-folder with the images")
    parser.add_argument("-r", "--resolution", type=int, metavar="N", help="image size, as for train.py")
    parser.add_argument("--test_list", metavar="FILE", help="which images are test views, as for train.py")
    parser.add_argument("--iteration", type=int, metavar="N", help="which saved model of the run (default: newest)")


def render_config(args: RenderArgs) -> Config:
    """The configuration to render with: --config, else the run's config.yaml, else defaults; then the flags over it.

    A file inside a run folder belongs to that run; one that stands alone tells only whether it is antialiased.
    """
    changes = {
        "data.source_path": args.source_path,
        "data.images": args.images,
        "data.resolution": args.resolution,
        "data.test_list": args.test_list,
        "data.background": args.background,
        "log.flip": args.flip,
        "log.colour_fit": args.colour_fit,
        "log.align_poses": args.align_poses,
        "train.device": args.device,
    }
    config = load_config(file) if (file := _config_file(args)) else _config_of_file(args.model)
    return validate(with_values(config, {key: value for key, value in changes.items() if value is not None}))


def belongs_to_run(args: RenderArgs) -> bool:
    """Whether the settings that the model was trained with are known."""
    return _config_file(args) is not None


def _config_file(args: RenderArgs) -> Path | None:
    return args.config or _config_of_run(args.model)


def _config_of_run(model: Path) -> Path | None:
    """config.yaml of the run that `model` is or, as point_cloud/iteration_N/point_cloud.ply, belongs to."""
    folders = model.resolve().parents[2:3] if is_model_file(model) else [model]
    files = (folder / "config.yaml" for folder in folders)
    return next((file for file in files if file.is_file()), None)


def _config_of_file(model: Path) -> Config:
    if not is_model_file(model):
        unread = unread_model(model)
        lacking = f"{model}: no config.yaml in it; give a run folder of train.py, a .ply file, or --config"
        raise ConfigError(unread or lacking)
    from distwar_gs.formats.export import read_render_mode

    return with_values(Config(), {"model.antialiased": read_render_mode(model) == "mip"})
