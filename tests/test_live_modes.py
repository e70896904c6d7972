"""What the live viewer draws: the modes, ellipsoids, parts of a model, errors against photos."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from demo_runs import FinishedRun
from live_pages import look
from PIL import Image
from test_engines import Training
from torch import Tensor

from distwar_datasets import load_scene
from distwar_datasets.scene import Mask
from distwar_gs.evaluation.metrics import to_8bit
from distwar_gs.rendering.renderer import RenderSettings, render
from distwar_gs.viewing.live.ellipsoids import FAINT, RADIUS, draw_ellipsoids
from distwar_gs.viewing.live.hook import take_picture
from distwar_gs.viewing.live.modes import DRAWN, contributions, depth_at, draw
from distwar_gs.viewing.live.orders import MODES, CropBox, parse
from distwar_gs.viewing.live.pictures import Photos, Picture, encode, error_picture, heat
from distwar_gs.viewing.live.site import Site
from distwar_gs.viewing.live.subjects import Still, part_of
from distwar_gs.viewing.render_args import RenderArgs
from distwar_gs.viewing.shown import facing_normals, ramp, ramp_table
from distwar_gs.viewing.trained import TrainedModel
from distwar_kernels import Cameras

WIDTH, HEIGHT, FOCAL = 61, 47, 60.0
SETTINGS = RenderSettings(near_plane=0.01, far_plane=100.0)
CAMERA = Cameras("pinhole", torch.eye(4)[None], torch.tensor([[FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2]]), WIDTH, HEIGHT)
BLACK = torch.zeros(3)


def params(seed: int = 0, n: int = 80) -> dict[str, Tensor]:
    """Gaussians around (0, 0, 4)."""
    g = torch.Generator().manual_seed(seed)
    return {
        "means": torch.randn(n, 3, generator=g) * 0.6 + torch.tensor([0.0, 0.0, 4.0]),
        "quats": torch.randn(n, 4, generator=g), "scales": torch.rand(n, 3, generator=g) * 2.0 - 3.2,
        "opacities": torch.randn(n, generator=g) * 1.5, "sh0": torch.randn(n, 1, 3, generator=g),
        "shN": torch.randn(n, 3, 3, generator=g) * 0.1,
    }  # fmt: skip


def one(scales: tuple[float, float, float], opacity: float = 0.9) -> dict[str, Tensor]:
    """A Gaussian at (0, 0, 4), not turned, white."""
    return {
        "means": torch.tensor([[0.0, 0.0, 4.0]]), "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        "scales": torch.tensor([scales]).log(), "opacities": torch.tensor([opacity]).logit(),
        "sh0": torch.full((1, 1, 3), 0.5 / 0.28209479177387814), "shN": torch.zeros(1, 0, 3),
    }  # fmt: skip


def still(values: dict[str, Tensor]) -> Still:
    return Still(values, SETTINGS, BLACK)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [80, 1, 0])
def test_every_mode_draws_pixels(mode, count):
    image = draw(still(params(n=count)), CAMERA, mode)
    assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == torch.uint8
    assert bool(image.any()) == (count > 0)


def test_every_mode_is_a_button_of_the_page():
    assert set(DRAWN) | {"colour", "error"} == set(MODES)


class Trained:
    """A training of test_engines as a subject, after some steps."""

    def __init__(self, training: Training, step: int) -> None:
        self._training, self._step, self.settings = training, step, training.engine.settings

    @property
    def params(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self._training.params.items()}

    def look(self, camera: Cameras, **options: object):
        return self._training.engine.look(self._step, camera, 3, self._training.background, **options)


def test_every_mode_of_a_training_by_the_fused_rasteriser_changes_no_bit(device):
    """With lazy Adam, whose parameters lag behind; and each mode is what the ops one after another draw, about."""
    watched, alone = (Training("fused", device, adam="lazy", deterministic=True) for _ in range(2))
    for step in range(1, 5):
        watched.step(step), alone.step(step)
        images = {mode: draw(Trained(watched, step), watched.camera, mode) for mode in MODES}
    before, after = alone.state(), watched.state()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    watched.engine.settle(4)
    params = {name: tensor.detach().cpu() for name, tensor in watched.params.items()}
    settings = replace(watched.engine.settings, rasterizer="composed")
    subject = Still(params, settings, watched.background.cpu())
    for mode in set(MODES) - {"ellipsoids"}:
        expected = draw(subject, watched.camera.to("cpu"), mode)
        assert (images[mode].cpu().int() - expected.int()).abs().float().mean() < 1.5, mode


def test_colours_are_those_of_the_renderer():
    subject = still(params())
    expected = render(subject.params, CAMERA, SETTINGS, sh_degree=1, background=BLACK).colors[0]
    assert torch.equal(draw(subject, CAMERA, "colour"), to_8bit(expected))


def test_depth_tells_near_from_far_and_leaves_out_what_is_empty():
    values = params(n=2)
    values |= {"means": torch.tensor([[-0.5, 0.0, 3.0], [1.0, 0.0, 6.0]]), "opacities": torch.full((2,), 5.0),
               "scales": torch.full((2, 3), -2.0)}  # fmt: skip
    image = draw(still(values), CAMERA, "depth").int().sum(dim=-1)
    near, far = image[HEIGHT // 2, round(WIDTH / 2 - 10)], image[HEIGHT // 2, round(WIDTH / 2 + 10)]
    assert near > far > 0 and image[0, 0] == 0


def test_the_depth_of_a_place():
    subject = still(one((0.3, 0.3, 0.01)))
    middle = depth_at(subject, CAMERA, (0.5, 0.5))
    assert middle == pytest.approx(4.0, abs=1e-3)
    assert depth_at(subject, CAMERA, (0.0, 0.0)) is None and depth_at(subject, CAMERA, (1.0, 1.0)) is None


def test_normals_are_the_shortest_axes_that_face_the_camera():
    """Whichever way the axis points, its image of a disc that lies across the view is that of one normal."""
    values = one((0.5, 0.5, 0.01))
    normals = facing_normals(values, CAMERA)
    assert torch.allclose(normals, torch.tensor([[0.0, 0.0, -1.0]]))
    turned = {**values, "quats": torch.tensor([[0.0, 1.0, 0.0, 0.0]])}  # upside down
    assert torch.allclose(facing_normals(turned, CAMERA), normals, atol=1e-6)
    many = facing_normals(params(), CAMERA)
    assert torch.allclose(many.norm(dim=-1), torch.ones(80)) and ((many * params()["means"]).sum(-1) <= 0).all()
    pixel = draw(still(one((0.5, 0.5, 0.01), 0.999)), CAMERA, "normals")[HEIGHT // 2, WIDTH // 2]
    assert torch.allclose(pixel.float(), torch.tensor([127.5, 127.5, 0.0]), atol=2)


def test_alpha_is_grey():
    subject = still(params())
    assert torch.equal(draw(subject, CAMERA, "alpha"), to_8bit(subject.look(CAMERA).alphas[0].expand(-1, -1, 3)))


def test_contributions_add_up_to_the_alphas():
    """Each pixel's alpha is the sum of the weights of its Gaussians."""
    subject = still(params(3))
    weights = contributions(subject, CAMERA)
    assert weights.shape == (80, 1) and (weights >= 0).all() and len(weights.unique()) > 40
    assert float(weights.sum()) == pytest.approx(float(subject.look(CAMERA).alphas.sum()), rel=1e-4)


