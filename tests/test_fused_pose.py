"""The gradient in the camera's pose, of the fused rasteriser's kernels: against float64 autograd of the reference."""

import pytest
import torch
from fused_scenes import View, random_features, random_params, random_view, weights
from random_scenes import assert_below, assert_close, relative_l2
from test_fused import BETAS, EPS, LEARNING_RATES, STEP, VIEWS, large_enough, moments_like
from torch import Tensor

from distwar_kernels import Reduction
from distwar_kernels.fused import capacity, fused
from distwar_kernels.fused.capacity import BufferSizes
from distwar_kernels.fused.fused import PARAMETERS, AdamStep
from distwar_kernels.fused.fused_reference import rasterize_reference

BOUND = 1e-4


def differentiated(
    rasterize, params: dict[str, Tensor], view: View, trained: bool, features: Tensor | None = None
) -> dict[str, Tensor]:
    """Of a random loss of image, alpha and features: dL/d(viewmats), and that of the parameters if `trained`."""
    like = params["means"]
    viewmats = view.camera.viewmats.to(like).clone().requires_grad_()
    leaves = {name: tensor.clone().requires_grad_(trained) for name, tensor in params.items()}
    more = {} if features is None else {"features": features.to(like)}
    image, alpha, *rest = rasterize(leaves, view.camera._replace(viewmats=viewmats), view.options, **more)
    outputs = (image, alpha) if features is None else (image, alpha, rest[-1])
    sum((output * weights(output)).sum() for output in outputs).backward()
    gradients = {f"v_{name}": leaf.grad for name, leaf in leaves.items()} if trained else {}
    return {name: g.cpu() for name, g in {"v_viewmats": viewmats.grad, **gradients}.items()}


def expected(params: dict[str, Tensor], view: View, features: Tensor | None = None) -> dict[str, Tensor]:
    doubles = {name: tensor.double() for name, tensor in params.items()}
    return differentiated(rasterize_reference, doubles, view, True, features)


def on(device: torch.device, params: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in params.items()}


@pytest.mark.parametrize("options", VIEWS.values(), ids=VIEWS.keys())
def test_against_the_reference(device, options):
    params, view = random_params(150, 3), random_view(1, **options)
    wanted = expected(params, view)
    for trained in (True, False):
        result = differentiated(fused.rasterize, on(device, params), view.to(device), trained)
        assert_close(result, {name: wanted[name] for name in result}, BOUND)
        assert result["v_viewmats"][0, 3].abs().max() == 0


def test_with_features(device):
    params, view, features = random_params(60, 5), random_view(2), random_features(60, 5)
    result = differentiated(fused.rasterize, on(device, params), view.to(device), True, features.to(device))
    assert_close(result, expected(params, view, features), BOUND)


def test_parameters_have_the_gradients_that_they_have_without(device):
    params, view = random_params(60, 3), random_view(1).to(device)
    with_pose = differentiated(fused.rasterize, on(device, params), view, True)
    leaves = {name: tensor.to(device).requires_grad_() for name, tensor in params.items()}
    sum((output * weights(output)).sum() for output in fused.rasterize(leaves, *view)).backward()
    assert_close(with_pose, {f"v_{name}": leaf.grad.cpu().double() for name, leaf in leaves.items()}, 1e-6)


# -------------------------------------------------------------------------------------------------- a step by hand

ADAMS = {"visible": False, "lazy": True}


def step_of(
    device: torch.device, lazy: bool, with_pose: bool, sizes: BufferSizes | None = None, prices=(0.0, 0.0)
) -> tuple[Tensor | None, list[Tensor]]:
    """dL/d(viewmats) of a step by hand, and the parameters after it. Lazy: some Gaussians are three steps behind."""
    params, view = random_params(300, 7), random_view(4).to(device)
    parameters = [params[name].to(device).clone() for name in PARAMETERS]
    last_steps = torch.full((300,), STEP - 1, dtype=torch.int32, device=device)
    last_steps[::2] -= 3
    rates = fused.adam_rates(LEARNING_RATES, BETAS, EPS, STEP, prices)
    adam = AdamStep(moments_like(parameters), rates, last_steps if lazy else None, STEP)
    sizes = sizes or large_enough(params, view, device)
    rendered = fused.render_what_fits(parameters, *view, sizes, adam)
    v_image = weights(rendered.image)
    records = fused.blend_backward(rendered, v_image, False, Reduction(), deterministic=True)
    v_viewmat = torch.full((1, 4, 4), torch.nan, device=device) if with_pose else None
    fused.step(rendered, records, False, None, adam, v_viewmat)
    return v_viewmat, parameters


@pytest.mark.parametrize("prices", [(0.0, 0.0), (1e-3, 2e-3)], ids=["free", "priced"])
@pytest.mark.parametrize("lazy", ADAMS.values(), ids=ADAMS.keys())
def test_a_step_leaves_the_gradient_in_the_pose_and_changes_nothing_else(device, lazy, prices):
    prices = prices if lazy else (0.0, 0.0)
    v_viewmat, moved = step_of(device, lazy, True, prices=prices)
    _, plain = step_of(device, lazy, False, prices=prices)
    assert all(map(torch.equal, moved, plain))
    params, view = random_params(300, 7), random_view(4)
    if lazy:  # where dense Adam would have the Gaussians before this step
        params = dict(zip(PARAMETERS, caught_up(params, prices, device), strict=True))
    wanted = drawn_without_alpha(params, view)
    assert relative_l2(v_viewmat.cpu(), wanted) < BOUND


