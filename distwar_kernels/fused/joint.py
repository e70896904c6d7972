"""The two halves of the fused rasteriser one by one, without autograd: for ranks that exchange splats between them.

What each takes and leaves: distwar_kernels/fused/fused.py and state.py.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from distwar_kernels.cameras import Cameras
from distwar_kernels.fused import fused
from distwar_kernels.fused.fused import DrawOptions
from distwar_kernels.fused.state import BlendState, VisibleSplats
from distwar_kernels.library import by_hand
from distwar_kernels.reduction import Reduction

_NEVER = torch.iinfo(torch.int32).max


@by_hand
def project(parameters: Sequence[Tensor], camera: Cameras, options: DrawOptions, capacity: int) -> VisibleSplats:
    """What a camera (C = 1) sees of the Gaussians, in room for `capacity` splats; waits for nothing.

    With `options.with_depth` the last word of a splat is its depth.
    """
    view = fused.view_arguments(camera, options)
    return VisibleSplats(*torch.ops.distwar.fused_project(parameters, *view, True, capacity, [], [], None, 0))


@by_hand
def blend(
    splats: Tensor, depths: Tensor, camera: Cameras, options: DrawOptions, list_capacity: int
) -> tuple[Tensor, BlendState]:
    """The image [H, W, 3], with depth [H, W, 4], of splats [M, 12] from wherever, at depths [M]; cut short where
    `list_capacity` entries of tile lists are too few. A splat of zeros is not there. The last word of one is its depth
    where that is blended, else 0."""
    total = torch.full((1,), len(splats), dtype=torch.int32, device=splats.device)
    size, behind = [camera.width, camera.height], options.padded_background()
    image, state = torch.ops.distwar.fused_blend(
        total, splats, depths, size, behind, options.with_depth, list_capacity, False, "sw_t", 1
    )
    return image, BlendState(*state)


@by_hand
def blend_backward(
    splats: Tensor,
    state: BlendState,
    options: DrawOptions,
    v_image: Tensor,
    absgrad: bool,
    reduction: Reduction,
    errors: Tensor | None,
    deterministic: bool = False,
    v_transmittances: Tensor | None = None,
) -> Tensor:
    """A gradient record for each splat, [M, 12]; the rest as for `fused.blend_backward`."""
    return torch.ops.distwar.fused_blend_backward(
        splats, list(state), options.padded_background(), v_image.contiguous(), v_transmittances,
        absgrad, reduction.strategy, reduction.balance_threshold, deterministic, errors,
    )  # fmt: skip


@by_hand
def add_gradients(
    sums: Sequence[Tensor],
    parameters: Sequence[Tensor],
    camera: Cameras,
    options: DrawOptions,
    visible: VisibleSplats,
    records: Tensor,
    is_cut: Tensor,
    absgrad: bool,
    statistics: Mapping[str, Tensor] | None,
) -> None:
    """Adds dL/d(parameters) of one view to `sums`, of the parameters' shapes, and counts it in the statistics.

    Args:
        sums: changed.
        parameters: as they were projected, with these options; whether with depth is the blend's.
        camera, options, visible: of `project`.
        records: [capacity, 12], in the order of the visible splats.
        is_cut: [1] bool: the view was not whole, so that nothing is added and counted.
        absgrad, statistics: as for `fused.gradients`.
    """
    arguments = _backward_arguments(parameters, camera, options, visible, records, is_cut)
    torch.ops.distwar.fused_add_gradients(*arguments, absgrad, *fused.counted(statistics), sums)


@by_hand
def pose_gradient(
    parameters: Sequence[Tensor],
    camera: Cameras,
    options: DrawOptions,
    visible: VisibleSplats,
    records: Tensor,
    is_cut: Tensor,
) -> Tensor:
    """The part that these Gaussians have in dL/d(viewmats), [1, 4, 4]; arguments as for `add_gradients`."""
    arguments = _backward_arguments(parameters, camera, options, visible, records, is_cut)
    return torch.ops.distwar.fused_pose_gradient(*arguments)


def _backward_arguments(
    parameters: Sequence[Tensor],
    camera: Cameras,
    options: DrawOptions,
    visible: VisibleSplats,
    records: Tensor,
    is_cut: Tensor,
) -> tuple:
    counts = torch.cat([visible.total, torch.where(is_cut, _NEVER, 0).int()])
    view = fused.view_arguments(camera, options)
    return parameters, *view, list(visible), counts, 1, records.contiguous()
