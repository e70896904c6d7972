"""The noise that lets faint Gaussians wander in MCMC, in one launch; its numbers follow from seed, step and row."""

import torch
from torch import Tensor

from distwar_kernels import loader
from distwar_kernels.library import LIBRARY
from distwar_kernels.shapes import check_shapes

LARGEST_DEVIATE = 6.8
"""No normal deviate is larger: the smallest number that a word of 32 bits gives Box and Muller is 2^-33."""
NEGLIGIBLE = 1e-6
"""Of a Gaussian's standard deviation: it stays where no deviate would move it further than this."""


@torch.no_grad()
def add_noise(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    amount: float,
    *,
    largest: float,
    seed: int,
    step: int,
) -> None:
    """Adds ``amount`` * gate * Sigma x to every mean, x from N(0, 1), in place (Kheradmand et al. 2024).

    Sigma is the Gaussian's covariance, the gate sigmoid(100 (0.005 - opacity)). Nothing waits for a GPU. The same seed
    and step give the same noise, bit by bit, on one kind of device, and the same deviates but for rounding on all.

    A Gaussian no larger than ``largest`` that would move by less than 1e-6 of its size along each of its axes is left
    alone (with a larger one the bound grows as it does): its opacity alone tells.

    Args:
        means: float32, changed.
        quats: wxyz, of any length.
        scales: log standard deviations.
        opacities: logits. NaN leaves the mean as it is.
        amount: 1 / (unit of the means).
        largest: a standard deviation, in the unit of the means, that few Gaussians exceed.
        seed, step: what the deviates follow from, beside a Gaussian's row; 64 bits each, with or without a sign.

    Raises:
        ValueError: shapes disagree.
        KernelError: the kernels cannot be built here.
    """
    n = len(means)
    check_shapes({
        "means": (means, (n, 3)), "quats": (quats, (n, 4)), "scales": (scales, (n, 3)), "opacities": (opacities, (n,)),
    })  # fmt: skip
    if amount == 0.0:
        return
    loader.load(means.device.type)
    least_gate = NEGLIGIBLE / (LARGEST_DEVIATE * abs(amount) * largest)
    seed, step = (_signed(number) for number in (seed, step))
    torch.ops.distwar.add_noise(means, quats, scales, opacities, amount, least_gate, seed, step)


def _signed(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


LIBRARY.define(
    "add_noise(Tensor(a!) means, Tensor quats, Tensor scales, Tensor opacities, float amount, float least_gate,"
    " int seed, int step) -> ()"
)


@torch.library.register_fake("distwar::add_noise", lib=LIBRARY)
def _fake(*arguments):
    return None
