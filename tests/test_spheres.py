"""The sphere op: the reference by itself; on the GPU the kernels, whose lanes add to many addresses, against it."""

from functools import cache

import pytest
import torch
from random_scenes import REDUCTIONS, assert_below, assert_close, relative_l2
from torch import Tensor

from distwar_kernels import Cameras, Reduction, render_spheres, sphere_traffic, tile_grid, tuner_of
from distwar_kernels.constants import (
    ALPHA_CAP,
    PATCH_HEIGHT,
    PATCH_WIDTH,
    SPHERE_FRAGMENTS,
    TILE_SIZE,
    WARP_SIZE,
)
from distwar_kernels.spheres.spheres import SPHERE_CANDIDATES, sphere_bounds
from distwar_kernels.spheres.spheres_torch import render_spheres_torch
from distwar_kernels.tiles.tiles_reference import intersect_tiles_reference

GPU_BOUND = 1e-4
SPHERES = ("centers", "radii", "colors", "opacities", "cameras")
Scene = dict[str, Tensor | Cameras]


def pinholes(Ks: Tensor, width: int, height: int) -> Cameras:
    """Cameras in whose frames the spheres are."""
    return Cameras.of_matrices(torch.eye(4).expand(len(Ks), 4, 4), Ks, width, height)


def sphere_scene(
    seed: int,
    *,
    n: int = 60,
    width: int = 50,
    height: int = 37,
    cameras: int = 1,
    radius: tuple[float, float] = (0.05, 0.5),
) -> Scene:
    """Spheres strewn over the view and a little beyond, and a camera whose principal point is off the centre."""
    g = torch.Generator().manual_seed(seed)
    z = 2.0 + 4.0 * torch.rand(cameras, n, 1, generator=g)
    focal = 0.9 * width
    xy = (torch.rand(cameras, n, 2, generator=g) * 1.2 - 0.6) * z * torch.tensor([width, height]) / focal
    K = torch.tensor([[focal, 0.0, 0.45 * width], [0.0, 1.1 * focal, 0.55 * height], [0.0, 0.0, 1.0]])
    return {
        "centers": torch.cat([xy, z], dim=-1),
        "radii": radius[0] + (radius[1] - radius[0]) * torch.rand(cameras, n, generator=g) ** 2,
        "colors": torch.rand(cameras, n, 3, generator=g),
        "opacities": 0.05 + 0.9 * torch.rand(cameras, n, generator=g),
        "cameras": pinholes(K.expand(cameras, 3, 3), width, height),
        "backgrounds": torch.rand(cameras, 3, generator=g),
    }


def moved(scene: Scene, **to: object) -> Scene:
    return {name: None if value is None else value.to(**to) for name, value in scene.items()}


def run_spheres(scene: Scene, **options: object) -> dict[str, Tensor]:
    """Image, alpha and the gradients of a random loss, on the CPU."""
    scene = dict(scene)
    leaves = {n: scene[n].clone().requires_grad_() for n in (*SPHERES[:4], "backgrounds") if scene[n] is not None}
    image, alpha = render_spheres(**(scene | leaves), **options)
    g = torch.Generator().manual_seed(99)
    v_image, v_alpha = (torch.randn(shape, generator=g).to(image) for shape in (image.shape, alpha.shape))
    nothing = sum(0 * leaf.sum() for leaf in leaves.values())  # gives zero gradients to what the image does not use
    ((image * v_image).sum() + (alpha * v_alpha).sum() + nothing).backward()
    results = {"image": image, "alpha": alpha} | {f"v_{name}": leaf.grad for name, leaf in leaves.items()}
    return {name: value.detach().cpu() for name, value in results.items()}


def one_sphere(**changes: object) -> Scene:
    """A sphere of radius 1 on the axis of a camera, 5 away; the axis goes through the middle of pixel (8, 8)."""
    K = torch.tensor([[[20.0, 0.0, 8.5], [0.0, 20.0, 8.5], [0.0, 0.0, 1.0]]])
    scene: Scene = {
        "centers": torch.tensor([[[0.0, 0.0, 5.0]]]), "radii": torch.ones(1, 1), "colors": torch.ones(1, 1, 3),
        "opacities": torch.full((1, 1), 0.8), "cameras": pinholes(K, 20, 20), "backgrounds": None,
    }  # fmt: skip
    return scene | changes


