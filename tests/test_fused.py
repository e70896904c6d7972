"""The fused rasteriser against its float64 reference: its kernels run thread by thread on the CPU, and on a GPU."""

import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from fused_scenes import View, random_features, random_params, random_view, render_and_differentiate, weights
from random_scenes import assert_below, assert_close, relative_l2
from torch import Tensor

from distwar_kernels import MODELS, Cameras, Reduction
from distwar_kernels.fused import capacity, fused
from distwar_kernels.fused.capacity import BufferSizes
from distwar_kernels.fused.fused import PARAMETERS, AdamStep, DrawOptions
from distwar_kernels.fused.fused_reference import rasterize_reference
from distwar_kernels.fused.state import BlendState, VisibleSplats

BOUND = 2e-5
VIEWS = {
    "off-centre": {},
    "antialiased": {"antialiased": True},
    "with-depth": {"with_depth": True},
    "no-harmonics": {"sh_degree": 0},
    "degree-1-black": {"sh_degree": 1, "background": None},
    "degree-2": {"sh_degree": 2},
    "one-pixel": {"width": 1, "height": 1},
    "one-row": {"width": 50, "height": 2},
    **{model: {"model": model} for model in MODELS if model != "pinhole"},
}


def lens_bound(device: torch.device) -> float:
    """Of lenses that bend: a GPU's fast angles and roots are less exact than a CPU's."""
    return 1e-4 if device.type == "cuda" else BOUND


def results(
    params: dict[str, Tensor], view: View, device: torch.device, features: Tensor | None = None, **options: object
) -> dict[str, Tensor]:
    params = {name: tensor.to(device) for name, tensor in params.items()}
    features = None if features is None else features.to(device)
    rendered = render_and_differentiate(params, view.to(device), partial(fused.rasterize, **options), features)
    return {name: tensor.cpu() for name, tensor in rendered.items()}


def expected(params: dict[str, Tensor], view: View, features: Tensor | None = None) -> dict[str, Tensor]:
    params = {name: tensor.double() for name, tensor in params.items()}
    features = None if features is None else features.double()
    return render_and_differentiate(params, view, rasterize_reference, features)


# ------------------------------------------------------------------------------------------------ image and gradients


@pytest.mark.parametrize("options", VIEWS.values(), ids=VIEWS.keys())
def test_against_the_reference(device, options):
    params, view = random_params(60, 3), random_view(1, **options)
    bound = lens_bound(device) if "model" in options else BOUND
    assert_close(results(params, view, device), expected(params, view), bound)


@pytest.mark.parametrize("reduction", [Reduction("atomic"), Reduction("sw_s"), Reduction("sw_b"), Reduction("sw_t", 8)])
def test_every_reduction(device, reduction):
    params, view = random_params(40, 5), random_view(2, width=18, height=17)
    assert_close(results(params, view, device, reduction=reduction), expected(params, view), BOUND)


def test_large_and_tiny_gaussians(device):
    params, view = random_params(30, 8), random_view(3, width=70, height=50)
    params["scales"][:10] += 4.0
    params["scales"][10:20] -= 4.0
    assert_close(results(params, view, device), expected(params, view), BOUND)


def test_fewer_harmonics_than_the_model_has_stay_without_gradient(device):
    result = results(random_params(20, 1), random_view(1, sh_degree=1), device)
    assert result["v_shN"][:, :3].abs().max() > 0 and result["v_shN"][:, 3:].abs().max() == 0


@pytest.mark.gpu
def test_cuda_over_many_seeds(seeds):
    errors = {}
    for seed in seeds:
        params, view = random_params(200, seed), random_view(seed, antialiased=seed % 2 == 1, with_depth=seed % 3 == 1)
        actual, wanted = results(params, view, torch.device("cuda")), expected(params, view)
        errors[seed] = max(relative_l2(actual[name], wanted[name]) for name in wanted)
    assert_below(errors, 1e-4)


# --------------------------------------------------------------------------------------------------- what ops leave


def fields_in_cpp(struct: str) -> tuple[str, ...]:
    source = (Path(fused.__file__).parent / "fused_tensors.h").read_text(encoding="utf-8")
    declared = re.search(rf"struct {struct} {{\s+Tensor ([^;]+);", source).group(1)
    travelling = re.search(
        rf"struct {struct} {{.*?tensors\(\) const {{\s*return {{([^}}]+)}};", source, re.DOTALL
    ).group(1)
    names = tuple(re.findall(r"\w+", declared))
    assert names == tuple(re.findall(r"\w+", travelling))
    return names


def test_states_have_the_same_fields_in_cpp():
    assert fields_in_cpp("VisibleTensors") == VisibleSplats._fields
    assert fields_in_cpp("BlendTensors") == BlendState._fields


