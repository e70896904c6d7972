"""Gaussians in the order of a space-filling curve: neighbours in space are neighbours in memory, so that what one view
or one tile needs comes in whole cache lines."""

import torch
from torch import Tensor

_BITS = 21
"""Of each coordinate: three of them fill 63 bits."""
_SPREAD = ((32, 0x1F00000000FFFF), (16, 0x1F0000FF0000FF), (8, 0x100F00F00F00F00F), (4, 0x10C30C30C30C30C3),
           (2, 0x1249249249249249))  # fmt: skip
"""Shifts and masks that move the bits of a 21-bit number two places apart, half of them at a time."""


def morton_order(means: Tensor) -> Tensor:
    """The order [N] that sorts positions [N, 3] along the Morton (Z) curve of their bounding box; not finite ones last.

    Stable, so that equal positions keep their order. Nothing waits for the device.
    """
    finite = means.isfinite().all(dim=1)
    low = torch.where(finite[:, None], means, torch.inf).amin(dim=0)
    high = torch.where(finite[:, None], means, -torch.inf).amax(dim=0)
    cells = (means.double() - low) / (high - low).clamp_min(1e-30) * (2**_BITS - 1)
    codes = [_spread(axis) << shift for shift, axis in enumerate(cells.nan_to_num().long().unbind(dim=1))]
    last = torch.iinfo(torch.int64).max
    return torch.where(finite, codes[0] | codes[1] | codes[2], last).argsort(stable=True)


def _spread(numbers: Tensor) -> Tensor:
    numbers = numbers & (2**_BITS - 1)
    for shift, mask in _SPREAD:
        numbers = (numbers | numbers << shift) & mask
    return numbers
