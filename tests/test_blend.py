"""The blend op, forward and backward, against its float64 definition; on the GPU against gsplat too."""

from functools import cache, partial

import pytest
import torch
from random_scenes import (
    EVERY_REDUCTION,
    GRADIENTS,
    BlendScene,
    any_blend_scene,
    assert_below,
    assert_close,
    clear_of_cuts,
    count_traffic,
    in_float64,
    loss_weights,
    pack,
    random_blend_scene,
    reference_absgrad,
    reference_blend,
    reference_results,
    relative_l2,
    run_blend,
    stack_scene,
)

from distwar_kernels import Reduction, rasterize_to_pixels
from distwar_kernels.blend.blend_reference import (
    blend_gradients_reference,
    blend_reference,
    blend_weights,
    decided_pixels,
    splat_alphas,
)
from distwar_kernels.constants import ALPHA_CAP, ALPHA_CUT, TILE_SIZE, TRANSMITTANCE_CUT
from distwar_kernels.tiles.tile_by_tile import tile_pixels

CPU_BOUND = 1e-5  # rounding gives about 1e-6
GPU_BOUND = 1e-4
GSPLAT_BOUND = 1e-3

# Seeds with shapes that have bitten splatting kernels: partial tiles, one pixel, few and odd numbers of Gaussians.
# No alpha here is within 1e-5 (relative) of the alpha cut and no transmittance within 3e-5 of its cut, so float32 and
# float64 agree on what contributes, and the bounds can be as tight as rounding allows.
CASES = {
    "seed0-one-tile": partial(random_blend_scene, 0, n=33, width=16, height=16),
    "seed1-odd-size": partial(random_blend_scene, 1, n=100, width=49, height=35),
    "seed2-1x1-pixel": partial(random_blend_scene, 2, n=20, width=1, height=1),
    "seed3-no-gaussians": partial(random_blend_scene, 3, n=0, width=20, height=10),
    "seed4-one-gaussian": partial(random_blend_scene, 4, n=1, width=17, height=15, size=(5.0, 9.0)),
    "seed5-31-gaussians": partial(random_blend_scene, 5, n=31, width=33, height=47),
    "seed6-three-cameras": partial(random_blend_scene, 6, n=45, width=37, height=29, cameras=3),
    "seed7-packed": partial(random_blend_scene, 7, n=50, width=40, height=23, cameras=2, packed=True),
    "seed8-masks": partial(random_blend_scene, 8, n=60, width=65, height=50, masked=True),
    "seed9-masks-cameras": partial(random_blend_scene, 9, n=40, width=50, height=33, cameras=2, masked=True),
    "seed10-1-channel": partial(random_blend_scene, 10, n=64, width=31, height=17, channels=1),
    "seed11-2-channels": partial(random_blend_scene, 11, n=65, width=30, height=18, channels=2),
    "seed12-5-channels": partial(random_blend_scene, 12, n=63, width=29, height=19, channels=5),
    "seed13-32-channels": partial(random_blend_scene, 13, n=50, width=28, height=20, channels=32),
    "seed14-40-channels": partial(random_blend_scene, 14, n=50, width=27, height=21, channels=40),
    "seed15-no-background": partial(random_blend_scene, 15, n=90, width=49, height=35, background=False),
    "seed16-row": partial(random_blend_scene, 16, n=80, width=100, height=1),
    "seed17-column": partial(random_blend_scene, 17, n=80, width=1, height=100),
    "seed18-tiny": partial(random_blend_scene, 18, n=500, width=64, height=48, size=(0.05, 0.5)),
    "seed19-opaque": partial(random_blend_scene, 19, n=600, width=40, height=40, opacity=(0.9, 1.0)),
    "seed20-faint": partial(random_blend_scene, 20, n=300, width=48, height=40, opacity=(0.0, 0.02)),
    "seed21-huge": partial(random_blend_scene, 21, n=70, width=48, height=40, size=(20.0, 200.0)),
    "seed22-4-channels": partial(random_blend_scene, 22, n=77, width=41, height=43, channels=4),
    "seed23-more-than-a-batch": partial(random_blend_scene, 23, n=700, width=33, height=20, opacity=(0.01, 0.06)),
    "stack-opaque": partial(stack_scene, 0.7, 40),
    "stack-capped": partial(stack_scene, 1.0, 3),
}
all_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
ABSGRAD_CASES = {
    "seed0": partial(random_blend_scene, 0, n=33, width=16, height=16),
    "seed1-odd-size": partial(random_blend_scene, 1, n=20, width=19, height=17),
    "seed2-cameras": partial(random_blend_scene, 2, n=17, width=17, height=7, cameras=2),
    "seed3-packed": partial(random_blend_scene, 3, n=20, width=17, height=18, packed=True),
    "seed4-stack": partial(stack_scene, 0.7, 12),
}
absgrad_cases = pytest.mark.parametrize("case", ABSGRAD_CASES.values(), ids=ABSGRAD_CASES.keys())