# ------------------------------------------------------------------------------------------------- the reference


def test_a_sphere_as_written_on_paper():
    _, alpha = render_spheres(**one_sphere())
    assert alpha[0, 8, 8, 0] == pytest.approx(0.8)
    # The ray of pixel (10, 8) leaves the axis by 2 / 20 at depth 1 and passes the centre at 5 sin(atan 0.1).
    squared = 25 * 0.01 / 1.01
    assert alpha[0, 8, 10, 0] == pytest.approx(0.8 * (1 - squared), rel=1e-5)
    assert alpha[0, 0, 0, 0] == 0.0


def test_nearer_spheres_hide_farther_ones():
    centers = torch.tensor([[[0.0, 0.0, 8.0], [0.0, 0.0, 5.0]]])
    colors = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    image, _ = render_spheres(**one_sphere(
        centers=centers, radii=torch.ones(1, 2), colors=colors, opacities=torch.full((1, 2), 0.8)))  # fmt: skip
    assert image[0, 8, 8].tolist() == pytest.approx([0.2 * 0.8, 0.8, 0.0])


def test_only_the_nearest_fragments_are_blended():
    n = SPHERE_FRAGMENTS + 2
    centers = torch.tensor([0.0, 0.0, 5.0]).repeat(1, n, 1)
    centers[..., 2] += torch.arange(n).flip(0)  # the first is the farthest
    scene = one_sphere(centers=centers, radii=torch.ones(1, n), colors=torch.eye(n, 3)[None],
                       opacities=torch.full((1, n), 0.1))  # fmt: skip
    scene["colors"] = torch.zeros(1, n, 3)
    scene["colors"][0, :2] = 1.0  # the two farthest would light the pixel
    image, alpha = render_spheres(**scene)
    assert image[0, 8, 8].tolist() == [0.0, 0.0, 0.0]
    assert alpha[0, 8, 8, 0] == pytest.approx(1 - 0.9**SPHERE_FRAGMENTS)


def test_gradcheck():
    scene = moved(sphere_scene(3, n=5, width=8, height=6, radius=(0.3, 0.6)), dtype=torch.float64)

    def render(centers, radii, colors, opacities, backgrounds):
        return render_spheres(centers, radii, colors, opacities, scene["cameras"], backgrounds)

    leaves = [scene[name].requires_grad_() for name in (*SPHERES[:4], "backgrounds")]
    assert torch.autograd.gradcheck(render, leaves)


@pytest.mark.parametrize("seed", range(5))
def test_bounds_hold_every_pixel_and_little_more(seed):
    scene = sphere_scene(seed, n=25, width=64, height=48, radius=(0.05, 1.2))
    means2d, extents = sphere_bounds(*(scene[name] for name in ("centers", "radii", "cameras")), 0.01)
    for i in range(25):
        alone = {name: scene[name][:, i : i + 1] for name in SPHERES[:4]}
        _, alpha = everything_in_every_tile(scene | alone | {"backgrounds": None, "opacities": torch.ones(1, 1)})
        rows, columns = (alpha[0, ..., 0] > 0).nonzero(as_tuple=True)
        if len(rows) == 0:
            continue
        low, high = (means2d - extents)[0, i], (means2d + extents)[0, i]
        first, last = torch.stack([columns.min(), rows.min()]) + 0.5, torch.stack([columns.max(), rows.max()]) + 0.5
        assert (low <= first).all()
        assert (last <= high).all()
        if (low > 0).all() and (high < torch.tensor([64, 48])).all():  # whole in the image: the box is tight
            assert (first - low).max() < 4
            assert (high - last).max() < 4


def everything_in_every_tile(scene: Scene) -> tuple[Tensor, Tensor]:
    """render_spheres without its tile lists."""
    cameras, n = scene["radii"].shape
    tile_width, tile_height = tile_grid(scene["cameras"].width, scene["cameras"].height)
    tiles = tile_width * tile_height
    order = [torch.argsort(scene["centers"][c, :, 2], stable=True) + c * n for c in range(cameras)]
    offsets = (torch.arange(cameras * tiles, dtype=torch.int32) * n).reshape(cameras, tile_height, tile_width)
    ids = torch.cat([o.repeat(tiles) for o in order]).int()
    spheres = (scene[name] for name in SPHERES)
    render, transmittances, _ = render_spheres_torch(*spheres, offsets, ids, scene["backgrounds"])
    return render, 1.0 - transmittances[..., None]


