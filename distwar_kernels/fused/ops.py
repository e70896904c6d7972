"""The fused rasteriser's ops: schemas, fake kernels and formulas of autograd. fused.cpp registers the kernels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distwar_kernels import cameras
from distwar_kernels.fused.state import BlendState, VisibleSplats
from distwar_kernels.library import LIBRARY, InputGradients

PARAMETERS = ("means", "quats", "scales", "opacities", "sh0", "shN")
"""The six tensors of the argument `parameters`, in order."""
_SPLATS = VisibleSplats._fields.index("splats")
_TRANSMITTANCES = BlendState._fields.index("transmittances")

_VIEW = f"{cameras.SCHEMA}, float[] planes, bool antialiased, bool with_depth, int sh_degree"
_CHOICES = "bool absgrad, str strategy, int threshold"
_ADAM = "float[] rates, Tensor? last_steps, int t"
LIBRARY.define(
    f"fused_project(Tensor[] parameters, {_VIEW}, bool with_slopes, int capacity, Tensor[] moments, {_ADAM})"
    " -> Tensor[] visible"
)
LIBRARY.define(
    "fused_blend(Tensor total, Tensor splats, Tensor depths, int[] image, Tensor? background, bool with_depth,"
    f" int list_capacity, {_CHOICES}) -> (Tensor colors, Tensor[] blend)"
)
LIBRARY.define(
    "fused_blend_backward(Tensor splats, Tensor[] blend, Tensor? background, Tensor v_image,"
    f" Tensor? v_transmittances, {_CHOICES}, bool deterministic, Tensor? errors=None) -> Tensor records"
)
# What features add to the blend's gradients goes back through the state's splats, whose "gradient" is records: so all
# of it is taken to the parameters at once.
LIBRARY.define(f"fused_features(Tensor features, Tensor[] visible, Tensor[] blend, {_CHOICES}) -> Tensor image")
LIBRARY.define(
    f"fused_features_backward(Tensor features, Tensor[] visible, Tensor[] blend, Tensor v_image, {_CHOICES})"
    " -> (Tensor v_features, Tensor records)"
)
LIBRARY.define("fused_traffic(Tensor splats, Tensor[] blend) -> Tensor")
LIBRARY.define(
    f"fused_gradients(Tensor[] parameters, {_VIEW}, Tensor[] visible, Tensor? counts, int list_capacity,"
    " Tensor records, bool absgrad, Tensor(a!)? grad2d, Tensor(b!)? count, Tensor(c!)? score,"
    " Tensor(d!)? v_viewmat=None) -> Tensor[]"
)
LIBRARY.define(
    f"fused_add_gradients(Tensor[] parameters, {_VIEW}, Tensor[] visible, Tensor? counts, int list_capacity,"
    " Tensor records, bool absgrad, Tensor(a!)? grad2d, Tensor(b!)? count, Tensor(c!)? score, Tensor(d!)[] sums) -> ()"
)
LIBRARY.define(
    f"fused_step(Tensor(a!)[] parameters, {_VIEW}, Tensor[] visible, Tensor? counts, int list_capacity, Tensor records,"
    " bool absgrad, Tensor(b!)? grad2d, Tensor(c!)? count, Tensor(d!)? score, Tensor(g!)? v_viewmat,"
    " Tensor(e!)[] moments, float[] rates, Tensor(f!)? last_steps, int t) -> ()"
)
LIBRARY.define(
    f"fused_pose_gradient(Tensor[] parameters, {_VIEW}, Tensor[] visible, Tensor? counts, int list_capacity,"
    " Tensor records) -> Tensor v_viewmat"
)
LIBRARY.define(
    "fused_catch_up(Tensor(a!)[] parameters, Tensor(b!)[] moments, float[] rates, Tensor(c!) last_steps, int t) -> ()"
)


@torch.library.register_fake("distwar::fused_project", lib=LIBRARY)
def _project_fake(
    parameters, model, camera, image, planes, antialiased, with_depth, sh_degree, with_slopes, capacity, *adam
):  # fmt: skip
    return list(VisibleSplats.empty(parameters[0], capacity, with_slopes and sh_degree > 0))


@torch.library.register_fake("distwar::fused_blend", lib=LIBRARY)
def _blend_fake(total, splats, depths, image, background, with_depth, list_capacity, *choices):
    width, height = image
    colors = splats.new_empty(height, width, 4 if with_depth else 3)
    return colors, list(BlendState.empty(splats, width, height, list_capacity))


@torch.library.register_fake("distwar::fused_blend_backward", lib=LIBRARY)
def _blend_backward_fake(splats, *rest):
    return torch.empty_like(splats)


@torch.library.register_fake("distwar::fused_features", lib=LIBRARY)
def _features_fake(features, visible, blend, *choices):
    return features.new_empty(*BlendState(*blend).transmittances.shape, features.shape[1])


@torch.library.register_fake("distwar::fused_features_backward", lib=LIBRARY)
def _features_backward_fake(features, visible, *rest):
    return torch.empty_like(features), torch.empty_like(VisibleSplats(*visible).splats)


@torch.library.register_fake("distwar::fused_gradients", lib=LIBRARY)
def _gradients_fake(parameters, *rest):
    return [torch.empty_like(parameter) for parameter in parameters]


@torch.library.register_fake("distwar::fused_pose_gradient", lib=LIBRARY)
def _pose_gradient_fake(parameters, *rest):
    return parameters[0].new_empty(1, 4, 4)


def _save_for_project_backward(ctx: Any, inputs: tuple, output: list[Tensor]) -> None:
    parameters, model, camera, *numbers = inputs
    ctx.save_for_backward(*parameters, *camera, *output)
    ctx.model, ctx.numbers = model, numbers[:5]  # the rest of _VIEW
    ctx.trains = any(parameter.requires_grad for parameter in parameters)
    ctx.moves = camera[0].requires_grad
    ctx.gradients = InputGradients("fused_project", inputs)
    ctx.set_materialize_grads(False)


def _project_backward(ctx: Any, v_visible: Sequence[Tensor | None] | None) -> tuple:
    """From records to the parameters, and to the camera's pose."""
    records = v_visible[_SPLATS] if v_visible else None
    if records is None:
        return ctx.gradients.of()
    saved = iter(ctx.saved_tensors)
    parameters, camera = ([next(saved) for _ in range(count)] for count in (len(PARAMETERS), 2))
    arguments = (parameters, ctx.model, camera, *ctx.numbers, list(saved), None, 0, records)
    if not ctx.trains:
        return ctx.gradients.of(camera=[torch.ops.distwar.fused_pose_gradient(*arguments), None])
    v_viewmat = torch.empty_like(camera[0]) if ctx.moves else None
    v_parameters = torch.ops.distwar.fused_gradients(*arguments, False, *(None,) * 3, v_viewmat)
    return ctx.gradients.of(parameters=v_parameters, camera=[v_viewmat, None])