@cache
def absgrad_of(case: partial) -> torch.Tensor:
    return reference_absgrad(case())


def arguments(scene: BlendScene, **changes: object) -> dict[str, object]:
    """The scene as keyword arguments of ``rasterize_to_pixels``, some of them changed."""
    return vars(scene) | {"image_width": scene.width, "image_height": scene.height, "tile_size": TILE_SIZE} | changes


def call(scene: BlendScene, **changes: object) -> tuple[torch.Tensor, torch.Tensor]:
    options = arguments(scene, **changes)
    return rasterize_to_pixels(**{k: v for k, v in options.items() if k not in ("width", "height")})


# ------------------------------------------------------------------------------------------ the reference itself


def tiny_float64_scene() -> BlendScene:
    scene = random_blend_scene(5, n=6, width=7, height=5, size=(3.0, 6.0), opacity=(0.3, 0.6))
    return scene.map(lambda t: t.double() if t.is_floating_point() else t)


def test_gradcheck_of_the_reference():
    scene = tiny_float64_scene()
    inputs = [scene.means2d[0], scene.conics[0], scene.colors[0], scene.opacities[0], scene.backgrounds]
    inputs = [t.clone().requires_grad_() for t in inputs]

    def blend(means2d, conics, colors, opacities, backgrounds):
        ids = (scene.isect_offsets, scene.flatten_ids)
        return blend_reference(means2d, conics, colors, opacities, 7, 5, *ids, backgrounds)

    assert torch.autograd.gradcheck(blend, inputs)


def test_the_reference_blends_two_gaussians_as_written_on_paper():
    pixel = torch.tensor([[8.5, 8.5]], dtype=torch.float64)
    means2d = pixel + torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    conics = torch.tensor([[1.0, 0.0, 1.0], [0.5, 0.0, 1.0]], dtype=torch.float64)
    weights, rest = blend_weights(means2d, conics, torch.tensor([0.5, 0.8], dtype=torch.float64), pixel)
    second = 0.8 * torch.e**-1  # sigma = 0.5 * 0.5 * 2^2
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.5 * second]], dtype=torch.float64))
    torch.testing.assert_close(rest, torch.tensor([0.5 * (1 - second)], dtype=torch.float64))


def test_a_pixel_is_undecided_where_an_alpha_is_at_the_cut():
    scene = tiny_float64_scene()
    splats = [t[0] for t in (scene.means2d, scene.conics, scene.colors, scene.opacities)]
    lists = (scene.isect_offsets, scene.flatten_ids)
    assert decided_pixels(splats, *lists, 7, 5).all()
    first = torch.zeros(6, dtype=torch.float64)
    first[0] = 1.0
    alphas = splat_alphas(splats[0], splats[1], first, tile_pixels(0, 0, splats[0]))[:, 0]
    pixel = 2 * TILE_SIZE + 3
    splats[3] = splats[3].clone()
    splats[3][0] = (1 + 1e-7) * ALPHA_CUT / alphas[pixel]
    undecided = ~decided_pixels(splats, *lists, 7, 5)
    assert undecided.nonzero().tolist() == [[0, 2, 3]]


