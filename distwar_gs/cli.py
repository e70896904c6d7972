"""The command lines of train.py and render.py; `run_cli` (distwar_gs.system.command_line) runs them.

Only names that users know from 3DGS and gsplat have a flag; every other setting is reached by --set section.key=value.
The flags are frozen: tests/cli_options.txt lists them. Nothing here imports torch before it is needed.
"""

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from distwar_gs.config import (
    FPS,
    FRAMES,
    PIXELS,
    Config,
    ConfigError,
    choices_of,
    config_of,
    current_name,
    field_docs,
    overlaid,
    override,
    read_values,
    rule_of,
    validate,
    with_values,
)
from distwar_gs.config.shipped import found_config
from distwar_gs.formats.table import MODEL_SUFFIXES, is_model_file
from distwar_gs.system.command_line import Parser, parse
from distwar_gs.system.command_line import run_cli as run_cli  # programs take it from here
from distwar_gs.viewing.render_args import CAMERA_PATHS, LENSES, SHOWN, VIEWER_PORT, RenderArgs, add_scene_options

# --------------------------------------------------------------------------------------------------------- train.py


def train_config(argv: Sequence[str]) -> Config:
    """The configuration for the arguments of train.py: defaults < the strategy's < --config file < flags < --set.

    Raises ConfigError for unusable values or when no scene is given; a mistyped flag ends the program with code 2.
    """
    typed = parse(train_parser(), argv)
    file, overrides = typed.pop("config", None), typed.pop("set", [])
    values = overlaid(read_values(file) if file else {}, typed)
    for assignment in overrides:
        values = overlaid(values, override(assignment))
    return validate(_with_folders(config_of(values)))


def train_parser() -> argparse.ArgumentParser:
    """The parser of train.py. A flag's destination is the key it sets, and flags not typed leave no trace."""
    parser = Parser("train.py", "Train 3D Gaussians on a COLMAP, nerfstudio, instant-ngp or Blender scene.")
    settings = "settings to start from; configs/default.yaml explains all"
    parser.add_argument("--config", type=found_config, metavar="YAML", help=settings)
    _add_data_flags(parser)
    _add_run_flags(parser)
    _add_model_flags(parser)
    overrides: dict[str, Any] = {"nargs": "+", "action": "extend", "metavar": "SECTION.KEY=VALUE"}
    parser.add_argument("--set", help="any other setting; wins over the flags", **overrides)
    return parser


def _add_data_flags(parser: argparse.ArgumentParser) -> None:
    _add_setting(parser, "data.source_path", "-s", "--source_path", "--data_dir", metavar="DIR")
    _add_setting(parser, "train.result_dir", "-m", "--model_path", "--result_dir", metavar="DIR")
    _add_setting(parser, "data.images", "-i", "--images", metavar="NAME")
    _add_setting(parser, "data.resolution", "-r", "--resolution", "--data_factor", type=int, metavar="N")
    _add_switch(parser, "data.invert_masks", True, "--invert_masks", help="ignore what is white in masks, not black")
    _add_setting(parser, "data.test_every", "--test_every", type=int, metavar="N")
    _add_setting(parser, "data.test_list", "--test_list", metavar="FILE")
    split = parser.add_mutually_exclusive_group()
    _add_switch(split, "data.eval", True, "--eval", help="hold out test images (on by default)")
    _add_switch(split, "data.eval", False, "--no_eval", help="train on all images")
    background = parser.add_mutually_exclusive_group()
    _add_switch(background, "data.background", "white", "-w", "--white_background", help="white behind the scene")
    _add_switch(background, "data.background", "random", "--random_background", help="a new colour at every step")
    _add_switch(background, "data.background", "learned", "--learned_background", help="learn the sky behind the scene")


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    steps = {"type": int, "nargs": "*", "metavar": "N"}
    length = parser.add_mutually_exclusive_group()
    _add_setting(length, "train.iterations", "--iterations", "--max_steps", type=int, metavar="N")
    _add_setting(length, "train.seconds", "--seconds", type=float, metavar="S")
    _add_setting(length, "train.quality", "--quality")
    _add_setting(parser, "train.test_iterations", "--test_iterations", "--eval_steps", **steps)
    _add_setting(parser, "train.save_iterations", "--save_iterations", "--save_steps", **steps)
    _add_setting(parser, "train.export_origin", "--export_origin")
    _add_setting(parser, "train.checkpoint_iterations", "--checkpoint_iterations", **steps)
    resume = {"nargs": "?", "const": "auto", "metavar": "auto|PATH"}
    _add_setting(parser, "train.resume", "--resume", "--start_checkpoint", **resume)
    _add_setting(parser, "train.device", "--device")
    _add_setting(parser, "train.split", "--split")
    _add_setting(parser, "train.seed", "--seed", type=int, metavar="N")
    _add_switch(parser, "train.deterministic", True, "--deterministic", help=field_docs()["train.deterministic"])
    _add_switch(parser, "log.flip", True, "--flip", help=field_docs()["log.flip"])
    _add_switch(parser, "log.report", False, "--no_report", help="no report.html at the end")
    _add_setting(parser, "log.timelapse", "--timelapse", type=int, metavar="N")
    _add_setting(parser, "log.timelapse_path", "--timelapse_path", type=_camera_path, metavar="FILE")
    _add_switch(parser, "log.quiet", True, "--quiet", help="no progress bar")
    _add_setting(parser, "log.viewer", "--viewer", type=int, nargs="?", const=VIEWER_PORT, metavar="PORT")
    _add_setting(parser, "log.viewer_host", "--viewer_host", metavar="HOST")


