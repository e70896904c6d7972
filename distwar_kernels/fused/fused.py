"""The fused rasteriser: from trained parameters to an image and back in a few kernels, without a host sync. CUDA only.

It computes what the ops beside it compute one by one (project_gaussians, spherical_harmonics, intersect_tiles,
rasterize_to_pixels): read those to understand this. What it leaves out is the memory between them, tiles that an
ellipse's box touches but the ellipse does not, and gradients of what is not seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distwar_kernels import loader
from distwar_kernels.blend.traffic import GEOMETRY_VALUES
from distwar_kernels.constants import PATCHES_PER_TILE, SPLAT_FLOATS, WARP_SIZE
from distwar_kernels.fused.room import Room, room_of
from distwar_kernels.library import LIBRARY
from distwar_kernels.reduction import Reduction
from distwar_kernels.shapes import check_features, check_shapes
from distwar_kernels.tiles.tiles import tile_grid
from distwar_kernels.traffic import AtomicTraffic
from distwar_kernels.tuner import resolve

PARAMETERS = ("means", "quats", "scales", "opacities", "sh0", "shN")
CHANNELS = 3
_NO_ADAM = ([], [], None, 0)
_DEFAULT = Reduction()


@dataclass(frozen=True)
class View:
    """A pinhole camera, and how it is to be drawn."""

    viewmat: Tensor
    """[4, 4] world to camera, OpenCV axes."""
    K: Tensor
    """[3, 3] pixels, any principal point."""
    width: int
    height: int
    """Pixels."""
    sh_degree: int
    """Degree of the harmonics in use."""
    background: Tensor | None = None
    """[3] behind the Gaussians; black if None."""
    near_plane: float = 0.01
    far_plane: float = 1e10
    """Depths outside are culled."""
    antialiased: bool = False
    """Multiply opacities by the compensation for the blur (Mip-Splatting)."""
    with_depth: bool = False
    """Blend the depth as a fourth channel."""

    def arguments(self) -> tuple:
        """As the ops take them."""
        background = self.background
        if background is not None and self.with_depth:
            background = torch.cat([background, background.new_zeros(1)])
        planes = (self.near_plane, self.far_plane)
        return (
            self.viewmat, self.K, background, self.width, self.height, planes, self.antialiased, self.with_depth,
            self.sh_degree,
        )  # fmt: skip


def rasterize(
    params: Mapping[str, Tensor],
    view: View,
    *,
    features: Tensor | None = None,  # [N, F]
    absgrad: bool = False,
    reduction: Reduction = _DEFAULT,
) -> tuple[Tensor, ...]:
    """Renders the Gaussians; differentiable in all six parameters, and in the features.

    Args:
        params: means [N, 3], quats [N, 4] (wxyz), scales [N, 3] (log), opacities [N] (logit), sh0 [N, 1, 3] and
            shN [N, K, 3]: as they are trained, float32 on one CUDA device.
        view: the camera.
        features: any numbers [N, F] of the Gaussians, blended as the colours are, four in a pass. One that is not
            finite counts as 0 and has no gradient, so that it spoils no pixel.
        absgrad: let the backward pass sum absolute gradients too (what it costs is all one sees of it here); with
            features those of all passes, an upper bound.
        reduction: where the blend's gradients are summed; not "gsplat".

    Returns:
        Colours [H, W, 3] (with depth [H, W, 4], weighted by alpha) and alphas [H, W, 1]; if there are features, a third
        image [H, W, F] of them, weighted by alpha: 0 where nothing is seen.

    Raises:
        ValueError: shapes disagree, features have no channels, tensors are not on CUDA, or the reduction is gsplat's.
        KernelError: the kernels cannot be built here.
    """
    check_features(features, len(params["means"]))
    parameters = checked(params, view, reduction)
    reduction, _ = resolve(reduction, parameters[0].device)
    room = room_of(parameters[0].device)
    wants_gradients = torch.is_grad_enabled() and any(p.requires_grad for p in parameters)
    while True:
        sizes = room.sizes(len(parameters[0]))
        image, state = torch.ops.distwar.fused_forward(
            parameters, *view.arguments(), wants_gradients, *sizes, absgrad, reduction.strategy,
            reduction.balance_threshold, *_NO_ADAM,
        )  # fmt: skip
        if room.fits(state[0], len(parameters[0]), sizes):
            break
    outputs = (image, 1.0 - state[6][..., None])
    if features is None:
        return outputs
    choices = (absgrad, reduction.strategy, reduction.balance_threshold)
    return *outputs, torch.ops.distwar.fused_features(features.contiguous(), state, *choices)


def checked(params: Mapping[str, Tensor], view: View, reduction: Reduction = _DEFAULT) -> list[Tensor]:
    """The parameters as the ops take them, with the kernels loaded. Raises as `rasterize` does."""
    parameters = [params[name] for name in PARAMETERS]
    n, means = len(params["means"]), params["means"]
    harmonics = params["shN"].shape[1:2]
    shapes = ((n, 3), (n, 4), (n, 3), (n,), (n, 1, 3), (n, *harmonics, 3))
    expected = dict(zip(PARAMETERS, zip(parameters, shapes, strict=True), strict=True))
    check_shapes(expected | {"viewmat": (view.viewmat, (4, 4)), "K": (view.K, (3, 3))})
    if reduction.strategy == "gsplat":
        raise ValueError("reduction 'gsplat' is gsplat's own rasteriser: the fused one has no part for it")
    _require_cuda(means)
    return [parameter.contiguous() for parameter in parameters]


def _require_cuda(means: Tensor) -> None:
    if not means.is_cuda:
        raise ValueError(f"the fused rasteriser runs on CUDA, means are on {means.device}")
    loader.load("cuda")


# ------------------------------------------------------------------------------------------------- for training loops


@dataclass(frozen=True)
class Rendered:
    """What a camera saw, for a backward pass by hand."""

    image: Tensor
    """[H, W, 3], with depth [H, W, 4]; no graph."""
    parameters: list[Tensor]
    arguments: tuple
    state: list[Tensor]

    @property
    def counts(self) -> Tensor:
        """[2] int32 on the device: visible Gaussians, entries of the tile lists."""
        return self.state[0]

    @property
    def sizes(self) -> tuple[int, int]:
        """Visible Gaussians and list entries that there was room for."""
        return self.state[1].numel(), self.state[5].numel()

    @property
    def transmittances(self) -> Tensor:
        """[H, W] what is left of the light behind the last Gaussian."""
        return self.state[6]


@dataclass(frozen=True)
class AdamStep:
    """A step of Adam as the kernels make it."""

    moments: Sequence[Tensor]
    """exp_avg of the six parameters, then exp_avg_sq."""
    rates: Sequence[float]
    """A step size for each, beta1, beta2, eps, 1 / sqrt(1 - beta2^t); see `adam_rates`."""
    last_steps: Tensor | None = None
    """[N] int32, the step up to which each Gaussian is. With it Adam is lazy: Gaussians that do not contribute are left
    as they are, and what dense Adam would have done to them in the steps they missed (zero gradients: their moments
    decay, and their old momentum moves them on) is added, in closed form, whenever they are looked at."""
    t: int = 0
    """The step, from 1."""

    def arguments(self) -> tuple:
        """As the ops take them."""
        return self.moments, self.rates, self.last_steps, self.t


@torch.no_grad()
def render_what_fits(parameters: Sequence[Tensor], view: View, room: Room, adam: AdamStep | None = None) -> Rendered:
    """Renders without waiting. If the room was too small the image is cut short; then `step` changes nothing, and the
    room grows when it hears of it. With a lazy Adam's step to come, Gaussians are drawn where dense Adam had them."""
    rendered = _forward(parameters, view, room, adam)
    room.watch(rendered.counts, len(parameters[0]), rendered.sizes)
    return rendered


