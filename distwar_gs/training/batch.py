"""What a training step is made of: one view, or one of each rank."""

from typing import NamedTuple

from torch import Tensor

from distwar_kernels import Cameras


class Batch(NamedTuple):
    """One training view."""

    view: int
    """Its index among the training views."""
    camera: Cameras
    """C = 1."""
    photo: Tensor
    """uint8 [H, W, 3], or with alpha [H, W, 4]."""
    mask: Tensor | None
    """[H, W], what is compared; None: all of it."""
    background: Tensor
    """[3], to render on, and to lay a photo with alpha on."""
    views: tuple[int, ...] = ()
    """What all ranks show, in their order, where there are several."""
    together: tuple[Cameras, ...] = ()
    """Of the views of all ranks, in their order, where there are several."""