def test_gradients_tile_by_tile_are_those_of_the_whole_image():
    scene = in_float64(random_blend_scene(1, cameras=2, background=False))
    splats = [t.flatten(0, 1).requires_grad_() for t in (scene.means2d, scene.conics, scene.colors, scene.opacities)]
    lists, upstream = (scene.isect_offsets, scene.flatten_ids), [v.double() for v in loss_weights(scene)]
    whole = torch.autograd.grad(blend_reference(*splats, scene.width, scene.height, *lists), splats, upstream)
    by_tile = blend_gradients_reference(tuple(splats), *lists, *upstream)
    assert all(relative_l2(mine, all_) < 1e-14 for mine, all_ in zip(by_tile, whole, strict=True))


# --------------------------------------------------------------------------------------------------- CPU kernels


@all_cases
def test_cpu_agrees_with_the_reference(case):
    assert_close(run_blend(case(), rasterize_to_pixels), reference_results(case), CPU_BOUND)


def test_needles_on_the_cpu():
    case = partial(needle_scene, 0)
    assert_close(run_blend(case(), rasterize_to_pixels), reference_results(case), CPU_BOUND)


@cache
def exact_results(seed: int) -> dict[str, torch.Tensor]:
    return reference_results(partial(any_blend_scene, seed))


def error_of_seed(seed: int, device: str, **options: object) -> float:
    result = run_blend(any_blend_scene(seed).to(device), rasterize_to_pixels, **options)
    return max(relative_l2(result[name], value) for name, value in exact_results(seed).items())


def test_cpu_over_many_seeds(seeds):
    assert_below({seed: error_of_seed(seed, "cpu") for seed in seeds}, CPU_BOUND)


@absgrad_cases
def test_cpu_absgrad(case):
    result = run_blend(case(), rasterize_to_pixels, absgrad=True)
    assert_close(result, reference_results(case) | {"absgrad": absgrad_of(case)}, CPU_BOUND)


def test_absgrad_exceeds_the_gradient():
    """The reference for absgrad is no triviality: gradients of pixels cancel."""
    case = ABSGRAD_CASES["seed0"]
    assert absgrad_of(case).norm() > 1.2 * reference_results(case)["v_means2d"].norm()


def test_all_gaussians_culled_gives_the_background():
    scene = random_blend_scene(0, n=10)
    empty = scene.replace(isect_offsets=torch.zeros_like(scene.isect_offsets), flatten_ids=scene.flatten_ids[:0])
    result = run_blend(empty, rasterize_to_pixels)
    assert torch.equal(result["image"], scene.backgrounds[:, None, None].expand_as(result["image"]))
    assert all(not result[name].any() for name in ("alpha", "v_means2d", "v_conics", "v_colors", "v_opacities"))


def test_masked_tiles_show_the_background():
    scene = random_blend_scene(8, n=60, width=65, height=50)
    image, alpha = call(scene, masks=torch.zeros(scene.isect_offsets.shape, dtype=torch.bool))
    assert not alpha.any()
    assert torch.equal(image, scene.backgrounds[:, None, None].expand_as(image))


def test_transmittance_cut_is_reached_and_respected():
    _, alpha = call(stack_scene(0.7, 40))
    assert alpha.max() > 0.995
    assert 1.0 - alpha.max() > TRANSMITTANCE_CUT
    # What comes after the cut has no influence: neither on the image nor in the gradients.
    result = run_blend(stack_scene(0.7, 40), rasterize_to_pixels)
    assert not result["v_colors"][0, -1].any()
    assert result["v_colors"][0, 0].any()


