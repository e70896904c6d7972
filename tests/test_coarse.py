"""The first part of a run on smaller photos."""

import pytest
import torch
from demo_runs import demo_config
from torch import Tensor

from distwar_gs.training import coarse
from distwar_gs.training.coarse import Batch, CoarsePhotos, fitting, shrunk
from distwar_gs.training.trainer import Trainer
from distwar_kernels import Cameras


def batch(width: int, height: int, channels: int = 3, mask: Tensor | None = None) -> Batch:
    generator = torch.Generator().manual_seed(width)
    photo = torch.randint(0, 256, (height, width, channels), generator=generator, dtype=torch.uint8)
    Ks = torch.tensor([[[900.0, 0.0, 310.5], [0.0, 880.0, 255.25], [0.0, 0.0, 1.0]]])  # noqa: N806
    return Batch(3, Cameras.of_matrices(torch.eye(4)[None], Ks, width, height), photo, mask, torch.zeros(3))


@pytest.mark.parametrize("size", [(640, 480), (641, 483), (646, 479)])
@pytest.mark.parametrize("factor", [2, 4])
def test_a_pixel_is_the_mean_of_its_block(size, factor):
    view = batch(*size)
    small = shrunk(view, factor)
    assert small.photo.shape == (size[1] // factor, size[0] // factor, 3) and small.photo.dtype == torch.uint8
    for row, column in [(0, 0), (7, 30), (size[1] // factor - 1, size[0] // factor - 1)]:
        block = view.photo[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor].double()
        assert (small.photo[row, column].double() - block.mean(dim=(0, 1))).abs().max() <= 0.5


@pytest.mark.parametrize("factor", [2, 4])
def test_a_point_is_seen_at_the_same_place(factor):
    """Half a pixel off would show as a shift of every Gaussian when the full size comes."""
    view = batch(646, 479)
    small = shrunk(view, factor).camera
    points = torch.tensor([[[0.1, -0.2], [0.3, 0.1], [-0.3, 0.25]]])
    depths = torch.tensor([[1.0, 2.0, 0.7]])
    here, there = (
        camera.lens.project(points, depths, camera.intrinsics) for camera in (view.camera, small)
    )  # pixel centres at +0.5, so a corner stays a corner
    torch.testing.assert_close(there * factor, here)
    assert (small.width, small.height) == (646 // factor, 479 // factor)


def test_a_pixel_counts_where_all_of_its_block_does():
    mask = torch.ones(480, 640, dtype=torch.bool)
    mask[10, 21] = False
    kept = shrunk(batch(640, 480, mask=mask), 4).mask
    assert kept is not None and (~kept).nonzero().tolist() == [[2, 5]]


def test_what_is_transparent_has_no_colour():
    view = batch(4, 2, channels=4)
    view.photo[:] = torch.tensor([0, 0, 0, 0], dtype=torch.uint8)
    view.photo[0, 0] = torch.tensor([200, 100, 50, 255], dtype=torch.uint8)
    assert shrunk(view, 2).photo[0].tolist() == [[200, 100, 50, 64], [0, 0, 0, 0]]


def test_photos_stay_large_enough():
    camera = batch(1000, 2 * coarse.SMALLEST).camera
    assert fitting(4, camera) == 2 and fitting(2, camera) == 2 and fitting(1, camera) == 1
    assert fitting(4, batch(1000, 4 * coarse.SMALLEST).camera) == 4
    assert fitting(4, batch(1000, 2 * coarse.SMALLEST - 1).camera) == 1


@pytest.mark.parametrize("keeps", [True, False])
def test_photos_grow_with_the_run(keeps):
    photos, view = CoarsePhotos(0.4, keeps=keeps), batch(1200, 1000)
    shares = (0.0, 0.099, 0.1, 0.3, 0.399, 0.4, 1.0)
    assert [photos.at(view, share).camera.height for share in shares] == [250, 250, 500, 500, 500, 1000, 1000]
    first, again = photos.at(view, 0.2), photos.at(view, 0.2)
    assert (first.photo is again.photo) == keeps and torch.equal(first.photo, again.photo)
    assert CoarsePhotos(0.0, keeps=keeps).at(view, 0.0) is view


def test_the_background_is_that_of_the_step():
    photos, view = CoarsePhotos(0.4, keeps=True), batch(1200, 1000)
    photos.at(view, 0.0)
    assert photos.at(view._replace(background=torch.ones(3)), 0.0).background.tolist() == [1.0, 1.0, 1.0]


def test_a_run_resumes_among_smaller_photos(demo_scene, tmp_path, monkeypatch):
    """20 steps are 6 and 14 more, to the last bit; the first 7 are coarse, and steps see the sizes they should."""
    monkeypatch.setattr(coarse, "SMALLEST", 15)
    sizes: list[int] = []
    real = CoarsePhotos.at

    def noting(self, batch, share):
        small = real(self, batch, share)
        sizes.append(small.photo.shape[1])
        return small

    monkeypatch.setattr(CoarsePhotos, "at", noting)
    settings = {"train.coarse_until": 0.4, "train.iterations": 20, "model.init_points": 500}
    whole = Trainer(demo_config(demo_scene, tmp_path / "whole", settings))
    whole.run()
    width = whole.scene.train[0].width
    assert sizes == [width // 4] + [width // 2] * 6 + [width] * 13
    settings |= {"train.checkpoint_iterations": [6]}
    Trainer(demo_config(demo_scene, tmp_path / "parts", settings)).run()
    sizes.clear()
    start = tmp_path / "parts/checkpoints/step_6.pt"
    second = Trainer(demo_config(demo_scene, tmp_path / "second", settings | {"train.resume": str(start)}))
    second.run()
    assert sizes == [width // 2] + [width] * 13
    for name, param in whole.state.params.items():
        assert torch.equal(param, second.state.params[name]), name