def test_tile_lists_leave_nothing_out():
    scene = sphere_scene(7, n=80, width=70, height=45, cameras=2, radius=(0.05, 1.0))
    image, alpha = render_spheres(**scene)
    all_image, all_alpha = everything_in_every_tile(scene)
    torch.testing.assert_close(image, all_image)
    torch.testing.assert_close(alpha, all_alpha)


@pytest.mark.parametrize(
    "changes",
    [
        {"centers": torch.tensor([[[0.0, 0.0, -5.0]]])},
        {"centers": torch.tensor([[[0.0, 0.0, 0.9]]])},
        {"centers": torch.tensor([[[float("nan"), 0.0, 5.0]]])},
        {"centers": torch.tensor([[[0.0, float("inf"), 5.0]]])},
        {"radii": torch.full((1, 1), float("inf"))},
        {"radii": torch.zeros(1, 1)},
        {"radii": -torch.ones(1, 1)},
        {"colors": torch.full((1, 1, 3), float("nan"))},
        {"opacities": torch.full((1, 1), float("nan"))},
    ],
    ids=["behind", "at-the-camera", "nan", "inf", "inf-radius", "no-radius", "negative", "nan-color", "nan-opacity"],
)
def test_what_cannot_be_seen_is_culled(changes):
    result = run_spheres(one_sphere(**changes, backgrounds=torch.ones(1, 3)))
    assert torch.equal(result["image"], torch.ones(1, 20, 20, 3))
    finite = [name for name in result if changes.get(name[2:]) is None]  # 0 * NaN in the test's own loss
    assert all(torch.isfinite(result[name]).all() for name in finite)


def test_nothing_flows_back_through_capped_alphas():
    result = run_spheres(one_sphere(opacities=torch.full((1, 1), 3.0), radii=torch.full((1, 1), 4.9)))
    assert result["alpha"].max() == pytest.approx(ALPHA_CAP)
    assert not result["v_radii"].any()
    assert result["v_colors"].any()


@pytest.mark.parametrize("name", ["radii", "colors", "opacities", "backgrounds"])
def test_wrong_shapes_name_the_tensor(name):
    scene = sphere_scene(0)
    with pytest.raises(ValueError, match=name):
        render_spheres(**(scene | {name: scene[name][..., :-1]}))


def test_as_many_cameras_are_needed_as_there_are_sets_of_spheres():
    scene = sphere_scene(0, cameras=2)
    with pytest.raises(ValueError, match="1 cameras, expected 2"):
        render_spheres(**(scene | {"cameras": scene["cameras"].one(0)}))


@pytest.mark.parametrize("strategy", ["gsplat", "sw_t"])
def test_strategies_without_spheres(strategy):
    with pytest.raises(ValueError, match=strategy):
        render_spheres(**sphere_scene(0), reduction=Reduction(strategy))


# --------------------------------------------------------------------------------------------------------- GPU


@cache
def any_sphere_scene(seed: int) -> Scene:
    """A scene whose size, number of spheres and cameras come from the seed, too."""
    g = torch.Generator().manual_seed(20_000 + seed)

    def pick(*values: int) -> int:
        return values[int(torch.randint(len(values), (), generator=g))]

    return sphere_scene(seed, n=pick(0, 1, 31, 33, 100, 200), width=pick(1, 15, 16, 17, 50, 97),
                        height=pick(1, 16, 31, 33, 65), cameras=pick(1, 1, 2, 3))  # fmt: skip


@cache
def exact_results(seed: int) -> dict[str, Tensor]:
    return run_spheres(moved(any_sphere_scene(seed), dtype=torch.float64))


def test_float32_on_the_cpu_agrees_with_float64():
    assert_below({seed: error_of_seed(seed, "cpu") for seed in range(10)}, GPU_BOUND)


def error_of_seed(seed: int, device: str, **options: object) -> float:
    result = run_spheres(moved(any_sphere_scene(seed), device=device), **options)
    return max(relative_l2(result[name], value) for name, value in exact_results(seed).items())


