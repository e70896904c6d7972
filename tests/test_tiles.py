"""Tile lists against their definition, and on the GPU against gsplat's."""

import pytest
import torch
from torch import Tensor

from distwar_kernels import intersect_tiles, tile_grid
from distwar_kernels.tiles.tiles_reference import intersect_tiles_reference

SIZES = [(16, 16), (1, 1), (49, 35), (100, 7), (17, 64)]


def random_projections(seed: int, n: int, cameras: int, width: int, height: int) -> tuple[Tensor, Tensor, Tensor]:
    """means2d, radii, depths: boxes in, across and outside the image; some culled; some equally deep."""
    g = torch.Generator().manual_seed(seed)
    means2d = (torch.rand(cameras, n, 2, generator=g) * 1.6 - 0.3) * torch.tensor([width, height])
    means2d[:, ::5] = means2d[:, ::5].round()  # boxes that end exactly on tile borders
    radii = torch.randint(0, 20, (cameras, n, 2), generator=g, dtype=torch.int32)
    depths = torch.randint(1, 40, (cameras, n), generator=g) / 4.0
    return means2d, radii, depths


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("cameras", [1, 3])
def test_cpu_is_the_definition(seed, cameras):
    width, height = SIZES[seed % len(SIZES)]
    inputs = random_projections(seed, 5 + 13 * seed, cameras, width, height)
    offsets, ids = intersect_tiles(*inputs, width, height)
    expected_offsets, expected_ids = intersect_tiles_reference(*inputs, width, height)
    assert torch.equal(offsets, expected_offsets)
    assert torch.equal(ids, expected_ids)
    assert offsets.dtype == ids.dtype == torch.int32


def test_one_gaussian_by_hand():
    """A box from 14 to 34 across and 3 to 5 down touches tiles 0, 1, 2 of the first row."""
    offsets, ids = intersect_tiles(
        torch.tensor([[[24.0, 4.0]]]), torch.tensor([[[10, 1]]], dtype=torch.int32), torch.ones(1, 1), 64, 32
    )
    assert offsets.tolist() == [[[0, 1, 2, 3], [3, 3, 3, 3]]]
    assert ids.tolist() == [0, 0, 0]


def test_nearest_first_and_ids_count_through_cameras():
    means2d = torch.full((2, 3, 2), 8.0)
    depths = torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 0.5]])
    offsets, ids = intersect_tiles(means2d, torch.ones(2, 3, 2, dtype=torch.int32), depths, 16, 16)
    assert offsets.flatten().tolist() == [0, 3]
    assert ids.tolist() == [1, 2, 0, 5, 3, 4]


@pytest.mark.parametrize("n", [0, 3])
def test_nothing_visible(n):
    offsets, ids = intersect_tiles(
        torch.zeros(2, n, 2), torch.zeros(2, n, 2, dtype=torch.int32), torch.ones(2, n), 33, 5
    )
    assert offsets.shape == (2, 1, 3)
    assert not offsets.any()
    assert ids.shape == (0,)


def test_strided_inputs():
    means2d, radii, depths = random_projections(0, 40, 2, 49, 35)
    strided = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in (means2d, radii, depths)]
    assert not strided[0].is_contiguous()
    assert torch.equal(intersect_tiles(*strided, 49, 35)[1], intersect_tiles(means2d, radii, depths, 49, 35)[1])


def test_the_grid_covers_the_image():
    assert tile_grid(1, 1) == (1, 1)
    assert tile_grid(16, 17) == (1, 2)
    assert tile_grid(1600, 1066) == (100, 67)


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("cameras", [1, 3])
def test_cuda_is_the_definition(seed, cameras):
    width, height = SIZES[seed % len(SIZES)]
    means2d, radii, depths = random_projections(seed, 5 + 13 * seed, cameras, width, height)
    offsets, ids = intersect_tiles(means2d.cuda(), radii.cuda(), depths.cuda(), width, height)
    expected_offsets, expected_ids = intersect_tiles_reference(means2d, radii, depths, width, height)
    assert torch.equal(offsets.cpu(), expected_offsets)
    assert torch.equal(ids.cpu(), expected_ids)


@pytest.mark.gpu
@pytest.mark.parametrize("n", [0, 3])
def test_nothing_visible_on_the_gpu(n):
    radii = torch.zeros(2, n, 2, dtype=torch.int32, device="cuda")
    offsets, ids = intersect_tiles(radii.float(), radii, radii[..., 0].float(), 33, 5)
    assert offsets.shape == (2, 1, 3)
    assert not offsets.any()
    assert ids.shape == (0,)