def test_nothing_flows_back_through_capped_alphas():
    scene = stack_scene(1.0, 1, width=16, height=16)
    scene = scene.replace(means2d=torch.full_like(scene.means2d, 8.5), conics=torch.tensor([[[1e-9, 0.0, 1e-9]]]))
    result = run_blend(scene, rasterize_to_pixels)
    torch.testing.assert_close(result["alpha"], torch.full_like(result["alpha"], ALPHA_CAP))
    assert result["v_colors"].any()
    assert not any(result[name].any() for name in ("v_means2d", "v_conics", "v_opacities"))


def test_packed_and_dense_agree_bit_for_bit():
    scene = random_blend_scene(7, n=50, width=40, height=23, cameras=2)
    dense, packed = run_blend(scene, rasterize_to_pixels), run_blend(pack(scene), rasterize_to_pixels)
    used = torch.unique(scene.flatten_ids.long())
    assert torch.equal(dense["image"], packed["image"])
    assert torch.equal(dense["v_means2d"].flatten(0, 1)[used], packed["v_means2d"])


def test_batch_dimensions_of_any_number():
    scene = random_blend_scene(6, n=45, width=37, height=29, cameras=4)
    image, alpha = call(scene)
    shaped = scene.map(lambda t: t.unflatten(0, (2, 2)) if t.dim() > 1 else t)
    image4, alpha4 = call(shaped)
    assert torch.equal(image4, image.unflatten(0, (2, 2)))
    assert torch.equal(alpha4, alpha.unflatten(0, (2, 2)))
    single = scene.map(lambda t: t[0] if t.dim() > 1 else t)
    ids = scene.flatten_ids[: scene.isect_offsets[1, 0, 0]]
    assert torch.equal(call(single.replace(flatten_ids=ids))[0], image[0])


def test_gradients_are_bit_equal_from_run_to_run_and_for_any_number_of_threads():
    scene = random_blend_scene(6, n=300, width=100, height=80, cameras=2)
    first, again = (run_blend(scene, rasterize_to_pixels, absgrad=True) for _ in range(2))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        other = run_blend(scene, rasterize_to_pixels, absgrad=True)
    finally:
        torch.set_num_threads(threads)
    for name, value in first.items():
        assert torch.equal(value, again[name]), name
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("strategy", ["atomic", "sw_s", "sw_b", "sw_t", "auto"])
def test_strategies_are_one_on_the_cpu(strategy):
    scene = random_blend_scene(1)
    default, result = (run_blend(scene, rasterize_to_pixels, **options)
                       for options in ({}, {"reduction": Reduction(strategy, 16)}))  # fmt: skip
    assert all(torch.equal(value, result[name]) for name, value in default.items())


def test_only_what_is_asked_for_is_differentiated():
    """Alphas alone or colours alone, and inputs that need no gradient."""
    scene = random_blend_scene(1)
    opacities = scene.opacities.clone().requires_grad_()
    reference = scene.opacities.double().requires_grad_()
    for output in (0, 1):
        call(scene.replace(opacities=opacities))[output].sum().backward()
        double = scene.map(lambda t: t.double() if t.is_floating_point() else t).replace(opacities=reference)
        reference_blend(*list(arguments(double).values())[:4], 49, 35, TILE_SIZE, double.isect_offsets,
                        double.flatten_ids, double.backgrounds, None, False)[output].sum().backward()  # fmt: skip
        assert relative_l2(opacities.grad, reference.grad) < CPU_BOUND
        opacities.grad = reference.grad = None


# ---------------------------------------------------------------------------------------------------- bad input


def break_gaussians(scene: BlendScene, seed: int) -> tuple[BlendScene, torch.Tensor]:
    """Puts NaN or an infinity into one field of a tenth of the Gaussians; returns their mask [C, N] too."""
    g = torch.Generator().manual_seed(seed)
    broken = torch.rand(scene.opacities.shape, generator=g) < 0.1
    fields = {name: getattr(scene, name).clone() for name in ("means2d", "conics", "colors", "opacities")}
    fields["opacities"] = fields["opacities"][..., None]
    poisons = (float("nan"), float("inf"), -float("inf"))
    for index, gaussian in enumerate(broken.nonzero().tolist()):
        field = list(fields.values())[index % 4]
        field[(*gaussian, int(torch.randint(field.shape[-1], (), generator=g)))] = poisons[index % 3]
    fields["opacities"] = fields["opacities"][..., 0]
    return scene.replace(**fields), broken


