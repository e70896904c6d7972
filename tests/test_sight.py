"""What cameras see of Gaussians: in how many pictures they are, how near, how wide, and for how many they count."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scene_files import ring
from test_live_modes import params

from distwar_datasets import PointCloud, View
from distwar_gs.cleaning.sight import in_picture, look_at
from distwar_gs.rendering.renderer import RenderSettings, project
from distwar_gs.rendering.views import camera_of

SETTINGS = RenderSettings(near_plane=0.05, far_plane=100.0)
CPU = torch.device("cpu")


def scene(views: int = 8, points: PointCloud | None = None) -> SimpleNamespace:
    """Cameras on a ring, looking at its middle."""
    K = np.array([[50.0, 0.0, 32.0], [0.0, 50.0, 24.0], [0.0, 0.0, 1.0]])
    train = [View(f"{i}", None, 64, 48, K, pose, 1) for i, pose in enumerate(ring(views))]
    return SimpleNamespace(train=tuple(train), points=points)


def gaussians(means: list, scale: float = 0.05, opacity: float = 0.3) -> dict[str, torch.Tensor]:
    count = len(means)
    return {
        "means": torch.tensor(np.array(means), dtype=torch.float32), "quats": torch.tensor([[1.0, 0, 0, 0]] * count),
        "scales": torch.full((count, 3), scale).log(), "opacities": torch.full((count,), opacity).logit(),
        "sh0": torch.zeros(count, 1, 3), "shN": torch.zeros(count, 0, 3),
    }  # fmt: skip


def before(view: View, depth: float) -> np.ndarray:
    """The point at a depth before the middle of a view."""
    return view.center + depth * view.viewmat[2, :3]


@pytest.mark.parametrize("seed", range(4))
def test_nothing_that_is_drawn_is_taken_for_unseen(seed):
    """Also at the edges of the picture and where Gaussians are long: the projection has the last word."""
    generator = torch.Generator().manual_seed(seed)
    values = params(seed, 4000)
    values["means"] = 3.0 * torch.randn(4000, 3, generator=generator)
    values["scales"] = 4.0 * torch.rand(4000, 3, generator=generator) - 4.5
    widest, drawn_at_all = values["scales"].amax(dim=1).exp(), 0
    for view in scene().train[:3]:
        camera = camera_of(view, CPU)
        drawn = (project(values, camera, SETTINGS).radii[0] > 0).all(dim=-1)
        seen = in_picture(values["means"], widest, camera, SETTINGS)[2]
        assert not (drawn & ~seen).any() and int((~seen).sum()) > 500
        drawn_at_all += int(drawn.sum())
    assert drawn_at_all > 500


def test_counts_of_cameras():
    everywhere = scene()
    view = everywhere.train[0]
    far = np.array([0.0, 0.0, 0.0]) + 500.0 * view.viewmat[1, :3]
    sight = look_at(gaussians([np.zeros(3), before(view, -0.5), far]), everywhere, SETTINGS)
    assert sight.cameras == 8 and sight.counts.tolist()[0] == 8 and sight.counts.tolist()[2] == 0
    assert sight.counts[1] < 8


def test_effective_cameras_are_all_for_the_middle_and_one_for_what_is_before_a_lens():
    everywhere = scene()
    lens = before(everywhere.train[0], 0.1)
    sight = look_at(gaussians([np.zeros(3), lens], scale=0.02), everywhere, SETTINGS)
    assert sight.effective_cameras[0] > 7.5
    assert 1.0 <= sight.effective_cameras[1] < 1.2


def test_near_is_before_the_nearest_points_of_the_scene():
    generator = np.random.default_rng(0)
    points = PointCloud(0.1 * generator.standard_normal((500, 3)), np.zeros((500, 3), np.uint8))
    around = scene(points=points)
    view = around.train[0]
    distance = float(np.linalg.norm(view.center))
    sight = look_at(gaussians([np.zeros(3), before(view, 0.5 * distance)], scale=0.1), around, SETTINGS)
    assert sight.near_share[0] == 0.0 and sight.near_widths[0] == 0.0
    assert sight.near_share[1] > 0.5
    assert float(sight.near_widths[1]) == pytest.approx(50.0 * 0.1 / (0.5 * distance) / 80.0, rel=1e-4)


def test_without_points_near_is_before_most_gaussians():
    around = scene()
    view = around.train[0]
    many = [*(0.05 * np.random.default_rng(0).standard_normal((300, 3))), before(view, 0.2)]
    sight = look_at(gaussians(many, scale=0.02), around, SETTINGS)
    assert sight.near_share[-1] > 0.9
    assert (sight.near_share[:-1] < 0.9).float().mean() > 0.95
