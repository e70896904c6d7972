"""Expected depth by the fused rasteriser, without autograd: from what it blends, and back."""

from typing import Protocol

import torch
from torch import Tensor

from distwar_gs.rendering.renderer import LEAST_ALPHA
from distwar_kernels.fused import fused


class Drawn(Protocol):
    """A view that was drawn with depth; distwar_kernels.fused.fused.Rendered is one."""

    @property
    def image(self) -> Tensor:
        """[H, W, 4], the last channel the depth."""

    @property
    def transmittances(self) -> Tensor:
        """[H, W]."""


@torch.no_grad()
def expected_depth(view: Drawn) -> tuple[Tensor, Tensor]:
    """Depth and alpha [H, W] of a view that was drawn with depth: what was blended over alpha."""
    alphas = 1.0 - view.transmittances
    return view.image[..., 3] / alphas.clamp_min(LEAST_ALPHA), alphas


@torch.no_grad()
def image_and_depth_gradients(view: Drawn, v_image: Tensor, v_depth: Tensor) -> tuple[Tensor, Tensor]:
    """From dL/d(image) [H, W, 3] and dL/d(expected depth) [H, W] to what the blend's backward pass takes: dL/d(what was
    blended) [H, W, 4] and dL/d(transmittances) [H, W].

    With D blended and A = 1 - T the depth is D / A: dL/dD = v / A, dL/dT = v D / A^2; none where nothing is seen.
    """
    depth, alphas = expected_depth(view)
    v_blended = torch.where(alphas > LEAST_ALPHA, v_depth / alphas.clamp_min(LEAST_ALPHA), 0.0)
    return torch.cat([v_image, v_blended[..., None]], dim=-1), v_blended * depth


@torch.no_grad()
def scored(
    view: fused.Rendered, statistics: dict[str, Tensor] | None, errors: Tensor | None
) -> dict[str, Tensor] | None:
    """Adds to the score, where there are errors [H, W]; returns the other statistics, for the step to count.

    The word of a record where errors are summed is the depth's gradient where depth is blended. So they are summed by a
    pass of their own, over the splats without depth: only steps that have both pay for it.
    """
    if statistics is None or errors is None:
        return statistics
    visible, counts = view.state.visible, view.counts
    splats = visible.splats.clone()
    splats[:, -1] = 0.0
    records = torch.ops.distwar.fused_blend_backward(
        splats, view.state.blend, None, torch.zeros_like(view.image[..., :3]).contiguous(), None, False,
        "sw_t", 1, True, errors.contiguous(),
    )  # fmt: skip
    capacity, list_capacity = view.state.capacities
    whole = (counts[0] <= capacity) & (counts[1] <= list_capacity)
    held = (torch.arange(capacity, device=counts.device) < counts[0]) & whole
    add_score(statistics["score"], visible.gaussian_ids, records[:, -1], held)
    return {name: statistic for name, statistic in statistics.items() if name != "score"}


def add_score(score: Tensor, gaussian_ids: Tensor, sums: Tensor, held: Tensor) -> None:
    """Adds to scores [N] the roots of the errors of these Gaussians: the sums [M] of their splats, where these are
    `held` [M]. A Gaussian at the edge of a panorama has two."""
    errors = torch.zeros_like(score)
    errors.index_add_(0, torch.where(held, gaussian_ids, 0).long(), torch.where(held, sums.clamp_min(0.0), 0.0))
    score += errors.sqrt()