def without(scene: BlendScene, broken: torch.Tensor) -> BlendScene:
    return scene.replace(opacities=torch.where(broken, torch.zeros_like(scene.opacities), scene.opacities))


def check_broken_gaussians(device: str, seed: int, bound: float, reduction: Reduction = Reduction()) -> None:  # noqa: B008 - frozen
    """Broken Gaussians change nothing for the others, and get zero gradients themselves."""
    scene, broken = break_gaussians(random_blend_scene(seed, n=150, width=49, height=35), seed)
    assert broken.sum() >= 8
    result = run_blend(scene.to(device), rasterize_to_pixels, absgrad=True, reduction=reduction)
    assert all(torch.isfinite(value).all() for value in result.values())
    healthy = run_blend(without(random_blend_scene(seed, n=150, width=49, height=35), broken).to(device),
                        rasterize_to_pixels, absgrad=True)  # fmt: skip
    assert_close(result, healthy, bound)


@pytest.mark.parametrize("seed", range(6))
def test_broken_gaussians_spoil_nothing_on_the_cpu(seed):
    check_broken_gaussians("cpu", seed, 1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_broken_gaussians_are_culled_in_the_reference_too(seed):
    scene, _ = break_gaussians(random_blend_scene(seed, n=150), seed)
    assert_close(run_blend(scene, rasterize_to_pixels), run_blend(
        scene.map(lambda t: t.double() if t.is_floating_point() else t), reference_blend), CPU_BOUND)  # fmt: skip


def extreme_scene() -> BlendScene:
    scene = random_blend_scene(3, n=60)
    conics = scene.conics.clone()
    conics[0, ::6] = torch.tensor([1e30, 0.0, 1e30])
    conics[0, 1::6] = torch.tensor([1e-30, 0.0, 1e-30])
    conics[0, 2::6] = torch.tensor([1.0, 2.0, 1.0])  # not positive definite
    conics[0, 3::6] = 0.0
    means2d = scene.means2d.clone()
    means2d[0, 4::6] = 1e30
    return scene.replace(conics=conics, means2d=means2d)


def needle_scene(seed: int) -> BlendScene:
    """Gaussians 60 to 150 pixels long and half a pixel wide, askew, through tiles far from their middles."""
    g = torch.Generator().manual_seed(seed)
    scene = random_blend_scene(seed, n=40, width=90, height=70, size=(9.0, 9.1))
    angle = torch.pi * torch.rand(1, 40, generator=g, dtype=torch.float64)
    length, width = 60 + 90 * torch.rand(1, 40, generator=g, dtype=torch.float64), 0.5
    cos, sin = angle.cos(), angle.sin()
    along, across = length**-2, width**-2
    conics = [cos**2 * along + sin**2 * across, cos * sin * (along - across), sin**2 * along + cos**2 * across]
    offsets, ids = scene.isect_offsets, scene.flatten_ids
    tiles = offsets.numel()
    everywhere = {
        "isect_offsets": (torch.arange(tiles, dtype=torch.int32) * 40).reshape(offsets.shape),
        "flatten_ids": torch.arange(40, dtype=torch.int32).repeat(tiles).to(ids),
    }
    return clear_of_cuts(scene.replace(conics=torch.stack(conics, -1).float(), **everywhere), margin=1e-4)


def test_extreme_but_finite_gaussians_give_finite_results():
    result = run_blend(extreme_scene(), rasterize_to_pixels, absgrad=True)
    assert all(torch.isfinite(value).all() for value in result.values())


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("means2d", lambda s: {"means2d": s.means2d[..., :1]}),
        ("conics", lambda s: {"conics": s.conics[:, :-1]}),
        ("conics", lambda s: {"conics": torch.zeros(1, 70, 4)}),
        ("colors", lambda s: {"colors": s.colors[:, :-1]}),
        ("colors", lambda s: {"colors": s.colors[..., :0], "backgrounds": None}),
        ("opacities", lambda s: {"opacities": s.opacities[..., None]}),
        ("backgrounds", lambda s: {"backgrounds": s.backgrounds[..., :2]}),
        ("masks", lambda s: {"masks": torch.ones(1, 1, 1, dtype=torch.bool)}),
        ("isect_offsets", lambda s: {"isect_offsets": s.isect_offsets[:, :1]}),
        ("isect_offsets", lambda s: {"isect_offsets": s.isect_offsets[0], "backgrounds": None}),
        ("packed", lambda s: {"packed": True}),
        ("tile_size", lambda s: {"tile_size": 8}),
    ],
)
def test_wrong_shapes_name_the_tensor(name, change):
    scene = random_blend_scene(0)
    with pytest.raises(ValueError, match=name):
        call(scene, **change(scene))


