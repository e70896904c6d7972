"""Small motions of a camera: what they do to it, and their gradients against float64 autograd."""

import math

import pytest
import torch
from scene_files import look_at

from distwar_gs.adjust.rigid import motion_gradient, moved, turned


def camera(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """viewmat [4, 4], and the camera's centre [3]."""
    center = (1.5, -2.0, 0.7)
    return torch.tensor(look_at(center), dtype=dtype), torch.tensor(center, dtype=dtype)


def test_a_turn_is_a_rotation_about_its_axis():
    turn = torch.tensor([0.0, 0.0, 2.0 * math.tan(0.15)], dtype=torch.float64)
    expected = torch.tensor([[math.cos(0.3), -math.sin(0.3), 0.0], [math.sin(0.3), math.cos(0.3), 0.0], [0, 0, 1]])
    torch.testing.assert_close(turned(turn), expected.double(), rtol=0.0, atol=1e-7)
    other = turned(torch.tensor([0.3, -2.0, 5.0], dtype=torch.float64))
    torch.testing.assert_close(other @ other.T, torch.eye(3, dtype=torch.float64))
    assert torch.linalg.det(other) > 0


def test_a_camera_turns_about_its_centre_and_is_shifted():
    viewmat, center = camera()
    motion = torch.tensor([0.1, -0.2, 0.05, 0.3, 0.4, -0.1], dtype=torch.float64)
    after = moved(viewmat, center, motion)
    place = torch.cat([center + motion[3:], torch.ones(1, dtype=torch.float64)])
    torch.testing.assert_close((after @ place)[:3], torch.zeros(3, dtype=torch.float64), rtol=0.0, atol=1e-12)
    torch.testing.assert_close(after[:3, :3].T, turned(motion[:3]) @ viewmat[:3, :3].T)
    assert torch.equal(after[3], torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64))
    assert torch.equal(moved(viewmat, center, torch.zeros(6, dtype=torch.float64))[:3, :3], viewmat[:3, :3])


@pytest.mark.parametrize("size", [0.0, 1e-3, 0.3, 4.0])
def test_gradients_are_those_of_autograd(size):
    generator = torch.Generator().manual_seed(3)
    viewmat, center = camera()
    motion = size * torch.randn(6, generator=generator, dtype=torch.float64)
    v_viewmat = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    leaf = motion.clone().requires_grad_()
    (expected,) = torch.autograd.grad(moved(viewmat, center, leaf), leaf, v_viewmat)
    torch.testing.assert_close(motion_gradient(viewmat, center, motion, v_viewmat), expected, rtol=1e-12, atol=1e-12)
    single = motion_gradient(*(t.float() for t in (viewmat, center, motion, v_viewmat)))
    assert (single.double() - expected).norm() < 1e-4 * expected.norm()
