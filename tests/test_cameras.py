"""The one camera: its shapes, its matrices, and the table of lenses on both sides."""

import re
from pathlib import Path

import pytest
import torch
from fused_scenes import intrinsics_of

import distwar_kernels
from distwar_kernels import MODELS, Cameras

KERNELS = Path(distwar_kernels.__file__).parent


def cameras(count: int = 3) -> Cameras:
    g = torch.Generator().manual_seed(0)
    return Cameras("pinhole", torch.randn(count, 4, 4, generator=g), torch.rand(count, 4, generator=g), 40, 30)


def test_matrices_there_and_back():
    given = cameras()
    again = Cameras.of_matrices(given.viewmats, given.Ks, 40, 30)
    assert torch.equal(again.intrinsics, given.intrinsics) and (again.width, again.height) == (40, 30)
    fx, fy, cx, cy = given.intrinsics[1].tolist()
    assert given.Ks[1].tolist() == [[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]


def test_one_of_several_shares_their_memory():
    given = cameras()
    for index, one in enumerate(given.each()):
        one.check(count=1)
        assert one.viewmats.data_ptr() == given.viewmats[index].data_ptr()
        assert torch.equal(one.intrinsics[0], given.intrinsics[index]) and one[3:] == given[3:]


def test_centers_are_where_a_camera_maps_to_its_origin():
    viewmats = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    viewmats[:, :3, :3] = torch.linalg.qr(torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(1)).double())[0]
    viewmats[:, :3, 3] = torch.tensor([0.3, -2.0, 5.0])
    centers = Cameras("pinhole", viewmats, torch.ones(2, 4), 1, 1).centers
    torch.testing.assert_close(
        (viewmats[:, :3, :3] @ centers[..., None])[..., 0] + viewmats[:, :3, 3], torch.zeros(2, 3).double()
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "pinhol"}, "camera model 'pinhol' is not one of pinhole"),
        ({"viewmats": torch.zeros(3, 3, 4)}, r"viewmats has shape \(3, 3, 4\), expected \(C, 4, 4\)"),
        ({"intrinsics": torch.zeros(3, 8)}, r"intrinsics has shape \(3, 8\), .* a pinhole camera has fx, fy, cx, cy"),
        ({"intrinsics": torch.zeros(2, 4)}, r"intrinsics has shape \(2, 4\), expected \(3, 4\)"),
    ],
)
def test_what_is_no_camera_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        cameras()._replace(**changes).check()
    with pytest.raises(ValueError, match="3 cameras, expected 1"):
        cameras().check(count=1)


def test_only_a_pinhole_has_a_matrix():
    with pytest.raises(ValueError, match="'fisheye' have no intrinsic matrix"):
        _ = cameras()._replace(model="fisheye").Ks


def test_the_kernels_have_the_same_table_of_lenses():
    rows = re.findall(r'{"(\w+)", LensModel::(\w+), (\d+)}', (KERNELS / "cameras.h").read_text(encoding="utf-8"))
    assert {name: int(numbers) for name, _, numbers in rows} == {
        name: len(lens.parameters) for name, lens in MODELS.items()
    }
    lenses = [(KERNELS / f"fused/lenses/{name}.cuh").read_text(encoding="utf-8") for name in ("lenses", "curved")]
    dispatched = re.findall(r"model == LensModel::(\w+)\) return|case LensModel::(\w+):", "".join(lenses))
    known = {"".join(names) for names in dispatched} | {"kOpenCv"}  # what is left
    assert known == {model for _, model, _ in rows}


def test_a_lens_is_linearised_where_it_projects():
    """Its Jacobian is that of its projection, in the image."""
    g = torch.Generator().manual_seed(2)
    for name, lens in MODELS.items():
        numbers = torch.tensor([intrinsics_of(name, 40, 30)], dtype=torch.float64)
        points = torch.cat([0.1 * torch.randn(1, 20, 2, generator=g), torch.ones(1, 20, 1)], dim=-1).double()
        points[:, :8, :2] *= 1e-3  # near the axis
        points[:, 8:12, :2] *= 5.0 if lens.period is not None else 1.0
        points.requires_grad_()
        pixels = lens.project(points[..., :2], points[..., 2], numbers)
        rows = [torch.autograd.grad(pixels[..., k].sum(), points, retain_graph=True)[0] for k in (0, 1)]
        jacobian = lens.jacobian(points[..., :2], points[..., 2], numbers, 40, 30)
        torch.testing.assert_close(jacobian.detach(), torch.stack(rows, dim=-2), msg=name)
