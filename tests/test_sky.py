"""A sky that is learned: gradients against float64, both engines, runs, files, and as a sphere of Gaussians."""

import json

import numpy as np
import pytest
import torch
from adjusted_runs import assert_12_steps_are_6_and_6_more
from demo_runs import demo_config, run_program
from fused_scenes import random_params, random_view, weights
from random_scenes import assert_close
from scripts_as_modules import imported_script

from distwar_gs.config import Config, ConfigError, with_values
from distwar_gs.engines.fused_engine import FusedEngine
from distwar_gs.formats.export import load_exactly, save_model
from distwar_gs.formats.ply import ModelFileError
from distwar_gs.formats.sky import read_sky, save_sky, sky_of, with_sky
from distwar_gs.rendering.environment import Environment, directions
from distwar_gs.rendering.renderer import RenderSettings, render
from distwar_gs.system.parallel import Ranks
from distwar_gs.training.together import own_config
from distwar_gs.training.trainer import Trainer
from distwar_kernels import Cameras, Reduction
from distwar_kernels.fused import capacity, fused
from distwar_kernels.fused.capacity import BufferSizes
from distwar_kernels.fused.fused import PARAMETERS, DrawOptions
from distwar_kernels.fused.fused_reference import rasterize_reference
from distwar_kernels.sh.sh_torch import sh_basis

ON = {"data.background": "learned"}