def test_the_raw_op_says_what_is_wrong():
    scene = random_blend_scene(1)
    call(scene)  # loads the kernels
    lists = (scene.isect_offsets, scene.flatten_ids, 49, 35, "sw_b", 8)
    tensors = [scene.means2d[0], scene.conics[0], scene.colors[0], scene.opacities[0], None, None, None]
    for index, changed, complaint in (
        (1, scene.conics[0, :, :2].contiguous(), r"conics must have last size 3, not \[70, 2\]"),
        (0, scene.means2d[0].double(), "means2d must be Float, not Double"),
        (2, scene.colors[0].T.contiguous().T, "colors must be contiguous"),
    ):
        with pytest.raises(RuntimeError, match=complaint):
            torch.ops.distwar.blend_forward(*tensors[:index], changed, *tensors[index + 1 :], *lists)


def test_gsplat_reduction_on_the_cpu_is_an_error():
    with pytest.raises(ValueError, match="gsplat.*CUDA"):
        call(random_blend_scene(0), reduction=Reduction("gsplat"))


# ------------------------------------------------------------------------------------ registration with PyTorch


def op_arguments(device: str, strategy: str) -> tuple[tuple, tuple]:
    """Arguments of the raw ops blend_forward (with gradients wanted) and blend_backward."""
    scene = random_blend_scene(1, n=20, width=20, height=18).to(device)
    tensors = [scene.means2d[0], scene.conics[0], scene.colors[0], scene.opacities[0], scene.backgrounds]
    ids = [scene.isect_offsets, scene.flatten_ids]
    leaves = [t.clone().requires_grad_() for t in tensors]
    probe = torch.zeros_like(leaves[0]).requires_grad_()
    reduction = (strategy, 8)
    forward = (*leaves, None, probe, *ids, scene.width, scene.height, *reduction)
    _, *state = torch.ops.distwar.blend_forward(*tensors, None, None, *ids, 20, 18, *reduction)
    v_image, v_alpha = (w.to(device) for w in loss_weights(scene))
    backward = (*tensors, None, *ids, *state, v_image, v_alpha[..., 0].contiguous(), True, *reduction)
    return forward, backward


def check_ops(device: str, strategy: str = "sw_b") -> None:
    call(random_blend_scene(1).to(device))  # loads the kernels
    forward, backward = op_arguments(device, strategy)
    # atol: on the GPU atomics sum in any order
    torch.library.opcheck(torch.ops.distwar.blend_forward.default, forward, atol=1e-4, rtol=1e-4)
    torch.library.opcheck(torch.ops.distwar.blend_backward.default, backward, atol=1e-4, rtol=1e-4)


def test_opcheck_cpu():
    check_ops("cpu")


