"""Times the photometric loss with its gradient: the fused kernels beside PyTorch's convolutions.

    python scripts/bench_photometric.py
    python scripts/bench_photometric.py --sizes 1297x840,3840x2160 --alpha --csv docs/results/photometric.csv

`kernels_ms` is the op by itself: loss, parts and gradient. The other two go through autograd, from the photo's bytes to
the gradient of the render, as a training step does. Medians, on CUDA the GPU's own times. On the CPU the kernel is
C++, and no rate is given: what it moves stays in caches.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: distwar_gs.cores

import torch
from torch import Tensor

from distwar_gs.cli import run_cli
from distwar_gs.devices import resolve_device
from distwar_gs.losses import photometric_loss
from distwar_kernels.photometric.photometric import composite
from distwar_kernels.photometric.photometric_reference import photometric_reference
from scripts.measuring import machine, median_ms, print_table, relative_l2, write_csv

_LAMBDA = 0.2


@dataclass
class Row:
    """One line of the table; errors are relative L2."""

    size: str
    megapixels: float
    kernels_ms: float
    fused_ms: float
    pytorch_ms: float
    gigabytes_per_s: float | None  # of the 114 bytes per pixel (116 with alpha) that the CUDA kernels read and write
    fused_vs_float64: float | None = None
    pytorch_vs_float64: float | None = None


@dataclass
class Pictures:
    """A render [H, W, 3] and a photo [H, W, 3 or 4] uint8 that it resembles, on a background [3]."""

    image: Tensor
    target: Tensor
    background: Tensor

    def fused(self) -> Tensor:
        """dL/dimage from the bytes, as the device has it."""
        loss, _ = photometric_loss(self.image, self.target, _LAMBDA, self.background)
        return torch.autograd.grad(loss, self.image)[0]

    def pytorch(self) -> Tensor:
        """The same from floats, by convolutions."""
        photo = composite(self.target, self.image.dtype, self.background)
        loss, _ = photometric_loss(self.image, photo, _LAMBDA)
        return torch.autograd.grad(loss, self.image)[0]

    def kernels(self) -> tuple[Tensor, ...]:
        """The op alone."""
        background = self.background if self.target.shape[-1] == 4 else None
        return torch.ops.distwar.photometric_loss(self.image.detach(), self.target, background, _LAMBDA)

    def exact(self) -> Tensor:
        """The gradient in float64."""
        image = self.image.detach().double().requires_grad_()
        loss, *_ = photometric_reference(image, self.target, _LAMBDA, self.background)
        return torch.autograd.grad(loss, image)[0]


def main(arguments: Sequence[str]) -> None:
    """Time every size asked for; the table goes to the terminal and, with --csv, to a file."""
    args = _parser().parse_args(arguments)
    device = resolve_device(args.device)
    print(machine(device))
    rows = [_time(_pictures(*size, args.alpha, device), args) for size in args.sizes]
    print_table(rows)
    if args.csv:
        write_csv(args.csv, rows, {"machine": machine(device), "alpha": args.alpha})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--sizes", type=_sizes, default="400x400,799x532,1297x840,1062x1894,3840x2160", help="WxH,...")
    parser.add_argument("--alpha", action="store_true", help="photos with an alpha channel")
    parser.add_argument("--repeats", type=int, default=20, help="timed repetitions (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="compare with the float64 reference")
    parser.add_argument("--csv", type=Path, help="also write the table here")
    return parser


def _sizes(text: str) -> list[tuple[int, int]]:
    return [tuple(int(number) for number in size.split("x")) for size in text.split(",")]


def _pictures(width: int, height: int, alpha: bool, device: torch.device) -> Pictures:
    g = torch.Generator().manual_seed(0)
    target = torch.randint(0, 256, (height, width, 4 if alpha else 3), generator=g).to(torch.uint8)
    image = target[..., :3] / 255.0 + 0.1 * torch.randn(height, width, 3, generator=g)
    return Pictures(image.to(device).requires_grad_(), target.to(device), torch.rand(3, generator=g).to(device))


def _time(pictures: Pictures, args: argparse.Namespace) -> Row:
    height, width, channels = pictures.target.shape
    device = pictures.image.device
    fused, pytorch = (median_ms(work, device, args.repeats) for work in (pictures.fused, pictures.pytorch))
    kernels = median_ms(pictures.kernels, device, args.repeats)
    traffic = width * height * (108 + 2 * channels) / 1e6
    rate = traffic / kernels if device.type == "cuda" else None
    row = Row(f"{width}x{height}", width * height / 1e6, kernels, fused, pytorch, rate)
    if args.check:
        exact = pictures.exact()
        row.fused_vs_float64 = relative_l2(pictures.fused(), exact)
        row.pytorch_vs_float64 = relative_l2(pictures.pytorch(), exact)
    return row


if __name__ == "__main__":
    run_cli(main)
