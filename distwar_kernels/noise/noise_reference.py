"""MCMC's noise in plain PyTorch, in float64: what tests compare with."""

import math

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_INCREMENTS = (0x9E3779B9, 0xBB67AE85)


def philox_reference(counter: Tensor, key: tuple[int, int]) -> Tensor:
    """Philox 4x32-10 (Salmon et al. 2011) of counters [..., 4]: words [..., 4], all int64 from 0 to 2^32 - 1."""
    words = list(counter.unbind(-1))
    for turn in range(10):
        (high_a, low_a), (high_b, low_b) = (_product(m, words[2 * i]) for i, m in enumerate(_MULTIPLIERS))
        low, high = ((part + turn * more) & _LOW for part, more in zip(key, _INCREMENTS, strict=True))
        words = [high_b ^ words[1] ^ low, low_b, high_a ^ words[3] ^ high, low_a]
    return torch.stack(words, dim=-1)


def _product(factor: int, words: Tensor) -> tuple[Tensor, Tensor]:
    """Upper and lower 32 bits of a product of 64, by halves: int64 has a sign."""
    low, high = factor * (words & 0xFFFF), factor * (words >> 16)
    middle = high + (low >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def deviates_reference(seed: int, step: int, count: int) -> Tensor:
    """[count, 3] float64 normal deviates of the rows."""
    rows = torch.arange(count)
    nothing = torch.zeros_like(rows)
    words = philox_reference(
        torch.stack([rows, nothing, nothing + (step & _LOW), nothing + (step >> 32 & _LOW)], dim=-1),
        (seed & _LOW, seed >> 32 & _LOW),
    )
    parts = (words.double() + 0.5) / 2.0**32
    radii, angles = (-2.0 * parts[:, ::2].log()).sqrt(), math.pi * (2.0 * words[:, 1::2].double() / 2.0**32 - 1.0)
    across = radii * angles.cos()
    return torch.stack([across[:, 0], radii[:, 0] * angles[:, 0].sin(), across[:, 1]], dim=-1)


def displacements_reference(
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    amount: float,
    deviates: Tensor,  # [N, 3]
) -> Tensor:
    """[N, 3] by how much the means move: amount * gate * R S^2 x."""
    gate = torch.sigmoid(100.0 * (0.005 - torch.sigmoid(opacities.double())))
    rotations = _rotations(quats.double())
    vectors = deviates * torch.exp(2.0 * scales.double())
    return amount * gate[:, None] * (rotations @ vectors[:, :, None])[:, :, 0]


def _rotations(quats: Tensor) -> Tensor:
    """[N, 3, 3] of quaternions wxyz [N, 4]."""
    w, x, y, z = (quats / quats.norm(dim=1, keepdim=True)).unbind(1)
    entries = (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(entries, dim=-1).reshape(-1, 3, 3)
