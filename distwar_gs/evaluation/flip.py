"""LDR-FLIP through its package flip-evaluator, for whoever has it and asks for it; it needs no weights.

Andersson et al. 2020, "FLIP: A Difference Evaluator for Alternating Images"; the package is of github.com/NVlabs/flip
(requirements-optional.txt). It works on the CPU, one core, some 1.5 s a megapixel: hence only where it is asked for.
"""

import logging
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from distwar_gs.evaluation.losses import without_ignored

log = logging.getLogger(__name__)

PIXELS_PER_DEGREE = 0.7 * (3840 / 0.7) * math.pi / 180
"""What FLIP's authors take for granted: 0.7 m away from a monitor that is 0.7 m and 3840 pixels wide."""

PROTOCOL = (
    f"LDR-FLIP (flip-evaluator), {PIXELS_PER_DEGREE:.2f} pixels per degree, mean over the pixels of a view, "
    "then the mean over the views; 0: no difference is seen"
)

Measure = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Image and photo [H, W, 3] in [0, 1], and which pixels count, bool [H, W] (None: all), to a scalar from 0 to 1."""


def flip_measure() -> Measure | None:
    """The measure; None if the package is missing, which is told once, in one line."""
    problem = missing_part()
    if problem:
        _tell(problem)
        return None
    return _flip


def missing_part() -> str | None:
    """What keeps FLIP from being measured, with the remedy; None: nothing."""
    try:
        import flip_evaluator  # noqa: F401
    except Exception as error:  # its binary may be of another system
        reason = str(error).strip().partition("\n")[0]
        return f"{reason}: pip install -r requirements-optional.txt -c constraints.txt"
    return None


@cache
def _tell(problem: str) -> None:
    log.warning("FLIP skipped, %s", problem)


def _flip(image: Tensor, photo: Tensor, kept: Tensor | None) -> Tensor:
    """Ignored pixels are black in both images, as for SSIM, and do not count in the mean."""
    import flip_evaluator

    pair = (photo, image) if kept is None else without_ignored(photo, image, kept)
    reference, test = (np.ascontiguousarray(pixels.cpu().numpy(), dtype=np.float32) for pixels in pair)
    viewing = {"ppd": PIXELS_PER_DEGREE}
    errors, mean, _ = flip_evaluator.evaluate(reference, test, "LDR", applyMagma=False, parameters=viewing)
    if kept is not None:
        mean = errors[..., 0][kept.cpu().numpy()].mean(dtype=np.float64)
    return torch.tensor(mean, dtype=image.dtype, device=image.device)
