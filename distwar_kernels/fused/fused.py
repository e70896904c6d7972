"""The fused rasteriser: from trained parameters to an image and back in a few kernels, without a host sync. CUDA only.

It must equal the unfused ops, which are its reference (project_gaussians, spherical_harmonics, intersect_tiles,
rasterize_to_pixels): read those to understand this. What it leaves out is the memory between them, tiles that an
ellipse's box touches but the ellipse does not, and gradients of what is not seen.

Two ops make an image. `fused_project` leaves the visible splats, `fused_blend` lists and blends them: between the two
GPUs can exchange splats. Each has a backward op of its own, and what goes back across the joint are gradient records.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distwar_kernels import loader
from distwar_kernels.blend.traffic import GEOMETRY_VALUES
from distwar_kernels.cameras import Cameras
from distwar_kernels.fused.adam_step import AdamStep
from distwar_kernels.fused.capacity import BufferSizes, shared_sizes
from distwar_kernels.fused.ops import PARAMETERS
from distwar_kernels.fused.state import BlendState, FusedState, VisibleSplats
from distwar_kernels.library import by_hand
from distwar_kernels.reduction import Reduction
from distwar_kernels.shapes import check_features, check_shapes
from distwar_kernels.traffic import AtomicTraffic
from distwar_kernels.tuner import resolve

CHANNELS = 3
_DEFAULT = Reduction()


@dataclass(frozen=True)
class DrawOptions:
    """How a camera's view is to be drawn."""

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

    def padded_background(self) -> Tensor | None:
        """With a zero for the depth, if that is blended."""
        if self.background is None or not self.with_depth:
            return self.background
        return torch.cat([self.background, self.background.new_zeros(1)])


_NO_ADAM = AdamStep([], [])


def rasterize(
    params: Mapping[str, Tensor],
    camera: Cameras,
    options: DrawOptions,
    *,
    features: Tensor | None = None,  # [N, F]
    absgrad: bool = False,
    reduction: Reduction = _DEFAULT,
    adam: AdamStep | None = None,
) -> tuple[Tensor, ...]:
    """Renders the Gaussians; differentiable in all six parameters, the camera's viewmats, the background, and in the
    features.

    Args:
        params: means [N, 3], quats [N, 4] (wxyz), scales [N, 3] (log), opacities [N] (logit), sh0 [N, 1, 3] and
            shN [N, K, 3]: as they are trained, float32 on one CUDA device.
        camera: one (C = 1).
        options: how its view is drawn.
        features: per-Gaussian numbers [N, F], alpha-blended like colours over a zero background, four in a pass. One
            that is not finite counts as 0 and has no gradient, so that it spoils no pixel.
        absgrad: let the backward pass sum absolute gradients too (the result is not returned by this function; only its
            cost is measurable); with features those of all passes, an upper bound.
        reduction: where the blend's gradients are summed; not "gsplat".
        adam: lazy Adam's next step: Gaussians are drawn where dense Adam would have them before it.

    Returns:
        Colours [H, W, 3] (with depth [H, W, 4], weighted by alpha) and alphas [H, W, 1]; if there are features, a third
        image [H, W, F] of them, weighted by alpha: 0 where nothing is seen.

    Raises:
        ValueError: shapes disagree, features have no channels, there is more than one camera, tensors are not on CUDA,
            or the reduction is gsplat's.
        KernelError: the kernels cannot be built here.
    """
    check_features(features, len(params["means"]))
    parameters = checked(params, camera, reduction)
    device = parameters[0].device
    reduction, _ = resolve(reduction, device)
    choices = (absgrad, reduction.strategy, reduction.balance_threshold)
    with_slopes = torch.is_grad_enabled() and any(t.requires_grad for t in (*parameters, camera.viewmats))
    image, state = _whole(shared_sizes(device), parameters, camera, options, with_slopes, choices, adam)
    outputs = (image, 1.0 - state.blend.transmittances[..., None])
    if features is None:
        return outputs
    return *outputs, torch.ops.distwar.fused_features(features.contiguous(), state.visible, state.blend, *choices)


def checked(params: Mapping[str, Tensor], camera: Cameras, reduction: Reduction = _DEFAULT) -> list[Tensor]:
    """The parameters as the ops take them, with the kernels loaded. Raises as `rasterize` does."""
    parameters = [params[name] for name in PARAMETERS]
    n, means = len(params["means"]), params["means"]
    harmonics = params["shN"].shape[1:2]
    shapes = ((n, 3), (n, 4), (n, 3), (n,), (n, 1, 3), (n, *harmonics, 3))
    check_shapes(dict(zip(PARAMETERS, zip(parameters, shapes, strict=True), strict=True)))
    camera.check(count=1)
    if reduction.strategy == "gsplat":
        raise ValueError("reduction 'gsplat' is gsplat's own rasteriser: the fused one has no part for it")
    _require_cuda(means)
    return [parameter.contiguous() for parameter in parameters]