def check_compiled(device: str) -> None:
    """One graph without a break, and what it computes is what the op computes (on a GPU but for the order of sums)."""
    scene = random_blend_scene(0).to(device)
    compiled = torch.compile(rasterize_to_pixels, fullgraph=True, backend="aot_eager")
    assert_close(run_blend(scene, compiled), run_blend(scene, rasterize_to_pixels), 1e-5)


def test_under_torch_compile_cpu():
    check_compiled("cpu")


# --------------------------------------------------------------------------------------------------------- GPU


@pytest.mark.gpu
@all_cases
@EVERY_REDUCTION
def test_cuda_agrees_with_the_reference(case, reduction):
    result = run_blend(case().to("cuda"), rasterize_to_pixels, reduction=reduction)
    assert_close(result, reference_results(case), GPU_BOUND)


@pytest.mark.gpu
@EVERY_REDUCTION
def test_cuda_over_many_seeds(reduction, seeds):
    assert_below({seed: error_of_seed(seed, "cuda", reduction=reduction) for seed in seeds}, GPU_BOUND)


@pytest.mark.gpu
@absgrad_cases
@EVERY_REDUCTION
def test_cuda_absgrad(case, reduction):
    result = run_blend(case().to("cuda"), rasterize_to_pixels, absgrad=True, reduction=reduction)
    assert_close(result, reference_results(case) | {"absgrad": absgrad_of(case)}, GPU_BOUND)


@pytest.mark.gpu
@all_cases
def test_cuda_agrees_with_the_cpu(case):
    assert_close(run_blend(case().to("cuda"), rasterize_to_pixels), run_blend(case(), rasterize_to_pixels), GPU_BOUND)


# gsplat 1.5.3 takes no backgrounds with packed inputs and leaves the alphas of masked tiles uninitialised.
UNLIKE_GSPLAT = ("packed", "masks", "no-gaussians")
GSPLAT_CASES = {name: case for name, case in CASES.items() if not any(part in name for part in UNLIKE_GSPLAT)}


@pytest.mark.gpu
@pytest.mark.parametrize("case", GSPLAT_CASES.values(), ids=GSPLAT_CASES.keys())
def test_cuda_agrees_with_gsplat(case):
    scene = case().to("cuda")
    absgrad = scene.colors.shape[-1] <= 32
    stock = run_blend(scene, rasterize_to_pixels, absgrad=absgrad, reduction=Reduction("gsplat"))
    if scene.masks is not None:  # gsplat 1.5.3 leaves the alphas of masked tiles uninitialised
        stock = {name: value for name, value in stock.items() if name not in ("alpha", "v_backgrounds")}
    for reduction in (Reduction("atomic"), Reduction("sw_s"), Reduction("sw_b"), Reduction("sw_t")):
        assert_close(run_blend(scene, rasterize_to_pixels, absgrad=absgrad, reduction=reduction), stock, GSPLAT_BOUND)


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", ["sw_b", "sw_t"])
@pytest.mark.parametrize("seed", range(3))
def test_broken_gaussians_spoil_nothing_on_the_gpu(seed, strategy):
    check_broken_gaussians("cuda", seed, GPU_BOUND, Reduction(strategy))


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", ["sw_b", "sw_t"])
def test_extreme_but_finite_gaussians_on_the_gpu(strategy):
    scene = extreme_scene()
    result = run_blend(scene.to("cuda"), rasterize_to_pixels, absgrad=True, reduction=Reduction(strategy))
    assert all(torch.isfinite(value).all() for value in result.values())


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", ["atomic", "sw_b", "sw_t"])
def test_needles_on_the_gpu(strategy):
    """Conics so nearly singular that the exponent as it is usually written cancels in float32."""
    case = partial(needle_scene, 0)
    result = run_blend(case().to("cuda"), rasterize_to_pixels, reduction=Reduction(strategy))
    assert_close(result, reference_results(case), GPU_BOUND)


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", ["atomic", "sw_s", "sw_b", "sw_t"])
def test_large_scene_on_the_gpu_agrees_with_the_cpu(strategy):
    """Many warps at once: lost updates and races would show."""
    scene = random_blend_scene(31, n=5000, width=320, height=240, size=(0.5, 6.0))
    result = run_blend(scene.to("cuda"), rasterize_to_pixels, absgrad=True, reduction=Reduction(strategy))
    assert_close(result, run_blend(scene, rasterize_to_pixels, absgrad=True), GPU_BOUND)


