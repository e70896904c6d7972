"""Soft spheres with DISTWAR's choice of gradient reduction: a small second op on the warp-level primitives.

Where the blend's warps visit one Gaussian at a time, here every pixel goes through its own list of spheres, so the
lanes of a warp add to different addresses: the general case that ``warp_reduce.cuh`` is made for. The renderer follows
Pulsar (Lassner and Zollhoefer 2021), one of the three that the DISTWAR paper speeds up.
"""

from typing import Any

import torch
from torch import Tensor

from distwar_kernels import cameras as camera_types
from distwar_kernels import loader
from distwar_kernels.cameras import Cameras
from distwar_kernels.constants import SPHERE_FRAGMENTS
from distwar_kernels.library import LIBRARY, InputGradients
from distwar_kernels.reduction import Reduction
from distwar_kernels.shapes import check_shapes
from distwar_kernels.spheres.spheres_torch import render_spheres_torch
from distwar_kernels.tiles.tiles import intersect_tiles
from distwar_kernels.traffic import AtomicTraffic
from distwar_kernels.tuner import CANDIDATES, Run, resolve

_DEFAULT = Reduction("sw_s", 1)
SPHERE_CANDIDATES = (_DEFAULT, *(reduction for reduction in CANDIDATES if reduction.strategy != "sw_t"))
"""What ``auto`` chooses among for spheres."""
RECORD_SIZE = 8
"""Numbers a lane brings to a visit: colour 3, centre 3, radius, opacity."""


def render_spheres(
    centers: Tensor,  # [C, N, 3]
    radii: Tensor,  # [C, N]
    colors: Tensor,  # [C, N, 3]
    opacities: Tensor,  # [C, N]
    cameras: Cameras,
    backgrounds: Tensor | None = None,  # [C, 3]
    *,
    near_plane: float = 0.01,
    reduction: Reduction = _DEFAULT,
) -> tuple[Tensor, Tensor]:
    """Renders spheres seen by C pinhole cameras; the gradients are summed as ``reduction`` says.

    A sphere that a pixel's ray passes at distance b from the centre has alpha = opacity * (1 - b^2 / radius^2) there; a
    pixel blends the nearest 8 spheres (by their centres' depth) whose alpha reaches 1/255. Differentiable in centers,
    radii, colors, opacities and backgrounds.

    Args:
        centers: in each camera's own frame (OpenCV axes). radii: same units. opacities: in [0, 1].
        cameras: pinhole ones. Centres are in their frames already, so viewmats have no part in it.
        backgrounds: seen through what transmittance is left; black if None.
        near_plane: spheres that reach nearer to the camera's plane are culled, as are broken ones (NaN, infinities).

    Returns:
        Colours [C, height, width, 3] and alphas [C, height, width, 1]. On the CPU this is
        PyTorch code; on CUDA the tile lists come from gsplat.

    Raises:
        ValueError: shapes disagree, cameras are not pinholes, or reduction "gsplat", which has no spheres, or "sw_t",
            which is for the blend.
        KernelError: the kernels cannot be built here.
    """
    _check(centers, radii, colors, opacities, cameras, backgrounds, reduction)
    lists = _tile_lists(centers, radii, colors, opacities, cameras, near_plane)
    spheres = (centers, radii, colors, opacities)
    if not centers.is_cuda:
        render, transmittances, _ = render_spheres_torch(*spheres, cameras, *lists, backgrounds)
        return render, 1.0 - transmittances[..., None]
    loader.load("cuda")
    reduction, tuner = resolve(reduction, centers.device, SPHERE_CANDIDATES)
    inputs = _op_arguments(spheres, cameras, backgrounds, lists)
    render, transmittances, ids = torch.ops.distwar.spheres_forward(
        *inputs, reduction.strategy, reduction.balance_threshold
    )
    if tuner:
        tuner.watch(render, radii.numel(), lambda: _backward_again(inputs, ids))
    return render, 1.0 - transmittances[..., None]


