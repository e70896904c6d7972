"""Alpha blending of sorted 2D Gaussians with a choice of gradient reduction: gsplat's op, DISTWAR's backward."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distwar_kernels import loader
from distwar_kernels.constants import MAX_CHANNELS, PATCHES_PER_TILE, SPLAT_FLOATS, TILE_SIZE, WARP_SIZE
from distwar_kernels.gsplat_ops import gsplat
from distwar_kernels.library import LIBRARY, InputGradients
from distwar_kernels.reduction import Reduction
from distwar_kernels.shapes import check_shapes
from distwar_kernels.tuner import ReductionTuner, Run, resolve

_DEFAULT = Reduction()
# The kernels are compiled for these channel counts; others are padded with zeros, more than 32 go in several passes.
_COMPILED_CHANNELS = (1, 3, 4, 8, 16, 32)


def rasterize_to_pixels(
    means2d: Tensor,  # [..., N, 2] or [nnz, 2]
    conics: Tensor,  # [..., N, 3] or [nnz, 3]
    colors: Tensor,  # [..., N, channels] or [nnz, channels]
    opacities: Tensor,  # [..., N] or [nnz]
    image_width: int,
    image_height: int,
    tile_size: int,
    isect_offsets: Tensor,  # [..., tile_height, tile_width] int32
    flatten_ids: Tensor,  # [n_isects] int32
    backgrounds: Tensor | None = None,  # [..., channels]
    masks: Tensor | None = None,  # [..., tile_height, tile_width] bool
    packed: bool = False,
    absgrad: bool = False,
    *,
    reduction: Reduction = _DEFAULT,
) -> tuple[Tensor, Tensor]:
    """Blends projected Gaussians into images; the gradients are summed as ``reduction`` says.

    Signature and semantics are those of ``gsplat.rasterize_to_pixels`` 1.5.3 plus ``reduction``.

    Args:
        means2d: centres in pixels; a pixel's centre is at +0.5.
        conics: inverse 2D covariances (xx, xy, yy), 1/px^2; a Gaussian whose conic is not positive definite is culled.
        colors: colours or features, any number of channels.
        opacities: in [0, 1].
        image_width, image_height: pixels.
        tile_size: edge of the square tiles in pixels; 16.
        isect_offsets: where each tile's Gaussians begin in flatten_ids.
        flatten_ids: indices into the flattened [images * N] (or [nnz]) Gaussians, nearest first within a tile.
        backgrounds: seen through what transmittance is left; black if None.
        masks: tiles that are False show the background only.
        packed: the Gaussians are [nnz, ...] instead of [..., N, ...].
        absgrad: the backward pass also sets ``means2d.absgrad``, the sum over pixels of the absolute gradient; beyond
            32 channels the sum over their passes, an upper bound of it.

    Returns:
        Rendered colours [..., image_height, image_width, channels] and alphas [..., image_height, image_width, 1].

    Raises:
        ValueError: shapes disagree, another tile size, or reduction "gsplat" for tensors on the CPU.
        KernelError: the kernels cannot be built here.
    """
    _check_shapes(means2d, conics, colors, opacities, isect_offsets, backgrounds, masks, packed)
    _check_tiles(isect_offsets, image_width, image_height, tile_size)
    if reduction.strategy == "gsplat":
        return _by_gsplat(
            means2d, conics, colors, opacities, image_width, image_height, tile_size, isect_offsets, flatten_ids,
            backgrounds, masks, packed, absgrad,
        )  # fmt: skip
    loader.load(means2d.device.type)
    reduction, tuner = resolve(reduction, means2d.device)
    probe = _absgrad_probe(means2d) if absgrad else None
    passes = [
        _blend_pass(means2d, conics, c, opacities, b, masks, probe, isect_offsets, flatten_ids, image_width,
                    image_height, reduction, tuner)
        for c, b in _channel_passes(colors, backgrounds)
    ]  # fmt: skip
    return _joined(passes, isect_offsets.shape[:-2])


def _joined(passes: Sequence[tuple[Tensor, Tensor]], image_dims: torch.Size) -> tuple[Tensor, Tensor]:
    """Colours of all channels, and alphas, from each pass's colours and transmittance [images, ...]."""
    render = torch.cat([p[0] for p in passes], dim=-1) if len(passes) > 1 else passes[0][0]
    alphas = 1.0 - passes[0][1]
    return render.reshape(*image_dims, *render.shape[1:]), alphas.reshape(*image_dims, *alphas.shape[1:], 1)


