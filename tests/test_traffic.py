"""The blend's traffic counter against a count by the reference's weights, and what the histograms must mean."""

import functools

import pytest
import torch
from random_scenes import clear_of_cuts, count_traffic, random_blend_scene
from torch import Tensor

from distwar_kernels import AtomicTraffic, Reduction
from distwar_kernels.blend.blend_reference import blend_weights
from distwar_kernels.constants import PATCH_HEIGHT, PATCH_WIDTH, TILE_SIZE, WARP_SIZE
from distwar_kernels.tiles.tile_by_tile import tiles_of

CASES = {
    "odd-size": functools.partial(random_blend_scene, 0, n=60, width=50, height=33),
    "cameras": functools.partial(random_blend_scene, 1, n=40, width=40, height=47, cameras=2),
    "masks": functools.partial(random_blend_scene, 2, n=40, width=50, height=33, masked=True),
    "one-gaussian": functools.partial(random_blend_scene, 3, n=1, width=16, height=16),
    "no-gaussians": functools.partial(random_blend_scene, 4, n=0, width=20, height=20),
    "one-pixel": functools.partial(random_blend_scene, 5, n=30, width=1, height=1),
}


def counted_by_weights(scene) -> Tensor:
    """[33] visits by active lanes, from the dense weights of the reference."""
    histogram = torch.zeros(WARP_SIZE + 1, dtype=torch.int64)
    means2d, conics = scene.means2d.reshape(-1, 2).double(), scene.conics.reshape(-1, 3).double()
    opacities = scene.opacities.reshape(-1).double()
    for tile in tiles_of(scene.isect_offsets, scene.flatten_ids, scene.masks, means2d):
        ids, pixels = tile.ids, tile.pixels
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
    assert torch.equal(count_traffic(scene).visits_by_lanes, counted_by_weights(scene))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_visit_is_to_one_gaussian(case):
    """The paper's first observation holds by construction: all rows of the count are one."""
    traffic = count_traffic(case())
    assert torch.equal(traffic.counts[1, 1:], traffic.visits_by_lanes[1:])
    assert torch.equal(traffic.counts[2, 1:], traffic.visits_by_lanes[1:])
    assert not traffic.counts[1:, 0].any()
    assert traffic.one_address_share == (1.0 if traffic.visits else 0.0)


def test_threads_do_not_change_the_counts():
    scene = CASES["cameras"]()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = count_traffic(scene).visits_by_lanes
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone, count_traffic(scene).visits_by_lanes)


def traffic_of(visits: dict[int, int], groups: dict[int, int], shared: dict[int, int]) -> AtomicTraffic:
    """Traffic of 9-number records from {lanes: count}."""
    counts = torch.zeros(3, WARP_SIZE + 1, dtype=torch.int64)
    for row, histogram in zip(counts, (visits, groups, shared), strict=True):
        for lanes, times in histogram.items():
            row[lanes] = times
    return AtomicTraffic(counts, record_size=9)


def test_what_each_strategy_sends():
    one_address = {1: 10, 4: 5, 32: 2}
    traffic = traffic_of({0: 99, **one_address}, one_address, one_address)
    assert (traffic.visits, traffic.pairs) == (17, 10 + 20 + 64)
    assert traffic.mean_lanes == pytest.approx(94 / 17)
    assert traffic.one_address_share == 1.0
    assert traffic.atomics(Reduction("atomic")) == 9 * 94
    for strategy in ("sw_s", "sw_b", "sw_t"):
        assert traffic.atomics(Reduction(strategy, 0)) == traffic.atomics(Reduction(strategy, 1)) == 9 * 17
        assert traffic.atomics(Reduction(strategy, 5)) == 9 * (10 + 20 + 2)
        assert traffic.atomics(Reduction(strategy, 32)) == 9 * (10 + 20 + 2)
    for strategy in ("gsplat", "auto"):
        with pytest.raises(ValueError, match=strategy):
            traffic.atomics(Reduction(strategy))


def test_lanes_with_several_addresses_are_grouped_by_sw_s_and_left_alone_by_sw_b():
    """A visit of 12 lanes to two addresses (8 + 4 lanes) and one of 6 lanes to one."""
    traffic = traffic_of({12: 1, 6: 1}, {8: 1, 4: 1, 6: 1}, {6: 1})
    assert traffic.one_address_share == 0.5
    assert traffic.atomics(Reduction("sw_s", 1)) == 9 * 3
    assert traffic.atomics(Reduction("sw_s", 6)) == 9 * (1 + 4 + 1)
    assert traffic.atomics(Reduction("sw_b", 1)) == 9 * (12 + 1)
    assert traffic.atomics(Reduction("sw_b", 7)) == 9 * (12 + 6)


def test_views_add_up():
    scene = CASES["odd-size"]()
    assert torch.equal((count_traffic(scene) + count_traffic(scene)).counts, 2 * count_traffic(scene).counts)
    with pytest.raises(ValueError, match="9 and of 10"):
        count_traffic(scene) + count_traffic(scene, channels=4)


def test_channels_make_the_record():
    assert count_traffic(CASES["one-gaussian"](), channels=4).record_size == 10


GPU_CASES = CASES | {
    f"seed{seed}": functools.partial(clear_of_cuts, random_blend_scene(seed, n=400, width=150, height=90, cameras=2))
    for seed in range(40, 50)
}


@pytest.mark.gpu
@pytest.mark.parametrize("case", GPU_CASES.values(), ids=GPU_CASES.keys())
def test_the_kernel_itself_counts_the_same(case):
    scene = case()
    assert torch.equal(count_traffic(scene.to("cuda")).counts, count_traffic(scene).counts)
