"""A look as pixels: colour, depth, normals, alpha, contribution, ellipsoids."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from distwar_gs.rendering.weights import summed_weights
from distwar_gs.viewing.live.ellipsoids import draw_ellipsoids
from distwar_gs.viewing.live.subjects import Subject
from distwar_gs.viewing.shown import (
    alpha_image,
    depth_image,
    depth_range,
    depth_sample,
    facing_normals,
    normals_image,
    ramp,
)
from distwar_kernels import Cameras


@torch.no_grad()
def draw(subject: Subject, camera: Cameras, mode: str) -> Tensor:
    """uint8 [H, W, 3] on the device of what a camera (C = 1) sees.

    mode: one of `orders.MODES`; of `error` the colours, since photos are compared elsewhere (`pictures`).
    """
    image = DRAWN.get(mode, _color)(subject, camera)
    return (image.clamp(0.0, 1.0) * 255.0 + 0.5).to(torch.uint8)


@torch.no_grad()
def depth_at(subject: Subject, camera: Cameras, place: tuple[float, float]) -> float | None:
    """Depth along the camera's z axis at shares of width and height; None where hardly anything is."""
    seen = subject.look(camera, with_depth=True)
    assert seen.depths is not None
    column, row = (
        min(int(share * side), side - 1) for share, side in zip(place, (camera.width, camera.height), strict=True)
    )
    return float(seen.depths[0, row, column, 0]) if seen.alphas[0, row, column, 0] > 0.5 else None


def contributions(subject: Subject, camera: Cameras) -> Tensor:
    """[N, 1]: each Gaussian's weights, summed over the pixels of the picture."""
    return summed_weights(subject.params, camera, subject.settings)[:, None]


def _color(subject: Subject, camera: Cameras) -> Tensor:
    return subject.look(camera).colors[0]


def _depth(subject: Subject, camera: Cameras) -> Tensor:
    """In the range of this picture."""
    seen = subject.look(camera, with_depth=True)
    return depth_image(seen, depth_range([depth_sample(seen)]))


def _normals(subject: Subject, camera: Cameras) -> Tensor:
    return normals_image(subject.look(camera, features=facing_normals(subject.params, camera)))


def _alpha(subject: Subject, camera: Cameras) -> Tensor:
    return alpha_image(subject.look(camera))


def _contribution(subject: Subject, camera: Cameras) -> Tensor:
    """Each Gaussian in the colour of its contribution, by the logarithm."""
    logs = contributions(subject, camera).log1p()
    if not len(logs):
        return _color(subject, camera)
    seen = subject.look(camera, features=logs / logs.max().clamp_min(1e-10))
    assert seen.features is not None
    return ramp(seen.features[0, ..., 0] / seen.alphas[0, ..., 0].clamp_min(1e-10)) * seen.alphas[0]


def _ellipsoids(subject: Subject, camera: Cameras) -> Tensor:
    return draw_ellipsoids(subject.params, camera, subject.settings)


DRAWN: dict[str, Callable[[Subject, Cameras], Tensor]] = {
    "depth": _depth, "normals": _normals, "alpha": _alpha, "contribution": _contribution, "ellipsoids": _ellipsoids,
}  # fmt: skip
"""[H, W, 3] in [0, 1], about, by mode; every other mode draws the colours."""
