"""Render a trained model: python render.py output/garden --path ellipse (--help lists the rest)."""

from distwar_gs.cli import render_args, run_cli
from distwar_gs.system.interruption import undisturbed


def main(arguments: list[str]) -> None:
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


if __name__ == "__main__":
    run_cli(main)
