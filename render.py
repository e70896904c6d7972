"""Render a trained model: python render.py output/garden --path ellipse (--help lists the rest)."""

from distwar_gs.cli import run_cli
from distwar_gs.programs import render as main

if __name__ == "__main__":
    run_cli(main)
