"""Random inputs for the kernels' tests, and how errors against a reference are measured."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor

from distwar_kernels import AtomicTraffic, Reduction, atomic_traffic, tile_grid
from distwar_kernels.blend.blend_reference import blend_reference, near_cuts, splat_alphas
from distwar_kernels.constants import BLUR, EXTENT, TILE_SIZE
from distwar_kernels.reduction import DEFAULT_THRESHOLDS
from distwar_kernels.tiles.tile_by_tile import tiles_of
from distwar_kernels.tiles.tiles_reference import intersect_tiles_reference

REDUCTIONS = [Reduction("atomic")] + [Reduction(s, t) for s in DEFAULT_THRESHOLDS for t in (0, 1, 8, 16, 31, 32)]
EVERY_REDUCTION = pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
GRADIENTS = ("means2d", "conics", "colors", "opacities", "backgrounds")


@dataclass(frozen=True)
class BlendScene:
    """Inputs of ``rasterize_to_pixels`` for C cameras of the same size, float32 on the CPU unless moved."""

    means2d: Tensor
    conics: Tensor
    colors: Tensor
    opacities: Tensor
    backgrounds: Tensor | None
    masks: Tensor | None
    isect_offsets: Tensor
    flatten_ids: Tensor
    width: int
    height: int
    packed: bool = False

    def map(self, change: Callable[[Tensor], Tensor]) -> "BlendScene":
        """The scene with every tensor changed."""
        tensors = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return self.replace(**{name: change(t) for name, t in tensors.items() if isinstance(t, Tensor)})

    def to(self, device: str) -> "BlendScene":
        return self.map(lambda tensor: tensor.to(device))

    def replace(self, **changes: object) -> "BlendScene":
        return dataclasses.replace(self, **changes)


def random_conics(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inverse covariances [..., 3] of random ellipses, axes low..high pixels long; covariance diagonals [..., 2]."""
    axes = low + (high - low) * torch.rand(*shape, 2, generator=generator) ** 2
    angle = math.pi * torch.rand(shape, generator=generator)
    cos, sin = angle.cos(), angle.sin()
    major, minor = axes.square().unbind(-1)
    xx, yy = cos**2 * major + sin**2 * minor + BLUR, sin**2 * major + cos**2 * minor + BLUR
    xy = cos * sin * (major - minor)
    return torch.stack([yy, -xy, xx], -1) / (xx * yy - xy * xy)[..., None], torch.stack([xx, yy], -1)


def random_blend_scene(
    seed: int,
    *,
    n: int = 70,
    width: int = 49,
    height: int = 35,
    cameras: int = 1,
    channels: int = 3,
    background: bool = True,
    masked: bool = False,
    packed: bool = False,
    opacity: tuple[float, float] = (0.02, 0.98),
    size: tuple[float, float] = (0.6, 9.0),
) -> BlendScene:
    """Gaussians strewn over the images and a little beyond, with their tile lists."""
    g = torch.Generator().manual_seed(seed)
    span = torch.tensor([width, height], dtype=torch.float32)
    means2d = (torch.rand(cameras, n, 2, generator=g) * 1.2 - 0.1) * span
    conics, variances = random_conics((cameras, n), *size, g)
    radii = torch.ceil(EXTENT * variances.sqrt()).int()
    offsets, ids = intersect_tiles_reference(means2d, radii, torch.rand(cameras, n, generator=g), width, height)
    scene = BlendScene(
        means2d=means2d,
        conics=conics,
        colors=torch.rand(cameras, n, channels, generator=g),
        opacities=opacity[0] + (opacity[1] - opacity[0]) * torch.rand(cameras, n, generator=g),
        backgrounds=torch.rand(cameras, channels, generator=g) if background else None,
        masks=torch.rand(offsets.shape, generator=g) < 0.7 if masked else None,
        isect_offsets=offsets,
        flatten_ids=ids,
        width=width,
        height=height,
    )
    return pack(scene) if packed else scene


def pack(scene: BlendScene) -> BlendScene:
    """The same scene with its Gaussians as [nnz, ...], only those that a tile lists."""
    used = torch.unique(scene.flatten_ids.long())
    names = ("means2d", "conics", "colors", "opacities")
    kept = {name: getattr(scene, name).flatten(0, 1)[used] for name in names}
    return scene.replace(**kept, flatten_ids=torch.searchsorted(used, scene.flatten_ids.long()).int(), packed=True)