@pytest.mark.gpu
def test_cuda_forward_is_bit_equal_from_run_to_run():
    scene = random_blend_scene(31, n=2000, width=160, height=120).to("cuda")
    assert torch.equal(call(scene)[0], call(scene)[0])


@pytest.mark.gpu
def test_cuda_runs_on_the_current_stream():
    """The inputs arrive late on a side stream; a launch on the default stream would see zeros."""
    source = random_blend_scene(1)
    expected = run_blend(source, rasterize_to_pixels)
    ready = source.to("cuda")
    late = ready.map(torch.zeros_like)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # about 50 ms
        for name in vars(late):
            if isinstance(getattr(late, name), torch.Tensor):
                getattr(late, name).copy_(getattr(ready, name))
        result = run_blend(late, rasterize_to_pixels)
    torch.cuda.synchronize()
    assert_close(result, expected, GPU_BOUND)


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", ["atomic", "sw_s", "sw_b", "sw_t", "auto"])
def test_forward_and_backward_in_a_cuda_graph(strategy):
    """Captured once, replayed on other numbers: what an eager run of those gives."""
    reduction, scene = Reduction(strategy), random_blend_scene(1).to("cuda")
    leaves = {name: getattr(scene, name).clone().requires_grad_() for name in GRADIENTS}

    def step() -> list[torch.Tensor]:
        image, alpha = call(scene.replace(**leaves), reduction=reduction)
        loss = image.square().sum() + alpha.sum()
        return [image, alpha, *torch.autograd.grad(loss, list(leaves.values()))]

    with torch.cuda.stream(torch.cuda.Stream()):  # a capture wants everything warm, off the default stream
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for name in ("colors", "opacities", "backgrounds"):
            leaves[name].mul_(0.7)
    graph.replay()
    replayed = [tensor.clone() for tensor in captured]
    errors = [relative_l2(again, now) for again, now in zip(replayed, step(), strict=True)]
    assert max(errors) < 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_a_gpu_that_is_not_the_current_one():
    for strategy in ("atomic", "sw_s", "sw_b", "sw_t", "auto"):
        result = run_blend(random_blend_scene(1).to("cuda:1"), rasterize_to_pixels, reduction=Reduction(strategy))
        assert_close(result, run_blend(random_blend_scene(1), rasterize_to_pixels), GPU_BOUND)
    assert torch.cuda.current_device() == 0
    scene = random_blend_scene(1, n=200)
    assert torch.equal(count_traffic(scene.to("cuda:1")).counts, count_traffic(scene).counts)


@pytest.mark.gpu
def test_uncompiled_channel_counts_are_refused_by_the_raw_op():
    scene = random_blend_scene(1, channels=2).to("cuda")
    call(scene)  # padded by the wrapper
    tensors = (scene.means2d[0], scene.conics[0], scene.colors[0], scene.opacities[0], scene.backgrounds)
    with pytest.raises(RuntimeError, match="no kernel for 2 channels"):
        torch.ops.distwar.blend_forward(*tensors, None, None, scene.isect_offsets, scene.flatten_ids, 49, 35, "sw_b", 8)


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", ["sw_b", "sw_t"])
def test_opcheck_cuda(strategy):
    check_ops("cuda", strategy)


@pytest.mark.gpu
def test_under_torch_compile_cuda():
    check_compiled("cuda")


@pytest.mark.gpu
def test_tensors_on_different_devices_are_an_error():
    scene = random_blend_scene(0)
    with pytest.raises((RuntimeError, ValueError), match="conics|device"):
        call(scene.to("cuda").replace(conics=scene.conics))
