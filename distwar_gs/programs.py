"""The programs train.py and render.py; distwar-train and distwar-render where the package is installed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

from distwar_gs.cli import render_args, run_cli, train_config
from distwar_gs.config import Config
from distwar_gs.system.interruption import undisturbed

if TYPE_CHECKING:
    from distwar_gs.training.trainer import Trainer


def train(arguments: list[str]) -> int:
    """Parse, train, return the exit code."""
    config = train_config(arguments)
    with undisturbed():  # after parsing, so that --help and a typo answer at once
        from distwar_gs.training.trainer import Trainer

    if config.log.viewer is not None:
        return _train_watched(config)
    return _reported(Trainer(config)).run()


def _train_watched(config: Config) -> int:
    """Train, and serve the live viewer's page."""
    from distwar_gs.training.trainer import Trainer
    from distwar_gs.viewing.live.hook import LiveViewer

    viewer = LiveViewer(config)
    try:
        run = _reported(Trainer(config, [viewer]))
        viewer.watch(run)
        return run.run()
    finally:
        viewer.close(f"the training has ended; python -m distwar_gs.viewing.viewer {config.train.result_dir} shows it")


def _reported(run: Trainer) -> Trainer:
    """The run, which ends with its report unless the config says no."""
    from distwar_gs.viewing.report.hook import Report

    if run.config.log.report:
        run.extra_hooks.append(Report(run))
    return run


def render(arguments: list[str]) -> None:
    """Parse, load, render test views and a camera path."""
    args = render_args(arguments)
    with undisturbed():
        from distwar_gs.viewing.pictures import ModelPictures  # after parsing, so that --help and a typo answer at once

    pictures = ModelPictures(args)
    if not args.skip_test:
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