def stack_scene(opacity: float, count: int, width: int = 20, height: int = 18) -> BlendScene:
    """`count` wide Gaussians exactly behind each other, so that every pixel meets all of them."""
    scene = random_blend_scene(0, n=count, width=width, height=height, size=(12.0, 20.0))
    tile_width, tile_height = tile_grid(width, height)
    tiles = tile_width * tile_height
    return scene.replace(
        means2d=torch.full_like(scene.means2d, 9.3) + 0.01 * torch.arange(count)[None, :, None],
        opacities=torch.full_like(scene.opacities, opacity),
        isect_offsets=(torch.arange(tiles, dtype=torch.int32) * count).reshape(1, tile_height, tile_width),
        flatten_ids=torch.arange(count, dtype=torch.int32).repeat(tiles),
    )


@cache
def any_blend_scene(seed: int) -> BlendScene:
    """A scene whose size, number of Gaussians, cameras, channels, masks and background come from the seed, too."""
    g = torch.Generator().manual_seed(10_000 + seed)

    def pick(*values: int) -> int:
        return values[int(torch.randint(len(values), (), generator=g))]

    return clear_of_cuts(
        random_blend_scene(
            seed, n=pick(1, 2, 31, 33, 64, 100, 150), width=pick(1, 15, 16, 17, 50, 70, 97),
            height=pick(1, 16, 31, 33, 47, 65), cameras=pick(1, 1, 2, 3), channels=pick(1, 3, 3, 4, 32),
            background=bool(pick(0, 1)), masked=pick(0, 0, 0, 1) == 1, packed=pick(0, 0, 1) == 1,
        )
    )  # fmt: skip


def clear_of_cuts(scene: BlendScene, margin: float = 1e-5) -> BlendScene:
    """The scene with opacities moved by fractions of a percent until no decision hangs on rounding.

    Float32 and float64 then agree on which alphas reach 1/255 and which pixels are finished, so that bounds on errors
    can be as tight as rounding allows.
    """
    opacities, g = scene.opacities.clone().flatten(), torch.Generator().manual_seed(0)
    for _ in range(100):
        near = _near_cuts(scene.replace(opacities=opacities), margin)
        if not near.any():
            return scene.replace(opacities=opacities.reshape(scene.opacities.shape))
        opacities[near] *= 1.0 - 0.01 * torch.rand(int(near.sum()), generator=g)
    raise AssertionError("no opacities clear of the cuts were found")


def _near_cuts(scene: BlendScene, margin: float) -> Tensor:
    """Flattened mask of the Gaussians with an alpha, or a transmittance behind them, within `margin` of its cut."""
    means2d, conics = scene.means2d.reshape(-1, 2).double(), scene.conics.reshape(-1, 3).double()
    near = torch.zeros(len(scene.opacities), dtype=torch.bool)
    for tile in tiles_of(scene.isect_offsets, scene.flatten_ids, scene.masks, means2d):
        ids = tile.ids
        alphas = splat_alphas(means2d[ids], conics[ids], scene.opacities[ids].double(), tile.pixels)
        near[ids[near_cuts(alphas, margin).any(0)]] = True
    return near