def _add_model_flags(parser: argparse.ArgumentParser) -> None:
    _add_setting(parser, "model.sh_degree", "--sh_degree", type=int, metavar="N")
    _add_switch(parser, "model.antialiased", True, "--antialiased", help=field_docs()["model.antialiased"])
    _add_setting(parser, "appearance.model", "--appearance")
    _add_switch(parser, "poses.refine", True, "--refine_poses", help=field_docs()["poses.refine"])
    _add_setting(parser, "depth.weight", "--depth_weight", type=float, metavar="W")
    _add_setting(parser, "depth.maps", "--depth_maps", metavar="DIR")
    _add_setting(parser, "depth.normals", "--normal_maps", metavar="DIR")
    _add_setting(parser, "model.init_ply", "--init_ply", metavar="FILE")
    _add_setting(parser, "densification.strategy", "--strategy")
    _add_setting(parser, "densification.cap_max", "--cap_max", type=int, metavar="N")
    _add_setting(parser, "train.rasterizer", "--rasterizer")
    _add_setting(parser, "reduction.strategy", "--reduction")
    _add_setting(parser, "reduction.balance_threshold", "--balance_threshold", type=int, metavar="N")


def _with_folders(config: Config) -> Config:
    """`config` with a result folder named after the scene folder unless it has one; ConfigError without a scene."""
    if not config.data.source_path:
        raise ConfigError("no scene to train on: give its folder with -s DIR, or a --config that sets data.source_path")
    if config.train.result_dir:
        return config
    return with_values(config, {"train.result_dir": os.path.join("output", _scene_name(config.data.source_path))})


def _scene_name(source: str) -> str:
    """The name of the scene's folder, also where `source` is its transforms file or its COLMAP model (scene/sparse/0).

    Windows' backslashes count as slashes where nothing is called so.
    """
    path = os.path.abspath(source if os.path.exists(source) else source.replace("\\", "/"))  # "." has a name, too
    if path.endswith(".json"):
        return os.path.basename(os.path.dirname(path))
    places = [os.path.join(path, place) for place in ("", "0", "sparse", "sparse/0")]
    models = (os.path.join(place, file) for place in places for file in ("images.bin", "images.txt"))
    if any(map(os.path.isfile, models)) and not os.path.isdir(os.path.join(path, "images")):
        above, name = os.path.split(path)
        path = above if name.isdecimal() and os.path.basename(above) == "sparse" else path
        for folder in ("sparse", "colmap"):
            path = os.path.dirname(path) if os.path.basename(path) == folder else path
    return os.path.basename(path)


# -------------------------------------------------------------------------------------------------------- render.py


def render_args(argv: Sequence[str]) -> RenderArgs:
    """The arguments of render.py; a mistake in them ends the program with code 2."""
    parser = render_parser()
    typed = parse(parser, argv)
    models = [model for model in (typed.pop("model"), typed.pop("model_path", None)) if model is not None]
    if len(models) != 1:
        parser.error(f"give one model to render: a run folder or a file of Gaussians ({', '.join(MODEL_SUFFIXES)})")
    if typed.get("frames", 1) < 1 or typed.get("fps", 1.0) <= 0.0:
        parser.error("--frames and --fps must be positive")
    if typed.get("path", "none") == "none" and "lens" not in typed and typed.keys() & {"width", "height"}:
        parser.error("--width and --height are the size of a video: give --path, too; test views take -r")
    if "lens" not in typed and typed.keys() & {"fov", "stereo"}:
        parser.error("--fov and --stereo are of a lens of your own: give --lens, too")
    for name, rule in (("frames", FRAMES), ("fps", FPS), ("width", PIXELS), ("height", PIXELS)):
        if name in typed and not rule.holds(typed[name]):
            parser.error(f"--{name} is {typed[name]}: it must be {rule.words}")
    if is_model_file(models[0]) and "iteration" in typed:
        parser.error(f"--iteration picks a model of a run folder; it has no meaning with a {models[0].suffix} file")
    return RenderArgs(model=models[0], **typed)


