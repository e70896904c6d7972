"""Removes what does no good from a trained model: floaters, haze, what no camera sees, what hardly shows.

    python scripts/clean.py output/garden                                # beside the model: point_cloud_cleaned.ply
    python scripts/clean.py output/garden -o garden.spz --page garden.html
    python scripts/clean.py capture.ply -s data/room -o clean.ply        # a model of another program, and its scene
    python scripts/clean.py output/garden -o table.ply --crop output/garden/viewer_crop.json

docs/cleaning.md says what each rule takes, and what that costs.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if __name__ == "__main__":  # the packages lie beside this folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distwar_gs.cli import run_cli
from distwar_gs.config import choices_of
from distwar_gs.formats.table import (
    MODEL_SUFFIXES,
    PLY,
    SOG_META,
    WRITTEN_SUFFIXES,
    is_model_file,
    listed,
    written_format,
)
from distwar_gs.system.command_line import Parser, parse
from distwar_gs.system.errors import ConfigError
from distwar_gs.system.interruption import undisturbed
from distwar_gs.system.terminal import log_to_terminal, printable
from distwar_gs.viewing.render_args import RenderArgs, add_scene_options, render_config

if TYPE_CHECKING:
    from distwar_gs.cleaning.criteria import Rules, Subject
    from distwar_gs.cleaning.result import Comparison

LOOKING = ("unseen", "haze", "contribution")
"""Rules that need cameras."""
_RULES = ("bounds", "crop", "unseen", "haze", "islands", "contribution")
_OWN = ("out", "page", "overwrite", *_RULES)


def main(argv: Sequence[str]) -> None:
    """Read, remove rule by rule, measure, write; one line for each on stdout."""
    parser = clean_parser()
    typed = parse(parser, argv)
    if is_model_file(typed["model"]) and "iteration" in typed:
        parser.error("--iteration picks a model of a run folder; it has no meaning with a file")
    own = {name: typed.pop(name) for name in _OWN if name in typed}
    args = RenderArgs(**typed)
    with undisturbed():
        from distwar_gs.cleaning.criteria import apply
        from distwar_gs.cleaning.page import write_page
        from distwar_gs.cleaning.result import compare, save_cleaned
        from distwar_gs.formats.export import find_ply
    log_to_terminal()
    source = find_ply(args.model, args.iteration)
    target, page = _targets(source, own)
    rules = _rules(own)
    subject = _subject(args, source, own)
    sieve = apply(rules, subject)
    count, rows = len(sieve.kept), sieve.rows
    for line in _said(sieve.removed, count):
        print(line)
    comparison = compare(subject.model, rows) if subject.model else None
    if comparison:
        print(_measured(comparison))
    save_cleaned(target, source, subject, rows)
    print(printable(f"{target}: {len(rows):,} Gaussians, {target.stat().st_size / 1e6:.2f} MB"))
    if page:
        write_page(page, f"{_title(args.model)}, cleaned", sieve.removed, count, comparison)
        print(printable(f"{page}: before and after"))


def clean_parser() -> argparse.ArgumentParser:
    """Its flags: those of the scene are render.py's."""
    parser = Parser("clean.py", "Remove what does no good from a trained model.")
    model = f"a run folder, or a {', '.join(MODEL_SUFFIXES)} file"
    parser.add_argument("model", type=Path, metavar="MODEL", help=model)
    out = f"NAME{listed(WRITTEN_SUFFIXES, 'or')} (default: MODEL_cleaned beside the model's file)"
    parser.add_argument("-o", "--out", type=Path, metavar="OUT", help=out)
    parser.add_argument("--page", type=Path, metavar="FILE.html", help="write what changed, with pictures")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    _add_rules(parser)
    _add_scene(parser)
    return parser


def _add_rules(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bounds", type=float, nargs=6, metavar=("X0", "Y0", "Z0", "X1", "Y1", "Z1"),
                        help="keep what has its center in this box, in the frame of the input")  # fmt: skip
    parser.add_argument("--crop", type=Path, metavar="FILE", help="keep what is in the crop box of the live viewer")
    parser.add_argument("--keep_unseen", dest="unseen", action="store_false",
                        help="keep what no training camera has in its picture")  # fmt: skip
    parser.add_argument("--haze", type=_share, metavar="SHARE", help="remove what is faint and wide, before the "
                        "nearest things, and seen by less than this share of the cameras "
                        "(default: 0.15; 0: none)")  # fmt: skip
    parser.add_argument("--islands", type=_share, metavar="SHARE", help="remove groups that touch nothing else, with "
                        "less than this share of all opacity (default: 0.001; 0: none)")  # fmt: skip
    parser.add_argument("--contribution", type=_share, metavar="WEIGHT", help="remove what has less weight than this "
                        "in every pixel of every training camera (default: 0.02; 0: none)")  # fmt: skip