def random_sky(degree: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.3 * torch.randn((degree + 1) ** 2, 3, generator=generator)


@pytest.fixture
def make(demo_scene, tmp_path, in_process):
    """A run on the CPU: make("folder", {"key": value})."""

    def make(folder: str, changes: dict, scene=demo_scene) -> Trainer:
        values = {"train.iterations": 12, "densification.strategy": "adc", "data.resolution": 2} | changes
        return Trainer(demo_config(scene, tmp_path / folder, values))

    return make


@pytest.fixture(scope="module")
def open_air(tmp_path_factory):
    """The demo scene under a sky, small."""
    folder = tmp_path_factory.mktemp("open_air") / "scene"
    with imported_script("make_demo_scene") as script:
        script.make(folder, script.Recipe(views=16, width=48, height=36, sky=True))
    return folder


# ------------------------------------------------------------------------------------------------------- the colours


def test_directions_are_where_points_of_pixels_lie():
    camera = random_view(2).camera
    looked = directions(camera)[0]
    points = camera.centers[0] + 7.0 * looked
    before = points @ camera.viewmats[0, :3, :3].T + camera.viewmats[0, :3, 3]
    pixels = camera.lens.project(before[..., :2].reshape(1, -1, 2), before[..., 2].reshape(1, -1), camera.intrinsics)
    x, y = torch.meshgrid(torch.arange(camera.width) + 0.5, torch.arange(camera.height) + 0.5, indexing="xy")
    torch.testing.assert_close(pixels[0].reshape(*looked.shape[:2], 2), torch.stack([x, y], dim=-1), rtol=0, atol=2e-3)


@pytest.mark.parametrize("model", ["opencv", "fisheye", "unified", "equirectangular"])
def test_directions_through_lenses_are_where_points_of_pixels_lie(model):
    camera = random_view(2, 21, 17, model=model).camera
    looked = directions(camera)[0]
    known = looked.square().sum(dim=-1) > 0.5
    before = looked @ camera.viewmats[0, :3, :3].T
    pixels = camera.lens.project(before[..., :2].reshape(1, -1, 2), before[..., 2].reshape(1, -1), camera.intrinsics)
    x, y = torch.meshgrid(torch.arange(camera.width) + 0.5, torch.arange(camera.height) + 0.5, indexing="xy")
    off = (pixels[0].reshape(*looked.shape[:2], 2) - torch.stack([x, y], dim=-1))[known]
    assert known.sum() > 200 and off.abs().max() < 5e-3


def test_directions_of_an_orthographic_camera_are_its_axis():
    camera = random_view(2, 5, 4, model="orthographic").camera
    assert torch.equal(directions(camera)[0], camera.viewmats[0, 2, :3].expand(4, 5, 3))


def test_a_sky_asks_for_pinhole_photos(make, demo_scene, tmp_path):
    with imported_script("make_demo_scene") as script:
        script.make(tmp_path / "bent", script.Recipe(views=9, width=24, height=18, lens="OPENCV"))
    with pytest.raises(ConfigError, match="add --set data.undistort=always"):
        make("bent", ON | {"data.resolution": 1}, scene=tmp_path / "bent")
    assert make("flat", ON | {"data.resolution": 1, "data.undistort": "always"}, scene=tmp_path / "bent").run() == 0


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_gradients_by_hand_are_those_of_autograd(degree):
    camera = random_view(1).camera.to(dtype=torch.float64)
    size = (camera.height, camera.width)
    generator = torch.Generator().manual_seed(degree)
    image, v_image = (torch.randn(*size, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    through = torch.rand(size, generator=generator, dtype=torch.float64).requires_grad_()
    coefficients = random_sky(degree).double().requires_grad_()
    colors = 0.5 + (sh_basis(degree, directions(camera)[0])[..., None] * coefficients).sum(dim=-2)
    expected_image = image + through[..., None] * colors
    expected = torch.autograd.grad(expected_image, (coefficients, through), v_image)
    environment = Environment(coefficients.detach())
    backdrop, there = environment.backdrop(camera), through.detach()
    assert environment.degree == degree
    torch.testing.assert_close(backdrop.behind(image, there), expected_image.detach(), rtol=1e-12, atol=1e-12)
    for own, other in zip(backdrop.backward(v_image, there), expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-12)


def test_it_replaces_the_colour_behind():
    """Where Gaussians are, as much of it comes through as of a colour; of one colour it is that colour."""
    params, view = random_params(60, 3), random_view(1)
    gray, plain = torch.zeros(1, 3), RenderSettings(0.01, 1e10)
    lit = RenderSettings(0.01, 1e10, environment=Environment(gray))
    own = render(params, view.camera, lit, sh_degree=3, background=torch.ones(3), with_depth=True)
    expected = render(params, view.camera, plain, sh_degree=3, background=torch.full((3,), 0.5), with_depth=True)
    torch.testing.assert_close(own.colors, expected.colors)
    torch.testing.assert_close(own.depths, expected.depths)
    assert 0.0 < own.alphas.mean() < 1.0


def test_gradients_of_gaussians_against_float64():
    """Of all that light passes, by the ops one after another."""
    params, camera = random_params(60, 3), random_view(1).camera
    grads = {}
    for dtype in (torch.float32, torch.float64):
        leaves = {name: tensor.detach().to(dtype, copy=True).requires_grad_() for name, tensor in params.items()}
        sky = random_sky().to(dtype).requires_grad_()
        if dtype == torch.float32:
            settings = RenderSettings(0.01, 1e10, environment=Environment(sky))
            image = render(leaves, camera, settings, sh_degree=3).colors[0]
        else:
            image = reference(leaves, camera.to(dtype=dtype), sky)
        (image * weights(image)).sum().backward()
        grads[dtype] = {name: leaf.grad.double() for name, leaf in leaves.items()} | {"sky": sky.grad.double()}
    assert_close(grads[torch.float32], grads[torch.float64], 1e-4)


@pytest.mark.parametrize("options", [{}, {"antialiased": True}, {"with_depth": True}], ids=str)
def test_gradients_by_the_fused_rasteriser_against_float64(device, options):
    """By hand, as the fused engine makes them; a depth of which nothing is asked changes nothing."""
    params, view = random_params(60, 3), random_view(1, background=None, **options)
    leaves = {name: tensor.double().requires_grad_() for name, tensor in params.items()}
    sky = random_sky().double().requires_grad_()
    seen, alphas, *_ = rasterize_reference(leaves, *view)
    camera = view.camera.to(dtype=torch.float64)
    image = seen[..., :3] + (1.0 - alphas) * (0.5 + sh_basis(3, directions(camera)[0]) @ sky)
    (image * weights(image)).sum().backward()

    rendered = fused.render_whole([params[name].to(device) for name in PARAMETERS], *view.to(device), BufferSizes())
    backdrop = Environment(random_sky().to(device)).backdrop(rendered.camera)
    own = backdrop.behind(rendered.image[..., :3].contiguous(), rendered.transmittances)
    v_image = weights(own)
    v_sky, v_transmittances = backdrop.backward(v_image, rendered.transmittances)
    if options.get("with_depth"):
        v_image = torch.cat([v_image, torch.zeros_like(v_image[..., :1])], dim=-1)
    records = fused.blend_backward(rendered, v_image, False, Reduction(), False, None, v_transmittances)
    found = dict(zip(PARAMETERS, fused.gradients(rendered, records, False, None), strict=True))
    found |= {"sky": v_sky, "image": own}
    expected = {name: leaf.grad for name, leaf in leaves.items()} | {"sky": sky.grad, "image": image.detach()}
    assert_close({name: tensor.cpu() for name, tensor in found.items()}, expected, 1e-4)


def reference(params: dict[str, torch.Tensor], camera: Cameras, sky: torch.Tensor) -> torch.Tensor:
    image, alphas, *_ = rasterize_reference(params, camera, DrawOptions(3, None, 0.01))
    return image + (1.0 - alphas) * (0.5 + sh_basis(3, directions(camera)[0]) @ sky)


# ------------------------------------------------------------------------------------------------------------- runs


def test_off_there_is_none(make):
    run = make("run", {})
    assert run.state.adjustments == [] and run.state.settings.environment is None


@pytest.mark.parametrize(
    "strategy", ["guided", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mcmc", "adc"))]
)
def test_a_run_goes_on_to_the_same_bits(make, strategy):
    assert_12_steps_are_6_and_6_more(make, ON | {"densification.strategy": strategy}, "sky")


@pytest.mark.parametrize("more", [{}, {"depth.weight": 2.0}, {"densification.strategy": "guided"}], ids=str)
def test_both_engines_make_the_same_steps(make, monkeypatch, emulated_fused_ops, more):
    import emulated_fused

    emulated_fused.pretend_cuda(monkeypatch)
    monkeypatch.setattr(capacity, "_GRAIN", 64)
    models = {}
    for engine in ("composed", "fused"):
        run = make(engine, ON | {"train.iterations": 2, "data.resolution": 4} | more)
        state = run.state
        if engine == "fused":
            state.engine = FusedEngine(state.params, state.optimizers, state.strategy, state.settings)
        assert run.run() == 0
        models[engine] = {
            "means": state.params["means"].detach().double(),
            "sky": state.settings.environment.coefficients.detach().double(),
        }
    assert models["fused"]["sky"].abs().max() > 1e-3
    assert_close(models["fused"], models["composed"], 3e-3)  # Adam's first steps make much of small gradients


def test_it_is_learned_saved_and_rendered(make, open_air, tmp_path):
    """render.py finds the run's number to the last bit; without the file it is worse, and a warning says so."""

    def rendered() -> dict:
        result = run_program("render.py", tmp_path / "learned", "--device", "cpu", "--quiet")
        assert result.returncode == 0, result.stderr
        (file,) = (tmp_path / "learned").glob("renders/**/metrics.json")
        return json.loads(file.read_text())[-1] | {"said": result.stderr}

    run = make("learned", ON | {"sky.lr": 0.05, "train.iterations": 40}, open_air)
    assert run.run() == 0
    ply, own = run.files.ply(40), run.results.evaluations[40].psnr
    torch.testing.assert_close(read_sky(ply), run.state.settings.environment.coefficients.detach(), rtol=0, atol=0)
    shown = rendered()
    assert shown["psnr"] == own and "a learned sky behind the Gaussians" in shown["protocol"]["background"]
    sky_of(ply).unlink()
    without = rendered()
    assert without["psnr"] < own - 0.5 and "so what was learned behind the Gaussians is black" in without["said"]


def test_a_sky_of_another_degree_is_refused(make):
    first = make("run", ON | {"train.iterations": 4, "train.checkpoint_iterations": [4]})
    assert first.run() == 0
    with pytest.raises(ValueError, match=r"of the sky \(sky.degree must stay\) is not of shape \[4, 3\]"):
        make("run", ON | {"sky.degree": 1, "train.resume": "auto", "train.iterations": 8})


@pytest.mark.parametrize(("key", "value"), [("data.background", "learned"), ("depth.normals", "maps")])
def test_what_several_ranks_do_not_have_is_refused_by_name(key, value, tmp_path):
    config, ranks = demo_config(tmp_path, tmp_path, {key: value}), Ranks()
    ranks.count = 2
    with pytest.raises(ConfigError, match=rf"^{key} is {value}, which 2 ranks do not have; .*train with one process"):
        own_config(config, ranks)


# ------------------------------------------------------------------------------------------------------ files, baking


def test_a_broken_file_is_named_with_a_remedy(tmp_path):
    model = tmp_path / "a.ply"
    assert read_sky(model) is None
    for text in ("{", "[]", '{"coefficients": [[1, 2]]}', '{"coefficients": [[1, 2, NaN]]}', '{"coefficients": "x"}',
                 '{"coefficients": [[0,0,0],[0,0,0]]}', "x" * 200_000):  # fmt: skip
        sky_of(model).write_text(text)
        with pytest.raises(ModelFileError, match=r"a\.ply\.sky\.json: .*delete this file to go without a sky"):
            read_sky(model)
    save_sky(model, None)
    assert not sky_of(model).exists()


def looking_around(width: int = 40) -> Cameras:
    """Six cameras in the middle of a scene, one along each axis."""
    turns = [np.roll(np.eye(3), k, axis=0) * sign for k in range(3) for sign in (1.0, -1.0)]
    viewmats = torch.zeros(6, 4, 4)
    for viewmat, turn in zip(viewmats, turns, strict=True):
        viewmat[:3, :3], viewmat[3, 3] = torch.from_numpy(turn * np.linalg.det(turn)), 1.0
        viewmat[:3, 3] = 0.3
    Ks = torch.tensor([[0.6 * width, 0, width / 2], [0, 0.6 * width, width / 2], [0, 0, 1]]).expand(6, 3, 3)
    return Cameras.of_matrices(viewmats, Ks, width, width)


def test_baked_it_looks_the_same(tmp_path):
    params = {name: tensor.detach() for name, tensor in random_params(200, 3).items()}
    params["means"] = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    sky = 0.5 * random_sky()
    baked, cameras = with_sky(params, sky), looking_around()
    colors = []
    for model, environment in ((baked, None), (params, Environment(sky))):
        settings = RenderSettings(0.01, 1e10, environment=environment)
        colors.append(render(model, cameras, settings, sh_degree=3).colors.clamp(0, 1))
    difference = (colors[0] - colors[1]).abs()
    assert difference.mean() < 0.01 and difference.max() < 0.1
    assert float((colors[1] - render(params, cameras, RenderSettings(0.01, 1e10), sh_degree=3).colors).mean()) > 0.2


def test_convert_keeps_it_beside_or_bakes_it(tmp_path):
    params = {name: tensor.detach() for name, tensor in random_params(50, 3).items()}
    source = tmp_path / "a.ply"
    save_model(source, params)
    refused = run_program("scripts/convert.py", source, tmp_path / "b.ply", "--bake_sky")
    assert refused.returncode != 0 and "has no sky to bake" in refused.stderr and "Traceback" not in refused.stderr
    save_sky(source, random_sky())
    kept = run_program("scripts/convert.py", source, tmp_path / "b.ply", tmp_path / "c.spz")
    assert kept.returncode == 0 and "its sky in b.ply.sky.json" in kept.stdout
    for name in ("b.ply", "c.spz"):
        torch.testing.assert_close(read_sky(tmp_path / name), read_sky(source), rtol=0, atol=0)
    made = run_program("scripts/convert.py", source, tmp_path / "b.ply", "--bake_sky")
    assert made.returncode == 0, made.stderr
    assert read_sky(tmp_path / "b.ply") is None and len(load_exactly(tmp_path / "b.ply")[0]["means"]) == 5050


@pytest.mark.gpu
def test_steps_do_not_wait_for_the_gpu():
    from distwar_gs.adjust.sky import Sky

    sky = Sky(with_values(Config(), ON).sky, torch.device("cuda"))
    camera = random_view(1).camera.to("cuda")
    through, v_image = torch.rand(camera.height, camera.width).cuda(), torch.rand(camera.height, camera.width, 3).cuda()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for share in (0.1, 0.9):
            with torch.no_grad():
                backdrop = sky.environment.backdrop(camera)
            sky.environment.coefficients.grad, _ = backdrop.backward(v_image, through)
            sky.step(share)
    finally:
        torch.cuda.set_sync_debug_mode("default")