def _check_shapes(
    means2d: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    isect_offsets: Tensor,
    backgrounds: Tensor | None,
    masks: Tensor | None,
    packed: bool,
) -> None:
    gaussians, images = means2d.shape[:-1], isect_offsets.shape[:-2]
    expected = {
        "means2d": (means2d, (*gaussians, 2)),
        "conics": (conics, (*gaussians, 3)),
        "colors": (colors, (*gaussians, colors.shape[-1])),
        "opacities": (opacities, tuple(gaussians)),
        "backgrounds": (backgrounds, (*images, colors.shape[-1])),
        "masks": (masks, tuple(isect_offsets.shape)),
    }
    check_shapes(expected)
    if packed and len(gaussians) != 1:
        raise ValueError(f"packed Gaussians have shape [nnz, ...], means2d is {tuple(means2d.shape)}")
    if not packed and gaussians[:-1] != images:
        raise ValueError(f"means2d is for images {tuple(gaussians[:-1])}, isect_offsets for {tuple(images)}")
    if colors.shape[-1] == 0:
        raise ValueError("colors has no channels")


def _check_tiles(isect_offsets: Tensor, image_width: int, image_height: int, tile_size: int) -> None:
    if tile_size != TILE_SIZE:
        raise ValueError(f"tile_size is {tile_size}: the kernels are made for tiles of {TILE_SIZE} pixels")
    rows, columns = isect_offsets.shape[-2:]
    if rows * TILE_SIZE < image_height or columns * TILE_SIZE < image_width:
        raise ValueError(
            f"isect_offsets has {columns}x{rows} tiles of {TILE_SIZE} pixels,"
            f" too few for {image_width}x{image_height} pixels"
        )