def _add_scene(parser: argparse.ArgumentParser) -> None:
    add_scene_options(parser)
    parser.add_argument("--device", choices=choices_of("train.device"), help="where to render (default: auto)")
    parser.add_argument("-w", "--white_background", dest="background", action="store_const", const="white",
                        help="white behind the scene")  # fmt: skip


def _share(text: str) -> float:
    """A number from 0 to 1."""
    with contextlib.suppress(ValueError):
        if 0.0 <= float(text) <= 1.0:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text}: it must be a number from 0 to 1")


def _rules(own: dict[str, Any]) -> "Rules":
    from distwar_gs.cleaning.boxes import bounds_box, read_crop
    from distwar_gs.cleaning.criteria import Rules

    chosen = {name: own[name] for name in _RULES if name in own}
    if "bounds" in chosen:
        chosen["bounds"] = bounds_box(chosen["bounds"])
    if "crop" in chosen:
        chosen["crop"] = read_crop(chosen["crop"])
    return Rules(**chosen)


def _targets(source: Path, own: dict[str, Any]) -> tuple[Path, Path | None]:
    """Where model and page go. ConfigError for a name of no format, and for files that are there already."""
    target, page = own.get("out") or _beside(source), own.get("page")
    if written_format(target) is None:
        raise ConfigError(f"{target}: no format to write; let the name end in {listed(WRITTEN_SUFFIXES, 'or')}")
    if page and page.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{page}: --page writes HTML; let the name end in .html")
    if page == target:
        raise ConfigError(f"{page}: both the model (-o) and --page would be written here; choose two names")
    for path in (target, page):
        if path and path.exists() and not own.get("overwrite"):
            raise ConfigError(f"{path}: is there already; choose another name, or give --overwrite")
    return target, page


def _beside(source: Path) -> Path:
    """NAME_cleaned beside NAME, in the same format; as PLY where that is not written, as of the folder of a SOG."""
    row = written_format(source)
    if row is None:
        named = source.parent if source.name.lower() == SOG_META else source
        return named.with_name(f"{_stem(named)}_cleaned{PLY.suffix}")
    return source.with_name(f"{source.name[: -len(row.suffix)]}_cleaned{row.suffix}")


def _stem(source: Path) -> str:
    return source.name if source.is_dir() else source.stem


def _subject(args: RenderArgs, source: Path, own: dict[str, Any]) -> "Subject":
    """The model, in front of its cameras where a scene is known. ConfigError where a rule that was asked for needs one
    and there is none."""
    from distwar_gs.cleaning.criteria import Subject
    from distwar_gs.formats.export import load_exactly
    from distwar_gs.viewing.trained import TrainedModel

    config = render_config(args)
    params, origin = load_exactly(source)
    if config.data.source_path:
        return Subject(params, origin, TrainedModel.of(args, config))
    asked = [name for name in LOOKING if own.get(name)]
    if asked:
        raise ConfigError(f"{source}: --{asked[0]} asks what the cameras see; give the scene with -s DIR")
    print(f"no scene (-s DIR): {listed(LOOKING, 'and')} are left out, and nothing is measured")
    return Subject(params, origin)


def _title(model: Path) -> str:
    """The run's name, or that of the file."""
    return printable(model.resolve().name)


def _said(removed: dict[str, int], count: int) -> list[str]:
    """A line for each rule, and the sum."""
    gone = sum(removed.values())
    lines = [f"{name}: {taken:,} Gaussians ({taken / count:.2%})" for name, taken in removed.items()]
    return [*lines, f"removed: {gone:,} of {count:,} Gaussians ({gone / count:.2%})"]


def _measured(comparison: "Comparison") -> str:
    old, new = comparison.before, comparison.after
    return (
        f"{comparison.split} PSNR {old.psnr:.2f} -> {new.psnr:.2f} dB ({new.psnr - old.psnr:+.3f}), "
        f"SSIM {old.ssim:.4f} -> {new.ssim:.4f} ({len(old.views)} views)"
    )


def run() -> NoReturn:
    """The program, as it is installed."""
    run_cli(main)


if __name__ == "__main__":
    run()
