"""Projection against a second derivation (a numerical Jacobian of the pinhole map), its culling and gradients."""

import math

import pytest
import torch
from random_scenes import relative_l2
from torch import Tensor

from distwar_kernels import Cameras, Projection, project_gaussians
from distwar_kernels.constants import ALPHA_CUT, BLUR, EXTENT
from distwar_kernels.projection.projection_torch import project_torch, rotation_matrices

WIDTH, HEIGHT = 64, 48
# Off-centre principal point, different focal lengths.
INTRINSICS = torch.tensor([[70.0, 0.0, 20.0], [0.0, 85.0, 31.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def viewmats(count: int, seed: int) -> Tensor:
    """World-to-camera matrices [count, 4, 4] that look roughly along +z from around the origin, in float64."""
    g = torch.Generator().manual_seed(seed)
    quats = torch.tensor([1.0, 0, 0, 0]) + 0.1 * torch.randn(count, 4, generator=g)
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    poses[:, :3, :3] = rotation_matrices(quats.double())
    poses[:, :3, 3] = 0.3 * torch.randn(count, 3, generator=g)
    return poses


def gaussians(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """means, quats, scales, opacities in float64, most of them in view."""
    g = torch.Generator().manual_seed(seed)
    depth = 2 + 6 * torch.rand(n, 1, generator=g)
    means = torch.cat([torch.randn(n, 2, generator=g) * 0.25 * depth, depth], -1)
    scales = 0.01 * 30 ** torch.rand(n, 3, generator=g)
    opacities = 0.01 + 0.98 * torch.rand(n, generator=g)
    return means.double(), torch.randn(n, 4, generator=g).double(), scales.double(), opacities.double()


def scene(n: int = 50, count: int = 2, seed: int = 0) -> tuple[Tensor, ...]:
    return *gaussians(n, seed), viewmats(count, seed), INTRINSICS.repeat(count, 1, 1)


def project(arguments: tuple[Tensor, ...], **options: object) -> Projection:
    *tensors, poses, Ks = arguments
    return Projection(*project_torch(*tensors, Cameras.of_matrices(poses, Ks, WIDTH, HEIGHT), **options))


# ------------------------------------------------------------------------------------------- independent ground truth


def pinhole(point: Tensor, viewmat: Tensor, K: Tensor) -> Tensor:
    homogeneous = K @ (viewmat[:3, :3] @ point + viewmat[:3, 3])
    return homogeneous[:2] / homogeneous[2]


def numerical_jacobian(point: Tensor, viewmat: Tensor, K: Tensor, step: float = 1e-5) -> Tensor:
    columns = [(pinhole(point + d, viewmat, K) - pinhole(point - d, viewmat, K)) / (2 * step)
               for d in step * torch.eye(3, dtype=torch.float64)]  # fmt: skip
    return torch.stack(columns, dim=-1)


def rotate(quat: Tensor, vector: Tensor) -> Tensor:
    """Rodrigues' rotation by a unit quaternion: v + 2 w (u x v) + 2 u x (u x v)."""
    w, u = quat[0], quat[1:]
    return vector + 2 * w * torch.linalg.cross(u, vector) + 2 * torch.linalg.cross(u, torch.linalg.cross(u, vector))


def covariance(quat: Tensor, scales: Tensor) -> Tensor:
    """The sum over the three principal axes of scale^2 * axis axis^T."""
    quat = quat / quat.norm()
    axes = [rotate(quat, axis) for axis in torch.eye(3, dtype=torch.float64)]
    return sum(scale**2 * torch.outer(axis, axis) for scale, axis in zip(scales, axes, strict=True))


def in_view(point: Tensor, viewmat: Tensor, K: Tensor) -> bool:
    """Inside the image, so that the Jacobian's clamp does not act."""
    x, y = pinhole(point, viewmat, K).tolist()
    return 0 < x < WIDTH and 0 < y < HEIGHT


@pytest.mark.parametrize("seed", range(5))
def test_projection_of_gaussians_in_view(seed):
    means, quats, scales, opacities, poses, Ks = arguments = scene(seed=seed)
    result = project(arguments, antialiased=True)
    checked = 0
    for c in range(len(poses)):
        for n in range(len(means)):
            if not in_view(means[n], poses[c], Ks[c]):
                continue
            jacobian = numerical_jacobian(means[n], poses[c], Ks[c])
            exact = jacobian @ covariance(quats[n], scales[n]) @ jacobian.T
            blurred = exact + BLUR * torch.eye(2, dtype=torch.float64)
            inverse = torch.linalg.inv(blurred)
            compensation = math.sqrt(torch.linalg.det(exact) / torch.linalg.det(blurred))
            expected = [inverse[0, 0], inverse[0, 1], inverse[1, 1]]
            torch.testing.assert_close(result.conics[c, n], torch.stack(expected), rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(result.means2d[c, n], pinhole(means[n], poses[c], Ks[c]))
            torch.testing.assert_close(result.depths[c, n], (poses[c, :3, :3] @ means[n] + poses[c, :3, 3])[2])
            assert result.compensations[c, n].item() == pytest.approx(compensation, rel=1e-5)
            check_radii(result.radii[c, n], opacities[n].item() * compensation, torch.diagonal(blurred))
            checked += 1
    assert checked > 15


def check_radii(radii: Tensor, opacity: float, variances: Tensor) -> None:
    """The box of the ellipse alpha = 1/255, at most EXTENT standard deviations."""
    if opacity < ALPHA_CUT:
        assert radii.tolist() == [0, 0]
        return
    extent = min(EXTENT, math.sqrt(2 * math.log(opacity / ALPHA_CUT)))
    assert radii.tolist() == [math.ceil(extent * math.sqrt(v)) for v in variances.tolist()]


def test_quaternions_need_not_be_normalised():
    means, quats, scales, opacities, *rest = scene()
    scaled = project((means, 7.0 * quats, scales, opacities, *rest))
    torch.testing.assert_close(scaled.conics, project((means, quats, scales, opacities, *rest)).conics)


def test_a_quarter_turn_by_quaternion():
    half = math.sqrt(0.5)
    about_z = rotation_matrices(torch.tensor([[half, 0.0, 0.0, half]]))[0]
    torch.testing.assert_close(about_z @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]))


def test_the_jacobian_is_clamped_by_the_true_principal_point():
    """Far outside the image the ellipse stops growing, on each side at its own limit."""

    def conic_at(x: float) -> Tensor:
        means = torch.tensor([[x, 0.0, 1.0]], dtype=torch.float64)
        one = torch.ones(1, dtype=torch.float64)
        return project((means, torch.eye(4, dtype=torch.float64)[:1], 0.3 * one.repeat(1, 3), one,
                        torch.eye(4, dtype=torch.float64)[None], INTRINSICS[None])).conics[0, 0]  # fmt: skip

    margin = 0.3 * 0.5 * WIDTH / 70
    left, right = -(20 / 70 + margin), (WIDTH - 20) / 70 + margin
    for limit in (left, right):
        torch.testing.assert_close(conic_at(1.5 * limit), conic_at(3.0 * limit))
        torch.testing.assert_close(conic_at(1.01 * limit), conic_at(3.0 * limit))
        assert not torch.allclose(conic_at(0.98 * limit), conic_at(3.0 * limit))


# ------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("antialiased", [False, True])
def test_gradcheck_away_from_the_clamps(antialiased):
    means, quats, scales, opacities, poses, Ks = scene(n=20, count=2, seed=3)
    visible = [n for n in range(len(means)) if all(in_view(means[n], v, Ks[0]) for v in poses)][:4]
    assert len(visible) == 4
    inputs = [t[visible].clone().requires_grad_() for t in (means, quats, scales)]

    def outputs(means: Tensor, quats: Tensor, scales: Tensor) -> tuple[Tensor, ...]:
        result = project((means, quats, scales, opacities[visible], poses, Ks), antialiased=antialiased)
        return tuple(t for t in result[1:] if t is not None)

    assert torch.autograd.gradcheck(outputs, inputs)


def gradients(result: Projection, leaves: list[Tensor]) -> list[Tensor]:
    """Gradients of random sums over the visible Gaussians' results."""
    g = torch.Generator().manual_seed(0)
    visible = (result.radii > 0).all(-1)
    loss = 0
    for value in (t for t in result[1:] if t is not None):
        weights = torch.randn(value.shape, generator=g).to(value)
        shown = visible.reshape(visible.shape + (1,) * (value.dim() - 2))
        loss = loss + (torch.where(shown, value, torch.zeros_like(value)) * weights).sum()
    return [t.cpu() for t in torch.autograd.grad(loss, leaves)]


# --------------------------------------------------------------------------------------------------------- culling

NAN, INF = float("nan"), float("inf")
CULLED = {
    "behind": {"means": (0.0, 0.0, -4.0)},
    "at the camera": {"means": (0.0, 0.0, 0.0)},
    "nearer than the near plane": {"means": (0.0, 0.0, 0.009)},
    "beyond the far plane": {"means": (0.0, 0.0, 2e10)},
    "left of the image": {"means": (-9.0, 0.0, 4.0)},
    "right of the image": {"means": (9.0, 0.0, 4.0)},
    "above the image": {"means": (0.0, -9.0, 4.0)},
    "below the image": {"means": (0.0, 9.0, 4.0)},
    "transparent": {"opacities": 0.0},
    "fainter than 1/255": {"opacities": 0.0039},
    "NaN mean": {"means": (NAN, 0.0, 4.0)},
    "NaN depth": {"means": (0.0, 0.0, NAN)},
    "infinite mean": {"means": (INF, 0.0, 4.0)},
    "NaN scale": {"scales": (NAN, 0.1, 0.1)},
    "infinite scale": {"scales": (INF, 0.1, 0.1)},
    "NaN quaternion": {"quats": (NAN, 0.0, 0.0, 1.0)},
    "infinite quaternion": {"quats": (INF, 0.0, 0.0, 1.0)},
    "NaN opacity": {"opacities": NAN},
}


def with_one_bad(changes: dict[str, object], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Two Gaussians in view; the second one changed."""
    tensors = {
        "means": torch.tensor([[0.1, 0.2, 4.0], [0.0, 0.0, 4.0]]),
        "quats": torch.tensor([[1.0, 0.1, 0.2, 0.3], [1.0, 0.0, 0.0, 0.0]]),
        "scales": torch.full((2, 3), 0.1),
        "opacities": torch.full((2,), 0.5),
    }
    for name, value in changes.items():
        tensors[name][1] = torch.tensor(value)
    return {name: t.to(dtype) for name, t in tensors.items()}


def project_pair(tensors: dict[str, Tensor], device: str, **options: object) -> Projection:
    pair = {name: t.to(device) for name, t in tensors.items()}
    camera = Cameras.of_matrices(torch.eye(4)[None], INTRINSICS.float()[None], WIDTH, HEIGHT).to(device)
    return project_gaussians(**pair, cameras=camera, **options)


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("changes", CULLED.values(), ids=CULLED.keys())
def test_culled_gaussians_have_zero_radii_and_zero_gradients(changes, antialiased):
    tensors = with_one_bad(changes)
    leaves = [tensors[name].requires_grad_() for name in ("means", "quats", "scales")]
    result = project_pair(tensors, "cpu", antialiased=antialiased)
    assert result.radii[0, 0].min() > 0
    assert result.radii[0, 1].tolist() == [0, 0]
    for gradient in gradients(result, leaves):
        assert torch.isfinite(gradient).all()
        assert not gradient[1].any()
    assert gradients(project_pair(tensors, "cpu"), leaves)[0][0].any()


@pytest.mark.parametrize("antialiased", [False, True])
def test_a_zero_quaternion_stays_finite(antialiased):
    tensors = with_one_bad({"quats": (0.0, 0.0, 0.0, 0.0)})
    leaves = [tensors[name].requires_grad_() for name in ("means", "quats", "scales")]
    result = project_pair(tensors, "cpu", antialiased=antialiased)
    assert all(torch.isfinite(t).all() for t in result if t is not None)
    assert all(torch.isfinite(gradient).all() for gradient in gradients(result, leaves))


def test_a_gaussian_that_reaches_into_the_image_is_kept():
    tensors = with_one_bad({"means": (-1.5, 0.0, 4.0), "scales": (0.3, 0.1, 0.1)})
    result = project_pair(tensors, "cpu")
    assert result.means2d[0, 1, 0] < 0
    assert result.radii[0, 1].min() > 0


def test_no_gaussians():
    cameras = Cameras.of_matrices(torch.eye(4).repeat(2, 1, 1), INTRINSICS.float().repeat(2, 1, 1), WIDTH, HEIGHT)
    result = project_gaussians(*(torch.zeros(0, k) for k in (3, 4, 3)), torch.zeros(0), cameras)
    assert result.radii.shape == (2, 0, 2)
    assert result.compensations is None


# -------------------------------------------------------------------------------------------------- the CPU's kernel


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_the_cpu_kernel_agrees_with_float64(seed, antialiased, monkeypatch):
    arguments = tuple(t.float() for t in scene(n=401, count=3, seed=seed))
    found, exact, grads = [], [], []
    for results, dtype in ((exact, torch.float64), (found, torch.float32)):
        moved = [t.to(dtype) for t in arguments]
        leaves = [t.requires_grad_() for t in moved[:3]]
        results.append(project_gaussians(*moved[:4], Cameras.of_matrices(*moved[4:], WIDTH, HEIGHT),
                                         antialiased=antialiased))  # fmt: skip
        grads.append(gradients(results[0]._replace(radii=exact[0].radii), leaves))
        monkeypatch.setattr("distwar_kernels.projection.projection.project_torch", None)  # the kernel is asked next
    ours, theirs = found[0], exact[0]
    # ceil() may fall on either side of an integer, in a few of the 2406 numbers
    assert (ours.radii - theirs.radii).abs().max() <= 1 and (ours.radii != theirs.radii).float().mean() < 5e-3
    visible = (theirs.radii > 0).all(-1)
    assert visible.sum() > 300
    for name in ("means2d", "depths", "conics") + (("compensations",) if antialiased else ()):
        assert relative_l2(getattr(ours, name)[visible], getattr(theirs, name)[visible]) < 1e-5, name
    for name, a, b in zip(("means", "quats", "scales"), *reversed(grads), strict=True):
        assert relative_l2(a, b) < 1e-4, name


def test_opcheck():
    means, quats, scales, opacities, poses, Ks = (t.float() for t in scene(n=7, count=2))
    gaussians = [t.requires_grad_() for t in (means, quats, scales)]
    inputs = (*gaussians, opacities, *Cameras.of_matrices(poses, Ks, WIDTH, HEIGHT).arguments(), 0.01, 1e10, True)
    torch.library.opcheck(torch.ops.distwar.project.default, inputs)
    upstream = [torch.randn(2, 7, *size) for size in ((2,), (), (3,), ())]
    plain = [t.detach() if isinstance(t, Tensor) else t for t in inputs]
    torch.library.opcheck(torch.ops.distwar.project_backward.default, (*plain, upstream))


def test_poses_that_want_a_gradient_get_one():
    *tensors, poses, Ks = (t.float() for t in scene())
    cameras = Cameras.of_matrices(poses.requires_grad_(), Ks, WIDTH, HEIGHT)
    project_gaussians(*tensors, cameras).means2d.sum().backward()
    assert poses.grad.abs().sum() > 0


# --------------------------------------------------------------------------------------------------------------- GPU


@pytest.mark.gpu
@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_cuda_agrees_with_the_cpu(seed, antialiased):
    arguments = tuple(t.float() for t in scene(n=400, count=3, seed=seed))
    results, grads = {}, {}
    for device in ("cpu", "cuda"):
        moved = [t.to(device) for t in arguments]
        leaves = [t.requires_grad_() for t in moved[:3]]
        cameras = Cameras.of_matrices(*moved[4:], WIDTH, HEIGHT)
        results[device] = project_gaussians(*moved[:4], cameras, antialiased=antialiased)
        radii = results["cpu"].radii.to(device)  # both losses over the same Gaussians
        both = (radii > 0) & (results[device].radii > 0)
        grads[device] = gradients(results[device]._replace(radii=both.int()), leaves)
    ours, stock = results["cpu"], Projection(*(t if t is None else t.cpu() for t in results["cuda"]))
    # ceil() may fall on either side of an integer, in a few of the 2400 numbers
    assert (ours.radii != stock.radii).float().mean() < 5e-3
    visible = (ours.radii > 0).all(-1) & (stock.radii > 0).all(-1)
    assert visible.sum() > 300
    for name in ("means2d", "depths", "conics") + (("compensations",) if antialiased else ()):
        assert relative_l2(getattr(stock, name)[visible], getattr(ours, name)[visible]) < 1e-4, name
    for name, a, b in zip(("means", "quats", "scales"), grads["cuda"], grads["cpu"], strict=True):
        assert relative_l2(a, b) < 1e-3, name


# gsplat's projection lets a NaN opacity through; the blend culls it.
CULLED_BY_GSPLAT = {name: changes for name, changes in CULLED.items() if name != "NaN opacity"}


@pytest.mark.gpu
@pytest.mark.parametrize("changes", CULLED_BY_GSPLAT.values(), ids=CULLED_BY_GSPLAT.keys())
def test_cuda_culls_the_same(changes):
    result = project_pair(with_one_bad(changes), "cuda")
    assert result.radii[0, 0].min() > 0
    assert result.radii[0, 1].tolist() == [0, 0]
