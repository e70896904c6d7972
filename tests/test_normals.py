"""Normal maps as a part of the loss: gradients against float64 autograd, files, runs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from demo_runs import demo_config
from PIL import Image
from scene_files import look_at
from scripts_as_modules import imported_script
from test_tracks import view_at
from torch import Tensor

from distwar_datasets import DataError
from distwar_datasets.lenses import Lens
from distwar_datasets.pixels.depthmaps import read_normals
from distwar_gs.rendering.renderer import render
from distwar_gs.training.normals import EDGE, LEAST_ALPHA, NormalMap, facing_share, rays_of
from distwar_gs.training.trainer import Trainer

SIZE = (9, 12)
K = np.array([[11.0, 0, 5.0], [0, 12.0, 5.5], [0, 0, 1]])
VIEW = replace(view_at(np.eye(4), SIZE[1], SIZE[0]), K=K)
RAYS = torch.from_numpy(rays_of(VIEW)).double()


def plane(normal: Tensor, distance: float = 3.0) -> Tensor:
    """Depth [H, W] of the plane n . p = -distance, before the camera."""
    return -distance / (RAYS @ normal)


def random_map(seed: int = 1) -> Tensor:
    """Of vectors towards the camera; the first two columns are not known."""
    vectors = torch.randn(*SIZE, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    vectors[..., 2] = -3.0
    vectors[:, :2] = torch.nan
    return torch.nn.functional.normalize(vectors, dim=-1)


def random_depth(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Depth and alpha; a row is hardly covered, and there is an edge."""
    generator = torch.Generator().manual_seed(seed)
    depth = 3.0 + 0.3 * torch.rand(SIZE, generator=generator, dtype=torch.float64)
    alpha = 0.1 + 0.9 * torch.rand(SIZE, generator=generator, dtype=torch.float64)
    alpha[0], depth[:, 9:] = 0.5 * LEAST_ALPHA, 2.0 * EDGE * depth[:, 9:]
    return depth, alpha


def test_rays_of_a_lens_are_its_points_at_depth_1():
    for lens in (Lens("equirectangular", (2.0, 2.9, 6.0, 4.5)), Lens("unified", (11.0, 12.0, 5.0, 5.5, 0.5, 1.0, 3.0))):
        rays = rays_of(replace(VIEW, lens=lens, K=lens.K))
        x, y = np.meshgrid(np.arange(SIZE[1]) + 0.5, np.arange(SIZE[0]) + 0.5)
        np.testing.assert_allclose(lens.pixels(rays.reshape(-1, 3)), np.stack([x, y], -1).reshape(-1, 2), atol=1e-3)
        np.testing.assert_allclose(lens.depths(rays.reshape(-1, 3)), 1.0, atol=1e-5)