@torch.no_grad()
def sphere_traffic(
    centers: Tensor, radii: Tensor, colors: Tensor, opacities: Tensor, cameras: Cameras, *, near_plane: float = 0.01
) -> AtomicTraffic:
    """Counts the atomic traffic of one backward pass of ``render_spheres``; same arguments, on CUDA."""
    loader.load("cuda")
    lists = _tile_lists(centers, radii, colors, opacities, cameras, near_plane)
    spheres = tuple(t.detach() for t in (centers, radii, colors, opacities))
    counts = torch.ops.distwar.spheres_traffic(*_op_arguments(spheres, cameras, None, lists))
    return AtomicTraffic(counts.cpu(), RECORD_SIZE)


def _op_arguments(
    spheres: tuple[Tensor, ...], cameras: Cameras, backgrounds: Tensor | None, lists: tuple[Tensor, Tensor]
) -> tuple:
    """As the ops take them: _INPUTS."""
    contiguous = (t.contiguous() for t in spheres)
    return *contiguous, *cameras.arguments(), None if backgrounds is None else backgrounds.contiguous(), *lists


def _check(
    centers: Tensor, radii: Tensor, colors: Tensor, opacities: Tensor, cameras: Cameras, backgrounds: Tensor | None,
    reduction: Reduction,
) -> None:  # fmt: skip
    count, n = (*centers.shape, 0)[:2]
    expected = {
        "centers": (centers, (count, n, 3)),
        "radii": (radii, (count, n)),
        "colors": (colors, (count, n, 3)),
        "opacities": (opacities, (count, n)),
        "backgrounds": (backgrounds, (count, 3)),
    }
    check_shapes(expected)
    cameras.check(count=count)
    if cameras.model != "pinhole":
        raise ValueError(f"spheres are drawn by pinhole cameras, not {cameras.model}")
    if reduction.strategy == "gsplat":
        raise ValueError("reduction 'gsplat' is a backward pass of gsplat's, which has no spheres")
    if reduction.strategy == "sw_t":
        raise ValueError("reduction 'sw_t' is for lanes that share an address, as the blend's do: use sw_s for spheres")


@torch.no_grad()
def _tile_lists(
    centers: Tensor, radii: Tensor, colors: Tensor, opacities: Tensor, cameras: Cameras, near: float
) -> tuple[Tensor, Tensor]:
    means2d, extents = sphere_bounds(centers, radii, cameras, near)
    finite = torch.isfinite(torch.cat([centers, colors, radii[..., None], opacities[..., None]], dim=-1)).all(-1)
    extents = torch.where(finite[..., None], extents, 0)
    # The lists are made in float32; their boxes have a pixel to spare.
    offsets, ids = intersect_tiles(means2d.float(), extents, centers[..., 2].float(), cameras.width, cameras.height)
    return offsets.contiguous(), ids.contiguous()


def sphere_bounds(centers: Tensor, radii: Tensor, cameras: Cameras, near_plane: float) -> tuple[Tensor, Tensor]:
    """Boxes around the spheres' outlines: centres [C, N, 2] in pixels, half extents [C, N, 2] int32, 0 where culled.

    A plane through the camera and one image axis touches the sphere at the slopes (x z +- r sqrt(x^2 + z^2 - r^2)) /
    (z^2 - r^2), and likewise for y.
    """
    z, r = centers[..., 2:], radii[..., None]
    visible = (z - r > near_plane) & (r > 0)
    safe = torch.where(visible, z.square() - r.square(), 1.0)
    xy = centers[..., :2]
    reach = r * (xy.square() + safe).clamp_min(0).sqrt()
    focal, principal = cameras.intrinsics[:, None, :2], cameras.intrinsics[:, None, 2:]
    means2d = focal * xy * z / safe + principal
    extents = torch.ceil(focal * reach / safe) + 1
    usable = visible & (extents < 2**30) & (means2d.abs() < 2**30)
    return torch.where(usable, means2d, 0.0), torch.where(usable, extents, 0).int()


