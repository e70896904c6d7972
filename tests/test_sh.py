"""Spherical harmonics: values known from tables, orthonormality, truncation, gradients."""

import math

import pytest
import torch
from random_scenes import relative_l2

from distwar_kernels import spherical_harmonics
from distwar_kernels.sh.sh_torch import sh_basis


def basis_at(*direction: float) -> list[float]:
    return sh_basis(3, torch.tensor(direction, dtype=torch.float64)).tolist()


def test_values_along_the_axes():
    """From the closed forms of the real harmonics, with the signs of Kerbl et al. 2023 (odd m negated)."""
    c0, c1 = math.sqrt(1 / (4 * math.pi)), math.sqrt(3 / (4 * math.pi))
    assert basis_at(0, 0, 1)[:4] == pytest.approx([c0, 0, c1, 0])
    assert basis_at(1, 0, 0)[:4] == pytest.approx([c0, 0, 0, -c1])
    assert basis_at(0, 1, 0)[:4] == pytest.approx([c0, -c1, 0, 0])
    y20 = math.sqrt(5 / (4 * math.pi))
    assert basis_at(0, 0, 1)[4:9] == pytest.approx([0, 0, y20, 0, 0])
    assert basis_at(1, 0, 0)[4:9] == pytest.approx([0, 0, -y20 / 2, 0, math.sqrt(15 / (16 * math.pi))])
    assert basis_at(0, 0, 1)[9:] == pytest.approx([0, 0, 0, math.sqrt(7 / (4 * math.pi)), 0, 0, 0])
    y33, y31 = math.sqrt(35 / (32 * math.pi)), math.sqrt(21 / (32 * math.pi))
    assert basis_at(1, 0, 0)[9:] == pytest.approx([0, 0, 0, 0, y31, 0, -y33])
    assert basis_at(0, 1, 0)[9:] == pytest.approx([y33, 0, y31, 0, 0, 0, 0])


def test_values_off_the_axes():
    """The functions that vanish on the axes: xy, yz, xz, xyz, z(x^2 - y^2)."""
    x, y, z = 0.48, 0.6, 0.64
    values = basis_at(x, y, z)
    k = math.sqrt(15 / (4 * math.pi))
    assert [values[4], values[5], values[7]] == pytest.approx([k * x * y, -k * y * z, -k * x * z])
    m = math.sqrt(105 / (4 * math.pi))
    assert [values[10], values[14]] == pytest.approx([m * x * y * z, m / 2 * z * (x * x - y * y)])


