"""LPIPS with the VGG network, for whoever has its parts; nothing here uses the network.

The parts are torchmetrics, torchvision and VGG-16's weights in torch.hub's folder (requirements-optional.txt,
`python scripts/download.py lpips_vgg`). Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric".
"""

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

log = logging.getLogger(__name__)

WEIGHTS = "vgg16-397923af.pth"
"""What torchvision's vgg16 loads, as torch.hub names it."""

MIN_SIZE = 16
"""Pixels; VGG's fifth block sees one sixteenth of an image."""

PROTOCOL = (
    "VGG-16 with the linear weights of LPIPS 0.1 (torchmetrics), images given in [0, 1] as the 3DGS reference does "
    "(metrics.py), not in the [-1, 1] that the network was trained on, then the mean over the views"
)

Measure = Callable[[Tensor, Tensor], Tensor]
"""Two images [H, W, 3] in [0, 1] to their distance, a scalar."""


def weights_file() -> Path:
    """Where torch.hub, and so torchvision, looks for the weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS


def lpips_vgg(device: torch.device) -> Measure | None:
    """The measure on a device; None if a part is missing, which is told once, in one line."""
    problem = missing_part()
    if problem:
        _tell(problem)
        return None
    return _loaded(device)


def missing_part() -> str | None:
    """What keeps LPIPS from being measured, with the remedy; None: nothing."""
    if not weights_file().is_file():
        return f"no weights at {weights_file()}: python scripts/download.py lpips_vgg"
    try:
        import torchmetrics.image.lpip  # noqa: F401
        import torchvision  # noqa: F401
    except Exception as error:  # a torchvision of another torch raises RuntimeError or OSError
        reason = str(error).strip().partition("\n")[0]
        return f"{reason}: pip install -r requirements-optional.txt -c constraints.txt"
    return None


@cache
def _tell(problem: str) -> None:
    log.info("LPIPS skipped, %s", problem)


@cache
def _loaded(device: torch.device) -> Measure:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    metric = LearnedPerceptualImagePatchSimilarity(net_type="vgg", normalize=False).to(device).eval()

    def measure(image: Tensor, target: Tensor) -> Tensor:
        try:
            distance = metric(*(planes.permute(2, 0, 1)[None].to(device) for planes in (image, target)))
        except torch.OutOfMemoryError:  # VGG needs some GiB for a large image
            return _loaded(torch.device("cpu"))(image, target).to(device)
        finally:
            metric.reset()  # it would keep every value
        return distance

    return measure
