"""Train 3D Gaussians on a scene: python train.py --config configs/mipnerf360/garden.yaml (--help lists the rest)."""

from distwar_gs.cli import run_cli, train_config
from distwar_gs.system.interruption import undisturbed


def main(arguments: list[str]) -> int:
    """Parse, train, return the exit code."""
    config = train_config(arguments)
    with undisturbed():
        from distwar_gs.training.trainer import Trainer  # after parsing, so that --help and a typo answer at once

    return Trainer(config).run()


if __name__ == "__main__":
    run_cli(main)