def caught_up(params: dict[str, Tensor], prices, device: torch.device) -> list[Tensor]:
    """The parameters after the steps that `step_of` has them behind."""
    parameters = [params[name].to(device).clone() for name in PARAMETERS]
    last_steps = torch.full((300,), STEP - 1, dtype=torch.int32, device=device)
    last_steps[::2] -= 3
    rates = fused.adam_rates(LEARNING_RATES, BETAS, EPS, STEP, prices)
    fused.catch_up(parameters, AdamStep(moments_like(parameters), rates, last_steps, STEP - 1))
    return [parameter.cpu() for parameter in parameters]


def drawn_without_alpha(params: dict[str, Tensor], view: View) -> Tensor:
    """Float64 dL/d(viewmats) of the loss of `step_of`."""
    viewmats = view.camera.viewmats.double().requires_grad_()
    doubles = {name: tensor.double() for name, tensor in params.items()}
    image, *_ = rasterize_reference(doubles, view.camera._replace(viewmats=viewmats), view.options)
    (gradient,) = torch.autograd.grad((image * weights(image)).sum(), viewmats)
    return gradient


def test_the_order_of_sums_does_not_depend_on_the_buffers(device, monkeypatch):
    """So a resumed run, whose buffers are other ones, goes on to the same bits."""
    first, _ = step_of(device, True, True)
    monkeypatch.setattr(capacity, "_GRAIN", 1024)
    params, view = random_params(300, 7), random_view(4).to(device)
    second, _ = step_of(device, True, True, large_enough(params, view, device))
    assert torch.equal(first, second)


def test_a_view_that_outgrew_its_buffers_has_no_gradient(device, monkeypatch):
    monkeypatch.setattr(capacity, "_GRAIN", 8)
    monkeypatch.setattr(capacity, "_FIRST", (0.02, 0.02))
    v_viewmat, _ = step_of(device, True, True, BufferSizes())
    assert torch.equal(v_viewmat.cpu(), torch.zeros(1, 4, 4))


@pytest.mark.parametrize("n", [0, 1, 127, 129])
def test_other_numbers_of_gaussians(device, n):
    params, view = random_params(n, 2), random_view(1)
    result = differentiated(fused.rasterize, on(device, params), view.to(device), False)
    if n == 0:
        assert result["v_viewmats"].abs().max() == 0
    else:
        assert_close(result, {"v_viewmats": expected(params, view)["v_viewmats"]}, BOUND)


def test_opcheck(device):
    params, view = random_params(20, 3), random_view(1, width=20, height=18).to(device)
    parameters = [params[name].to(device) for name in PARAMETERS]
    rendered = fused.render_whole(parameters, *view, BufferSizes())
    records = fused.blend_backward(rendered, weights(rendered.image), False, Reduction())
    arguments = (parameters, *fused.view_arguments(*view), list(rendered.state.visible), None, 0, records)
    torch.library.opcheck(torch.ops.distwar.fused_pose_gradient.default, arguments)


def test_a_pose_of_another_size_is_refused(device):
    params, view = random_params(20, 3), random_view(1).to(device)
    rendered = fused.render_whole([params[name].to(device) for name in PARAMETERS], *view, BufferSizes())
    records = fused.blend_backward(rendered, weights(rendered.image), False, Reduction())
    with pytest.raises(RuntimeError, match="v_viewmat is not of one camera"):
        fused.gradients(rendered, records, False, None, torch.zeros(2, 4, 4, device=device))


@pytest.mark.gpu
def test_cuda_over_many_seeds(seeds):
    errors = {}
    for seed in seeds:
        params, view = random_params(400, seed), random_view(seed, antialiased=seed % 2 == 1, with_depth=seed % 3 == 1)
        device = torch.device("cuda")
        result = differentiated(fused.rasterize, on(device, params), view.to(device), seed % 2 == 0)
        errors[seed] = relative_l2(result["v_viewmats"], expected(params, view)["v_viewmats"])
    assert_below(errors, 1e-3)


# ------------------------------------------------------------------------------------------------- the other engine


@pytest.mark.parametrize("options", [{}, {"antialiased": True}, {"sh_degree": 0}, {"width": 50, "height": 2}], ids=str)
def test_the_ops_one_after_another_have_it_too(options):
    from distwar_gs.rendering.renderer import RenderSettings, render

    def composed(params, camera, drawing):
        settings = RenderSettings(drawing.near_plane, drawing.far_plane, drawing.antialiased)
        rendering = render(params, camera, settings, sh_degree=drawing.sh_degree, background=drawing.background)
        return rendering.colors[0], rendering.alphas[0]

    params, view = random_params(150, 3), random_view(1, **options)
    assert_close(differentiated(composed, params, view, True), expected(params, view), BOUND)