def _require_cuda(means: Tensor) -> None:
    if not means.is_cuda:
        raise ValueError(f"the fused rasteriser runs on CUDA, means are on {means.device}")
    loader.load("cuda")


def view_arguments(camera: Cameras, options: DrawOptions) -> tuple:
    """As the ops take them: the arguments after `parameters`."""
    planes = (options.near_plane, options.far_plane)
    return *camera.arguments(), planes, options.antialiased, options.with_depth, options.sh_degree


def _draw(
    capacities: tuple[int, int],
    parameters: Sequence[Tensor],
    camera: Cameras,
    options: DrawOptions,
    with_slopes: bool,
    choices: tuple[bool, str, int],
    adam: AdamStep | None,
) -> tuple[Tensor, FusedState]:
    """An image, cut short if the buffers are too small. choices: absgrad, strategy, threshold of a backward pass."""
    lazy = adam if adam is not None and adam.last_steps is not None else _NO_ADAM
    capacity, list_capacity = capacities
    visible = VisibleSplats(
        *torch.ops.distwar.fused_project(
            parameters, *view_arguments(camera, options), with_slopes, capacity, *lazy.arguments()
        )
    )
    image, blend = torch.ops.distwar.fused_blend(
        visible.total, visible.splats, visible.depths, [camera.width, camera.height], options.padded_background(),
        options.with_depth, list_capacity, *choices,
    )  # fmt: skip
    return image, FusedState(visible, BlendState(*blend))


def _whole(
    sizes: BufferSizes, parameters: Sequence[Tensor], camera: Cameras, *arguments: Any
) -> tuple[Tensor, FusedState]:
    """`_draw` in buffers that are large enough; waits for the GPU."""
    most = _most_splats(parameters, camera)
    while True:
        capacities = sizes.capacities(most)
        image, state = _draw(capacities, parameters, camera, *arguments)
        if sizes.fits(state.blend.counts, most, capacities):
            return image, state


def _most_splats(parameters: Sequence[Tensor], camera: Cameras) -> int:
    """That the Gaussians can have in an image."""
    return camera.lens.most_splats * len(parameters[0])


# ------------------------------------------------------------------------------------------------- for training loops


@dataclass(frozen=True)
class Rendered:
    """What a camera saw, for a backward pass by hand."""

    image: Tensor
    """[H, W, 3], with depth [H, W, 4]; no graph."""
    state: FusedState
    parameters: list[Tensor]
    camera: Cameras
    options: DrawOptions

    @property
    def counts(self) -> Tensor:
        """[2] int32 on the device: visible Gaussians, entries of the tile lists."""
        return self.state.blend.counts

    @property
    def transmittances(self) -> Tensor:
        """[H, W] what is left of the light behind the last Gaussian."""
        return self.state.blend.transmittances


_BY_HAND = (True, (False, "sw_t", 1))  # with slopes; the choices are those of autograd's backward pass, if there is one


@by_hand
def render_what_fits(
    parameters: Sequence[Tensor],
    camera: Cameras,
    options: DrawOptions,
    sizes: BufferSizes,
    adam: AdamStep | None = None,
) -> Rendered:
    """Renders without waiting. If the buffers were too small the image is cut short; then `step` changes nothing, and
    `sizes` grow when the counts reach the host. With a lazy Adam's step to come, Gaussians are drawn where dense Adam
    would have them."""
    most = _most_splats(parameters, camera)
    capacities = sizes.capacities(most)
    image, state = _draw(capacities, parameters, camera, options, *_BY_HAND, adam)
    sizes.watch(state.blend.counts, most, capacities)
    return Rendered(image, state, list(parameters), camera, options)


@by_hand
def render_whole(
    parameters: Sequence[Tensor],
    camera: Cameras,
    options: DrawOptions,
    sizes: BufferSizes,
    adam: AdamStep | None = None,
) -> Rendered:
    """Renders again in larger buffers if need be; waits for the GPU."""
    image, state = _whole(sizes, parameters, camera, options, *_BY_HAND, adam)
    return Rendered(image, state, list(parameters), camera, options)


