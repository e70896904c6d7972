"""Camera models that stand for one another, and intrinsics that no camera has."""

import numpy as np
import pycolmap
import pytest
from known_lenses import HEIGHT, WIDTH, lens

from distwar_gs.capture.camera_models import converted, folds, oddities

CENTER = (WIDTH / 2, HEIGHT / 2)


@pytest.mark.parametrize(
    ("camera", "name", "pixels"),
    [
        (lens("SIMPLE_RADIAL", 1300, *CENTER, -0.1), "RADIAL", 1e-3),
        (lens("SIMPLE_RADIAL", 1300, 780, 610, -0.1), "OPENCV", 1e-3),
        (lens("SIMPLE_RADIAL", 1300, *CENTER, -0.1), "RADIAL_FISHEYE", 2.0),
        (lens("SIMPLE_RADIAL", 1000, *CENTER, -0.13), "OPENCV_FISHEYE", 6.0),
        (lens("OPENCV", 1300, 1320, *CENTER, -0.1, 0.02, 0, 0), "PINHOLE", 45.0),
        (lens("OPENCV", 1300, 1300, *CENTER, -0.1, 0.02, 0.001, 0), "OPENCV", 0.0),
    ],
)
def test_the_nearest_camera_of_another_model(camera, name, pixels):
    before = camera.params.copy()
    other = converted(camera, name)
    assert other.model_name == name and (other.width, other.height, other.camera_id) == (WIDTH, HEIGHT, 1)
    assert (other.principal_point_x, other.principal_point_y) == (camera.principal_point_x, camera.principal_point_y)
    x, y = np.meshgrid(np.linspace(100, WIDTH - 100, 7), np.linspace(100, HEIGHT - 100, 7))
    rays = camera.cam_ray_from_img(np.stack([x.ravel(), y.ravel()], axis=-1))
    assert np.abs(other.img_from_cam(rays) - camera.img_from_cam(rays)).max() <= pixels
    np.testing.assert_array_equal(camera.params, before)


def test_a_conversion_uses_only_the_part_of_an_image_that_does_not_fold():
    """What mapping makes of a fisheye lens with one radial term: it folds at 1.6 focal lengths from the middle."""
    camera = lens("SIMPLE_RADIAL", 740, *CENTER, -0.16)
    assert folds(camera)
    other = converted(camera, "SIMPLE_RADIAL_FISHEYE")
    assert abs(other.mean_focal_length() / 740 - 1) < 0.1 and not folds(other)


@pytest.mark.parametrize(
    ("camera", "kinds"),
    [
        (lens("PINHOLE", 1300, 1310, *CENTER), []),
        (lens("PINHOLE", 1300, 1320, *CENTER), ["aspect"]),
        (lens("OPENCV", 1300, 1228, *CENTER, 0, 0, 0, 0), ["aspect"]),  # 5.6 %
        (lens("SIMPLE_PINHOLE", 1300, 800 + 0.04 * WIDTH, 600), []),
        (lens("SIMPLE_PINHOLE", 1300, 800 + 0.06 * WIDTH, 600), ["centre"]),
        (lens("RADIAL", 1300, 800, 600 - 0.2 * HEIGHT, 0, 0), ["centre"]),
        (lens("SIMPLE_PINHOLE", 500, *CENTER), []),
        (lens("SIMPLE_PINHOLE", 400, *CENTER), ["focal"]),
        (lens("SIMPLE_RADIAL", 9000, *CENTER, 0), ["focal"]),
        (lens("SIMPLE_FISHEYE", 500, *CENTER), ["folds"]),  # corners at 115 degrees: behind the camera
        (lens("SIMPLE_FISHEYE", 700, *CENTER), []),
        (
            lens("SIMPLE_RADIAL", 1300, *CENTER, -0.2),
            [],
        ),  # at 0.86 focal lengths; corners are at 0.77
        (lens("SIMPLE_RADIAL", 1300, *CENTER, -0.3), ["folds"]),  # at 0.70
        (lens("SIMPLE_RADIAL", 1300, *CENTER, -0.6), ["folds"]),
        (lens("OPENCV", 1000, 1000, *CENTER, 0.3, -0.4, 0, 0), ["folds"]),
        (lens("RADIAL", 700, *CENTER, -0.3, 0.0), ["folds"]),
        (lens("OPENCV_FISHEYE", 700, 700, *CENTER, 0.1, -0.2, 0, 0), ["folds"]),
        (lens("OPENCV", 300, 330, 200, 600, 0, 0, 0, 0), ["aspect", "centre", "focal"]),
        (lens("SIMPLE_PINHOLE", float("nan"), *CENTER), ["invalid"]),
        (lens("PINHOLE", -1300, 1300, *CENTER), ["invalid"]),
        (lens("EQUIRECTANGULAR", WIDTH, HEIGHT), []),
    ],
)
def test_what_is_odd(camera: pycolmap.Camera, kinds):
    assert list(oddities(camera)) == kinds


def test_oddities_are_said_with_numbers():
    said = oddities(lens("OPENCV", 300, 330, 200, 600, 0, 0, 0, 0))
    assert said["aspect"] == "fx and fy differ by 9.1 % (those of square pixels are equal)"
    assert said["centre"] == "the principal point is at 12 % of the width and 50 % of the height"
    assert said["focal"] == "the focal length is 0.2 times the longer side (usual: 0.3 to 5)"


def test_portrait_and_landscape_are_judged_alike():
    for size in ((1600, 1000), (1000, 1600)):
        width, height = size
        for focal, kinds in ((450, ["focal"]), (520, []), (8100, ["focal"])):
            camera = pycolmap.Camera(
                camera_id=1, model="SIMPLE_PINHOLE", width=width, height=height, params=[focal, width / 2, height / 2]
            )
            assert list(oddities(camera)) == kinds