def render_parser() -> argparse.ArgumentParser:
    """The parser of render.py. A flag's destination is the field of RenderArgs it sets."""
    parser = Parser("render.py", "Render the test views of a trained model, or a video along a camera path.")
    parser.add_argument(
        "model",
        nargs="?",
        type=Path,
        default=None,
        metavar="MODEL",
        help=f"a run folder or a {', '.join(MODEL_SUFFIXES)} file",
    )
    parser.add_argument("-m", "--model_path", type=Path, metavar="DIR", help="the same, as a flag")
    add_scene_options(parser)
    parser.add_argument("--path", type=_camera_path, metavar="PATH", help="camera path to render as a video: ellipse, "
                        "interpolate, none, or a file of poses such as cameras.json, nerfstudio's camera_path.json, "
                        ".npy (docs/formats.md; default: none)")  # fmt: skip
    parser.add_argument(
        "--frames", type=int, metavar="N", help="length of the video in frames (default: 240, or the file's poses)"
    )
    parser.add_argument(
        "--fps", type=float, metavar="X", help="frames per second of the video (default: as the file says, or 30)"
    )
    for side in ("width", "height"):
        parser.add_argument(f"--{side}", type=int, metavar="N", help=f"{side} of the video in pixels, 3840 x 2160 say "
                            "(default: as the file says, or the photos; or what goes with the other side)")  # fmt: skip
    _add_lens_flags(parser)
    _add_switch(parser, "skip_test", True, "--skip_test", help="do not render the test views")
    _add_switch(parser, "train", True, "--train", help="render the training views too")
    parser.add_argument("--show", type=_shown, metavar="LIST", help="pictures to make of each view, with commas "
                        f"between: {', '.join(SHOWN)} (default: color)")  # fmt: skip
    _add_switch(parser, "depth", True, "--depth", help="show depth, too, and write it as numbers for test views")
    _add_switch(parser, "flip", True, "--flip", help=field_docs()["log.flip"])
    _add_switch(parser, "colour_fit", True, "--colour_fit", help=field_docs()["log.colour_fit"])
    _add_switch(parser, "align_poses", True, "--align_poses", help=field_docs()["log.align_poses"])
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the results (default: in the run folder)")
    parser.add_argument("--device", choices=choices_of("train.device"), help="where to render (default: auto)")
    _add_switch(parser, "background", "white", "-w", "--white_background", help="white behind the scene")
    _add_switch(parser, "quiet", True, "--quiet", help="no progress bar")
    return parser


def _add_lens_flags(parser: argparse.ArgumentParser) -> None:
    through = (
        "render through this lens, not that of the photos: pictures from where the test views were taken (not measured:"
        " there are no photos through it), and the video"
    )
    parser.add_argument("--lens", choices=LENSES, help=through)
    across = "what a pinhole or a fisheye shows across the picture, 190 say (default: 90 and 180)"
    parser.add_argument("--fov", type=float, metavar="DEGREES", help=across)
    eyes = "a left and a right eye side by side, so far apart, in the unit of the input"
    parser.add_argument("--stereo", type=float, metavar="X", help=eyes)


def _shown(text: str) -> tuple[str, ...]:
    """Some of SHOWN, with commas between."""
    kinds = tuple(text.split(","))
    wrong = next((kind for kind in kinds if kind not in SHOWN), None)
    if wrong is not None:
        raise argparse.ArgumentTypeError(f"invalid choice: {wrong!r} (choose from {', '.join(SHOWN)})")
    return kinds


def _camera_path(text: str) -> str:
    """One of CAMERA_PATHS, or what looks like a file, which is read later."""
    if text in CAMERA_PATHS or os.path.exists(text) or Path(text).suffix or Path(text).name != text:
        return text
    raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {', '.join(CAMERA_PATHS)}, or a file)")


def _add_setting(parser: Any, key: str, *flags: str, **options: Any) -> None:
    """A flag that sets the configuration key `key`, with its docstring for help and its choices."""
    rule = rule_of(key)
    if rule and rule.choices:
        options |= {"choices": rule.choices, "type": partial(current_name, key)}
    parser.add_argument(*flags, dest=key, help=field_docs()[key].replace("%", "%%"), **options)


def _add_switch(parser: Any, key: str, value: Any, *flags: str, help: str) -> None:
    """A flag without an argument that sets `key` to `value`."""
    parser.add_argument(*flags, dest=key, action="store_const", const=value, help=help)