@pytest.mark.parametrize("options", [{}, {"sh_degree": 0}, {"with_depth": True, "background": None}], ids=str)
def test_states_are_as_their_fakes_and_their_docstrings(device, options):
    params, view = random_params(60, 3), random_view(1, **options).to(device)
    rendered = fused.render_whole([params[name].to(device) for name in PARAMETERS], *view, BufferSizes())
    visible, blend = rendered.state
    capacity, list_capacity = rendered.state.capacities
    slopes = view.options.sh_degree > 0
    fakes = (
        *VisibleSplats.empty(rendered.image, capacity, slopes), *BlendState.empty(rendered.image, 40, 33, list_capacity)
    )  # fmt: skip
    for name, real, fake in zip(visible._fields + blend._fields, (*visible, *blend), fakes, strict=True):
        assert (real.shape, real.dtype) == (fake.shape, fake.dtype), name
    held, entries = rendered.counts.tolist()
    assert int(visible.total) == held <= capacity and entries <= list_capacity
    ids = visible.gaussian_ids[:held]
    assert (ids.diff() > 0).all()
    depths = view.camera.viewmats[0, 2, :3] @ params["means"].to(device)[ids.long()].T + view.camera.viewmats[0, 2, 3]
    torch.testing.assert_close(visible.depths[:held], depths)
    assert blend.isect_offsets[-1] == entries and (blend.flatten_ids[:entries] < held).all()
    assert (blend.last_ids < entries).all() and torch.equal(blend.last_ids >= 0, blend.transmittances < 1)


def test_splats_may_come_from_elsewhere(device):
    """The joint: two halves of the Gaussians projected apart and put together are blended as all of them at once, and
    the records go back to where their splats came from."""
    params, view = random_params(60, 3), random_view(1).to(device)
    params = {name: tensor.to(device) for name, tensor in params.items()}
    whole = fused.render_whole([params[name] for name in PARAMETERS], *view, BufferSizes())
    halves = [
        fused.render_whole([params[name][part] for name in PARAMETERS], *view, BufferSizes()).state.visible
        for part in (slice(0, 30), slice(30, 60))
    ]
    held = [int(half.total) for half in halves]
    together = [torch.cat([getattr(half, name)[:n] for half, n in zip(halves, held, strict=True)])
                for name in ("splats", "depths")]  # fmt: skip
    count = torch.tensor([sum(held)], dtype=torch.int32, device=device)
    image, blend = torch.ops.distwar.fused_blend(
        count, *together, [40, 33], view.options.background, False, len(whole.state.blend.flatten_ids), False, "sw_t", 1
    )
    blend = BlendState(*blend)
    assert torch.equal(image, whole.image) and torch.equal(blend.counts, whole.counts)
    v_image = weights(image)
    records = torch.ops.distwar.fused_blend_backward(
        together[0], blend, view.options.background, v_image, None, False, "sw_t", 1, True
    )
    wanted = fused.blend_backward(whole, v_image, False, Reduction(), deterministic=True)
    assert torch.equal(records, wanted[: sum(held)])


def test_a_loss_of_the_background_alone(device):
    params, (camera, options) = random_params(40, 3), random_view(1).to(device)
    params = {name: tensor.to(device) for name, tensor in params.items()}
    background = options.background.clone().requires_grad_()
    image, alpha = fused.rasterize(params, camera, replace(options, background=background))
    (gradient,) = torch.autograd.grad(image.sum(), background)
    torch.testing.assert_close(gradient, (1 - alpha).sum().expand(3))


# -------------------------------------------------------------------------------------------------- what is not seen


def with_one(changes: dict[str, object]) -> dict[str, Tensor]:
    params = random_params(20, 4)
    for name, value in changes.items():
        params[name][7] = torch.as_tensor(value)
    return params


BROKEN = {
    "nan-mean": {"means": math.nan},
    "infinite-scale": {"scales": 200.0},
    "nan-quaternion": {"quats": math.nan},
    "nan-opacity": {"opacities": math.nan},
    "infinite-opacity": {"opacities": math.inf},
    "infinitely-small": {"scales": -math.inf},
    "nan-harmonic": {"shN": math.nan},
    "behind": {"means": [0.0, 0.0, -3.0]},
    "at-the-camera": {"means": [0.0, 0.0, 0.0]},
    "transparent": {"opacities": -20.0},
}