def _backward_again(inputs: tuple, ids: Tensor) -> Run:
    """The backward kernel once more, for the tuner to time."""
    inputs = tuple(value.detach() if isinstance(value, Tensor) else value for value in inputs)

    def run(v_colors_out: Tensor, reduction: Reduction) -> None:
        upstream = (v_colors_out.contiguous(), torch.zeros_like(v_colors_out[..., 0]))
        choice = (reduction.strategy, reduction.balance_threshold)
        torch.ops.distwar.spheres_backward(*inputs, ids, *upstream, *choice)

    return run


# ------------------------------------------------------------------------------------- registration with PyTorch

_INPUTS = (
    f"Tensor centers, Tensor radii, Tensor colors, Tensor opacities, {camera_types.SCHEMA}, Tensor? backgrounds,"
    " Tensor isect_offsets, Tensor flatten_ids"
)
_CHOICE = "str strategy, int threshold"
LIBRARY.define(f"spheres_forward({_INPUTS}, {_CHOICE}) -> (Tensor colors_out, Tensor transmittances, Tensor ids)")
LIBRARY.define(
    f"spheres_backward({_INPUTS}, Tensor ids, Tensor v_colors_out, Tensor v_transmittances, {_CHOICE})"
    " -> (Tensor v_centers, Tensor v_radii, Tensor v_colors, Tensor v_opacities)"
)
LIBRARY.define(f"spheres_traffic({_INPUTS}) -> Tensor")


@torch.library.register_fake("distwar::spheres_forward", lib=LIBRARY)
def _forward_fake(centers, radii, colors, opacities, model, camera, image, *rest):
    width, height = image
    shape = (len(centers), height, width)
    return (
        centers.new_empty(*shape, 3),
        centers.new_empty(shape),
        centers.new_empty(*shape, SPHERE_FRAGMENTS, dtype=torch.int32),
    )


@torch.library.register_fake("distwar::spheres_backward", lib=LIBRARY)
def _backward_fake(centers, radii, colors, opacities, *rest):
    return tuple(torch.empty_like(t) for t in (centers, radii, colors, opacities))


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple) -> None:
    *spheres, model, camera, image, backgrounds, isect_offsets, flatten_ids, strategy, threshold = inputs
    _, transmittances, ids = output
    ctx.save_for_backward(*spheres, *camera, backgrounds, isect_offsets, flatten_ids, transmittances, ids)
    ctx.model, ctx.image, ctx.choice = model, image, (strategy, threshold)
    ctx.gradients = InputGradients("spheres_forward", inputs)
    ctx.mark_non_differentiable(ids)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, v_colors_out: Tensor | None, v_transmittances: Tensor | None, _: None) -> tuple:
    *spheres, viewmats, intrinsics, backgrounds, isect_offsets, flatten_ids, transmittances, ids = ctx.saved_tensors
    if v_colors_out is None:
        v_colors_out = transmittances.new_zeros(*transmittances.shape, 3)
    if v_transmittances is None:
        v_transmittances = torch.zeros_like(transmittances)
    v_centers, v_radii, v_colors, v_opacities = torch.ops.distwar.spheres_backward(
        *spheres, ctx.model, [viewmats, intrinsics], ctx.image, backgrounds, isect_offsets, flatten_ids, ids,
        v_colors_out.contiguous(), v_transmittances.contiguous(), *ctx.choice,
    )  # fmt: skip
    wants_background = backgrounds is not None and ctx.gradients.wants(ctx, "backgrounds")
    v_backgrounds = (v_colors_out * transmittances[..., None]).sum(dim=(1, 2)) if wants_background else None
    return ctx.gradients.of(
        centers=v_centers, radii=v_radii, colors=v_colors, opacities=v_opacities, backgrounds=v_backgrounds
    )


torch.library.register_autograd("distwar::spheres_forward", _backward, setup_context=_save_for_backward, lib=LIBRARY)
