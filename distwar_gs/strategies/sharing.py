"""What Gaussians in one place must be to look together as one (Kheradmand et al. 2024, equation 9)."""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_COPIES = 51
"""Largest number of Gaussians that share one's opacity exactly; more share as if they were as many."""


def share(logits: Tensor, copies: Tensor, faintest: float) -> tuple[Tensor, Tensor]:
    """What N Gaussians in one place must be to look together as one (paper, eq. 9).

    The opacity o' leaves as much light through N times as o did once: (1 - o')^N = 1 - o. The scales are multiplied by
    o / (sum over i = 1..N, k = 0..i-1 of C(i-1, k) (-1)^k o'^(k+1) / sqrt(k+1)). Summed over i first, the binomials
    telescope: C(N, k) (-1)^(k-1) o'^k / sqrt(k), k = 1..N, is left. Its terms are up to 5e3 times the sum: in float64
    that costs nothing, and the signs are made by parity (pow(-1, k) is NaN under fast math, gsplat PR 953).

    Args:
        logits: [M] float64, of the opacity o of the one.
        copies: [M] int64, N; above `MAX_COPIES` taken for that many.
        faintest: o' is at least this.

    Returns:
        Logits [M] of o', and the factors [M] of the scales.
    """
    copies = copies.clamp(max=MAX_COPIES)
    transmitted = F.logsigmoid(-logits) / copies  # log(1 - o'): no opacity is too near 1 for it
    faintest_logit = float(torch.logit(torch.tensor(faintest, dtype=torch.float64)))
    shared = (torch.log(-torch.expm1(transmitted)) - transmitted).clamp_min(faintest_logit)
    return shared, torch.sigmoid(logits) / _integral(torch.sigmoid(shared), copies)


def _integral(opacities: Tensor, copies: Tensor) -> Tensor:
    """[M]: how much `copies` Gaussians of these opacities [M] in one place take of the light on a line across them, in
    multiples of what one of opacity 1 would without the others."""
    weights, total = _integral_weights().to(opacities.device), torch.zeros_like(opacities)
    for power in range(int(copies.max()) if len(copies) else 0, 0, -1):
        total = (total + weights[copies, power]) * opacities
    return total


@functools.cache
def _integral_weights() -> Tensor:
    """[52, 52] float64: C(n, k) (-1)^(k-1) / sqrt(k) for n copies and power k from 1 to n, else 0. No binomial is
    rounded: C(51, 25) is 2.5e14."""
    weights = torch.zeros(MAX_COPIES + 1, MAX_COPIES + 1, dtype=torch.float64)
    for n in range(1, MAX_COPIES + 1):
        for k in range(1, n + 1):
            weights[n, k] = (1 if k % 2 else -1) * math.comb(n, k) / math.sqrt(k)
    return weights
