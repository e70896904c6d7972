"""Train 3D Gaussians on a scene: python train.py --config configs/mipnerf360/garden.yaml (--help lists the rest)."""

from distwar_gs.cli import run_cli
from distwar_gs.programs import train as main

if __name__ == "__main__":
    run_cli(main)