@by_hand
def blend_backward(
    rendered: Rendered,
    v_image: Tensor,
    absgrad: bool,
    reduction: Reduction,
    deterministic: bool = False,
    errors: Tensor | None = None,
    v_transmittances: Tensor | None = None,
) -> Tensor:
    """The blend's gradients, a record for each visible Gaussian: [capacity, 12].

    Deterministic ones (strategy ``sw_t`` only) are the same to the last bit each time: they are summed as integers.

    Args:
        rendered: from `render_what_fits` or `render_whole`. v_image: dL/d(its image).
        absgrad: also sums of absolute gradients.
        reduction: where they are summed.
        deterministic: see above.
        errors: [H, W], at least 0: how wrong each pixel is. The last word of a record is then the sum over pixels of
            the Gaussian's weight (alpha times transmittance) times this, from which `step` makes a score.
        v_transmittances: dL/d(its transmittances) [H, W], if the loss depends on them.

    Raises:
        ValueError: there are errors, and depth is blended: the last word of a record is its gradient.
    """
    if errors is not None and rendered.options.with_depth:
        raise ValueError("errors are summed where the gradient of the depth would be: render without depth for them")
    return torch.ops.distwar.fused_blend_backward(
        rendered.state.visible.splats, rendered.state.blend, rendered.options.padded_background(), v_image,
        v_transmittances,
        absgrad, reduction.strategy, reduction.balance_threshold, deterministic, errors,
    )  # fmt: skip


@by_hand
def traffic(params: Mapping[str, Tensor], camera: Cameras, options: DrawOptions) -> AtomicTraffic:
    """What the blend's backward pass sends to the atomic units for this view; arguments as for `rasterize`."""
    rendered = render_whole(checked(params, camera), camera, options, shared_sizes(params["means"].device))
    counts = torch.ops.distwar.fused_traffic(rendered.state.visible.splats, rendered.state.blend)
    return AtomicTraffic(counts.cpu(), CHANNELS + GEOMETRY_VALUES)


@by_hand
def gradients(
    rendered: Rendered,
    records: Tensor,
    absgrad: bool,
    statistics: Mapping[str, Tensor] | None,
    v_viewmat: Tensor | None = None,
) -> list[Tensor]:
    """dL/d(parameters), dense. Writes dL/d(viewmats) to v_viewmat [1, 4, 4], if given (zeros for a view that outgrew
    its buffers; the order of its sums is fixed). Adds to those statistics of densification [N] that are given:

    `grad2d` the length of the projected centre's gradient, in units of half the image; `count` 1 where it is visible;
    `score` the square root of the errors that `blend_backward` has summed. (The root: what many views get wrong counts
    more than what one photo shows.)
    """
    return torch.ops.distwar.fused_gradients(*_backward_arguments(rendered, records, absgrad, statistics), v_viewmat)


@by_hand
def step(
    rendered: Rendered,
    records: Tensor,
    absgrad: bool,
    statistics: Mapping[str, Tensor] | None,
    adam: AdamStep,
    v_viewmat: Tensor | None = None,
) -> None:
    """Updates the parameters of the Gaussians that contributed to the image; the others stay as they are.

    Args:
        rendered: of the parameters as they still are, with the same `adam`.
        records: from `blend_backward`. absgrad: as it was given there.
        statistics: as for `gradients`.
        adam: moments, written.
        v_viewmat: as for `gradients`: of the parameters as they still are.
    """
    arguments = _backward_arguments(rendered, records, absgrad, statistics)
    torch.ops.distwar.fused_step(*arguments, v_viewmat, *adam.arguments())


def counted(statistics: Mapping[str, Tensor] | None) -> list[Tensor | None]:
    """Of densification, in the order in which the ops take them."""
    return [(statistics or {}).get(name) for name in ("grad2d", "count", "score")]


def _backward_arguments(
    rendered: Rendered, records: Tensor, absgrad: bool, statistics: Mapping[str, Tensor] | None
) -> tuple:
    view, blend = view_arguments(rendered.camera, rendered.options), rendered.state.blend
    size = (blend.counts, len(blend.flatten_ids))
    return rendered.parameters, *view, rendered.state.visible, *size, records, absgrad, *counted(statistics)


@by_hand
def catch_up(parameters: Sequence[Tensor], adam: AdamStep) -> None:
    """Applies to all Gaussians what they have skipped under lazy Adam, up to step t."""
    torch.ops.distwar.fused_catch_up(parameters, *adam.arguments())


def adam_rates(
    learning_rates: Sequence[float],
    betas: tuple[float, float],
    eps: float,
    t: int,
    prices: tuple[float, float] = (0.0, 0.0),
) -> list[float]:
    """What `step` takes, for the t-th step (from 1): Adam's bias corrections as torch.optim.Adam makes them.

    prices: of opacity and of scale: the loss of every step, also of those that skip a Gaussian, has these times the
    sums of all opacities and of all scales beside the image's part. For lazy Adam only.
    """
    beta1, beta2 = betas
    corrected = [rate / (1.0 - beta1**t) for rate in learning_rates]
    return [*corrected, beta1, beta2, eps, (1.0 - beta2**t) ** -0.5, *prices]