@pytest.mark.gpu
@pytest.mark.parametrize("reduction", [r for r in REDUCTIONS if r.strategy != "sw_t"], ids=str)
def test_cuda_over_many_seeds(reduction, seeds):
    assert_below({seed: error_of_seed(seed, "cuda", reduction=reduction) for seed in seeds}, GPU_BOUND)


def counted_by_hand(scene: Scene) -> Tensor:
    """[3, 33] as AtomicTraffic has it, from the fragments of the reference."""
    counts = torch.zeros(3, WARP_SIZE + 1, dtype=torch.int64)
    means2d, extents = sphere_bounds(*(scene[name] for name in ("centers", "radii", "cameras")), 0.01)
    width, height = scene["cameras"].width, scene["cameras"].height
    lists = intersect_tiles_reference(means2d, extents, scene["centers"][..., 2], width, height)
    ids = render_spheres_torch(*(scene[name] for name in SPHERES), *lists)[2]
    columns, rows = tile_grid(width, height)
    margin = (0, 0, 0, columns * TILE_SIZE - width, 0, rows * TILE_SIZE - height)
    ids = torch.nn.functional.pad(ids, margin, value=-1)
    patches = ids.unflatten(2, (-1, PATCH_WIDTH)).unflatten(1, (-1, PATCH_HEIGHT)).permute(0, 1, 3, 5, 2, 4)
    for lanes in patches.reshape(-1, WARP_SIZE).tolist():
        groups = {key: lanes.count(key) for key in set(lanes) - {-1}}
        active = sum(groups.values())
        counts[0, active] += 1
        for size in groups.values():
            counts[1, size] += 1
        if len(groups) == 1:
            counts[2, active] += 1
    return counts


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(10))
def test_the_kernel_counts_its_traffic(seed):
    scene = sphere_scene(100 + seed, n=150, width=75, height=50, cameras=2, radius=(0.05, 0.4))
    traffic = sphere_traffic(**{name: scene[name].to("cuda") for name in SPHERES})
    assert torch.equal(traffic.counts, counted_by_hand(scene))
    assert 0.0 < traffic.one_address_share < 1.0
    atomics = {s: traffic.atomics(Reduction(s, 1)) for s in ("atomic", "sw_s", "sw_b")}
    assert atomics["sw_s"] < atomics["sw_b"] < atomics["atomic"]


@pytest.mark.gpu
def test_auto_tunes_spheres_too():
    scene, device = moved(sphere_scene(5, n=500, width=160, height=120), device="cuda"), torch.device("cuda")
    tuner = tuner_of(device, SPHERE_CANDIDATES)
    tuner.reset()
    for _ in range(8):
        result = run_spheres(scene, reduction=Reduction("auto"))
        torch.cuda.synchronize()
    assert len(tuner.rounds) == 1
    tuner.reset()
    assert_close(result, run_spheres(moved(scene, device="cpu")), GPU_BOUND)


@pytest.mark.gpu
def test_opcheck():
    scene = moved(sphere_scene(1, n=20, width=20, height=18), device="cuda")
    run_spheres(scene)  # loads the kernels
    means2d, extents = sphere_bounds(*(scene[name] for name in ("centers", "radii", "cameras")), 0.01)
    lists = intersect_tiles_reference(means2d.cpu(), extents.cpu(), scene["centers"][..., 2].cpu(), 20, 18)
    tensors = [scene[name] for name in SPHERES[:4]]
    rest = (*scene["cameras"].arguments(), scene["backgrounds"], *(part.cuda() for part in lists))
    leaves = [t.clone().requires_grad_() for t in tensors]
    forward = torch.ops.distwar.spheres_forward.default
    torch.library.opcheck(forward, (*leaves, *rest, "sw_b", 8), atol=1e-4, rtol=1e-4)
    _, transmittances, ids = forward(*tensors, *rest, "sw_b", 8)
    upstream = (ids, torch.randn(1, 18, 20, 3, device="cuda"), torch.randn_like(transmittances))
    backward = torch.ops.distwar.spheres_backward.default
    torch.library.opcheck(backward, (*tensors, *rest, *upstream, "sw_b", 8), atol=1e-4, rtol=1e-4)
