"""Lenses on the CPU: against COLMAP's own cameras, against the renderer's, and back again along their rays."""

import math

import numpy as np
import pycolmap
import pytest
import torch
from captures import MODELS as PARAMETERS
from captures import SIZE
from scene_files import look_at

from distwar_datasets import View
from distwar_datasets.lenses import Lens, colmap_model, lens_of
from distwar_datasets.pixels.lens_masks import kept_places
from distwar_datasets.pixels.undistort import drawn_lens, is_pinhole
from distwar_kernels import MODELS

DRAWN = [name for name in PARAMETERS if "PINHOLE" not in name and not name.startswith("RAD_TAN")]
WIDE = {
    "fisheye-220": ("OPENCV_FISHEYE", (60, 61, 118, 121, 0.02, -0.004, 0.0006, 0.0), (240, 240)),
    "thin-prism-200": (
        "THIN_PRISM_FISHEYE", (64, 64, 118, 121, 0.02, -0.004, 0.002, -0.001, 0, 0, 0.001, 0.002), (230, 236)
    ),
    "fov": ("FOV", (70, 72, 118, 121, 1.1), (240, 240)),
    "eucm": ("EUCM", (63, 64, 118, 121, 0.62, 1.1), (240, 240)),
    "panorama": ("EQUIRECTANGULAR", (240, 120), (240, 120)),
}  # fmt: skip


def camera(model: str, params: tuple, size: tuple[int, int]) -> pycolmap.Camera:
    return pycolmap.Camera(camera_id=1, model=model, width=size[0], height=size[1], params=list(params))


def small(model: str) -> tuple[pycolmap.Camera, tuple[int, int]]:
    size = (96, 48) if model == "EQUIRECTANGULAR" else SIZE
    return camera(model, PARAMETERS[model], size), size


def inside(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return ((pixels > 0) & (pixels < size)).all(axis=1)


@pytest.mark.parametrize("model", DRAWN)
def test_pixels_are_colmaps(model):
    colmap, size = small(model)
    rng = np.random.default_rng(0)
    pixels = rng.uniform(size=(300, 2)) * size
    points = colmap.cam_ray_from_img(pixels) * rng.uniform(0.5, 4, (300, 1))
    np.testing.assert_allclose(lens_of(colmap).pixels(points), colmap.img_from_cam(points), atol=1e-9)


@pytest.mark.parametrize("model", DRAWN)
def test_colmaps_model_of_a_lens_is_the_same_camera(model):
    colmap, size = small(model)
    again = camera(*colmap_model(lens_of(colmap)), size)
    points = np.random.default_rng(1).uniform((-0.3, -0.3, 0.8), (0.3, 0.3, 2), (50, 3))
    np.testing.assert_allclose(again.img_from_cam(points), colmap.img_from_cam(points), atol=1e-9)


@pytest.mark.parametrize("name", WIDE)
def test_there_and_back_on_all_sides(name):
    model, params, size = WIDE[name]
    lens = lens_of(camera(model, params, size))
    pixels = np.random.default_rng(2).uniform(size=(500, 2)) * size
    rays = lens.rays(pixels)
    found = np.isfinite(rays).all(axis=1)
    assert found.mean() > 0.7 and (rays[found, 2] < -0.15).mean() > 0.02
    np.testing.assert_allclose(np.linalg.norm(rays[found], axis=1), 1.0)
    np.testing.assert_allclose(lens.pixels(3.0 * rays[found]), pixels[found], atol=1e-5)


@pytest.mark.parametrize("name", WIDE)
def test_the_renderer_has_the_same_lens(name):
    model, params, size = WIDE[name]
    lens = lens_of(camera(model, params, size))
    points = np.random.default_rng(3).normal(size=(500, 3))
    here, row = lens.pixels(points), MODELS[lens.model]
    xy, z = torch.from_numpy(points)[None, :, :2], torch.from_numpy(points)[None, :, 2]
    numbers = torch.tensor([lens.numbers], dtype=torch.float64)
    seen = row.sees(xy, z, numbers)[0].numpy()
    np.testing.assert_array_equal(np.isfinite(here).all(axis=1), seen)
    np.testing.assert_allclose(row.project(xy, z, numbers)[0].numpy()[seen], here[seen], atol=2e-5)
    np.testing.assert_allclose(row.depth(xy, z)[0].numpy(), lens.depths(points))
    assert len(lens.numbers) == len(row.parameters)


def test_a_lens_of_another_size():
    lens = lens_of(small("OPENCV")[0])
    points = np.random.default_rng(4).uniform((-0.3, -0.3, 0.8), (0.3, 0.3, 2), (20, 3))
    np.testing.assert_allclose(lens.scaled(0.5, 0.25).pixels(points), lens.pixels(points) * (0.5, 0.25))


def test_where_distortion_folds_no_ray_leads():
    """r (1 - 0.5 r^2) rises up to r = sqrt(2/3): a circle of radius 0.544 focal lengths."""
    lens = drawn_lens(camera("SIMPLE_RADIAL", (60, 48, 32, -0.5), (96, 64)))
    kept = kept_places(lens, 96, 64)
    across, down = np.meshgrid(np.arange(96) + 0.5 - 48, np.arange(64) + 0.5 - 32)
    radius = math.sqrt(2 / 3) * (1 - 1 / 3) * 60
    np.testing.assert_array_equal(kept, np.hypot(across, down) < radius)


def test_coefficients_of_the_middle_only_are_no_lens():
    assert drawn_lens(camera("SIMPLE_RADIAL", (60, 48, 32, -5.0), (96, 64))) is None
    assert lens_of(camera("RAD_TAN_THIN_PRISM_FISHEYE", PARAMETERS["RAD_TAN_THIN_PRISM_FISHEYE"], SIZE)) is None
    assert is_pinhole(camera("OPENCV", (90, 94, 46, 35, 0, 0, 0, 0), SIZE))


def test_what_a_view_says_of_points():
    """A pinhole's as its matrix says, a panorama's everywhere."""
    pose = look_at((2.0, 1.0, 0.5), (0.0, 0.0, 0.0))
    K = np.array([[90.0, 0.0, 46.0], [0.0, 94.0, 35.0], [0.0, 0.0, 1.0]])
    view = View("a", "a.png", 96, 72, K, pose, 1)
    points = np.random.default_rng(5).normal(size=(60, 3)) * 2
    pixels, depths, shown = view.look(points)
    x, y, z = K @ (pose[:3, :3] @ points.T + pose[:3, 3:])
    np.testing.assert_allclose(depths, z)
    np.testing.assert_allclose(pixels[shown], np.stack([x / z, y / z], axis=1)[shown])
    np.testing.assert_array_equal(shown, (z > 0) & inside(np.stack([x / z, y / z], axis=1), (96, 72)))
    panorama = View(
        "a", "a.png", 96, 48, K, pose, 1, lens=Lens("equirectangular", (96 / math.tau, 48 / math.pi, 48, 24))
    )
    assert panorama.look(points)[2].all()
