"""Look at a trained model in a browser: python -m distwar_gs.viewing.viewer output/garden (--help lists the rest)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from distwar_gs.config import choices_of
from distwar_gs.formats.table import MODEL_SUFFIXES, is_model_file
from distwar_gs.system.command_line import Parser, parse, run_cli
from distwar_gs.system.interruption import undisturbed
from distwar_gs.viewing.render_args import VIEWER_PORT, RenderArgs, add_scene_options

if TYPE_CHECKING:
    from distwar_gs.viewing.live.desk import Desk
    from distwar_gs.viewing.live.server import Server
    from distwar_gs.viewing.trained import TrainedModel

FPS = 30.0
"""Pictures a second, at most, for all pages together: nothing else is to be done."""
_NAP_S = 0.5


@dataclass(frozen=True)
class ViewerArgs:
    """The arguments of the viewer."""

    model: RenderArgs
    """What is shown, before which scene."""
    port: int = VIEWER_PORT
    host: str = "127.0.0.1"


def viewer_args(argv: Sequence[str]) -> ViewerArgs:
    """The arguments; a mistake in them ends the program with code 2."""
    parser = viewer_parser()
    typed = parse(parser, argv)
    place = {key: typed.pop(key) for key in ("port", "host") if key in typed}
    if not 0 <= place.get("port", VIEWER_PORT) <= 65_535:
        parser.error(f"--port is {place['port']}: it must be between 0 and 65535 (0: any that is free)")
    if is_model_file(typed["model"]) and "iteration" in typed:
        parser.error(f"--iteration picks a model of a run folder; it has no meaning with {typed['model'].name}")
    return ViewerArgs(RenderArgs(**typed), **place)


def viewer_parser() -> argparse.ArgumentParser:
    """The parser. A flag's destination is the field of RenderArgs, or of ViewerArgs, that it sets."""
    parser = Parser("viewer", "Look at a trained model in a browser.")
    kinds = f"a run folder or a {', '.join(MODEL_SUFFIXES)} file"
    parser.add_argument("model", type=Path, metavar="MODEL", help=kinds)
    add_scene_options(parser)
    parser.add_argument("--device", choices=choices_of("train.device"), help="where to render (default: auto)")
    parser.add_argument("-w", "--white_background", dest="background", action="store_const", const="white",
                        help="white behind the scene")  # fmt: skip
    parser.add_argument("--port", type=int, metavar="PORT", help=f"of the page (default: {VIEWER_PORT}; 0: any)")
    parser.add_argument("--host", metavar="HOST", help="address to listen on (default: 127.0.0.1, this machine only)")
    return parser


def main(arguments: list[str]) -> None:
    """Serve the page until Ctrl-C."""
    args = viewer_args(arguments)
    with undisturbed():  # after parsing, so that --help and a typo answer at once
        from distwar_gs.system.terminal import log_to_terminal
        from distwar_gs.viewing.live.desk import Desk
        from distwar_gs.viewing.live.server import Server
        from distwar_gs.viewing.trained import TrainedModel

    log_to_terminal()
    desk = Desk(FPS)
    server = Server(args.host, args.port, desk)
    try:
        show(TrainedModel.load(args.model), desk, server)
    finally:
        server.close("the viewer has been ended")


def show(model: TrainedModel, desk: Desk, server: Server) -> NoReturn:
    """Pictures of a trained model for all who ask, without end."""
    from distwar_gs.rendering.renderer import load_kernels
    from distwar_gs.rendering.views import evaluation_background
    from distwar_gs.viewing.live.hook import serve_page
    from distwar_gs.viewing.live.site import Site
    from distwar_gs.viewing.live.subjects import Still

    load_kernels(model.settings, model.device)
    site = Site(model.scene, model.run_folder, model.origin, evaluation_background(model.config), is_live=False)
    subject, told = Still.of(model), {"step": model.step, "count": len(model.params["means"])}
    server.start(site)
    server.tell(told)
    while True:
        desk.wait(_NAP_S)
        serve_page(subject, desk, server, site, model.background, told, others_wait=False)


def run() -> NoReturn:
    """The program distwar-view."""
    run_cli(main)


if __name__ == "__main__":
    run()
