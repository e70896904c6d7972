"""The four ops in order, against the composition of their references in float64."""

import dataclasses

import pytest
import torch
from random_scenes import relative_l2
from torch import Tensor

from distwar_gs.config import Config, ConfigError, with_values
from distwar_gs.rendering.renderer import (
    ComposedRendering,
    Rendering,
    RenderSettings,
    Splats,
    render,
    render_settings,
    view_colors,
)
from distwar_kernels import Cameras, Reduction
from distwar_kernels.blend.blend_reference import blend_reference
from distwar_kernels.projection.projection_torch import project_torch
from distwar_kernels.sh.sh_torch import spherical_harmonics_torch
from distwar_kernels.tiles.tiles_reference import intersect_tiles_reference

WIDTH, HEIGHT = 49, 35  # neither is a multiple of the tile size
SETTINGS = RenderSettings(near_plane=0.01, far_plane=100.0)
CPU = torch.device("cpu")
NAMES = ("means", "quats", "scales", "opacities", "sh0", "shN")


def random_params(seed: int, n: int = 60, degree: int = 3) -> dict[str, Tensor]:
    """Gaussians in a cloud around (0, 0, 4), float32, that require gradients."""
    g = torch.Generator().manual_seed(seed)
    values = {
        "means": torch.randn(n, 3, generator=g) * 0.8 + torch.tensor([0.0, 0.0, 4.0]),
        "quats": torch.randn(n, 4, generator=g),
        "scales": torch.rand(n, 3, generator=g) * 2.0 - 3.2,
        "opacities": torch.randn(n, generator=g) * 1.5,
        "sh0": torch.randn(n, 1, 3, generator=g) * 0.8,
        "shN": torch.randn(n, (degree + 1) ** 2 - 1, 3, generator=g) * 0.15,
    }
    return {name: value.requires_grad_() for name, value in values.items()}


def cameras(count: int) -> Cameras:
    """Poses that turn and shift a little, intrinsics with unequal focal lengths and an off-centre principal point."""
    viewmats = torch.eye(4).repeat(count, 1, 1)
    for index in range(count):
        angle = torch.tensor(0.15 * index)
        viewmats[index, 0, :3] = torch.stack([angle.cos(), torch.tensor(0.0), angle.sin()])
        viewmats[index, 2, :3] = torch.stack([-angle.sin(), torch.tensor(0.0), angle.cos()])
        viewmats[index, :3, 3] = torch.tensor([-0.5 * index, 0.1 * index, 0.3])
    return Cameras("pinhole", viewmats, torch.tensor([41.0, 44.0, 22.3, 18.9]).repeat(count, 1), WIDTH, HEIGHT)


def one_gaussian(depth: float = 3.0, opacity: float = 12.0, log_scale: float = -1.0) -> dict[str, Tensor]:
    """A round Gaussian on the z axis."""
    return {
        "means": torch.tensor([[0.0, 0.0, depth]]),
        "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        "scales": torch.full((1, 3), log_scale),
        "opacities": torch.tensor([opacity]),
        "sh0": torch.tensor([[[1.0, 0.0, -1.0]]]),
        "shN": torch.zeros(1, 0, 3),
    }


def reference_render(
    params: dict[str, Tensor], cameras: Cameras, settings: RenderSettings, degree: int, background: Tensor,
    features: Tensor,
) -> ComposedRendering:  # fmt: skip
    """What `render` should give (depth included), composed anew of the references, in the precision of the inputs."""
    opacities = torch.sigmoid(params["opacities"])
    radii, means2d, depths, conics, compensations = project_torch(
        params["means"], params["quats"], torch.exp(params["scales"]), opacities, cameras,
        near_plane=settings.near_plane, far_plane=settings.far_plane, antialiased=settings.antialiased,
    )  # fmt: skip
    centers = torch.linalg.inv(cameras.viewmats)[:, :3, 3]
    coefficients = torch.cat([params["sh0"], params["shN"]], 1)
    harmonics = [
        spherical_harmonics_torch(degree, params["means"] - center, coefficients) for center in centers.unbind()
    ]
    colors = torch.cat([torch.relu(torch.stack(harmonics) + 0.5), depths[..., None]], -1)
    visible = torch.stack([opacities] * len(centers))
    visible = visible * compensations if settings.antialiased else visible
    lists = intersect_tiles_reference(means2d, radii, depths, WIDTH, HEIGHT)
    channels = torch.cat([colors, torch.stack([features] * len(centers))], -1)
    backgrounds = torch.stack([torch.cat([background, background.new_zeros(1 + features.shape[1])])] * len(centers))
    flat = (tensor.flatten(0, 1) for tensor in (means2d, conics, channels, visible))
    image, alphas = blend_reference(*flat, WIDTH, HEIGHT, *lists, backgrounds)
    image, depths, drawn = image.split([3, 1, features.shape[1]], -1)
    splats = Splats(means2d, conics, visible, depths, radii, *lists, None)
    return ComposedRendering(image, alphas, depths / alphas.clamp_min(1e-10), drawn, means2d, radii, colors, splats)