def _by_gsplat(means2d: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    if not means2d.is_cuda:
        raise ValueError("reduction 'gsplat' needs CUDA tensors: gsplat has no CPU kernels")
    return gsplat().rasterize_to_pixels(means2d, *args)


def _absgrad_probe(means2d: Tensor) -> Tensor:
    """A stand-in whose gradient is the sum of absolute gradients; it hands that to ``means2d.absgrad``."""
    probe = torch.zeros_like(means2d).requires_grad_()
    probe.register_hook(lambda gradient: setattr(means2d, "absgrad", gradient))
    return probe


def _channel_passes(colors: Tensor, backgrounds: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
    color_parts = colors.split(MAX_CHANNELS, dim=-1)
    background_parts = backgrounds.split(MAX_CHANNELS, dim=-1) if backgrounds is not None else [None] * len(color_parts)
    return list(zip(color_parts, background_parts, strict=True))


def _blend_pass(
    means2d: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    backgrounds: Tensor | None,
    masks: Tensor | None,
    probe: Tensor | None,
    isect_offsets: Tensor,
    flatten_ids: Tensor,
    width: int,
    height: int,
    reduction: Reduction,
    tuner: ReductionTuner | None,
) -> tuple[Tensor, Tensor]:
    """One call of the op on flattened images: colours [images, H, W, channels], transmittances [images, H, W]."""
    channels = colors.shape[-1]
    padding = next(c for c in _COMPILED_CHANNELS if c >= channels) - channels
    tile_shape = isect_offsets.shape[-2:]
    gaussians = (
        means2d.contiguous(),
        conics.contiguous(),
        _padded(colors, padding),
        opacities.contiguous(),
        None if backgrounds is None else _padded(backgrounds, padding).reshape(-1, channels + padding),
        None if masks is None else masks.reshape(-1, *tile_shape).contiguous(),
    )
    tiles = (isect_offsets.reshape(-1, *tile_shape).contiguous(), flatten_ids.contiguous())
    render, transmittances, *state = torch.ops.distwar.blend_forward(
        *gaussians, probe, *tiles, width, height, reduction.strategy, reduction.balance_threshold
    )
    if tuner:
        inputs, saved = (*gaussians, *tiles), (transmittances, *state)
        tuner.watch(render, opacities.numel(), lambda: _backward_again(inputs, saved, probe is not None))
    return render[..., :channels], transmittances


def _backward_again(inputs: tuple[Tensor | None, ...], saved: tuple[Tensor, ...], absgrad: bool) -> Run:
    """The backward kernel once more, for the tuner to time; the gradient of the transmittances costs nothing extra."""
    tensors = [None if tensor is None else tensor.detach() for tensor in (*inputs, *saved)]
    v_transmittances = torch.zeros_like(saved[0]).detach()

    def run(v_colors_out: Tensor, reduction: Reduction) -> None:
        upstream = (v_colors_out.contiguous(), v_transmittances)
        choice = (reduction.strategy, reduction.balance_threshold)
        torch.ops.distwar.blend_backward(*tensors, *upstream, absgrad, *choice)

    return run


def _padded(tensor: Tensor, channels: int) -> Tensor:
    return torch.nn.functional.pad(tensor, (0, channels)) if channels else tensor.contiguous()


# ------------------------------------------------------------------------------------- registration with PyTorch

LIBRARY.define(
    "blend_forward(Tensor means2d, Tensor conics, Tensor colors, Tensor opacities, Tensor? backgrounds, Tensor? masks,"
    " Tensor? absgrad_probe, Tensor isect_offsets, Tensor flatten_ids, int width, int height, str strategy,"
    " int threshold) -> (Tensor colors_out, Tensor transmittances, Tensor last_ids, Tensor splats, Tensor visits)"
)
LIBRARY.define(
    "blend_backward(Tensor means2d, Tensor conics, Tensor colors, Tensor opacities, Tensor? backgrounds, Tensor? masks,"
    " Tensor isect_offsets, Tensor flatten_ids, Tensor transmittances, Tensor last_ids, Tensor splats, Tensor visits,"
    " Tensor v_colors_out, Tensor v_transmittances, bool absgrad, str strategy, int threshold)"
    " -> (Tensor v_means2d, Tensor v_conics, Tensor v_colors, Tensor v_opacities, Tensor v_means2d_abs)"
)


@torch.library.register_fake("distwar::blend_forward", lib=LIBRARY)
def _forward_fake(
    means2d, conics, colors, opacities, backgrounds, masks, absgrad_probe, isect_offsets, flatten_ids, width, height,
    strategy, threshold,
):  # fmt: skip
    pixels, cuda = (isect_offsets.shape[0], height, width), means2d.is_cuda
    words = flatten_ids.numel() // WARP_SIZE + isect_offsets.numel()
    return (
        means2d.new_empty(*pixels, colors.shape[-1]),
        means2d.new_empty(pixels),
        means2d.new_empty(pixels, dtype=torch.int32),
        means2d.new_empty(opacities.numel() if cuda else 0, SPLAT_FLOATS),
        means2d.new_empty(words if cuda else 0, PATCHES_PER_TILE, dtype=torch.int32),
    )


@torch.library.register_fake("distwar::blend_backward", lib=LIBRARY)
def _backward_fake(
    means2d, conics, colors, opacities, backgrounds, masks, isect_offsets, flatten_ids, transmittances, last_ids,
    splats, visits, v_colors_out, v_transmittances, absgrad, strategy, threshold,
):  # fmt: skip
    v_means2d_abs = torch.empty_like(means2d) if absgrad else means2d.new_empty(0)
    return (*(torch.empty_like(t) for t in (means2d, conics, colors, opacities)), v_means2d_abs)


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple) -> None:
    means2d, conics, colors, opacities, backgrounds, masks, probe, isect_offsets, flatten_ids, *_ = inputs
    _, *state = output
    ctx.save_for_backward(means2d, conics, colors, opacities, backgrounds, masks, isect_offsets, flatten_ids, *state)
    ctx.absgrad = probe is not None
    ctx.reduction = inputs[-2:]
    ctx.gradients = InputGradients("blend_forward", inputs)
    ctx.mark_non_differentiable(*state[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, v_colors_out: Tensor | None, v_transmittances: Tensor | None, *_: None) -> tuple:
    *inputs, transmittances, last_ids, splats, visits = ctx.saved_tensors
    _, _, colors, _, backgrounds, *_ = inputs
    if v_colors_out is None:
        v_colors_out = transmittances.new_zeros(*transmittances.shape, colors.shape[-1])
    if v_transmittances is None:
        v_transmittances = torch.zeros_like(transmittances)
    v_means2d, v_conics, v_colors, v_opacities, v_means2d_abs = torch.ops.distwar.blend_backward(
        *inputs, transmittances, last_ids, splats, visits, v_colors_out.contiguous(), v_transmittances.contiguous(),
        ctx.absgrad, *ctx.reduction,
    )  # fmt: skip
    wants_background = backgrounds is not None and ctx.gradients.wants(ctx, "backgrounds")
    v_backgrounds = (v_colors_out * transmittances[..., None]).sum(dim=(1, 2)) if wants_background else None
    return ctx.gradients.of(
        means2d=v_means2d, conics=v_conics, colors=v_colors, opacities=v_opacities, backgrounds=v_backgrounds,
        absgrad_probe=v_means2d_abs if ctx.absgrad else None,
    )  # fmt: skip


torch.library.register_autograd("distwar::blend_forward", _backward, setup_context=_save_for_backward, lib=LIBRARY)
