"""How right a Gaussian's footprint is through each lens: the ellipse by the Jacobian, and one by unscented points.

    python benchmarks/lens_footprints.py --csv footprints.csv

A round Gaussian a unit away, so many degrees off the axis (of a panorama: above the horizon), of three sizes: many
random points of it are projected exactly, and their mean and covariance in the image are what both ellipses are
compared with. The renderer takes the Jacobian's (EWA splatting; Zwicker et al. 2002). Unscented points are six, at
sqrt(3) standard deviations along the axes (Julier and Uhlmann 1997), whose mean and covariance are taken. The centre's
error is given in standard deviations of the exact footprint, the covariance's as a share of its norm.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from benchmarks.measuring import markdown, write_csv
from distwar_gs.cli import run_cli
from distwar_kernels import MODELS

SIZE = 800
SIZES = (0.01, 0.05, 0.15)
"""Standard deviations, in distances from the camera."""
POINTS = 100_000
_NEAREST = 0.05
LENSES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "pinhole": ((400.0, 400.0, 400.0, 400.0), (0.0, 40.0)),
    "opencv": ((400.0, 400.0, 400.0, 400.0, -0.2, 0.05, *[0.0] * 10, 1.6, 5.0), (0.0, 40.0)),
    "fisheye": ((229.0, 229.0, 400.0, 400.0, *[0.0] * 12, 2.0, 2.6, 1.0), (0.0, 40.0, 70.0, 95.0)),
    "equirectangular": ((SIZE / math.pi, SIZE / math.pi, SIZE, SIZE / 2), (0.0, 40.0, 70.0, 85.0)),
}
"""Intrinsics of images 800 pixels high (a panorama's 1600 wide), and the angles that are looked at."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    lens: str
    degrees: float
    sigma: float
    center_off: float
    unscented_center_off: float
    covariance_off: float
    unscented_covariance_off: float


def main(arguments: Sequence[str]) -> None:
    """Measure all; the table goes to the terminal and, with --csv, to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=POINTS, help="of each Gaussian (default: %(default)s)")
    parser.add_argument("--csv", type=Path, help="also write the table here")
    args = parser.parse_args(arguments)
    rows = [
        measure(lens, degrees, sigma, args.points)
        for lens, (_, angles) in LENSES.items() for degrees in angles for sigma in SIZES
    ]  # fmt: skip
    if args.csv:
        write_csv(args.csv, rows, {})
    head = ["lens", "degrees", "sigma", "center off", "unscented", "covariance off", "unscented"]
    lines = [
        [row.lens, f"{row.degrees:g}", f"{row.sigma:g}", *map(_text, list(vars(row).values())[3:])] for row in rows
    ]
    print(markdown([head, *lines]))


def _text(value: float) -> str:
    return f"{value:.3f}"


def measure(lens: str, degrees: float, sigma: float, points: int) -> Row:
    """One Gaussian through one lens."""
    center, g = _place(lens, degrees), torch.Generator().manual_seed(0)
    exact = _moments(_projected(lens, center + sigma * torch.randn(points, 3, generator=g, dtype=torch.float64)))
    axes = math.sqrt(3.0) * sigma * torch.eye(3, dtype=torch.float64)
    ours = _linearised(lens, center, sigma)
    theirs = _moments(_projected(lens, torch.cat([center + axes, center - axes])))
    errors = [_errors(ellipse, exact) for ellipse in (ours, theirs)]
    return Row(lens, degrees, sigma, errors[0][0], errors[1][0], errors[0][1], errors[1][1])


def _place(lens: str, degrees: float) -> Tensor:
    aside, ahead = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    place = (0.0, aside, ahead) if lens == "equirectangular" else (aside, 0.0, ahead)
    return torch.tensor(place, dtype=torch.float64)


def _projected(lens: str, points: Tensor) -> Tensor:
    """[P, 2], of a pinhole's those that are before the camera."""
    if not MODELS[lens].period and lens != "fisheye":
        points = points[points[:, 2] > _NEAREST]
    return MODELS[lens].project(points[None, :, :2], points[None, :, 2], _numbers(lens))[0]


def _numbers(lens: str) -> Tensor:
    return torch.tensor([LENSES[lens][0]], dtype=torch.float64)


def _linearised(lens: str, center: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    jacobian = MODELS[lens].jacobian(center[None, None, :2], center[None, None, 2], _numbers(lens), SIZE, SIZE)[0, 0]
    return _projected(lens, center[None])[0], sigma**2 * jacobian @ jacobian.T


def _moments(pixels: Tensor) -> tuple[Tensor, Tensor]:
    mean = pixels.mean(dim=0)
    return mean, (pixels - mean).T @ (pixels - mean) / len(pixels)


def _errors(ellipse: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor]) -> tuple[float, float]:
    (mean, covariance), (true_mean, true_covariance) = ellipse, exact
    deviation = true_covariance.det() ** 0.25
    return float((mean - true_mean).norm() / deviation), float(
        (covariance - true_covariance).norm() / true_covariance.norm()
    )


if __name__ == "__main__":
    run_cli(main)