@torch.no_grad()
def render_whole(parameters: Sequence[Tensor], view: View, room: Room, adam: AdamStep | None = None) -> Rendered:
    """Renders again in a larger room if need be; waits for the GPU."""
    while True:
        rendered = _forward(parameters, view, room, adam)
        if room.fits(rendered.counts, len(parameters[0]), rendered.sizes):
            return rendered


def _forward(parameters: Sequence[Tensor], view: View, room: Room, adam: AdamStep | None) -> Rendered:
    arguments, sizes = view.arguments(), room.sizes(len(parameters[0]))
    lazy = adam.arguments() if adam is not None and adam.last_steps is not None else _NO_ADAM
    image, state = torch.ops.distwar.fused_forward(parameters, *arguments, True, *sizes, False, "sw_t", 1, *lazy)
    return Rendered(image, list(parameters), arguments, state)


@torch.no_grad()
def blend_backward(
    rendered: Rendered, v_image: Tensor, absgrad: bool, reduction: Reduction, deterministic: bool = False
) -> Tensor:
    """The blend's gradients, a record for each visible Gaussian: [capacity, 12].

    Deterministic ones (strategy ``sw_t`` only) are the same to the last bit each time: they are summed as integers.
    """
    return torch.ops.distwar.fused_blend_backward(
        rendered.parameters, *rendered.arguments, rendered.state, v_image, None, absgrad, reduction.strategy,
        reduction.balance_threshold, deterministic,
    )  # fmt: skip