def test_contributions_leave_no_gradient_behind():
    values = {name: tensor.requires_grad_() for name, tensor in params().items()}
    contributions(still({name: tensor.detach() for name, tensor in values.items()}), CAMERA)
    assert all(tensor.grad is None for tensor in values.values())


def test_an_ellipsoid_is_opaque_to_its_edge_and_ends_there():
    """However faint the Gaussian is, if it is drawn at all."""
    for opacity in (FAINT + 0.01, 0.99):
        image = draw_ellipsoids(one((0.4, 0.2, 0.2), opacity), CAMERA, SETTINGS)
        covered = image.amax(dim=-1) > 0.02
        across, down = covered[HEIGHT // 2].sum(), covered[:, WIDTH // 2].sum()
        expected = [2 * RADIUS * math.sqrt((size * FOCAL / 4) ** 2 + 0.3) for size in (0.4, 0.2)]
        assert abs(across - expected[0]) <= 2.5 and abs(down - expected[1]) <= 2.5
        assert image[HEIGHT // 2, WIDTH // 2].min() > 0.9, "white in the middle"


def test_a_faint_gaussian_is_no_ellipsoid():
    assert not draw_ellipsoids(one((0.4, 0.2, 0.2), FAINT - 0.01), CAMERA, SETTINGS).any()


def test_a_large_ellipsoid_is_smooth_before_small_ones():
    """What is behind it, a thousandth of each pixel, leaves no traces; nor do the borders of tiles."""
    values = params(n=300)
    front = one((0.35, 0.35, 0.01), FAINT + 0.01)
    front["means"][0, 2] = 1.5
    alone = draw_ellipsoids(front, CAMERA, SETTINGS)
    both = {name: torch.cat([values[name][:, :0] if name == "shN" else values[name], front[name]]) for name in front}
    covered = alone.amax(dim=-1) > 0.5  # but for its edge
    assert covered.sum() > 500
    torch.testing.assert_close(draw_ellipsoids(both, CAMERA, SETTINGS)[covered], alone[covered], atol=0.02, rtol=0)


def test_the_nearest_ellipsoid_hides_the_others():
    front, back = one((0.2, 0.2, 0.2)), one((0.5, 0.5, 0.5))
    back["means"] = back["means"] + torch.tensor([0.0, 0.0, 3.0])
    back["sh0"] = torch.full((1, 1, 3), -0.5 / 0.28209479177387814)  # black
    both = {name: torch.cat([back[name], front[name]]) for name in front}
    image = draw_ellipsoids(both, CAMERA, SETTINGS)
    assert torch.allclose(image[HEIGHT // 2, WIDTH // 2], torch.ones(3), atol=0.05)


def test_ellipsoids_of_the_fused_rasteriser_are_opaque(monkeypatch):
    """Where opacities beyond 1 cannot be had; drawn here by the other rasteriser."""
    from distwar_gs.rendering import renderer

    monkeypatch.setitem(renderer.RASTERIZERS, "fused", renderer.COMPOSED)
    image = draw_ellipsoids(one((0.4, 0.2, 0.2), 0.2), CAMERA, replace(SETTINGS, rasterizer="fused"))
    assert image[HEIGHT // 2, WIDTH // 2].min() > 0.9


def test_the_steps_of_the_ramp_look_equally_large():
    """As CIE's lightness tells it, which the ramp is not made by: from nearly black to nearly white in equal steps."""
    table = ramp_table().astype(np.float64)
    linear = np.where(table <= 0.04045, table / 12.92, ((table + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    lightness = np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)
    steps = np.diff(lightness)
    assert lightness[0] < 20 and lightness[-1] > 90 and steps.min() > 0.8 * steps.mean() > 0.64 * steps.max()


def test_ramps_get_brighter():
    values = torch.linspace(0, 1, 50)
    brightness = ramp(values).sum(dim=-1)
    assert (brightness.diff() > 0).all() and ramp(torch.tensor([torch.nan, 9.0])).isfinite().all()
    assert (np.diff(heat(np.linspace(0, 1, 50)[None])[0].sum(-1).astype(int)) >= 0).all()


def test_a_part_of_a_model_is_what_is_in_the_box():
    box = CropBox(np.array([0.0, 0.0, 4.0]), np.ones(3), np.eye(3))
    values = params()
    part = part_of(still(values), box, BLACK)
    inside = ((values["means"] - torch.tensor([0.0, 0.0, 4.0])).abs() <= 0.5).all(dim=-1)
    assert 0 < inside.sum() < 80 and torch.equal(part.params["quats"], values["quats"][inside])
    assert part_of(part, None, BLACK) is part


# ---------------------------------------------------------------------------------------------- photos and pictures


@pytest.fixture(scope="module")
def model(demo_run: FinishedRun) -> TrainedModel:
    return TrainedModel.load(RenderArgs(model=demo_run.folder, device="cpu"))


def site_of(model: TrainedModel, folder) -> Site:
    return Site(model.scene, folder, model.origin, (0.0, 0.0, 0.0), is_live=False)


def test_at_a_photo_the_picture_is_the_render_of_that_view(model, tmp_path):
    """To the last bit, before it becomes a JPEG."""
    site = site_of(model, tmp_path)
    for index in (2, 15):
        wish = parse(json.dumps(look(photo=index, size=[80, 60])), 16)
        picture = take_picture(Still.of(model), wish, site, model.background, {})
        assert np.array_equal(picture.pixels, to_8bit(model.render(site.views[index]).colors[0]).numpy())


def test_a_crop_box_takes_what_is_outside_away(model, tmp_path):
    site = site_of(model, tmp_path)
    wish = parse(json.dumps(look(photo=2, size=[80, 60])), 16)
    whole = take_picture(Still.of(model), wish, site, model.background, {}).pixels
    site.set_crop(CropBox(np.full(3, 100.0), np.ones(3), np.eye(3)))
    assert not take_picture(Still.of(model), wish, site, model.background, {}).pixels.any() and whole.any()
    assert site_of(model, tmp_path).crop is not None, "it is there again"
    site.set_crop(None)
    assert np.array_equal(take_picture(Still.of(model), wish, site, model.background, {}).pixels, whole)


def test_the_error_is_that_of_the_photo(demo_scene):
    views = load_scene(demo_scene).train
    photos = Photos(views, (0.0, 0.0, 0.0))
    photo, told = photos.scaled(3, (80, 60)), {}
    wish = parse(json.dumps(look(photo=3, mode="error")), 16)
    assert not error_picture(photo, photos, wish, told).any() and told["psnr"] == 100.0
    wrong = photo.copy()
    wrong[10, 20] = 255 - wrong[10, 20]
    picture = error_picture(wrong, photos, wish, told)
    assert picture[10, 20].any() and picture.any(axis=-1).sum() == 1
    expected = -10 * math.log10(np.square((wrong.astype(float) - photo) / 255).mean())
    assert told["psnr"] == pytest.approx(expected, abs=0.01)


def test_what_a_mask_ignores_has_no_error(demo_scene, tmp_path):
    views = load_scene(demo_scene).train
    mask = np.full((60, 80), 255, np.uint8)
    mask[:, :40] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    photos = Photos((replace(views[0], mask=Mask(tmp_path / "mask.png")),), (0.0, 0.0, 0.0))
    wrong, told = photos.scaled(0, (80, 60)) ^ 255, {}
    picture = error_picture(wrong, photos, parse(json.dumps(look(photo=0, mode="error")), 16), told)
    assert not picture[:, :40].any() and picture[:, 40:].any()
    difference = (wrong.astype(float) - photos.scaled(0, (80, 60)))[:, 40:] / 255
    assert told["psnr"] == pytest.approx(-10 * math.log10(np.square(difference).mean()), abs=0.01)


def test_without_a_photo_the_error_is_the_picture_with_a_remark(demo_scene, tmp_path):
    views = load_scene(demo_scene).train
    pixels = np.full((48, 64, 3), 9, np.uint8)
    told: dict = {}
    wish = parse(json.dumps(look(photo=None, mode="error")), 16)
    assert error_picture(pixels, Photos(views, (0, 0, 0)), wish, told) is pixels and "jump to one" in told["remark"]
    gone = (replace(views[0], image_path=tmp_path / "gone.png"),)
    wish = parse(json.dumps(look(photo=0, mode="error")), 16)
    assert error_picture(pixels, Photos(gone, (0, 0, 0)), wish, told) is pixels and "gone.png" in told["remark"]


def test_photos_of_any_size_and_with_transparent_places(demo_scene, tmp_path):
    views = load_scene(demo_scene).train
    pixels = np.zeros((60, 80, 4), np.uint8)
    pixels[..., 0], pixels[:, 40:, 3] = 200, 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    photos = Photos((replace(views[0], image_path=tmp_path / "a.png"),), (1.0, 1.0, 1.0))
    photo = photos.scaled(0, (40, 30))
    assert photo.shape == (30, 40, 3) and photo[5, 5].tolist() == [255] * 3 and photo[5, 30].tolist() == [200, 0, 0]
    assert Image.open(io.BytesIO(photos.jpeg(0))).size == (80, 60)


def test_few_photos_are_kept(demo_scene):
    views = load_scene(demo_scene).train
    photos = Photos(views, (0.0, 0.0, 0.0))
    for index in range(len(views)):
        photos.scaled(index, (80, 60))
    assert len(photos._kept) == 4


def test_a_picture_is_a_header_and_a_jpeg():
    wish = parse(json.dumps(look(4, photo=None, moving=True)), 16)
    message = encode(Picture(np.full((48, 64, 3), 77, np.uint8), wish, {"step": 3, "count": 5}), Photos((), (0, 0, 0)))
    size = int.from_bytes(message[:4], "little")
    header = json.loads(message[4 : 4 + size])
    assert header == {"number": 4, "mode": "colour", "width": 64, "height": 48, "photo": None, "moving": True,
                      "step": 3, "count": 5}  # fmt: skip
    assert abs(np.asarray(Image.open(io.BytesIO(message[4 + size :]))).astype(int) - 77).max() <= 2
