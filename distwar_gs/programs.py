"""The programs train.py and render.py; distwar-train and distwar-render where the package is installed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

from distwar_gs.cli import render_args, run_cli, train_config
from distwar_gs.config import Config
from distwar_gs.system.interruption import undisturbed
from distwar_gs.system.progress import quieten

if TYPE_CHECKING:
    from distwar_gs.training.trainer import Trainer
    from distwar_gs.viewing.live.hook import LiveViewer
    from distwar_gs.viewing.timelapse import Timelapse


def train(arguments: list[str]) -> int:
    """Parse, train, return the exit code."""
    config = train_config(arguments)
    with undisturbed():  # after parsing, so that --help and a typo answer at once
        from distwar_gs.training.trainer import Trainer

    if config.log.quiet:
        quieten()
    film = _film(config)
    if config.log.viewer is not None:
        return _train_watched(config, film)
    return _equipped(Trainer(config), film).run()


def _train_watched(config: Config, film: Timelapse | None) -> int:
    """Train, and serve the live viewer's page."""
    from distwar_gs.training.trainer import Trainer

    viewer = _viewer(config)
    try:
        run = _equipped(Trainer(config, [viewer]), film)
        viewer.watch(run)
        return run.run()
    finally:
        viewer.close(f"the training has ended; python -m distwar_gs.viewing.viewer {config.train.result_dir} shows it")


def _viewer(config: Config) -> LiveViewer:
    """Of one process, or of this rank."""
    from distwar_gs.system.parallel import join
    from distwar_gs.viewing.live.hook import LiveViewer
    from distwar_gs.viewing.live.shared import SharedViewer

    ranks = join(config.train.device)
    return LiveViewer(config) if ranks.count == 1 else SharedViewer(config, ranks)


def _film(config: Config) -> Timelapse | None:
    """The timelapse that the config asks for; a mistake in its file of poses comes here, before photos are read."""
    if config.log.timelapse is None:
        return None
    from distwar_gs.viewing.timelapse import Timelapse

    return Timelapse(config)


def _equipped(run: Trainer, film: Timelapse | None) -> Trainer:
    """The run, which makes its timelapse, if there is to be one, and ends with its report unless the config says no."""
    from distwar_gs.viewing.report.hook import Report

    if film is not None:
        film.watch(run)
        run.extra_hooks.append(film)
    if run.config.log.report:
        run.extra_hooks.append(Report(run))
    return run


def render(arguments: list[str]) -> None:
    """Parse, load, render test views and a camera path."""
    args = render_args(arguments)
    if args.quiet:
        quieten()
    with undisturbed():
        from distwar_gs.viewing.pictures import ModelPictures  # after parsing, so that --help and a typo answer at once

    pictures = ModelPictures(args)
    if args.lens is not None and not args.skip_test:
        pictures.render_stills()
    elif not args.skip_test:
        pictures.render_split("test")
    if args.train:
        pictures.render_split("train")
    if args.path != "none":
        pictures.render_path(args.path)


def run_train() -> NoReturn:
    """The program distwar-train."""
    run_cli(train)


def run_render() -> NoReturn:
    """The program distwar-render."""
    run_cli(render)


if __name__ == "__main__":  # python -m distwar_gs.programs train.py ARGUMENTS
    run_cli({"train.py": train, "render.py": render}[sys.argv[1]], sys.argv[2:])