def test_gradients_are_those_of_autograd():
    (depth, alpha), target = random_depth(), NormalMap(random_map(), RAYS)
    leaf = depth.clone().requires_grad_()
    points = leaf[..., None] * RAYS
    errors, count = leaf.new_zeros(()), 0
    for y in range(1, SIZE[0] - 1):
        for x in range(1, SIZE[1] - 1):
            around = [(y, x + 1), (y, x - 1), (y + 1, x), (y - 1, x)]
            near = torch.stack([depth[at] for at in around])
            if min(alpha[at] for at in around) <= LEAST_ALPHA or near.max() >= EDGE * near.min() or x < 2:
                continue
            right, left, below, above = (points[at] for at in around)
            normal = torch.nn.functional.normalize(torch.linalg.cross(below - above, right - left), dim=0)
            errors, count = errors + 1.0 - normal @ target.normals[y, x], count + 1
    assert 20 < count < 60
    (expected,) = torch.autograd.grad(errors / count, leaf)
    torch.testing.assert_close(target.gradient(depth, alpha), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(target.error(depth, alpha), (errors / count).detach())


@pytest.mark.parametrize("normal", [[0.0, 0.0, -1.0], [0.4, 0.1, -0.9], [-0.3, -0.5, -0.8]])
def test_a_plane_has_its_normal(normal):
    wanted = torch.nn.functional.normalize(torch.tensor(normal, dtype=torch.float64), dim=0)
    target = NormalMap(wanted.expand(*SIZE, 3), RAYS)
    depth, alpha = plane(wanted), torch.ones(SIZE, dtype=torch.float64)
    assert float(target.error(depth, alpha)) < 1e-12
    assert float(target.gradient(depth, alpha).abs().max()) < 1e-9
    assert float(facing_share(target.normals, RAYS)) == 1.0 and float(facing_share(-target.normals, RAYS)) == 0.0


def test_depth_that_follows_the_gradient_becomes_the_plane():
    """A bent surface is pulled to the plane of the map; where it is, normals do not say."""
    wanted = torch.nn.functional.normalize(torch.tensor([0.3, 0.0, -0.9], dtype=torch.float64), dim=0)
    target, alpha = NormalMap(wanted.expand(*SIZE, 3), RAYS), torch.ones(SIZE, dtype=torch.float64)
    depth = plane(wanted) * (1.0 + 0.05 * torch.rand(SIZE, generator=torch.Generator().manual_seed(0)).double())
    before = float(target.error(depth, alpha))
    optimizer = torch.optim.Adam([depth], lr=0.01)
    for _ in range(80):
        depth.grad = target.gradient(depth, alpha)
        optimizer.step()
    assert float(target.error(depth, alpha)) < 0.3 * before


def test_nothing_known_and_images_of_few_pixels():
    depth, alpha = random_depth()
    nothing = NormalMap(torch.full((*SIZE, 3), torch.nan, dtype=torch.float64), RAYS)
    assert torch.equal(nothing.gradient(depth, alpha), torch.zeros_like(depth))
    empty = NormalMap(random_map(), RAYS).gradient(torch.zeros_like(depth), torch.zeros_like(depth))
    assert torch.equal(empty, torch.zeros_like(depth))
    small = NormalMap(random_map()[:2], RAYS[:2]).gradient(depth[:2], alpha[:2])
    assert torch.equal(small, torch.zeros(2, SIZE[1], dtype=torch.float64))


# ------------------------------------------------------------------------------------------------------------- files


def test_files_in_both_axes(tmp_path):
    vectors = random_map().nan_to_num(0.0).numpy()
    turned = vectors * [1, -1, -1]
    np.save(tmp_path / "cv.npy", vectors)
    np.save(tmp_path / "gl.npy", turned.transpose(2, 0, 1).astype(np.float32))
    pixels = np.rint(127.5 * (turned + 1.0)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "gl.png")
    for name, bound in (("cv.npy", 1e-6), ("gl.npy", 1e-6), ("gl.png", 0.02)):
        read = read_normals(tmp_path / name, SIZE[1], SIZE[0], name.startswith("gl"))
        assert read.dtype == np.float32 and np.isnan(read[:, :2]).all()
        np.testing.assert_allclose(read[:, 2:], vectors[:, 2:], atol=bound)
    assert read_normals(tmp_path / "cv.npy", 4, 3, False).shape == (3, 4, 3)


def test_bad_files(tmp_path):
    np.save(tmp_path / "flat.npy", np.zeros(SIZE))
    (tmp_path / "broken.png").write_bytes(b"no")
    with pytest.raises(DataError, match=r"flat.npy: a normal map has a vector for each pixel"):
        read_normals(tmp_path / "flat.npy", SIZE[1], SIZE[0], True)
    with pytest.raises(DataError, match=r"broken.png: not a normal map"):
        read_normals(tmp_path / "broken.png", SIZE[1], SIZE[0], True)
    np.save(tmp_path / "wide.npy", np.ones((4, 40, 3)))
    with pytest.raises(DataError, match="not of the shape of its photo"):
        read_normals(tmp_path / "wide.npy", SIZE[1], SIZE[0], True)


# ------------------------------------------------------------------------------------------------------------- runs


@pytest.fixture
def make(demo_scene, tmp_path, in_process):
    """A run on the CPU: make("folder", {"key": value})."""

    def make(folder: str, changes: dict) -> Trainer:
        values = {"train.iterations": 12, "densification.strategy": "adc", "data.resolution": 2} | changes
        return Trainer(demo_config(demo_scene, tmp_path / folder, values))

    return make


@pytest.fixture
def maps(demo_scene, tmp_path):
    """Of the demo room, as its rays hit it: NPY in OpenCV's axes."""
    with imported_script("make_demo_scene") as script:
        recipe = script.Recipe(views=16, width=80, height=60)
        script.write_maps(tmp_path, recipe, script.orbit(recipe))
    return tmp_path / "normals"


def test_normals_come_nearer_to_those_of_the_room(make, maps):
    """Of all training views, less than without; the axes are looked at, and files are checked."""
    on = {"depth.normals": str(maps), "depth.normals_axes": "opencv", "depth.weight_final": 1.0}
    errors = {}
    for weight in (0.0, 1.0):
        run = make(str(weight), on | {"train.iterations": 25, "depth.normals_weight": weight})
        assert (run.state.depths is not None) == (weight > 0) and run.run() == 0
        measured = make(f"targets{weight}", on | {"depth.normals_weight": 1.0}).state.depths
        settings, params, found = run.state.settings, run.state.params, []
        for index, camera in enumerate(run.batches.cameras[:6]):
            with torch.no_grad():
                seen = render(params, camera, settings, sh_degree=0, with_depth=True)
            ((_, target),) = measured._views[index]
            found.append(float(target.error(seen.depths[0, ..., 0], seen.alphas[0, ..., 0])))
        errors[weight] = sum(found) / len(found)
    assert errors[1.0] < 0.9 * errors[0.0]
    with pytest.raises(
        DataError, match=r"look away from the camera in opengl's axes; give --set depth.normals_axes=op"
    ):
        make("axes", {"depth.normals": str(maps)})
    with pytest.raises(DataError, match="nowhere: depth.normals is not a folder"):
        make("nowhere", {"depth.normals": "nowhere"})


def test_a_run_goes_on_to_the_same_bits(make, maps):
    changes = {"depth.normals": str(maps), "depth.normals_axes": "opencv", "densification.strategy": "guided",
               "depth.weight": 0.1}  # fmt: skip
    whole = make("whole", changes | {"train.checkpoint_iterations": [6]})
    assert whole.run() == 0
    second = make("second", changes | {"train.resume": str(whole.folder / "checkpoints/step_6.pt")})
    assert second.state.step == 6 and second.run() == 0
    assert all(torch.equal(param, second.state.params[name]) for name, param in whole.state.params.items())


def test_rays_meet_the_middles_of_pixels():
    view = view_at(look_at((0.0, -4.0, 0.0)), 40, 30)
    rays = torch.from_numpy(rays_of(view)).double()
    pixels = rays @ torch.from_numpy(view.K).T
    assert float(pixels[7, 11, 0]) == pytest.approx(11.5) and float(pixels[7, 11, 1]) == pytest.approx(7.5)


@pytest.mark.gpu
def test_steps_do_not_wait_for_the_gpu():
    depth, alpha = (tensor.float().cuda() for tensor in random_depth())
    target = NormalMap(random_map().float().cuda(), RAYS.float().cuda())
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert target.gradient(depth, alpha).shape == SIZE
    finally:
        torch.cuda.set_sync_debug_mode("default")
