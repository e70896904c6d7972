"""Every lens through both rasterisers: against float64 autograd, splats on all sides, and against itself turned."""

import math
from dataclasses import replace

import pytest
import torch
from fused_scenes import (
    View,
    random_features,
    random_params,
    random_view,
    render_and_differentiate,
    surrounding_params,
    weights,
)
from random_scenes import assert_close
from test_fused import BOUND, expected, lens_bound, results

from distwar_gs.rendering.renderer import COMPOSED, ComposedRendering, RenderSettings
from distwar_kernels import MODELS, around, project_gaussians
from distwar_kernels.fused import fused
from distwar_kernels.fused import weights as fused_weights

CURVED = [model for model in MODELS if model != "pinhole"]
ALL_AROUND = ["fisheye", "unified", "equirectangular"]


@pytest.mark.parametrize("model", CURVED)
def test_splats_on_all_sides(device, model):
    """Images that are no multiple of a tile, with depth, whose gradient is another one where it is along the ray."""
    params = surrounding_params(120, 5)
    for seed, (width, height) in enumerate([(50, 37), (33, 18)]):
        view = random_view(seed, width, height, model=model, with_depth=True, antialiased=seed == 1)
        wanted = expected(params, view)
        assert_close(results(params, view, device), wanted, lens_bound(device))
        assert all(wanted[f"v_{name}"].abs().max() > 0 for name in ("means", "quats", "scales"))


@pytest.mark.parametrize("model", ALL_AROUND)
def test_what_is_behind_is_seen(device, model):
    params = surrounding_params(150, 5)
    view = random_view(0, 60, 40, model=model)
    behind = (view.camera.viewmats[0, 2, :3] @ params["means"].T + view.camera.viewmats[0, 2, 3]) < 0
    gradients = results(params, view, device)["v_means"].abs().sum(1)
    assert (gradients[behind] > 0).sum() > 5 and (gradients[~behind] > 0).sum() > 5


def test_features_across_the_edge(device):
    params, view, features = surrounding_params(80, 2), random_view(0, 48, 30, model="equirectangular"), None
    features = random_features(80, 6)
    assert_close(results(params, view, device, features), expected(params, view, features), lens_bound(device))


def composed(params, view: View, absgrad: bool = False) -> tuple[dict[str, torch.Tensor], ComposedRendering]:
    """Image and gradients by the ops one after another, and what they were made of."""
    kept = []

    def rasterize(leaves, camera, options, features=None):
        settings = RenderSettings(options.near_plane, options.far_plane, options.antialiased, absgrad=absgrad)
        rendering = COMPOSED.render(
            leaves, camera, settings, sh_degree=options.sh_degree, background=options.background, with_depth=False,
            features=features,
        )  # fmt: skip
        kept.append(rendering)
        return rendering.colors[0], rendering.alphas[0]

    result = render_and_differentiate(params, view, rasterize)
    return result, kept[0]


@pytest.mark.parametrize("model", CURVED)
def test_the_composed_rasteriser(model):
    params, view = surrounding_params(120, 5), random_view(0, 50, 37, model=model)
    assert_close(composed(params, view)[0], expected(params, view), BOUND)


def turned(view: View, columns: int) -> View:
    """A panorama's camera turned to the left about its own upright axis by so many columns of the image."""
    angle = 2 * math.pi * columns / view.camera.width
    turn = torch.eye(4, dtype=torch.float64)
    turn[0, 0] = turn[2, 2] = math.cos(angle)
    turn[0, 2], turn[2, 0] = math.sin(angle), -math.sin(angle)
    return view._replace(camera=view.camera._replace(viewmats=(turn @ view.camera.viewmats.double()).float()))


@pytest.mark.parametrize("absgrad", [False, True])
def test_a_panorama_has_no_edge(absgrad):
    """Turned by some columns it is the same picture moved by these, with the same gradients, wherever its edge was."""
    params, view = surrounding_params(150, 5), random_view(0, 60, 31, model="equirectangular", background=None)
    straight, rendering = composed(params, view, absgrad)
    columns = 23
    view = turned(view, columns)

    def moved(leaves, camera, options, features=None):
        settings = RenderSettings(options.near_plane, options.far_plane, absgrad=absgrad)
        rendering = COMPOSED.render(
            leaves, camera, settings, sh_degree=3, background=None, with_depth=False, features=None
        )
        moved.rendering = rendering
        return rendering.colors[0].roll(-columns, dims=1), rendering.alphas[0].roll(-columns, dims=1)

    rolled = render_and_differentiate(params, view, moved)
    assert_close(rolled, {name: tensor.double() for name, tensor in straight.items()}, 1e-4)
    again, centers = (each.center_gradients(absgrad)[0] for each in (moved.rendering, rendering))
    assert_close({"centers": again}, {"centers": centers.double()}, 1e-4)
    counts = [len(each.drawn.copies.rows) for each in (rendering, moved.rendering)]
    assert counts[0] > 10 > counts[1] > 0