@torch.no_grad()
def traffic(params: Mapping[str, Tensor], view: View) -> AtomicTraffic:
    """What the blend's backward pass sends to the atomic units for this view; arguments as for `rasterize`."""
    rendered = render_whole(checked(params, view), view, room_of(params["means"].device))
    counts = torch.ops.distwar.fused_traffic(rendered.parameters, *rendered.arguments, rendered.state)
    return AtomicTraffic(counts.cpu(), CHANNELS + GEOMETRY_VALUES)


@torch.no_grad()
def gradients(
    rendered: Rendered, records: Tensor, absgrad: bool, statistics: Mapping[str, Tensor] | None
) -> list[Tensor]:
    """dL/d(parameters), dense; adds to the statistics `grad2d` and `count` [N] of densification, if given."""
    return torch.ops.distwar.fused_gradients(
        rendered.parameters, *rendered.arguments, rendered.state, records, absgrad, *_pair(statistics)
    )


@torch.no_grad()
def step(
    rendered: Rendered,
    records: Tensor,
    absgrad: bool,
    statistics: Mapping[str, Tensor] | None,
    adam: AdamStep,
) -> None:
    """Updates the parameters of the Gaussians that contributed to the image; the others stay as they are.

    Args:
        rendered: of the parameters as they still are, with the same `adam`.
        records: from `blend_backward`. absgrad: as it was given there.
        statistics: as for `gradients`.
        adam: moments, written.
    """
    torch.ops.distwar.fused_step(
        rendered.parameters,
        *rendered.arguments,
        rendered.state,
        records,
        absgrad,
        *_pair(statistics),
        *adam.arguments(),
    )


@torch.no_grad()
def catch_up(parameters: Sequence[Tensor], adam: AdamStep) -> None:
    """Makes up for what all Gaussians have missed under lazy Adam, up to step t."""
    torch.ops.distwar.fused_catch_up(parameters, *adam.arguments())


def adam_rates(learning_rates: Sequence[float], betas: tuple[float, float], eps: float, t: int) -> list[float]:
    """What `step` takes, for the t-th step (from 1): Adam's bias corrections as torch.optim.Adam makes them."""
    beta1, beta2 = betas
    return [*(rate / (1.0 - beta1**t) for rate in learning_rates), beta1, beta2, eps, (1.0 - beta2**t) ** -0.5]


def _pair(statistics: Mapping[str, Tensor] | None) -> tuple[Tensor | None, Tensor | None]:
    return (statistics["grad2d"], statistics["count"]) if statistics is not None else (None, None)


# ------------------------------------------------------------------------------------- registration with PyTorch

_VIEW = (
    " Tensor viewmat, Tensor K, Tensor? background, int width, int height, float[] planes, bool antialiased,"
    " bool with_depth, int sh_degree,"
)
LIBRARY.define(
    f"fused_forward(Tensor[] parameters,{_VIEW} bool with_slopes, int capacity, int list_capacity, bool absgrad,"
    " str strategy, int threshold, Tensor[] moments, float[] rates, Tensor? last_steps, int t)"
    " -> (Tensor image, Tensor[] state)"
)
LIBRARY.define(
    f"fused_blend_backward(Tensor[] parameters,{_VIEW} Tensor[] state, Tensor v_image, Tensor? v_transmittances,"
    " bool absgrad, str strategy, int threshold, bool deterministic) -> Tensor records"
)
# What features add to the blend's gradients goes back through the state's splats, whose "gradient" is records: so all
# of it is taken to the parameters at once.
LIBRARY.define(
    "fused_features(Tensor features, Tensor[] state, bool absgrad, str strategy, int threshold) -> Tensor image"
)
LIBRARY.define(
    "fused_features_backward(Tensor features, Tensor[] state, Tensor v_image, bool absgrad, str strategy,"
    " int threshold) -> (Tensor v_features, Tensor records)"
)
LIBRARY.define(f"fused_traffic(Tensor[] parameters,{_VIEW} Tensor[] state) -> Tensor")
LIBRARY.define(
    f"fused_gradients(Tensor[] parameters,{_VIEW} Tensor[] state, Tensor records, bool absgrad, Tensor(a!)? grad2d,"
    " Tensor(b!)? count) -> Tensor[]"
)
LIBRARY.define(
    f"fused_step(Tensor(a!)[] parameters,{_VIEW} Tensor[] state, Tensor records, bool absgrad, Tensor(b!)? grad2d,"
    " Tensor(c!)? count, Tensor(d!)[] moments, float[] rates, Tensor(e!)? last_steps, int t) -> ()"
)
LIBRARY.define(
    "fused_catch_up(Tensor(a!)[] parameters, Tensor(b!)[] moments, float[] rates, Tensor(c!) last_steps, int t) -> ()"
)


