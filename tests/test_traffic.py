"""The traffic counter against a count by the reference's weights, and against what a histogram must mean."""

import functools

import pytest
import torch
from random_scenes import random_blend_scene
from torch import Tensor

from distwar_kernels import AtomicTraffic, Reduction, atomic_traffic
from distwar_kernels.blend.blend_reference import blend_weights, tile_pixels
from distwar_kernels.constants import PATCH_HEIGHT, PATCH_WIDTH, TILE_SIZE, WARP_SIZE

CASES = {
    "odd-size": functools.partial(random_blend_scene, 0, n=60, width=50, height=33),
    "cameras": functools.partial(random_blend_scene, 1, n=40, width=40, height=47, cameras=2),
    "masks": functools.partial(random_blend_scene, 2, n=40, width=50, height=33, masked=True),
    "one-gaussian": functools.partial(random_blend_scene, 3, n=1, width=16, height=16),
    "no-gaussians": functools.partial(random_blend_scene, 4, n=0, width=20, height=20),
    "one-pixel": functools.partial(random_blend_scene, 5, n=30, width=1, height=1),
}


def count(scene, **options) -> AtomicTraffic:
    return atomic_traffic(
        scene.means2d, scene.conics, scene.opacities, scene.width, scene.height, scene.isect_offsets,
        scene.flatten_ids, scene.masks, **options,
    )  # fmt: skip


def counted_by_weights(scene) -> Tensor:
    """[33] visits by active lanes, from the dense weights of the reference."""
    histogram = torch.zeros(WARP_SIZE + 1, dtype=torch.int64)
    images, rows, columns = scene.isect_offsets.shape
    means2d, conics = scene.means2d.reshape(-1, 2).double(), scene.conics.reshape(-1, 3).double()
    opacities = scene.opacities.reshape(-1).double()
    bounds = [*scene.isect_offsets.flatten().tolist(), len(scene.flatten_ids)]
    for tile in range(images * rows * columns):
        ids = scene.flatten_ids[bounds[tile] : bounds[tile + 1]].long()
        masked = scene.masks is not None and not scene.masks.flatten()[tile]
        if len(ids) == 0 or masked:
            continue
        pixels = tile_pixels(tile // columns % rows, tile % columns, means2d)
        weights, _ = blend_weights(means2d[ids], conics[ids], opacities[ids], pixels)
        inside = (pixels < torch.tensor([scene.width, scene.height])).all(-1)
        active = (weights > 0) & inside[:, None]  # [pixels, n]
        shape = (TILE_SIZE // PATCH_HEIGHT, PATCH_HEIGHT, TILE_SIZE // PATCH_WIDTH, PATCH_WIDTH, len(ids))
        lanes = active.reshape(shape).sum(dim=(1, 3)).reshape(-1, len(ids))  # [patches, n]
        for patch in lanes:
            walked = int(patch.nonzero().max()) + 1 if patch.any() else 0
            histogram += torch.bincount(patch[:walked], minlength=WARP_SIZE + 1)
    return histogram


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_counts_are_the_references(case):
    scene = case()
    assert torch.equal(count(scene).visits_by_lanes, counted_by_weights(scene))


def test_threads_do_not_change_the_counts():
    scene = CASES["cameras"]()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = count(scene).visits_by_lanes
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone, count(scene).visits_by_lanes)


def test_what_each_strategy_sends():
    histogram = torch.zeros(WARP_SIZE + 1, dtype=torch.int64)
    histogram[0], histogram[1], histogram[4], histogram[32] = 99, 10, 5, 2
    traffic = AtomicTraffic(histogram, record_size=9)
    assert (traffic.visits, traffic.pairs) == (17, 10 + 20 + 64)
    assert traffic.mean_lanes == pytest.approx(94 / 17)
    assert traffic.atomics(Reduction("atomic")) == 9 * 94
    for strategy in ("sw_s", "sw_b"):
        assert traffic.atomics(Reduction(strategy, 0)) == traffic.atomics(Reduction(strategy, 1)) == 9 * 17
        assert traffic.atomics(Reduction(strategy, 5)) == 9 * (10 + 20 + 2)
        assert traffic.atomics(Reduction(strategy, 32)) == 9 * (10 + 20 + 2)
    with pytest.raises(ValueError, match="gsplat"):
        traffic.atomics(Reduction("gsplat"))


def test_channels_make_the_record():
    assert count(CASES["one-gaussian"](), channels=4).record_size == 10


@pytest.mark.gpu
def test_tensors_on_the_gpu_are_counted_the_same():
    scene = CASES["odd-size"]()
    assert torch.equal(count(scene.to("cuda")).visits_by_lanes, count(scene).visits_by_lanes)
