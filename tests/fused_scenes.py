"""Random Gaussians as they are trained, cameras, and what the fused rasteriser makes of them."""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from test_projection import gaussians, viewmats
from torch import Tensor

from distwar_kernels import Cameras
from distwar_kernels.fused.fused import PARAMETERS, DrawOptions
from distwar_kernels.projection.projection_torch import rotation_matrices

WEIGHT_SEED = 99


class View(NamedTuple):
    """What the rasteriser is told beside the Gaussians."""

    camera: Cameras
    options: DrawOptions

    def to(self, device: torch.device) -> "View":
        background = None if self.options.background is None else self.options.background.to(device)
        return View(self.camera.to(device), replace(self.options, background=background))


def random_params(n: int, seed: int, dtype: torch.dtype = torch.float32, sh_rows: int = 15) -> dict[str, Tensor]:
    """Parameters of `n` Gaussians, most of them before `random_view`'s cameras; round numbers in any dtype."""
    means, quats, scales, opacities = (t.float() for t in gaussians(n, seed))
    g = torch.Generator().manual_seed(seed + 1)
    tensors = {
        "means": means, "quats": quats, "scales": scales.log(), "opacities": torch.logit(opacities),
        "sh0": 0.8 * torch.randn(n, 1, 3, generator=g), "shN": 0.3 * torch.randn(n, sh_rows, 3, generator=g),
    }  # fmt: skip
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def random_features(n: int, channels: int, seed: int = 6) -> Tensor:
    """Features of `n` Gaussians, of both signs."""
    return torch.randn(n, channels, generator=torch.Generator().manual_seed(seed))


PRISM = (0.002, 0.004, 0.003, -0.002, 0.001, -0.0015)
"""p1, p2, s1 to s4 of a lens out of true."""


def intrinsics_of(model: str, width: int, height: int) -> tuple[float, ...]:
    """A lens of each model with every coefficient in use; those that see all around see most of that."""
    center, short = (0.35 * width, 0.6 * height), min(width, height)
    return {
        "pinhole": (1.1 * width, 1.4 * height, *center),
        "opencv": (0.8 * width, 1.1 * height, *center, -0.2, 0.05, 0.01, 0.1, 0.02, 0.003, *PRISM, 1.2, 5.0),
        "fisheye": (0.2 * short, 0.22 * short, *center, -0.03, 0.01, -0.002, 0.0003, 0.0, 0.0, *PRISM, 1.9, 2.6, 1.05),
        "unified": (0.35 * short, 0.4 * short, *center, 0.6, 1.1, 4.0),
        "equirectangular": (width / (2 * math.pi), height / math.pi, 0.5 * width, 0.5 * height),
        "orthographic": (0.12 * width, 0.15 * height, *center),
    }[model]


def surrounding_params(n: int, seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """`random_params` on all sides of the cameras, some across the edges of a panorama, some near its poles."""
    params = random_params(n, seed, torch.float64)
    turns = rotation_matrices(torch.randn(n, 4, generator=torch.Generator().manual_seed(seed + 2)).double())
    turns[: n // 6] = torch.diag(torch.tensor([1.0, 1.0, -1.0]).double())  # behind
    params["means"] = (turns @ params["means"][..., None])[..., 0]
    return {name: tensor.to(dtype) for name, tensor in params.items()}


def random_view(seed: int, width: int = 40, height: int = 33, model: str = "pinhole", **options: object) -> View:
    """An off-centre camera with two focal lengths, and a background."""
    numbers = intrinsics_of(model, width, height)
    background = torch.tensor([0.2, 0.5, 0.9])
    settings = {"sh_degree": 3, "background": background, "near_plane": 0.1} | options
    camera = Cameras(model, viewmats(1, seed).float(), torch.tensor([numbers]), width, height)
    return View(camera, DrawOptions(**settings))


def weights(like: Tensor) -> Tensor:
    """A fixed random gradient for such an output."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(WEIGHT_SEED)).to(like)


def render_and_differentiate(
    params: dict[str, Tensor], view: View, rasterize, features: Tensor | None = None
) -> dict[str, Tensor]:
    """Image, alpha and the gradients of a random loss of both, by `rasterize(params, *view)`; with features, which are
    handed on by name and whose image comes last, also theirs."""
    leaves = {name: params[name].clone().requires_grad_() for name in PARAMETERS}
    more = {} if features is None else {"features": features.clone().requires_grad_()}
    image, alpha, *rest = rasterize(leaves, *view, **more)
    outputs = {"image": image, "alpha": alpha} | {name: rest[-1] for name in more}
    sum((output * weights(output)).sum() for output in outputs.values()).backward()
    gradients = {f"v_{name}": leaf.grad for name, leaf in (leaves | more).items()}
    return {name: output.detach() for name, output in outputs.items()} | gradients