@torch.library.register_fake("distwar::fused_forward", lib=LIBRARY)
def _forward_fake(
    parameters, viewmat, K, background, width, height, planes, antialiased, with_depth, sh_degree, with_slopes,
    capacity, list_capacity, absgrad, strategy, threshold, moments, rates, last_steps, t,
):  # fmt: skip
    like, tiles = parameters[0], tile_grid(width, height)
    tiles = tiles[0] * tiles[1]
    slopes = capacity if with_slopes and sh_degree > 0 else 0
    ints = {"dtype": torch.int32}
    return like.new_empty(height, width, 4 if with_depth else 3), [
        like.new_empty(2, **ints),
        like.new_empty(capacity, **ints),
        like.new_empty(capacity, SPLAT_FLOATS),
        like.new_empty(9, slopes),
        like.new_empty(tiles + 1, **ints),
        like.new_empty(list_capacity, **ints),
        like.new_empty(height, width),
        like.new_empty(height, width, **ints),
        like.new_empty(list_capacity // WARP_SIZE + tiles, PATCHES_PER_TILE, **ints),
    ]


@torch.library.register_fake("distwar::fused_blend_backward", lib=LIBRARY)
def _blend_backward_fake(parameters, *rest):
    return torch.empty_like(rest[9][2])


@torch.library.register_fake("distwar::fused_features", lib=LIBRARY)
def _features_fake(features, state, absgrad, strategy, threshold):
    return features.new_empty(*state[6].shape, features.shape[1])


@torch.library.register_fake("distwar::fused_features_backward", lib=LIBRARY)
def _features_backward_fake(features, state, v_image, absgrad, strategy, threshold):
    return torch.empty_like(features), torch.empty_like(state[2])


@torch.library.register_fake("distwar::fused_gradients", lib=LIBRARY)
def _gradients_fake(parameters, *rest):
    return [torch.empty_like(parameter) for parameter in parameters]


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple) -> None:
    parameters, viewmat, K, background, *numbers = inputs
    state = output[1]
    ctx.save_for_backward(*parameters, viewmat, K, background, *state)
    ctx.view, (ctx.absgrad, ctx.strategy, ctx.threshold) = numbers[:6], numbers[9:12]
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, v_image: Tensor | None, v_state: Sequence[Tensor | None]) -> tuple:
    saved = ctx.saved_tensors
    parameters, (viewmat, K, background), state = list(saved[:6]), saved[6:9], list(saved[9:])
    view = (viewmat, K, background, *ctx.view)
    transmittances = state[6]
    v_splats, v_transmittances = (v_state[2], v_state[6]) if v_state else (None, None)
    if v_image is None and (v_splats is None or v_transmittances is not None):
        v_image = transmittances.new_zeros(*transmittances.shape, 4 if ctx.view[4] else 3)
    records = v_splats  # of the features, if any
    if v_image is not None:
        v_transmittances = None if v_transmittances is None else v_transmittances.contiguous()
        records = torch.ops.distwar.fused_blend_backward(
            parameters, *view, state, v_image.contiguous(), v_transmittances, ctx.absgrad, ctx.strategy, ctx.threshold,
            False,
        )  # fmt: skip
        if v_splats is not None:
            records += v_splats
    v_parameters = torch.ops.distwar.fused_gradients(parameters, *view, state, records, ctx.absgrad, None, None)
    wants_background = background is not None and v_image is not None and ctx.needs_input_grad[3]
    v_background = (v_image * transmittances[..., None]).sum(dim=(0, 1)) if wants_background else None
    return (v_parameters, None, None, v_background, *[None] * 12, [], [], None, None)  # as the empty lists that came


torch.library.register_autograd("distwar::fused_forward", _backward, setup_context=_save_for_backward, lib=LIBRARY)


def _save_features_for_backward(ctx: Any, inputs: tuple, output: Tensor) -> None:
    features, state, *ctx.choices = inputs
    ctx.save_for_backward(features, *state)


def _features_backward(ctx: Any, v_image: Tensor) -> tuple:
    features, *state = ctx.saved_tensors
    v_features, records = torch.ops.distwar.fused_features_backward(features, state, v_image.contiguous(), *ctx.choices)
    v_state = [records if index == 2 else None for index in range(len(state))]
    return (v_features, v_state, None, None, None)


torch.library.register_autograd(
    "distwar::fused_features", _features_backward, setup_context=_save_features_for_backward, lib=LIBRARY
)
