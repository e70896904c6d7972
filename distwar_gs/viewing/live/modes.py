"""A look as pixels: colour, depth, normals, alpha, contribution, ellipsoids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

import distwar_kernels as kernels
from distwar_gs.rendering.renderer import render
from distwar_gs.viewing.live.ellipsoids import draw_ellipsoids
from distwar_gs.viewing.live.subjects import Subject
from distwar_kernels import Cameras
from distwar_kernels.projection.projection_torch import rotation_matrices

# Dark blue, teal, green, yellow: brighter is more, also for those who see no colours.
_RAMP = ((0.10, 0.04, 0.25), (0.15, 0.30, 0.55), (0.10, 0.60, 0.55), (0.55, 0.80, 0.30), (1.0, 0.93, 0.45))
_SAMPLE = 50_000  # pixels that the range of depths is taken from


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


def ramp(values: Tensor) -> Tensor:
    """Colours [..., 3] in [0, 1] of values [...] in [0, 1]."""
    anchors = torch.tensor(_RAMP, device=values.device)
    place = values.nan_to_num(0.0).clamp(0.0, 1.0) * (len(anchors) - 1)
    below = place.long().clamp_max(len(anchors) - 2)
    return torch.lerp(anchors[below], anchors[below + 1], (place - below)[..., None])


def contributions(subject: Subject, camera: Cameras) -> Tensor:
    """[N, 1]: each Gaussian's weight (alpha times transmittance), summed over the pixels of the picture.

    The gradient of what is blended for a number of each Gaussian, in that number: the blend's backward pass does it.
    """
    params = subject.params
    probe = torch.zeros(len(params["means"]), 1, device=params["means"].device, requires_grad=True)
    settings = replace(subject.settings, absgrad=False, reduction=kernels.Reduction())  # auto would measure itself
    with torch.enable_grad():
        seen = render(params, camera, settings, sh_degree=0, features=probe)
        assert seen.features is not None
        return torch.autograd.grad(seen.features.sum(), probe)[0]


def facing_normals(subject: Subject, camera: Cameras) -> Tensor:
    """[N, 3] in the world: the shortest axis of each Gaussian, turned towards the camera."""
    params = subject.params
    shortest = params["scales"].argmin(dim=-1)
    rotations = rotation_matrices(params["quats"])
    normals = torch.take_along_dim(rotations, shortest[:, None, None], dim=2)[..., 0]
    towards = camera.centers[0] - params["means"]
    return torch.where((normals * towards).sum(dim=-1, keepdim=True) < 0.0, -normals, normals)


def _color(subject: Subject, camera: Cameras) -> Tensor:
    return subject.look(camera).colors[0]


def _depth(subject: Subject, camera: Cameras) -> Tensor:
    """Inverse depth between those of 2 % and 98 % of the opaque pixels: near is bright."""
    seen = subject.look(camera, with_depth=True)
    assert seen.depths is not None
    inverse, opaque = 1.0 / seen.depths[0, ..., 0].clamp_min(1e-10), seen.alphas[0, ..., 0] > 0.5
    values = inverse[opaque]
    if not len(values):
        return torch.zeros_like(seen.colors[0])
    values = values[:: len(values) // _SAMPLE + 1]
    far, near = torch.quantile(values, torch.tensor([0.02, 0.98], device=values.device))
    return ramp((inverse - far) / (near - far).clamp_min(1e-12)) * opaque[..., None]


def _normals(subject: Subject, camera: Cameras) -> Tensor:
    seen = subject.look(camera, features=facing_normals(subject, camera))
    assert seen.features is not None
    normals = torch.nn.functional.normalize(seen.features[0], dim=-1)
    return (0.5 + 0.5 * normals) * seen.alphas[0]


def _alpha(subject: Subject, camera: Cameras) -> Tensor:
    return subject.look(camera).alphas[0].expand(-1, -1, 3)


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