def test_a_gaussian_wider_than_the_panorama_is_on_both_sides(device):
    """Right above the camera it is drawn up to three times: its alpha is the same to the left and to the right."""
    params = random_params(1, 0)
    params |= {"means": torch.tensor([[0.05, -2.0, 0.02]]), "scales": torch.tensor([[-1.0, -1.3, -0.8]]),
               "opacities": torch.tensor([3.0])}  # fmt: skip
    view = random_view(0, 40, 20, model="equirectangular")
    view = view._replace(camera=view.camera._replace(viewmats=torch.eye(4)[None]))
    result = results(params, view, device)
    assert_close(result, expected(params, view), 1e-4)
    row = result["alpha"][1, :, 0]
    assert row.min() > 0.3 and (row[0] - row[-1]).abs() < 0.05


def test_weights_are_summed_over_the_edge(device):
    """Of what is drawn twice the weights add up to those of the turned panorama, where it is drawn once."""
    params, view = surrounding_params(100, 5), random_view(0, 60, 31, model="equirectangular")
    view = view._replace(options=replace(view.options, sh_degree=0))
    views = [each.to(device) for each in (view, turned(view, 23))]
    params = {name: tensor.to(device) for name, tensor in params.items()}
    (sums, areas), (others, _) = (fused_weights.uses(params, *each) for each in views)
    assert_close({"sums": others.cpu()}, {"sums": sums.cpu().double()}, 1e-3)
    assert (areas > 0).sum() > 30


def test_only_a_panorama_is_drawn_again():
    for model in MODELS:
        params, view = surrounding_params(60, 5), random_view(0, 50, 37, model=model)
        projection = project_gaussians(
            params["means"], params["quats"], params["scales"].exp(), params["opacities"].sigmoid(), view.camera
        )
        copies = around(view.camera, projection.means2d, projection.radii)
        assert (copies is not None) == (model == "equirectangular")


def test_a_lens_without_distortion_is_a_pinhole():
    """Inside the image to the last digits, with its gradients."""
    params, view = random_params(60, 3, torch.float64), random_view(1)
    numbers = [*view.camera.intrinsics[0].tolist(), *[0.0] * 12, 1.2, 5.0]
    other = view._replace(camera=view.camera._replace(model="opencv", intrinsics=torch.tensor([numbers])))
    inside = params["means"][:, :2].norm(dim=1) < 0.25 * params["means"][:, 2]
    params = {name: tensor[inside] for name, tensor in params.items()}
    assert_close(expected(params, other), expected(params, view), 1e-6)


@pytest.mark.parametrize("model", ["opencv", "fisheye"])
def test_beyond_its_limit_a_lens_does_not_fold(model):
    """Farther from the axis is farther out in the image, though the polynomial turns back."""
    camera = random_view(0, 40, 40, model=model).camera.to(dtype=torch.float64)
    numbers = camera.intrinsics.clone()
    numbers[0, 4:16], numbers[0, 16:18] = 0.0, torch.tensor([0.9, 5.0 if model == "opencv" else 3.0])
    numbers[0, 4] = -0.3
    angles = torch.linspace(0.05, 1.3, 60, dtype=torch.float64)
    xy = torch.stack([angles.sin(), 0 * angles], dim=-1)[None]
    pixels = MODELS[model].project(xy, angles.cos()[None], numbers)[0, :, 0]
    assert (pixels.diff() > 0).all()
    assert MODELS[model].sees(xy, angles.cos()[None], numbers).all()


def test_a_step_through_a_lens_counts_a_gaussian_once(device):
    """Where a panorama's edge draws it twice, too."""
    params, view = surrounding_params(100, 5), random_view(0, 60, 31, model="equirectangular").to(device)
    parameters = [params[name].to(device) for name in fused.PARAMETERS]
    rendered = fused.render_whole(parameters, *view, fused.BufferSizes())
    ids = rendered.state.visible.gaussian_ids[: int(rendered.counts[0])]
    assert len(ids.unique()) < len(ids)
    statistics = {name: torch.zeros(100, device=device) for name in ("grad2d", "count")}
    records = fused.blend_backward(rendered, weights(rendered.image), False, fused.Reduction())
    fused.gradients(rendered, records, False, statistics)
    assert statistics["count"].max() == 1 and statistics["count"].sum() == len(ids.unique())