torch.library.register_autograd(
    "distwar::fused_project", _project_backward, setup_context=_save_for_project_backward, lib=LIBRARY
)


def _save_for_blend_backward(ctx: Any, inputs: tuple, output: tuple[Tensor, list[Tensor]]) -> None:
    _, splats, _, _, background, *_ = inputs
    colors, blend = output
    ctx.save_for_backward(splats, background, *blend)
    ctx.channels, ctx.choices = colors.shape[-1], inputs[-3:]
    ctx.gradients = InputGradients("fused_blend", inputs)
    ctx.set_materialize_grads(False)


def _blend_backward(ctx: Any, v_image: Tensor | None, v_blend: Sequence[Tensor | None] | None) -> tuple:
    """From the image and the transmittances to records."""
    splats, background, *blend = ctx.saved_tensors
    transmittances = BlendState(*blend).transmittances
    v_transmittances = v_blend[_TRANSMITTANCES] if v_blend else None
    if v_image is None and v_transmittances is None:
        return ctx.gradients.of()
    if v_image is None:
        v_image = splats.new_zeros(*transmittances.shape, ctx.channels)
    records = torch.ops.distwar.fused_blend_backward(
        splats, blend, background, v_image.contiguous(),
        None if v_transmittances is None else v_transmittances.contiguous(), *ctx.choices, False,
    )  # fmt: skip
    wants_background = background is not None and ctx.gradients.wants(ctx, "background")
    v_background = (v_image * transmittances[..., None]).sum(dim=(0, 1)) if wants_background else None
    return ctx.gradients.of(splats=records, background=v_background)


torch.library.register_autograd(
    "distwar::fused_blend", _blend_backward, setup_context=_save_for_blend_backward, lib=LIBRARY
)


def _save_features_for_backward(ctx: Any, inputs: tuple, output: Tensor) -> None:
    features, visible, blend, *ctx.choices = inputs
    ctx.visible = len(visible)
    ctx.save_for_backward(features, *visible, *blend)
    ctx.gradients = InputGradients("fused_features", inputs)


def _features_backward(ctx: Any, v_image: Tensor) -> tuple:
    features, *state = ctx.saved_tensors
    visible, blend = state[: ctx.visible], state[ctx.visible :]
    v_features, records = torch.ops.distwar.fused_features_backward(
        features, visible, blend, v_image.contiguous(), *ctx.choices
    )
    v_visible = [records if index == _SPLATS else None for index in range(ctx.visible)]
    return ctx.gradients.of(features=v_features, visible=v_visible)


torch.library.register_autograd(
    "distwar::fused_features", _features_backward, setup_context=_save_features_for_backward, lib=LIBRARY
)