@pytest.mark.parametrize("changes", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_or_unseen_gaussian_is_left_out(device, changes):
    params, view = with_one(changes), random_view(1)
    keep = torch.arange(20) != 7
    alone = expected({name: tensor[keep] for name, tensor in params.items()}, view)
    result = results(params, view, device)
    for name in (f"v_{name}" for name in PARAMETERS):
        assert result[name][7].abs().max() == 0
        result[name] = result[name][keep]
    assert_close(result, alone, BOUND)


@pytest.mark.parametrize("n", [0, 1])
def test_next_to_no_gaussians(device, n):
    params, view = random_params(n, 2), random_view(1)
    result = results(params, view, device)
    if n == 0:
        assert torch.equal(result["image"], view.options.background.expand(33, 40, 3)) and result["alpha"].max() == 0
    else:
        assert_close(result, expected(params, view), 1e-4)  # of one small Gaussian, nothing averages out


# ------------------------------------------------------------------------------------------------------ N-D features

FEATURES = {
    "one-black": (1, {"background": None}),
    "three-antialiased": (3, {"antialiased": True}),
    "four-with-depth": (4, {"with_depth": True}),
    "five": (5, {"sh_degree": 0}),
    "seventeen": (17, {"antialiased": True, "with_depth": True}),
    "one-pixel": (2, {"width": 1, "height": 1}),
}


@pytest.mark.parametrize(("channels", "options"), FEATURES.values(), ids=FEATURES.keys())
def test_features_against_the_reference(device, channels, options):
    params, view, features = random_params(60, 3), random_view(1, **options), random_features(60, channels)
    result = results(params, view, device, features)
    assert result["features"].shape == (view.camera.height, view.camera.width, channels)
    assert_close(result, expected(params, view, features), BOUND)


@pytest.mark.parametrize("reduction", [Reduction("atomic"), Reduction("sw_s"), Reduction("sw_b"), Reduction("sw_t", 8)])
def test_features_under_every_reduction(device, reduction):
    params, view, features = random_params(40, 5), random_view(2, width=18, height=17), random_features(40, 6)
    result = results(params, view, device, features, reduction=reduction, absgrad=True)
    assert_close(result, expected(params, view, features), BOUND)


def test_features_change_nothing_else(device):
    params, view = random_params(60, 3), random_view(1, with_depth=True)
    alone = results(params, view, device)
    beside = results(params, view, device, torch.zeros(60, 7))
    assert torch.equal(beside["image"], alone["image"]) and torch.equal(beside["alpha"], alone["alpha"])
    assert beside["features"].abs().max() == 0
    assert_close(beside, alone, BOUND)  # atomics add in any order


def from_features_alone(
    rasterize, params: dict[str, Tensor], view: View, features: Tensor, trained: list[str]
) -> dict[str, Tensor]:
    """Gradients, of what is trained, of a loss of the features' image only."""
    leaves = {name: tensor.detach().clone() for name, tensor in (params | {"features": features}).items()}
    wanted = [leaves[name].requires_grad_() for name in trained]
    image = rasterize(leaves, *view, features=leaves["features"])[-1]
    gradients = torch.autograd.grad((image * weights(image)).sum(), wanted, materialize_grads=True)
    return {name: gradient.cpu() for name, gradient in zip(trained, gradients, strict=True)}


@pytest.mark.parametrize("trained", [["features"], [*PARAMETERS], [*PARAMETERS, "features"]], ids=len)
def test_a_loss_of_features_alone(device, trained):
    params, view, features = random_params(60, 3), random_view(1), random_features(60, 5)
    there = {name: tensor.to(device) for name, tensor in params.items()}
    actual = from_features_alone(fused.rasterize, there, view.to(device), features.to(device), trained)
    doubles = {name: tensor.double() for name, tensor in params.items()}
    wanted = from_features_alone(rasterize_reference, doubles, view, features.double(), trained)
    assert_close(actual, wanted, BOUND)  # colours have no part in it: sh0 and shN get zeros


def test_what_is_not_seen_has_no_gradient_of_its_features(device):
    params, view, features = random_params(60, 3), random_view(1), random_features(60, 5)
    params["means"][:10, 2] = -2.0  # behind the camera
    params["opacities"][10:20] = -20.0
    params["shN"][20:25] = math.nan
    result = results(params, view, device, features)
    assert result["v_features"][:25].abs().max() == 0 and result["v_features"][25:].abs().max() > 0
    keep = torch.arange(60) >= 25
    wanted = expected({name: tensor[keep] for name, tensor in params.items()}, view, features[keep])
    assert_close({name: t[keep] if name.startswith("v_") else t for name, t in result.items()}, wanted, BOUND)


def test_features_that_are_not_finite_count_as_zero(device):
    params, view, features = random_params(60, 3), random_view(1), random_features(60, 6)
    features[::3, 1], features[1::3, 4], features[2::3, 5] = math.nan, math.inf, -math.inf
    result = results(params, view, device, features)
    assert result["v_features"][~features.isfinite()].abs().max() == 0
    assert_close(result, expected(params, view, features), BOUND)
    assert torch.equal(result["features"], results(params, view, device, features.nan_to_num(0, 0, 0))["features"])


def test_features_of_no_gaussians_and_of_no_pixels(device):
    result = results(random_params(0, 2), random_view(1), device, torch.zeros(0, 5))
    assert result["features"].shape == (33, 40, 5) and result["features"].abs().max() == 0
    assert result["v_features"].shape == (0, 5)
    for size in ({"width": 0}, {"height": 0}, {"width": 0, "height": 0}):
        camera, options = random_view(1)
        view = View(camera._replace(**size), options)
        result = results(random_params(20, 2), view, device, random_features(20, 5))
        assert result["features"].shape == (view.camera.height, view.camera.width, 5)
        assert result["v_features"].shape == (20, 5) and result["v_features"].abs().max() == 0


def test_features_of_a_view_that_does_not_fit_at_first(device, monkeypatch):
    monkeypatch.setattr(capacity, "_GRAIN", 8)
    monkeypatch.setattr(capacity, "_FIRST", (0.1, 0.2))
    monkeypatch.setattr(capacity, "_SHARED", {})
    params, view, features = random_params(200, 17), random_view(6), random_features(200, 3)
    assert_close(results(params, view, device, features), expected(params, view, features), BOUND)


def test_features_need_not_be_contiguous(device):
    params, view, features = random_params(40, 5), random_view(2), random_features(40, 6)
    across = features.T.contiguous().T
    plain, other = (results(params, view, device, f) for f in (features, across))
    assert not across.is_contiguous() and torch.equal(plain["features"], other["features"])
    assert_close(other, plain, BOUND)


def test_records_of_features_hold_geometry_only(device):
    params, view = random_params(60, 3), random_view(1)
    rendered = fused.render_whole([params[name].to(device) for name in PARAMETERS], *view.to(device), BufferSizes())
    features, held = random_features(60, 6).to(device), int(rendered.counts[0])
    v_image = weights(torch.empty(33, 40, 6)).to(device)
    backward = partial(torch.ops.distwar.fused_features_backward, features, *rendered.state, v_image)
    (_, plain), (_, absolute) = (backward(absgrad, "sw_t", 1) for absgrad in (False, True))
    assert plain[:held, :6].abs().max() > 0 and plain[:, 6:].abs().max() == 0
    assert relative_l2(absolute[:, :6], plain[:, :6]) < BOUND and absolute[:, 8:].abs().max() == 0
    lengths, bounds = absolute[:, :2].abs(), absolute[:, 6:8]
    assert (bounds >= lengths - 1e-4 * bounds.max()).all() and bounds.sum() > 1.2 * lengths.sum()


def test_opcheck_of_features(device):
    params, view = random_params(20, 3), random_view(1, width=20, height=18).to(device)
    parameters = [params[name].to(device) for name in PARAMETERS]
    visible, blend = fused.render_whole(parameters, *view, BufferSizes()).state
    visible.splats[int(visible.total) :] = 0.0  # splats nobody has written
    features = random_features(20, 5).to(device)
    v_image = torch.randn(18, 20, 5, generator=torch.Generator().manual_seed(1)).to(device)
    leaf = visible._replace(splats=visible.splats.clone().requires_grad_())
    forward = (features.clone().requires_grad_(), list(leaf), list(blend), True, "sw_t", 1)
    tolerance = {"atol": 1e-4, "rtol": 1e-4}  # on the GPU atomics sum in any order
    torch.library.opcheck(torch.ops.distwar.fused_features.default, forward, **tolerance)
    backward = (features, list(visible), list(blend), v_image, True, "sw_t", 1)
    torch.library.opcheck(torch.ops.distwar.fused_features_backward.default, backward, **tolerance)


@pytest.mark.gpu
def test_cuda_features_over_many_seeds(seeds):
    errors = {}
    for seed in seeds:
        params, features = random_params(200, seed), random_features(200, 1 + seed % 9, seed)
        view = random_view(seed, antialiased=seed % 2 == 1, with_depth=seed % 3 == 1)
        actual = results(params, view, torch.device("cuda"), features)
        wanted = expected(params, view, features)
        errors[seed] = max(relative_l2(actual[name], wanted[name]) for name in wanted)
    assert_below(errors, 1e-4)


# ------------------------------------------------------------------------------------------------------ error scores

ODD_SIZES = [(40, 33), (1, 1), (17, 16), (50, 3), (31, 47), (16, 5)]


def error_map(view: View, seed: int = 8) -> Tensor:
    """[H, W], a third of them 0."""
    errors = torch.rand(view.camera.height, view.camera.width, generator=torch.Generator().manual_seed(seed))
    return (1.5 * errors - 0.5).clamp_min(0.0)


def expected_error_sums(params: dict[str, Tensor], view: View, errors: Tensor) -> Tensor:
    """[N] float64 sums of weight times error: the gradient of a feature that is 0 everywhere."""
    probe = torch.zeros(len(params["means"]), 1, dtype=torch.float64, requires_grad=True)
    doubles = {name: tensor.double() for name, tensor in params.items()}
    image = rasterize_reference(doubles, *view, features=probe)[-1]
    (sums,) = torch.autograd.grad((image[..., 0] * errors.double()).sum(), probe)
    return sums[:, 0]


def drawn(params: dict[str, Tensor], view: View, device: torch.device) -> fused.Rendered:
    return fused.render_whole([params[name].to(device) for name in PARAMETERS], *view.to(device), BufferSizes())


def error_sums(rendered: fused.Rendered, records: Tensor) -> Tensor:
    """[N] of the records."""
    held, count = int(rendered.counts[0]), len(rendered.parameters[0])
    ids = rendered.state.visible.gaussian_ids[:held].long()
    return torch.zeros(count, device=records.device).index_copy(0, ids, records[:held, 11]).cpu()


SUMMED_BY = {
    "atomic": (Reduction("atomic"), False), "sw_s": (Reduction("sw_s"), False), "sw_b": (Reduction("sw_b"), False),
    "sw_t": (Reduction("sw_t"), False), "sw_t-split": (Reduction("sw_t", 8), False),
    "deterministic": (Reduction("sw_t"), True),
}  # fmt: skip


@pytest.mark.parametrize("absgrad", [False, True])
@pytest.mark.parametrize(("reduction", "deterministic"), SUMMED_BY.values(), ids=SUMMED_BY.keys())
def test_error_sums_are_those_of_the_reference_and_nothing_else_changes(device, reduction, deterministic, absgrad):
    """On the smallest gradients of a real loss, too: errors are a million times as large."""
    params = random_params(60, 3)
    for width, height in ODD_SIZES:
        view = random_view(1, width=width, height=height)
        rendered, errors = drawn(params, view, device), error_map(view)
        v_image = 1e-6 * weights(rendered.image)
        backward = partial(fused.blend_backward, rendered, v_image, absgrad, reduction, deterministic)
        plain, scored = backward(), backward(errors=errors.to(device))
        assert_close({"sums": error_sums(rendered, scored)}, {"sums": expected_error_sums(params, view, errors)}, 1e-5)
        held = int(rendered.counts[0])
        assert not plain[:, 11].any()
        for word in range(11):
            if deterministic:
                assert torch.equal(scored[:held, word], plain[:held, word])
            else:
                assert relative_l2(scored[:held, word].cpu(), plain[:held, word].cpu().double()) < BOUND


@pytest.mark.parametrize("options", [{"antialiased": True}, {"background": None}, {"sh_degree": 0}], ids=str)
def test_error_sums_of_other_views(device, options):
    params, view = random_params(60, 9), random_view(2, width=35, height=21, **options)
    rendered, errors = drawn(params, view, device), error_map(view)
    records = fused.blend_backward(rendered, weights(rendered.image), False, Reduction(), errors=errors.to(device))
    assert_close({"sums": error_sums(rendered, records)}, {"sums": expected_error_sums(params, view, errors)}, 1e-5)


def test_error_sums_over_many_seeds(device, pytestconfig):
    """Of large, tiny, opaque and transparent Gaussians."""
    errors_of = {}
    for seed in range(12 if device.type == "cpu" else pytestconfig.getoption("--seeds")):
        params, view = random_params(50, seed), random_view(seed, width=20 + seed % 17, height=35 - seed % 11)
        params["scales"][:8] += 2.5
        params["opacities"][8:16] += 6.0
        params["opacities"][16:20] = -20.0
        rendered, errors = drawn(params, view, device), error_map(view, seed)
        records = fused.blend_backward(rendered, weights(rendered.image), seed % 2 == 1, Reduction(),
                                       seed % 3 == 0, errors.to(device))  # fmt: skip
        wanted = expected_error_sums(params, view, errors)
        errors_of[seed] = relative_l2(error_sums(rendered, records), wanted)
    assert_below(errors_of, 1e-5 if device.type == "cpu" else 1e-4)


def step_with_errors(device: torch.device, v_scale: float, statistics: tuple[str, ...]) -> dict[str, object]:
    """What a step leaves, whose image has a gradient times `v_scale` and whose pixels have errors."""
    params, view = random_params(60, 11), random_view(4, sh_degree=2)
    parameters = [params[name].to(device).clone() for name in PARAMETERS]
    rendered, errors = fused.render_whole(parameters, *view.to(device), BufferSizes()), error_map(view)
    v_image = v_scale * torch.ones_like(rendered.image)
    records = fused.blend_backward(rendered, v_image, False, Reduction(), errors=errors.to(device))
    counts = {name: torch.full((60,), 2.0, device=device) for name in statistics}
    moments, last_steps = moments_like(parameters), torch.full((60,), STEP - 1, dtype=torch.int32, device=device)
    old = [tensor.clone() for tensor in (*parameters, *moments)]
    fused.step(rendered, records, False, counts, AdamStep(moments, fused.adam_rates(LEARNING_RATES, BETAS, EPS, STEP),
                                                          last_steps, STEP))  # fmt: skip
    changed = [not torch.equal(now, before) for now, before in zip((*parameters, *moments), old, strict=True)]
    return {
        "changed": changed, "last_steps": last_steps.cpu(), "counts": {name: t.cpu() for name, t in counts.items()},
        "wanted": expected_error_sums(params, view, errors), "state": [t.cpu() for t in (*parameters, *moments)],
    }  # fmt: skip


def test_scores_are_roots_of_the_sums(device):
    outcome = step_with_errors(device, 1.0, ("grad2d", "count", "score"))
    assert_close({"score": outcome["counts"]["score"] - 2.0}, {"score": outcome["wanted"].sqrt()}, 1e-5)
    plain = step_with_errors(device, 1.0, ("grad2d", "count"))
    for name in ("grad2d", "count"):
        torch.testing.assert_close(outcome["counts"][name], plain["counts"][name], rtol=1e-5, atol=0.0)
    assert torch.equal(outcome["last_steps"], plain["last_steps"])
    for now, other in zip(outcome["state"], plain["state"], strict=True):
        torch.testing.assert_close(now, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("statistics", [("score",), ("score", "count"), ("count",), ()], ids=len)
def test_any_of_the_statistics_can_be_asked_for(device, statistics):
    outcome = step_with_errors(device, 1.0, statistics)
    assert list(outcome["counts"]) == list(statistics)
    if "score" in statistics:
        assert_close({"score": outcome["counts"]["score"] - 2.0}, {"score": outcome["wanted"].sqrt()}, 1e-5)
    if "count" in statistics:
        assert set((outcome["counts"]["count"] - 2.0).tolist()) == {0.0, 1.0}


def test_an_error_without_a_gradient_changes_no_parameter(device):
    outcome = step_with_errors(device, 0.0, ("score",))
    assert outcome["wanted"].max() > 0.1 and not any(outcome["changed"])
    assert (outcome["last_steps"] == STEP - 1).all()
    assert_close({"score": outcome["counts"]["score"] - 2.0}, {"score": outcome["wanted"].sqrt()}, 1e-5)


def test_dense_gradients_count_scores_too(device):
    params, view = random_params(60, 11), random_view(4)
    rendered, errors = drawn(params, view, device), error_map(view)
    v_image = weights(rendered.image)
    records = fused.blend_backward(rendered, v_image, False, Reduction(), errors=errors.to(device))
    score = torch.zeros(60, device=device)
    scored = fused.gradients(rendered, records, False, {"score": score})
    plain = fused.gradients(rendered, fused.blend_backward(rendered, v_image, False, Reduction()), False, None)
    assert_close({"score": score.cpu()}, {"score": expected_error_sums(params, view, errors).sqrt()}, 1e-5)
    for one, other in zip(scored, plain, strict=True):
        assert relative_l2(one.cpu(), other.cpu().double()) < BOUND


def test_errors_beside_depth_and_of_another_size_are_refused(device):
    params, view = random_params(20, 3), random_view(1, with_depth=True)
    rendered, errors = drawn(params, view, device), error_map(view).to(device)
    with pytest.raises(ValueError, match="render without depth"):
        fused.blend_backward(rendered, torch.ones_like(rendered.image), False, Reduction(), errors=errors)
    records = fused.blend_backward(rendered, torch.ones_like(rendered.image), False, Reduction())
    with pytest.raises(RuntimeError, match="no place for a score's errors"):
        fused.gradients(rendered, records, False, {"score": torch.zeros(20, device=device)})
    flat = drawn(params, random_view(1), device)
    for wrong in (errors[:-1], errors[:, :-1].contiguous(), errors[0, 0], errors.double()):
        with pytest.raises(RuntimeError, match="errors"):
            fused.blend_backward(flat, torch.ones_like(flat.image), False, Reduction(), errors=wrong)


@pytest.mark.gpu
def test_deterministic_error_sums_are_the_same_every_time():
    device = torch.device("cuda")
    params, view = random_params(30_000, 41), random_view(12, width=300, height=200)
    rendered, errors = drawn(params, view, device), error_map(view).to(device)
    v_image = 1e-6 * weights(rendered.image)
    backward = partial(fused.blend_backward, rendered, v_image, True, Reduction(), errors=errors)
    first, *others = (backward(deterministic=True) for _ in range(5))
    assert all(torch.equal(first, other) for other in others)
    assert relative_l2(backward()[:, 11], first[:, 11].double()) < BOUND


# ------------------------------------------------------------------------------------------------- training by hand


def moments_like(parameters: list[Tensor]) -> list[Tensor]:
    g = torch.Generator().manual_seed(5)
    first = [0.01 * torch.randn(p.shape, generator=g) for p in parameters]
    return [m.to(parameters[0].device) for m in (*first, *(m.square() for m in first))]


LEARNING_RATES = (1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-4)
BETAS, EPS, STEP = (0.9, 0.999), 1e-15, 7


def torch_adam(parameters: list[Tensor], moments: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    """Parameters and moments after torch's own step."""
    leaves = [p.clone().requires_grad_() for p in parameters]
    optimizer = torch.optim.Adam([{"params": [p], "lr": lr} for p, lr in zip(leaves, LEARNING_RATES, strict=True)],
                                 betas=BETAS, eps=EPS)  # fmt: skip
    for i, leaf in enumerate(leaves):
        leaf.grad = gradients[i].clone()
        optimizer.state[leaf] = {"step": torch.tensor(STEP - 1.0), "exp_avg": moments[i].clone(),
                                 "exp_avg_sq": moments[i + 6].clone()}  # fmt: skip
    optimizer.step()
    states = [optimizer.state[leaf] for leaf in leaves]
    return [p.detach() for p in leaves] + [state[key] for key in ("exp_avg", "exp_avg_sq") for state in states]


def step_once(params: dict[str, Tensor], view: View, device: torch.device, sizes: BufferSizes) -> dict[str, object]:
    """A step by hand: gradients, statistics, and what became of parameters and moments."""
    parameters = [params[name].to(device).clone() for name in PARAMETERS]
    before = [p.clone() for p in parameters]
    rendered = fused.render_what_fits(parameters, *view.to(device), sizes)
    records = fused.blend_backward(rendered, torch.ones_like(rendered.image), False, Reduction())
    gradients = fused.gradients(rendered, records, False, None)
    statistics = {name: torch.zeros(len(parameters[0]), device=device) for name in ("grad2d", "count")}
    moments = moments_like(before)
    old_moments = [m.clone() for m in moments]
    rates = fused.adam_rates(LEARNING_RATES, BETAS, EPS, STEP)
    fused.step(rendered, records, False, statistics, AdamStep(moments, rates))
    return {"gradients": gradients, "statistics": statistics, "before": [*before, *old_moments],
            "after": [*parameters, *moments]}  # fmt: skip


def large_enough(params: dict[str, Tensor], view: View, device: torch.device) -> BufferSizes:
    sizes = BufferSizes()
    parameters = [params[name].to(device) for name in PARAMETERS]
    fused.render_whole(parameters, *view.to(device), sizes)
    return sizes


def test_a_step_is_adams_for_those_that_contribute_and_nothing_for_others(device):
    params, view = random_params(60, 11), random_view(4, sh_degree=2)
    params["means"][:10, 2] = -2.0  # behind the camera
    outcome = step_once(params, view, device, large_enough(params, view, device))
    contributes = outcome["gradients"][0].abs().sum(1) > 0
    assert 0 < contributes.sum() < 51 and not contributes[:10].any()
    by_torch = torch_adam(outcome["before"][:6], outcome["before"][6:], outcome["gradients"])
    for index, (before, after, wanted) in enumerate(zip(outcome["before"], outcome["after"], by_torch, strict=True)):
        assert torch.equal(before[~contributes], after[~contributes])
        rows = slice(8) if index % 6 == 5 else slice(None)  # of degree 2; torch lets the moments of the others decay
        torch.testing.assert_close(after[contributes][:, rows] if after.dim() == 3 else after[contributes],
                                   wanted[contributes][:, rows] if after.dim() == 3 else wanted[contributes],
                                   rtol=2e-5, atol=1e-7)  # fmt: skip


def test_statistics_are_those_of_the_reference(device):
    params, view = random_params(50, 13), random_view(5)
    statistics = step_once(params, view, device, large_enough(params, view, device))["statistics"]
    image, _, means2d = rasterize_reference({k: v.double().requires_grad_() for k, v in params.items()}, *view)
    (gradient,) = torch.autograd.grad(image.sum(), means2d)
    lengths = torch.hypot(gradient[:, 0] * view.camera.width / 2, gradient[:, 1] * view.camera.height / 2)
    assert_close({"grad2d": statistics["grad2d"].cpu()}, {"grad2d": lengths}, BOUND)
    seen = lengths > 0
    assert (statistics["count"].cpu()[seen] == 1).all() and statistics["count"].max() == 1


def test_a_view_that_does_not_fit_changes_nothing_and_the_buffers_grow(device, monkeypatch):
    monkeypatch.setattr(capacity, "_GRAIN", 8)
    monkeypatch.setattr(capacity, "_FIRST", (0.1, 0.2))
    params, view, sizes = random_params(200, 17), random_view(6), BufferSizes()
    outcome = step_once(params, view, device, sizes)
    assert all(torch.equal(a, b) for a, b in zip(outcome["before"], outcome["after"], strict=True))
    sizes.collect(wait=True)
    assert sizes.overflows == 1
    for _ in range(3):
        outcome = step_once(params, view, device, sizes)
        sizes.collect(wait=True)
    assert sizes.overflows <= 2  # the lists' true length shows when all Gaussians fit
    assert not torch.equal(outcome["before"][0], outcome["after"][0])


def test_deterministic_records_are_right(device):
    params, view = random_params(60, 37), random_view(11, with_depth=True)
    parameters = [params[name].to(device) for name in PARAMETERS]
    rendered = fused.render_whole(parameters, *view.to(device), BufferSizes())
    held = int(rendered.counts[0])
    for scale in (1.0, 1e-7):
        v_image = scale * weights(rendered.image)
        exact, plain = (
            fused.blend_backward(rendered, v_image, True, Reduction(), deterministic=d) for d in (True, False)
        )
        for field in range(12):
            assert relative_l2(exact[:held, field].cpu(), plain[:held, field].cpu().double()) < BOUND


@pytest.mark.gpu
def test_deterministic_records_are_the_same_every_time():
    device = torch.device("cuda")
    params, view = random_params(30_000, 41), random_view(12, width=300, height=200).to(device)
    parameters = [params[name].to(device) for name in PARAMETERS]
    rendered = fused.render_whole(parameters, *view, BufferSizes())
    v_image = weights(rendered.image)
    first, *others = (fused.blend_backward(rendered, v_image, True, Reduction(), deterministic=True) for _ in range(5))
    assert all(torch.equal(first, other) for other in others)
    plain = [fused.blend_backward(rendered, v_image, True, Reduction()) for _ in range(5)]
    assert any(not torch.equal(plain[0], other) for other in plain), "nothing to be shown with"


def test_traffic_is_that_of_the_composed_ops(device):
    params, view = random_params(80, 19), random_view(7)
    params = {name: tensor.to(device) for name, tensor in params.items()}
    traffic = fused.traffic(params, *view.to(device))
    assert traffic.visits > 0 and traffic.pairs > traffic.visits


@pytest.mark.gpu
def test_lists_are_the_same_every_time():
    device = torch.device("cuda")
    params, view = random_params(20_000, 23), random_view(8, width=300, height=200).to(device)
    parameters = [params[name].to(device) for name in PARAMETERS]
    parameters[0][1::2] = parameters[0][::2]  # equal depths
    first, second = (fused.render_whole(parameters, *view, BufferSizes()) for _ in range(2))
    count = int(first.counts[1])
    assert torch.equal(first.counts, second.counts) and torch.equal(first.image, second.image)
    assert torch.equal(first.state.blend.flatten_ids[:count], second.state.blend.flatten_ids[:count])


@pytest.mark.gpu
def test_cuda_agrees_with_gsplats_way():
    from distwar_gs.rendering.renderer import RenderSettings, render

    device = torch.device("cuda")
    params, view = random_params(5000, 29), random_view(9, width=200, height=150).to(device)
    settings = RenderSettings(view.options.near_plane, view.options.far_plane)

    def composed(p: dict[str, Tensor], camera: Cameras, options: DrawOptions) -> tuple[Tensor, Tensor]:
        r = render(p, camera, settings, sh_degree=3, background=options.background)
        return r.colors[0], r.alphas[0]

    params = {name: tensor.to(device) for name, tensor in params.items()}
    wanted = render_and_differentiate(params, view, composed)
    assert_close(render_and_differentiate(params, view, fused.rasterize), wanted, 2e-4)


@pytest.mark.gpu
def test_a_training_step_never_waits():
    device = torch.device("cuda")
    params, view = random_params(5000, 31), random_view(10, width=200, height=150)
    sizes = large_enough(params, view, device)
    step_once(params, view, device, sizes)
    parameters, view = [params[name].to(device) for name in PARAMETERS], view.to(device)
    moments = moments_like(parameters)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        rendered = fused.render_what_fits(parameters, *view, sizes)
        records = fused.blend_backward(rendered, torch.ones_like(rendered.image), False, Reduction())
        rates = fused.adam_rates(LEARNING_RATES, BETAS, EPS, 1)
        fused.step(rendered, records, False, None, AdamStep(moments, rates))
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ----------------------------------------------------------------------------------------------------- refused, named


def test_what_it_cannot_do_is_named():
    params, view = random_params(3, 1), random_view(1)
    with pytest.raises(ValueError, match="means are on cpu"):
        fused.rasterize(params, *view)
    with pytest.raises(ValueError, match="gsplat's own rasteriser"):
        fused.rasterize(params, *view, reduction=Reduction("gsplat"))
    with pytest.raises(ValueError, match="quats"):
        fused.rasterize(params | {"quats": torch.zeros(3, 3)}, *view)
    with pytest.raises(ValueError, match="2 cameras, expected 1"):
        fused.rasterize(params, view.camera._replace(viewmats=torch.eye(4).repeat(2, 1, 1),
                                                     intrinsics=torch.ones(2, 4)), view.options)  # fmt: skip


@pytest.mark.parametrize("shape", [(4, 2), (3, 0), (3,), (1, 3, 2)])
def test_features_of_a_wrong_shape_are_named(shape):
    with pytest.raises(ValueError, match=r"features has shape .*, expected \(3, F\) with F at least 1"):
        fused.rasterize(random_params(3, 1), *random_view(1), features=torch.zeros(shape))