# Seeds at which float32 and float64 agree on which pixels every Gaussian reaches.
CASES = {
    "plain": (0, 1, 3, SETTINGS),
    "views": (1, 3, 2, SETTINGS),
    "degree-0": (2, 1, 0, SETTINGS),
    "antialiased": (3, 2, 1, dataclasses.replace(SETTINGS, antialiased=True)),
    "strategy": (4, 1, 3, dataclasses.replace(SETTINGS, reduction=Reduction("sw_s", 32))),
    "planes": (6, 1, 3, dataclasses.replace(SETTINGS, near_plane=3.9, far_plane=5.0)),
}


@pytest.mark.parametrize(("seed", "views", "degree", "settings"), CASES.values(), ids=CASES)
def test_images_and_gradients_agree_with_the_references(seed, views, degree, settings):
    assert_agrees_with_the_references(seed, cameras(views), degree, settings)


@pytest.mark.parametrize("focal", [(41.0, 44.0), (30.0, 85.0)], ids=["square", "tall"])
@pytest.mark.parametrize("center", [(4.0, 30.5), (47.0, 2.0), (-9.0, 41.0)], ids=["left", "right", "outside"])
def test_off_centre_principal_points_and_non_square_pixels(center, focal):
    """What other trainers get wrong without a sign of it: a point far off the middle, even outside the image."""
    moved = cameras(2)._replace(intrinsics=torch.tensor([*focal, *center]).repeat(2, 1))
    assert_agrees_with_the_references(3, moved, 3, SETTINGS)


def random_features(channels: int, n: int = 60) -> Tensor:
    return torch.randn(n, channels, generator=torch.Generator().manual_seed(5)).requires_grad_()


def pull_back(rendering: Rendering, weights: dict[str, Tensor]) -> None:
    """Backward from a loss of these outputs."""
    sum((getattr(rendering, name) * weight.to(rendering.colors)).sum() for name, weight in weights.items()).backward()


def weights_of(rendering: Rendering, *names: str) -> dict[str, Tensor]:
    """A random loss of these outputs."""
    g = torch.Generator().manual_seed(7)
    weights = {name: torch.randn(getattr(rendering, name).shape, generator=g).to(rendering.colors) for name in names}
    if "depths" in weights:  # where little is seen, dividing by alpha magnifies rounding
        weights["depths"] *= rendering.alphas.detach() > 0.5
    return weights


@pytest.mark.parametrize("channels", [1, 5, 40])
@pytest.mark.parametrize("antialiased", [False, True])
def test_features_agree_with_the_reference(channels, antialiased):
    settings = dataclasses.replace(SETTINGS, antialiased=antialiased)
    assert_agrees_with_the_references(3, cameras(2), 1, settings, random_features(channels))


def assert_agrees_with_the_references(
    seed: int, cameras: Cameras, degree: int, settings: RenderSettings, features: Tensor | None = None
) -> None:
    params = random_params(seed) | ({} if features is None else {"features": features})
    background = torch.tensor([0.2, 0.5, 0.9])
    doubles = {name: param.detach().double().requires_grad_() for name, param in params.items()}
    options = {"sh_degree": degree, "background": background, "with_depth": True, "features": features}
    actual = render(params, cameras, settings, **options)
    none = torch.zeros(60, 0, dtype=torch.float64)
    expected = reference_render(
        doubles, cameras.to(dtype=torch.float64), settings, degree, background.double(), doubles.get("features", none)
    )
    weights = weights_of(actual, "colors", "alphas", "depths", *(["features"] if features is not None else []))
    for rendering in (actual, expected):
        pull_back(rendering, weights)
    assert torch.equal(actual.radii, expected.radii) and (actual.radii > 0).any()
    errors = {name: relative_l2(getattr(actual, name), getattr(expected, name)) for name in weights}
    errors |= {f"v_{name}": relative_l2(params[name].grad, doubles[name].grad) for name in params}
    assert all(error < 1e-4 for error in errors.values()), errors
    if degree:
        assert doubles["shN"].grad.abs().sum() > 0


