"""What is known of depth, as a part of the loss: gradients against float64 autograd, both engines, runs."""

from functools import partial

import numpy as np
import pytest
import torch
from demo_runs import demo_config, run_program
from fused_scenes import random_params, random_view, weights
from random_scenes import assert_close, relative_l2
from scene_files import look_at, write_blender
from test_tracks import view_at
from torch import Tensor

from distwar_datasets import DataError
from distwar_gs.engines.depth import expected_depth, image_and_depth_gradients, scored
from distwar_gs.training.depths import LEAST_ALPHA, Depths, InverseMap, MetricMap, PointDepths, of_points
from distwar_gs.training.trainer import Trainer
from distwar_kernels import Reduction
from distwar_kernels.fused import fused
from distwar_kernels.fused.capacity import BufferSizes
from distwar_kernels.fused.fused import PARAMETERS
from distwar_kernels.fused.fused_reference import rasterize_reference

SIZE = (7, 9)


def random_depth(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Depth and alpha [H, W], float64; some pixels are hardly covered."""
    generator = torch.Generator().manual_seed(seed)
    depth = 1.0 + 3.0 * torch.rand(SIZE, generator=generator, dtype=torch.float64)
    alpha = torch.rand(SIZE, generator=generator, dtype=torch.float64)
    alpha[0] = 0.5 * LEAST_ALPHA
    return depth, alpha


def random_map(seed: int = 1) -> Tensor:
    numbers = 1.0 + 3.0 * torch.rand(SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    numbers[:, :2] = torch.nan
    return numbers


def test_points_against_autograd():
    depth, alpha = random_depth()
    pixels = torch.tensor([3, 12, 20, 62])  # the first is in the row that is hardly covered
    known = torch.tensor([2.0, 1.5, 3.0, 2.5], dtype=torch.float64)
    leaf = depth.clone().requires_grad_()
    errors = (leaf.reshape(-1)[pixels] - known).abs() / known
    loss = (errors * (alpha.reshape(-1)[pixels] > LEAST_ALPHA)).sum() / 4
    (expected,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(PointDepths(pixels, known).gradient(depth, alpha), expected, rtol=1e-12, atol=1e-12)
    assert expected[0].abs().max() == 0 and (expected != 0).sum() == 3


def test_a_metric_map_against_autograd():
    (depth, alpha), known = random_depth(), random_map()
    leaf = depth.clone().requires_grad_()
    is_known, there = known.isfinite(), known.nan_to_num(1.0)
    errors = torch.where(is_known & (alpha > LEAST_ALPHA), (leaf - there).abs() / there, 0.0)
    (expected,) = torch.autograd.grad(errors.sum() / is_known.sum(), leaf)
    torch.testing.assert_close(MetricMap(known).gradient(depth, alpha), expected, rtol=1e-12, atol=1e-12)


def test_an_inverse_map_against_autograd():
    (depth, alpha), values = random_depth(), random_map()
    counted = values.isfinite() & (alpha > LEAST_ALPHA)
    columns = torch.stack([values[counted], torch.ones(int(counted.sum()), dtype=torch.float64)], dim=1)
    scale, shift = torch.linalg.lstsq(columns, (1.0 / depth)[counted, None]).solution[:, 0]
    target = InverseMap(values)
    torch.testing.assert_close(target.fit(1.0 / depth, counted)[counted], (scale * values + shift)[counted])
    leaf = depth.clone().requires_grad_()
    unit = (1.0 / (1.0 / depth)[counted].mean()).item()
    loss = ((1.0 / leaf[counted]) - (scale * values + shift)[counted]).abs().mean() * unit
    (expected,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(target.gradient(depth, alpha), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 40.0])
def test_inverse_maps_do_not_depend_on_their_scale_and_shift(scale):
    (depth, alpha), values = random_depth(), random_map()
    one, other = (InverseMap(numbers).gradient(depth, alpha) for numbers in (values, scale * values + 7.0))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_a_map_of_nothing_has_no_gradient():
    depth, alpha = random_depth()
    nothing = torch.full(SIZE, torch.nan, dtype=torch.float64)
    for target in (MetricMap(nothing), InverseMap(nothing), PointDepths(torch.zeros(0).long(), torch.zeros(0))):
        assert torch.equal(target.gradient(depth, alpha), torch.zeros_like(depth))
    flat = torch.where(random_map().isfinite(), 2.0, torch.nan)  # no scale can be told
    assert InverseMap(flat).gradient(depth, alpha).isfinite().all()
    empty = InverseMap(random_map()).gradient(torch.zeros_like(depth), torch.zeros_like(depth))
    assert torch.equal(empty, torch.zeros_like(depth))


def test_weights_fall_over_the_run():
    depth, alpha = random_depth()
    target = PointDepths(torch.tensor([20]), torch.tensor([9.0], dtype=torch.float64))
    depths = Depths([[(0.5, target), (0.25, target)]], [(9, 7)], 0.01)
    own = [float(depths.gradient(0, depth, alpha, share).sum()) for share in (0.0, 0.5, 1.0)]
    assert own == pytest.approx([-0.75 / 9, -0.075 / 9, -0.0075 / 9])
    camera = random_view(1, width=9, height=7).camera
    assert depths.has(0, camera) and not depths.has(0, camera.shrunk(2))
    assert not Depths([[]], [(9, 7)], 0.01).has(0, camera)


def test_points_fall_on_their_pixels():
    view = view_at(look_at((0.0, -4.0, 0.0)), 40, 30)
    points = np.array([[0.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.5, 0.0, 0.2], [0.0, -9.0, 0.0], [90.0, 0.0, 0.0]])
    target = of_points(view, points, torch.device("cpu"))
    x, y = 20 + 40 * 0.5 / 4, 15 - 40 * 0.2 / 4
    assert dict(zip(target.pixels.tolist(), target.depths.tolist(), strict=True)) == pytest.approx(
        {15 * 40 + 20: 4.0, int(y) * 40 + int(x): 4.0}
    )


# ------------------------------------------------------------------------------------------------------- engines


def reference_gradients(params: dict[str, Tensor], view) -> dict[str, Tensor]:
    """Float64: of a random loss of the image and of the expected depth; and the depth."""
    leaves = {name: tensor.double().requires_grad_() for name, tensor in params.items()}
    image, alpha, *_ = rasterize_reference(leaves, *view)
    depth = image[..., 3] / alpha[..., 0].clamp_min(1e-10)
    v_depth = weights(depth) * (alpha[..., 0] > LEAST_ALPHA)
    loss = (image[..., :3] * weights(image[..., :3])).sum() + (depth * v_depth).sum()
    loss.backward()
    return {"depth": depth.detach()} | {name: leaf.grad for name, leaf in leaves.items()}


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("options", [{}, {"antialiased": True}, {"background": None, "sh_degree": 1}], ids=str)
def test_gradients_of_expected_depth_against_the_reference(device, options, deterministic):
    params, view = random_params(60, 3), random_view(1, with_depth=True, **options)
    parameters = [params[name].to(device) for name in PARAMETERS]
    rendered = fused.render_whole(parameters, *view.to(device), BufferSizes())
    depth, alpha = expected_depth(rendered)
    v_image, v_depth = weights(rendered.image[..., :3]), weights(depth) * (alpha > LEAST_ALPHA)
    blended, v_transmittances = image_and_depth_gradients(rendered, v_image, v_depth)
    records = fused.blend_backward(rendered, blended, False, Reduction(), deterministic, None, v_transmittances)
    own = dict(zip(PARAMETERS, fused.gradients(rendered, records, False, None), strict=True)) | {"depth": depth}
    assert_close({name: tensor.cpu() for name, tensor in own.items()}, reference_gradients(params, view), 1e-4)


def test_scores_are_the_same_with_depth(device):
    params, view = random_params(60, 3), random_view(1).to(device)
    parameters = [params[name].to(device) for name in PARAMETERS]
    errors = torch.rand(33, 40, generator=torch.Generator().manual_seed(3)).to(device)
    plain = fused.render_whole(parameters, *view, BufferSizes())
    records = fused.blend_backward(plain, weights(plain.image), False, Reduction(), errors=errors)
    expected = {"score": torch.ones(60, device=device)}
    fused.gradients(plain, records, False, expected)
    deep = fused.render_whole(parameters, *random_view(1, with_depth=True).to(device), BufferSizes())
    own = {"score": torch.ones(60, device=device), "count": torch.zeros(60, device=device)}
    assert set(scored(deep, own, errors)) == {"count"} and scored(deep, None, errors) is None
    torch.testing.assert_close(own["score"], expected["score"], rtol=1e-5, atol=1e-6)
    assert own["score"].max() > 1.5


# ------------------------------------------------------------------------------------------------------ in a run

ON = {"depth.weight": 0.2}


@pytest.fixture
def make(demo_scene, tmp_path, in_process):
    """A run on the CPU: make("folder", {"key": value})."""

    def make(folder: str, changes: dict, scene=demo_scene) -> Trainer:
        values = {"train.iterations": 12, "densification.strategy": "adc"} | changes
        return Trainer(demo_config(scene, tmp_path / folder, values))

    return make


def same(one: Trainer, two: Trainer) -> bool:
    return all(torch.equal(param, two.state.params[name]) for name, param in one.state.params.items())


def test_off_there_is_nothing(make):
    assert make("run", {}).state.depths is None


@pytest.mark.parametrize("strategy", ["adc", "mcmc", "guided"])
def test_a_run_goes_on_to_the_same_bits(make, strategy):
    changes = ON | {"densification.strategy": strategy}
    whole = make("whole", changes | {"train.checkpoint_iterations": [6]})
    assert whole.run() == 0
    second = make("second", changes | {"train.resume": str(whole.folder / "checkpoints/step_6.pt")})
    assert second.state.step == 6 and second.run() == 0 and same(whole, second)
    plain = make("plain", changes | {"depth.weight": 0.0})
    assert plain.run() == 0 and not same(whole, plain)


@pytest.mark.parametrize("strategy", ["adc", "guided"])
def test_both_engines_make_the_same_steps(make, monkeypatch, emulated_fused_ops, strategy):
    import emulated_fused

    from distwar_gs.engines.fused_engine import FusedEngine
    from distwar_kernels.fused import capacity

    emulated_fused.pretend_cuda(monkeypatch)
    monkeypatch.setattr(capacity, "_GRAIN", 64)
    models, scores = {}, {}
    for engine in ("composed", "fused"):
        changes = {"train.iterations": 2, "data.resolution": 4, "densification.strategy": strategy, "depth.weight": 5.0}
        run = make(engine, changes)
        state = run.state
        if engine == "fused":
            state.engine = FusedEngine(state.params, state.optimizers, state.strategy, state.settings)
        assert run.run() == 0
        models[engine] = {name: param.detach().double() for name, param in state.params.items()}
        scores[engine] = state.strategy.statistics(2)
    assert_close({"means": models["fused"]["means"]}, {"means": models["composed"]["means"]}, 1e-4)
    if strategy == "guided":
        assert relative_l2(scores["fused"]["score"], scores["composed"]["score"].double()) < 1e-2


def test_points_bring_the_depth_nearer(make):
    """Of the first training view, whose depths begin wrong: means are scaled about its camera."""
    errors = {}
    for weight in (0.0, 2.0):
        run = make(str(weight), {"train.iterations": 40, "depth.weight": weight, "depth.weight_final": 1.0})
        targets = make("targets" + str(weight), ON).state.depths
        assert run.run() == 0
        (_, target), camera = targets._views[0][0], run.batches.cameras[0]
        depth = run.state.engine.look(40, camera, 3, torch.zeros(3), with_depth=True).depths[0, ..., 0]
        errors[weight] = float(((depth.reshape(-1)[target.pixels] - target.depths).abs() / target.depths).mean())
    assert errors[2.0] < 0.9 * errors[0.0]


def write_maps(run: Trainer, folder, inverse: bool, sixteen_bits: bool) -> None:
    """Of the depths that the run's model has: NPY in the units of the poses, or PNG."""
    from PIL import Image

    folder.mkdir()
    for view, camera in zip(run.scene.train, run.batches.cameras, strict=True):
        depth = run.state.engine.look(0, camera, 0, torch.zeros(3), with_depth=True).depths[0, ..., 0].numpy()
        depth = depth / run.scene.normalisation.scale
        numbers = np.where(depth > 0, 3.0 / np.maximum(depth, 1e-3) + 0.5, 0.0) if inverse else 1000.0 * depth
        stem = folder / view.name.rpartition(".")[0]
        if sixteen_bits:
            Image.fromarray(np.clip(numbers * (5000 if inverse else 1), 0, 65535).astype(np.uint16)).save(f"{stem}.png")
        else:
            np.save(f"{stem}.npy", numbers.astype(np.float32))


@pytest.mark.parametrize(("kind", "sixteen_bits"), [("metric", True), ("metric", False), ("inverse", True)])
def test_maps_of_the_own_depth_are_right_from_the_start(make, tmp_path, kind, sixteen_bits):
    """In the frame of the means, whatever the units; so their errors are small, and gradients go both ways."""
    write_maps(make("plain", {}), tmp_path / "maps", kind == "inverse", sixteen_bits)
    changes = {"depth.maps": str(tmp_path / "maps"), "depth.maps_kind": kind, "depth.maps_scale": 0.001}
    run = make("run", changes)
    depth, alpha = (t[0, ..., 0] for t in (lambda r: (r.depths, r.alphas))(
        run.state.engine.look(0, run.batches.cameras[2], 0, torch.zeros(3), with_depth=True)))  # fmt: skip
    ((weight, target),) = run.state.depths._views[2]
    assert weight == 0.1 and len(run.state.depths._views) == len(run.scene.train)
    if kind == "metric":
        known = target.depths.isfinite() & (alpha > 0.5)
        assert float(((target.depths - depth).abs() / depth)[known].mean()) < 2e-3
    else:
        known = target.values.isfinite() & (alpha > 0.5)
        fitted = target.fit(1.0 / depth.clamp_min(1e-6), known)
        assert float((fitted * depth - 1.0).abs()[known].mean()) < 2e-3
    assert run.run() == 0


def test_bad_maps(make, tmp_path, demo_scene):
    with pytest.raises(DataError, match="nowhere: depth.maps is not a folder"):
        make("a", {"depth.maps": "nowhere"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: has no depth map of any training photo"):
        make("b", {"depth.maps": str(tmp_path / "empty")})
    with pytest.raises(DataError, match="a depth map has one number for each pixel"):
        make("c", {"depth.maps": str(demo_scene / "images")})


def test_no_points_is_an_error(make, tmp_path):
    scene = write_blender(tmp_path / "scene")
    result = run_program("train.py", "-s", scene, "-m", tmp_path / "o", "--device", "cpu", "--depth_weight", 0.1)
    assert result.returncode != 0 and "no point of the scene is seen in any photo" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.gpu
def test_steps_do_not_wait_for_the_gpu():
    depth, alpha = (t.float().cuda() for t in random_depth())
    known = random_map().float().cuda()
    pixels = torch.tensor([3, 12, 20], device="cuda")
    targets = [PointDepths(pixels, known.reshape(-1)[pixels]), MetricMap(known), InverseMap(known)]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for gradient in map(partial(lambda target: target.gradient(depth, alpha)), targets):
            assert gradient.shape == SIZE
    finally:
        torch.cuda.set_sync_debug_mode("default")
