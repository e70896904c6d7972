"""The colours of an image brought as near to those of a photo as one matrix can.

What is learned of photos (distwar_gs.adjust) leaves open what a test view's photo was exposed like. Published tables of
such methods therefore measure after a fit of colours for each test view: an affine map of 3x4 numbers, by least
squares (Mildenhall et al. 2022, "NeRF in the Dark"; gsplat's cc_psnr). It hides a cast: hence both numbers, never the
fitted one alone.
"""

import torch
from torch import Tensor

PROTOCOL = (
    "names with this ending are measured after a fit of colours: for each view the affine map (3x4) of the 8-bit "
    "render that is nearest to its photo by least squares over the pixels that count, clamped to [0, 1], not rounded"
)
NAME = "colour_fit"
"""Of the protocol; and, after an underscore, the ending of the names of what is measured so."""
SUFFIX = f"_{NAME}"
SINGULAR = 1e-10
"""Directions of colour in which a render varies less than this share of its largest do not count: one of one colour."""


def fitted(image: Tensor, target: Tensor, kept: Tensor | None = None) -> Tensor:
    """`image` [H, W, 3] with the affine map that brings it nearest to `target`, both in [0, 1]; clamped to [0, 1].

    Args:
        image, target: of equal shape.
        kept: bool [H, W], the pixels to fit to, at least one; None: all. The others are mapped, too.

    Sums are made in float64. Never farther from the target than the image was, since to change nothing is one such map.
    """
    pixels = torch.cat([image, torch.ones_like(image[..., :1])], dim=-1).reshape(-1, 4).double()
    counted = pixels if kept is None else pixels * kept.reshape(-1, 1)
    products = counted.T @ pixels
    inverse = torch.linalg.pinv(products, rtol=SINGULAR, hermitian=True)
    matrix = inverse @ (counted.T @ target.reshape(-1, 3).double())
    return (pixels @ matrix).clamp(0.0, 1.0).to(image.dtype).reshape(image.shape)