def test_views_are_rendered_as_each_alone():
    params, views = random_params(1), cameras(3)
    together = render(params, views, SETTINGS, sh_degree=2)
    for view in range(3):
        alone = render(params, views.one(view), SETTINGS, sh_degree=2)
        torch.testing.assert_close(together.colors[view], alone.colors[0], rtol=0, atol=1e-6)
        assert torch.equal(together.radii[view], alone.radii[0])


def random_values(channels: int, device: torch.device) -> dict[str, Tensor]:
    """Parameters and features, some of them not finite."""
    values = random_params(3) | {"features": random_features(channels)}
    values = {name: value.detach().to(device) for name, value in values.items()}
    values["features"][::7, 0], values["features"][3::7, -1] = torch.nan, torch.inf
    return {name: value.requires_grad_() for name, value in values.items()}


@pytest.mark.parametrize(("channels", "with_depth", "absgrad"), [(1, False, False), (6, True, True), (9, False, True)])
def test_both_rasterizers_blend_features_alike(device, channels, with_depth, absgrad):
    views, background = cameras(2).to(device), torch.tensor([0.2, 0.5, 0.9], device=device)
    settings = dataclasses.replace(SETTINGS, antialiased=True, absgrad=absgrad)
    options = {"sh_degree": 3, "with_depth": with_depth, "background": background}
    names = ("colors", "alphas", "features", *(["depths"] if with_depth else []))
    renderings, leaves = [], [random_values(channels, device) for _ in range(2)]
    for values, rasterizer in zip(leaves, ("composed", "fused"), strict=True):
        way = dataclasses.replace(settings, rasterizer=rasterizer)
        renderings.append(render(values, views, way, **options, features=values["features"]))
        pull_back(renderings[-1], weights_of(renderings[0], *names))
    composed, fused = renderings
    assert composed.features.shape == (2, HEIGHT, WIDTH, channels)
    errors = {name: relative_l2(getattr(fused, name), getattr(composed, name)) for name in names}
    errors |= {f"v_{name}": relative_l2(leaves[1][name].grad, leaves[0][name].grad) for name in leaves[0]}
    assert all(error < 2e-4 for error in errors.values()), errors


@pytest.mark.parametrize("shape", [(59, 2), (60, 0), (60,), (2, 60, 3)])
def test_features_of_a_wrong_shape_are_named(shape):
    options = {"sh_degree": 0, "features": torch.zeros(shape)}
    with pytest.raises(ValueError, match=r"features has shape .*, expected \(60, F\)"):
        render(random_params(0), cameras(1), SETTINGS, **options)


def test_features_of_ones_are_alpha_and_do_not_change_the_colours():
    params, views = random_params(0), cameras(1)
    options = {"sh_degree": 3, "background": torch.ones(3), "with_depth": True}
    plain = render(params, views, SETTINGS, **options)
    more = render(params, views, SETTINGS, **options, features=torch.ones(60, 2))
    assert plain.features is None
    torch.testing.assert_close(more.colors, plain.colors, rtol=0, atol=1e-6)
    torch.testing.assert_close(more.depths, plain.depths, rtol=0, atol=1e-5)
    torch.testing.assert_close(more.features, more.alphas.expand(-1, -1, -1, 2), rtol=0, atol=1e-6)


