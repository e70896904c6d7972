"""The choice of a lens model, on captures whose lens is known."""

import numpy as np
import pycolmap
import pytest
from known_lenses import HEIGHT, WIDTH, capture, lens, mapped_with_start

from distwar_gs.capture.calibration import Fit, fit, sightings_of
from distwar_gs.capture.camera_models import converted
from distwar_gs.capture.intrinsics import Choice, choose

CENTER = (WIDTH / 2, HEIGHT / 2)

SQUARE = [
    (lens("SIMPLE_PINHOLE", 1300, *CENTER), "SIMPLE_PINHOLE"),
    (lens("SIMPLE_PINHOLE", 2600, *CENTER), "SIMPLE_PINHOLE"),
    (lens("SIMPLE_RADIAL", 1300, *CENTER, -0.08), "SIMPLE_RADIAL"),
    (lens("SIMPLE_RADIAL", 1000, *CENTER, 0.05), "SIMPLE_RADIAL"),
    (lens("RADIAL", 1300, *CENTER, -0.15, 0.08), "RADIAL"),
    (lens("RADIAL", 1100, *CENTER, 0.1, -0.07), "RADIAL"),
    (lens("OPENCV", 1300, 1300, *CENTER, -0.12, 0.05, 0.003, -0.002), "OPENCV"),
    (lens("OPENCV", 1100, 1100, *CENTER, -0.2, 0.06, -0.002, 0.002), "OPENCV"),
]


def chosen(camera: pycolmap.Camera, **how: object) -> Choice:
    return choose(mapped_with_start(capture(pycolmap.Camera(camera.todict()), **how)), 1, threads=1)


@pytest.mark.parametrize(
    ("truth", "name"),
    [
        pytest.param(*case, id=f"{case[1]}-{case[0].params[0]:.0f}", marks=[pytest.mark.slow] if index % 2 else [])
        for index, case in enumerate(SQUARE)  # two lenses of each model
    ],
)
def test_the_model_with_the_fewest_parameters_that_describe_the_lens(truth, name):
    choice = chosen(truth)
    found = choice.camera
    assert found.model_name == name and not choice.principal_point
    assert abs(found.mean_focal_length() / truth.mean_focal_length() - 1) < 0.005
    assert abs(found.focal_length_x / found.focal_length_y - 1) < 0.002
    np.testing.assert_allclose(
        found.params[truth.extra_params_idxs()], truth.params[truth.extra_params_idxs()], atol=0.02
    )
    assert (
        f"error on held-out photos {choice.errors[name]:.2f} px" in choice.reason and "in spite of" not in choice.reason
    )


@pytest.mark.parametrize(
    ("truth", "name"),
    [
        (lens("PINHOLE", 1300, 1365, *CENTER), "PINHOLE"),
        pytest.param(lens("PINHOLE", 1300, 1192, *CENTER), "PINHOLE", marks=pytest.mark.slow),  # 12:11, PAL video
        (lens("OPENCV", 1300, 1365, *CENTER, -0.15, 0.05, 0, 0), "OPENCV"),
    ],
)
def test_pixels_that_are_not_square(truth, name):
    choice = chosen(truth)
    ratio = choice.camera.focal_length_x / choice.camera.focal_length_y
    assert choice.camera.model_name == name
    assert abs(ratio / (truth.focal_length_x / truth.focal_length_y) - 1) < 0.003
    assert f"in spite of: fx and fy differ by {100 * abs(ratio - 1):.1f} %" in choice.reason


@pytest.mark.parametrize(
    ("truth", "terms"),
    [
        pytest.param(lens("SIMPLE_FISHEYE", 800, *CENTER), 1, marks=pytest.mark.slow),
        (lens("SIMPLE_RADIAL_FISHEYE", 700, *CENTER, 0.03), 1),
        (lens("OPENCV_FISHEYE", 700, 700, *CENTER, 0.05, -0.03, 0, 0), 2),
    ],
)
def test_a_fisheye(truth, terms):
    found = chosen(truth, photos=8, points=600).camera
    assert found.model_name == {1: "SIMPLE_RADIAL_FISHEYE", 2: "RADIAL_FISHEYE"}[terms]
    assert abs(found.mean_focal_length() / truth.mean_focal_length() - 1) < 0.005


