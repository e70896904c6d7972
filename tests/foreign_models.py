"""Gaussians that a formula gives, and files that another program made of them.

tests/splats/waves.spz, waves.compressed.ply, .sog and .glb are what splat-transform 2.7.1 (PlayCanvas, MIT licence)
wrote from the PLYs of `waves(300, 3)`, and of `waves(300, 1)` for the others, with `--spz-version 3` and `--gpu cpu`.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "splats"


def wave(count: int, *shape: int, seed: int) -> np.ndarray:
    """Numbers from -1 to 1, all different."""
    indices = np.arange(count * int(np.prod(shape)), dtype=np.float64)
    return np.sin(0.7531 * indices + seed).reshape(count, *shape)


def waves(count: int, degree: int) -> dict[str, Tensor]:
    """Gaussians as in distwar_gs.gaussians.model, about (0, 0, 5), in the axes of a PLY."""
    values = {
        "means": 3.0 * wave(count, 3, seed=1) + [0.0, 0.0, 5.0],
        "quats": wave(count, 4, seed=2),
        "scales": 1.5 * wave(count, 3, seed=3) - 4.0,
        "opacities": 4.0 * wave(count, seed=4),
        "sh0": 1.5 * wave(count, 1, 3, seed=5),
        "shN": 0.4 * wave(count, (degree + 1) ** 2 - 1, 3, seed=6),
    }
    return {name: torch.from_numpy(array.astype(np.float32)) for name, array in values.items()}


def in_order_of(params: dict[str, Tensor], means: Tensor) -> dict[str, Tensor]:
    """The Gaussians rearranged so that each is the one nearest to the mean in its place, each taken once."""
    order = torch.cdist(means.double(), params["means"].double()).argmin(dim=1)
    assert len(order.unique()) == len(means) == len(params["means"])
    return {name: tensor[order] for name, tensor in params.items()}


def differences(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """The greatest difference of each parameter; of opacities and not logits, of rotations as 1 - |cosine|."""
    assert all(ours[name].shape == theirs[name].shape for name in theirs)
    result = {name: (ours[name] - theirs[name]).abs().amax().item() if ours[name].numel() else 0.0 for name in theirs}
    cosines = torch.nn.functional.cosine_similarity(ours["quats"].double(), theirs["quats"].double())
    opacities = ours["opacities"].sigmoid() - theirs["opacities"].sigmoid()
    return result | {"quats": (1.0 - cosines.abs()).max().item(), "opacities": opacities.abs().max().item()}


def assert_within(found: dict[str, float], bounds: dict[str, float]) -> None:
    """Every difference within its bound; the failure lists all."""
    assert found.keys() == bounds.keys()
    assert all(found[name] <= bounds[name] for name in bounds), {name: (found[name], bounds[name]) for name in bounds}