def test_an_opaque_gaussian_gives_its_depth_and_colour():
    views = Cameras("pinhole", torch.eye(4)[None], torch.tensor([[30.0, 30.0, 24.5, 17.5]]), WIDTH, HEIGHT)
    background = torch.tensor([0.1, 0.2, 0.3])
    rendering = render(one_gaussian(), views, SETTINGS, sh_degree=0, background=background, with_depth=True)
    alpha = rendering.alphas[0, 17, 24]
    torch.testing.assert_close(alpha, torch.tensor([0.999]))  # the cap
    torch.testing.assert_close(rendering.depths[0, 17, 24], torch.tensor([3.0]))
    color = torch.tensor([0.5 + 0.28209479, 0.5, 0.5 - 0.28209479])
    torch.testing.assert_close(rendering.colors[0, 17, 24], alpha * color + (1 - alpha) * background)
    edge = (rendering.alphas > 0.0) & (rendering.alphas < 0.1)  # also where it is hardly seen
    assert edge.any()
    assert (rendering.depths[edge] / 3.0 - 1.0).abs().max() < 1e-4
    assert rendering.alphas[0, 0, 0] == 0.0 and rendering.depths[0, 0, 0] == 0.0


def test_depth_does_not_change_the_colours():
    params, views = random_params(0), cameras(1)
    plain = render(params, views, SETTINGS, sh_degree=3, background=torch.ones(3))
    deep = render(params, views, SETTINGS, sh_degree=3, background=torch.ones(3), with_depth=True)
    assert plain.depths is None
    torch.testing.assert_close(deep.colors, plain.colors, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("right", "down"), [(5, 0), (0, -3), (17, 4)])
def test_the_principal_point_shifts_the_picture(right, down):
    params, views = random_params(0), cameras(1)
    params["means"].data[:, :2] *= 0.2  # nothing near the border, where the linearisation is clamped
    moved = views._replace(intrinsics=views.intrinsics + torch.tensor([0.0, 0.0, right, down]))
    before = render(params, views, SETTINGS, sh_degree=3).colors[0]
    after = render(params, moved, SETTINGS, sh_degree=3).colors[0]
    rolled = before.roll((down, right), dims=(0, 1))
    inside = (slice(max(down, 0), HEIGHT + min(down, 0)), slice(right, WIDTH))
    torch.testing.assert_close(after[inside], rolled[inside], rtol=0, atol=1e-4)
    assert before.std() > 0.05


@pytest.mark.parametrize("n", [0, 5])
@pytest.mark.parametrize("with_depth", [False, True])
def test_nothing_visible_gives_the_background_and_no_gradient(n, with_depth):
    params, views = random_params(0, n), cameras(2)
    params["means"].data[:, 2] = -4.0
    background = torch.tensor([0.3, 0.6, 0.9])
    options = {"sh_degree": 3, "background": background, "with_depth": with_depth}
    rendering = render(params, views, SETTINGS, **options)
    assert torch.equal(rendering.colors, background.expand(2, HEIGHT, WIDTH, 3))
    assert not rendering.alphas.any() and not rendering.radii.any()
    if with_depth:
        assert not rendering.depths.any()
    rendering.colors.sum().backward()
    assert all(param.grad is None or not param.grad.any() for param in params.values())


def test_without_a_background_it_is_black():
    params, views = random_params(0), cameras(1)
    none = render(params, views, SETTINGS, sh_degree=3)
    black = render(params, views, SETTINGS, sh_degree=3, background=torch.zeros(3))
    assert torch.equal(none.colors, black.colors)


def test_antialiasing_dims_what_the_blur_widens():
    views = cameras(1)
    small = one_gaussian(log_scale=-6.0)
    plain = render(small, views, SETTINGS, sh_degree=0).alphas.sum()
    dimmed = render(small, views, dataclasses.replace(SETTINGS, antialiased=True), sh_degree=0).alphas.sum()
    assert dimmed < 0.2 * plain


def test_negative_colours_are_black():
    params = one_gaussian()
    params["sh0"] = torch.tensor([[[-5.0, 0.0, 5.0]]])
    colors = view_colors(params, cameras(1), torch.ones(1, 1, 2, dtype=torch.int32), sh_degree=0)
    assert colors[0, 0, 0] == 0.0 and colors[0, 0, 1] == 0.5 and colors[0, 0, 2] > 1.0