def count_traffic(scene: BlendScene, **options: object) -> AtomicTraffic:
    """``atomic_traffic`` of the scene, on its device."""
    return atomic_traffic(
        scene.means2d, scene.conics, scene.opacities, scene.width, scene.height, scene.isect_offsets,
        scene.flatten_ids, scene.masks, **options,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------- results and errors


def loss_weights(scene: BlendScene) -> tuple[Tensor, Tensor]:
    """dL/d(colours) and dL/d(alphas) of the loss the gradients below belong to, float32 on the CPU."""
    g = torch.Generator().manual_seed(1234)
    pixels = (scene.isect_offsets.shape[0], scene.height, scene.width)
    return torch.randn(*pixels, scene.colors.shape[-1], generator=g), torch.randn(*pixels, 1, generator=g)


def run_blend(scene: BlendScene, blend: Callable[..., tuple[Tensor, Tensor]], **options: object) -> dict[str, Tensor]:
    """Image, alpha and the gradients of every differentiable input (and absgrad, if asked for), on the CPU."""
    leaves = {name: getattr(scene, name) for name in GRADIENTS}
    leaves = {name: t.detach().clone().requires_grad_() for name, t in leaves.items() if t is not None}
    live = scene.replace(**leaves)
    image, alpha = blend(
        live.means2d, live.conics, live.colors, live.opacities, live.width, live.height, TILE_SIZE, live.isect_offsets,
        live.flatten_ids, live.backgrounds, live.masks, live.packed, **options,
    )  # fmt: skip
    v_image, v_alpha = (w.to(image) for w in loss_weights(scene))
    nothing = sum(0 * leaf.sum() for leaf in leaves.values())  # gives zero gradients to what the image does not use
    ((image * v_image).sum() + (alpha * v_alpha).sum() + nothing).backward()
    results = {"image": image, "alpha": alpha} | {f"v_{name}": leaf.grad for name, leaf in leaves.items()}
    if options.get("absgrad"):
        results["absgrad"] = live.means2d.absgrad
    return {name: t.detach().cpu() for name, t in results.items()}


def reference_blend(
    means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, width: int, height: int, tile_size: int,
    isect_offsets: Tensor, flatten_ids: Tensor, backgrounds: Tensor | None, masks: Tensor | None, packed: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """``blend_reference`` behind the signature of ``rasterize_to_pixels``."""
    assert tile_size == TILE_SIZE
    if not packed:
        means2d, conics, colors, opacities = (t.flatten(0, 1) for t in (means2d, conics, colors, opacities))
    return blend_reference(
        means2d, conics, colors, opacities, width, height, isect_offsets, flatten_ids, backgrounds, masks
    )


def in_float64(scene: BlendScene) -> BlendScene:
    """The float32 numbers themselves in double precision: the reference rounds nothing the kernels do not."""
    return scene.map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)


@cache
def reference_results(scene_of: Callable[[], BlendScene]) -> dict[str, Tensor]:
    """What `run_blend` should give, in float64; remembered for each maker of scenes."""
    return run_blend(in_float64(scene_of()), reference_blend)


def reference_absgrad(scene: BlendScene, batch: int = 64) -> Tensor:
    """The sum over pixels of |d(pixel's loss)/d(means2d)|: one backward pass for every pixel, in float64."""
    scene = in_float64(scene)
    means2d = scene.means2d.requires_grad_()
    image, alpha = reference_blend(
        means2d, scene.conics, scene.colors, scene.opacities, scene.width, scene.height, TILE_SIZE,
        scene.isect_offsets, scene.flatten_ids, scene.backgrounds, scene.masks, scene.packed,
    )  # fmt: skip
    v_image, v_alpha = loss_weights(scene)
    losses = ((image * v_image).sum(-1) + (alpha * v_alpha).squeeze(-1)).flatten()
    total = torch.zeros_like(means2d)
    for rows in torch.eye(len(losses), dtype=losses.dtype).split(batch):
        gradients = torch.autograd.grad(losses, means2d, rows, retain_graph=True, is_grads_batched=True)[0]
        total += gradients.abs().sum(0)
    return total


def relative_l2(actual: Tensor, expected: Tensor) -> float:
    """||actual - expected|| / ||expected||, NaN for a NaN anywhere; 0 / 0 is 0."""
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu().double()
    assert actual.shape == expected.shape, f"shapes {tuple(actual.shape)} and {tuple(expected.shape)}"
    difference, size = (actual - expected).norm().item(), expected.norm().item()
    if size == 0:
        return 0.0 if difference == 0 else math.inf
    return difference / size


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor], bound: float) -> None:
    """Every result of `expected` within `bound` in relative L2; the failure lists all errors."""
    errors = {name: relative_l2(actual[name], value) for name, value in expected.items()}
    listing = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    assert all(error < bound for error in errors.values()), f"relative L2 errors above {bound:.0e}: {listing}"


def assert_below(errors: dict[int, float], bound: float) -> None:
    """Every seed's error below the bound (and not NaN); the worst is printed."""
    worst = max(errors, key=errors.get)
    print(f"worst of {len(errors)} seeds: {errors[worst]:.1e} (seed {worst})")
    above = {seed: f"{error:.1e}" for seed, error in errors.items() if not error < bound}
    assert not above, f"relative L2 errors above {bound:.0e} by seed: {above}"