@pytest.mark.parametrize(
    "offset", [(60, 40), *(pytest.param(offset, marks=pytest.mark.slow) for offset in ((-40, 30), (0, -50)))]
)
def test_the_principal_point_of_cropped_photos(offset):
    choice = chosen(lens("SIMPLE_PINHOLE", 1300, CENTER[0] + offset[0], CENTER[1] + offset[1]))
    assert choice.camera.model_name == "SIMPLE_PINHOLE" and choice.principal_point
    assert np.abs(choice.camera.params[1:3] - np.add(CENTER, offset)).max() < 6


def rolling(seed: int, strength: float) -> pycolmap.Reconstruction:
    """Photos of a hand that moves while the shutter goes down: each sheared, from top to bottom, by some pixels."""
    model = capture(lens("SIMPLE_RADIAL", 1300, *CENTER, -0.08), photos=12, noise=1.0, seed=seed)
    rng = np.random.default_rng(seed)
    for image in model.images.values():
        shift = rng.normal(0, strength, 2)
        for point in image.points2D:
            point.xy = point.xy + shift * (point.xy[1] / HEIGHT - 0.5) * 2
    return mapped_with_start(model)


@pytest.mark.parametrize(("seed", "strength"), [pytest.param(0, 4.0, marks=pytest.mark.slow), (1, 8.0)])
def test_what_disturbs_photos_does_not_tear_fx_and_fy_apart(seed, strength):
    choice = choose(rolling(seed, strength), 1, threads=1)
    assert choice.camera.model_name == "SIMPLE_RADIAL"
    assert abs(choice.camera.mean_focal_length() / 1300 - 1) < 0.005


def test_a_gain_that_may_be_chance_is_none():
    """OPENCV describes held-out photos a little better here, with fx and fy 2.7 % apart where they are equal."""
    model = rolling(2, 8.0)
    choice = choose(model, 1, threads=1)
    assert choice.camera.model_name == "SIMPLE_RADIAL"
    assert "; no reliable gain from PINHOLE, RADIAL, SIMPLE_RADIAL + principal point" in choice.reason
    errors = choice.errors
    assert errors["OPENCV"] < errors["SIMPLE_RADIAL"]
    seen = sightings_of(model, 1)
    torn = fit(seen, Fit(converted(model.cameras[1], "OPENCV"), seen.poses, seen.points), 2.0, threads=1).camera
    assert abs(torn.focal_length_x / torn.focal_length_y - 1) > 0.015


def test_few_photos_keep_the_model_they_were_placed_with():
    model = mapped_with_start(capture(lens("RADIAL", 1300, *CENTER, -0.15, 0.08), photos=4))
    choice = choose(model, 1, threads=1)
    assert (choice.camera.model_name, choice.photos) == ("SIMPLE_RADIAL", 4)
    assert "4 photos that share enough points are too few to judge a lens by" in choice.reason
    np.testing.assert_array_equal(choice.camera.params, model.cameras[1].params)


def test_the_model_is_not_changed_and_a_tick_may_stop_the_choice():
    model = mapped_with_start(capture(lens("SIMPLE_PINHOLE", 1300, *CENTER)))
    before = model.cameras[1].params.copy(), model.images[3].cam_from_world().matrix(), model.num_points3D()
    ticks = iter(range(3))

    def tick() -> None:
        if next(ticks) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        choose(model, 1, 1, tick)
    np.testing.assert_array_equal(model.cameras[1].params, before[0])
    np.testing.assert_array_equal(model.images[3].cam_from_world().matrix(), before[1])
    assert model.num_points3D() == before[2] and model.cameras[1].model_name == "SIMPLE_RADIAL"