def test_orthonormality():
    """Gauss-Legendre in z times equal angles: exact for the degree-6 products of the basis."""
    z = torch.tensor([-0.9061798459386640, -0.5384693101056831, 0.0, 0.5384693101056831, 0.9061798459386640],
                     dtype=torch.float64)  # fmt: skip
    weights = torch.tensor([0.2369268850561891, 0.4786286704993665, 0.5688888888888889, 0.4786286704993665,
                            0.2369268850561891], dtype=torch.float64)  # fmt: skip
    angle = torch.arange(16, dtype=torch.float64) * (2 * math.pi / 16)
    ring = (1 - z * z).sqrt()[:, None]
    directions = torch.stack([ring * angle.cos(), ring * angle.sin(), z[:, None].expand(-1, 16)], dim=-1)
    basis = sh_basis(3, directions)
    gram = torch.einsum("i,ijk,ijl->kl", weights * (2 * math.pi / 16), basis, basis)
    torch.testing.assert_close(gram, torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("degree", range(4))
def test_degree_truncates(degree):
    g = torch.Generator().manual_seed(degree)
    directions, coefficients = torch.randn(9, 3, generator=g), torch.randn(9, 16, 3, generator=g)
    active = (degree + 1) ** 2
    result = spherical_harmonics(degree, directions, coefficients)
    zeroed = coefficients.clone()
    zeroed[:, active:] = 0
    torch.testing.assert_close(result, spherical_harmonics(3, directions, zeroed))
    torch.testing.assert_close(result, spherical_harmonics(degree, directions, coefficients[:, :active]))
    assert not torch.allclose(result, spherical_harmonics((degree + 1) % 4, directions, coefficients))


def test_directions_need_not_be_normalised():
    directions, coefficients = torch.randn(9, 3), torch.randn(9, 16, 3)
    scaled = spherical_harmonics(3, 12.0 * directions, coefficients)
    torch.testing.assert_close(scaled, spherical_harmonics(3, directions, coefficients), rtol=1e-4, atol=1e-5)


def test_gradcheck():
    g = torch.Generator().manual_seed(0)
    directions = torch.randn(5, 3, dtype=torch.float64, generator=g).requires_grad_()
    coefficients = torch.randn(5, 16, 3, dtype=torch.float64, generator=g).requires_grad_()
    assert torch.autograd.gradcheck(lambda d, c: spherical_harmonics(3, d, c), (directions, coefficients))


def test_a_zero_direction_is_finite():
    directions = torch.zeros(1, 3, requires_grad=True)
    result = spherical_harmonics(3, directions, torch.ones(1, 16, 3))
    result.sum().backward()
    assert torch.isfinite(result).all()
    assert torch.isfinite(directions.grad).all()


@pytest.mark.parametrize("rows", [16, 25])
@pytest.mark.parametrize("degree", range(4))
def test_the_cpu_kernel_agrees_with_float64(degree, rows, monkeypatch):
    g = torch.Generator().manual_seed(degree)
    inputs = torch.randn(2, 201, 3, generator=g), torch.randn(2, 201, rows, 3, generator=g)
    masks, weights = torch.rand(2, 201, generator=g) < 0.8, torch.randn(2, 201, 3, generator=g)
    results = []
    for dtype in (torch.float64, torch.float32):
        directions, coefficients = (t.to(dtype).requires_grad_() for t in inputs)
        colors = spherical_harmonics(degree, directions, coefficients, masks)
        loss = torch.where(masks[..., None], colors * weights.to(dtype), 0.0).sum()
        results.append([colors[masks], *torch.autograd.grad(loss, (directions, coefficients), materialize_grads=True)])
        monkeypatch.setattr("distwar_kernels.sh.sh.spherical_harmonics_torch", None)  # the kernel is asked next
    for exact, ours in zip(*results, strict=True):
        assert ours.dtype == torch.float32 and relative_l2(ours, exact) < 1e-6 or not exact.any() and not ours.any()


def test_opcheck():
    g = torch.Generator().manual_seed(0)
    directions, coefficients = torch.randn(5, 3, generator=g), torch.randn(5, 9, 3, generator=g)
    masks = torch.tensor([True, True, False, True, True])
    inputs = (2, directions.requires_grad_(), coefficients.requires_grad_(), masks)
    torch.library.opcheck(torch.ops.distwar.harmonics.default, inputs)
    plain = (2, directions.detach(), coefficients.detach(), masks, torch.randn(5, 3, generator=g))
    torch.library.opcheck(torch.ops.distwar.harmonics_backward.default, plain)


@pytest.mark.gpu
@pytest.mark.parametrize("degree", range(4))
def test_cuda_agrees_with_the_cpu(degree):
    g = torch.Generator().manual_seed(degree)
    inputs = [torch.randn(500, 3, generator=g), torch.randn(500, 16, 3, generator=g)]
    weights = torch.randn(500, 3, generator=g)
    results = []
    for device in ("cpu", "cuda"):
        directions, coefficients = (t.to(device).requires_grad_() for t in inputs)
        colors = spherical_harmonics(degree, directions, coefficients)
        gradients = torch.autograd.grad(
            (colors * weights.to(device)).sum(), (directions, coefficients), materialize_grads=True
        )
        results.append([t.cpu() for t in (colors.detach(), *gradients)])
    for ours, stock in zip(*results, strict=True):
        torch.testing.assert_close(stock, ours, rtol=1e-4, atol=1e-4)