BROKEN = [
    (name, column, value)
    for name in NAMES
    for column in (0, -1)
    for value in (float("nan"), float("inf"), -float("inf"))
    if name != "opacities" or column == 0
]


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize(("name", "column", "value"), BROKEN)
def test_a_gaussian_that_is_not_finite_is_as_if_it_were_not_there(name, column, value, antialiased):
    """Neither the image nor the others' gradients know of it, and nothing of it is counted for densification."""
    settings = dataclasses.replace(SETTINGS, antialiased=antialiased, absgrad=True)
    views = cameras(2)
    params, index = random_params(4), 17
    with torch.no_grad():
        for key, unseen in (("means", (0.1, 0.1, 2.0)), ("opacities", 3.0)):  # it would be seen
            params[key][index] = torch.tensor(unseen)
    others = torch.arange(60) != index
    alone = {key: param.detach()[others].requires_grad_() for key, param in params.items()}
    with torch.no_grad():
        params[name][index].reshape(-1)[column] = value
    renderings = []
    for given in (params, alone):
        rendering = render(given, views, settings, sh_degree=3, with_depth=True)
        weights = torch.randn(rendering.colors.shape, generator=torch.Generator().manual_seed(1))
        (rendering.colors * weights).sum().backward()
        renderings.append(rendering)
    broken, healthy = renderings
    assert torch.equal(broken.colors, healthy.colors) and torch.equal(broken.alphas, healthy.alphas)
    assert torch.equal(broken.depths, healthy.depths)
    for key in NAMES:
        assert torch.equal(params[key].grad[others], alone[key].grad), key
    gradient = broken.means2d.absgrad[:, index]
    assert not torch.where(broken.radii[:, index] > 0, gradient, 0.0).any()


@pytest.mark.parametrize("absgrad", [False, True])
def test_what_densification_needs_is_there_after_the_backward_pass(absgrad):
    params, views = random_params(0), cameras(2)
    settings = dataclasses.replace(SETTINGS, absgrad=absgrad)
    rendering = render(params, views, settings, sh_degree=3)
    rendering.colors.square().sum().backward()
    gradient = rendering.means2d.grad
    assert gradient.shape == rendering.means2d.shape == (2, 60, 2) and gradient.any()
    assert hasattr(rendering.means2d, "absgrad") == absgrad
    if absgrad:
        absolute = rendering.means2d.absgrad
        assert (absolute >= gradient.abs() - 1e-4 * absolute.max()).all()
        assert absolute.sum() > 1.5 * gradient.abs().sum()


def test_settings_of_a_configuration():
    changes = {
        "model.near_plane": 0.5, "model.far_plane": 9.0, "model.antialiased": True,
        "densification.strategy": "absgrad", "reduction.strategy": "sw_s", "reduction.balance_threshold": 3,
    }  # fmt: skip
    expected = RenderSettings(1.0, 18.0, antialiased=True, absgrad=True, reduction=Reduction("sw_s", 3))
    assert render_settings(with_values(Config(), changes), 2.0, CPU) == expected
    assert render_settings(Config(), 1.0, CPU) == RenderSettings(0.03, 1e10)


CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("changes", "device", "chosen"),
    [
        ({}, CPU, "composed"),
        ({}, CUDA, "fused"),
        ({"train.rasterizer": "gsplat"}, CUDA, "composed"),
        ({"reduction.strategy": "gsplat"}, CUDA, "composed"),
        ({"train.deterministic": True}, CUDA, "fused"),
        ({"train.deterministic": True, "reduction.strategy": "sw_b"}, CPU, "composed"),
    ],
)
def test_which_rasterizer(changes, device, chosen):
    assert render_settings(with_values(Config(), changes), 1.0, device).rasterizer == chosen


@pytest.mark.parametrize(
    ("changes", "device", "message"),
    [
        ({"train.rasterizer": "fused"}, CPU, "needs a CUDA GPU; use auto"),
        ({"train.rasterizer": "fused", "reduction.strategy": "gsplat"}, CUDA, "use train.rasterizer=gsplat"),
        ({"train.deterministic": True, "reduction.strategy": "sw_b"}, CUDA, "reduction.strategy sw_t"),
        ({"train.deterministic": True, "train.rasterizer": "gsplat"}, CUDA, "train.rasterizer fused"),
    ],
)
def test_rasterizers_that_cannot_be_had(changes, device, message):
    with pytest.raises(ConfigError, match=message):
        render_settings(with_values(Config(), changes), 1.0, device)
