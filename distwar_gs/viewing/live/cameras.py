"""From a wish of a page to the view that is rendered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from distwar_datasets import View
from distwar_gs.viewing.live.orders import SMALLEST, Look, Pose


def view_of(look: Look, views: Sequence[View]) -> View:
    """The view that a page asks for.

    Of a photo: exactly its camera, at the largest size of its shape that the page has room for. Else the page's own
    camera, whose principal point is in the middle.

    views: those that the page shows, in its order; their file and mask are left out of the result.
    """
    if look.photo is not None:
        return _scaled(views[look.photo], look.size)
    return free_view(look.pose, look.size, views[0])


def free_view(pose: Pose, size: tuple[int, int], template: View, name: str = "") -> View:
    """A view of its own, that is no photo's; what is of no importance is the template's."""
    width, height = size
    focal = 0.5 * height / math.tan(0.5 * pose.fov)
    K = np.array([[focal, 0.0, 0.5 * width], [0.0, focal, 0.5 * height], [0.0, 0.0, 1.0]])
    return replace(template, name=name, viewmat=pose.viewmat, K=K, width=width, height=height, mask=None, lens=None)


def vertical_fov(view: View) -> float:
    """Radians; of a lens whose principal point is in the middle."""
    return 2.0 * math.atan(0.5 * view.height / float(view.K[1, 1]))


def _scaled(view: View, room: tuple[int, int]) -> View:
    scale = min(room[0] / view.width, room[1] / view.height)
    width, height = (max(SMALLEST, round(side * scale)) for side in (view.width, view.height))
    K = view.K.copy()
    K[0] *= width / view.width
    K[1] *= height / view.height
    lens = view.lens and view.lens.scaled(width / view.width, height / view.height)
    return replace(view, K=K, lens=lens, width=width, height=height, mask=None)
