"""Pictures and films of a model through a lens of one's own: what each shows, its size, and two eyes."""

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from scene_files import look_at

from distwar_datasets import View
from distwar_gs.cli import render_args
from distwar_gs.config import ConfigError
from distwar_gs.rendering.renderer import RenderSettings, render
from distwar_gs.rendering.views import camera_of
from distwar_gs.viewing.lens_views import ChosenLens
from distwar_gs.viewing.pictures import ModelPictures

K = np.array([[60.0, 0.0, 40.0], [0.0, 60.0, 30.0], [0.0, 0.0, 1.0]])
PHOTO = View("a.png", "a.png", 80, 60, K, look_at((3.0, 0.0, 0.0), (0.0, 0.0, 0.0)), 1)
CPU = torch.device("cpu")


def picture(lens: ChosenLens, places: list[tuple[float, float, float]], view: View = PHOTO) -> torch.Tensor:
    """[H, W] alphas of small opaque balls at places in camera axes."""
    seen = lens.view(view, 1.0)
    pose = np.linalg.inv(view.viewmat)
    means = torch.tensor(np.array(places) @ pose[:3, :3].T + pose[:3, 3]).float()
    n = len(means)
    params = {"means": means, "quats": torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1), "scales": torch.full((n, 3), -3.5),
              "opacities": torch.full((n,), 6.0), "sh0": torch.ones(n, 1, 3), "shN": torch.zeros(n, 0, 3)}  # fmt: skip
    settings = RenderSettings(0.01, 1e10)
    eyes = [render(params, camera_of(eye, CPU), settings, sh_degree=0) for eye in lens.eyes(seen)]
    return lens.finished(eyes, seen).alphas[0, ..., 0]


def center(alphas: torch.Tensor) -> tuple[float, float]:
    y, x = torch.meshgrid(*(torch.arange(side) + 0.5 for side in alphas.shape), indexing="ij")
    return float((x * alphas).sum() / alphas.sum()), float((y * alphas).sum() / alphas.sum())


@pytest.mark.parametrize(
    ("lens", "place", "pixel", "size"),
    [
        (ChosenLens("pinhole", 90.0), (0.5, 0.25, 1.0), (60, 40), (80, 60)),
        (ChosenLens("fisheye", 200.0), (1.0, 0.0, 0.0), (30 + 27, 30), (60, 60)),
        (ChosenLens("fisheye", 200.0, None, (100, 100)), (0.0, 1.0, 0.0), (50, 50 + 45), (100, 100)),
        (ChosenLens("equirectangular"), (1.0, 0.0, 0.0), (90, 30), (120, 60)),
        (ChosenLens("equirectangular", None, None, (None, 40)), (0.0, -1.0, 1.0), (40, 10), (80, 40)),
        (ChosenLens("orthographic"), (0.75, 0.3, 5.0), (60, 38), (80, 60)),
    ],
)
def test_where_things_are(lens, place, pixel, size):
    alphas = picture(lens, [place])
    assert alphas.shape == size[::-1] and alphas.max() > 0.5
    assert center(alphas) == pytest.approx(pixel, abs=0.4)


def test_a_fisheye_is_dark_outside_its_circle():
    alphas = picture(ChosenLens("fisheye", 180.0), [(1.0, 1.0, 0.05), (1.0, 0.0, -0.05), (0.0, 0.0, 1.0)])
    across = torch.arange(60) + 0.5 - 30
    outside = across.square() + across[:, None].square() > 30**2
    assert alphas[outside].max() == 0 and alphas[30, 30] > 0.5 and alphas[~outside].sum() > alphas[28:33, 28:33].sum()


def test_two_eyes():
    """Side by side; what is near is farther right for the left eye."""
    alphas = picture(ChosenLens("pinhole", 90.0, 0.2), [(0.0, 0.0, 1.0)])
    assert alphas.shape == (60, 160)
    left, right = center(alphas[:, :80])[0], center(alphas[:, 80:])[0]
    assert left == pytest.approx(40 + 4, abs=0.1) and right == pytest.approx(40 - 4, abs=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fisheye", 400.0), "a fisheye lens takes 1 to 355 degrees"),
        (("equirectangular", 90.0), "--fov is for pinhole and fisheye"),
        (("equirectangular", None, 0.1), "--stereo"),
    ],
)
def test_what_no_lens_can_show(arguments, message):
    with pytest.raises(ConfigError, match=message):
        ChosenLens(*arguments)


def test_flags_of_a_lens_need_one(capsys):
    for flags in (["--fov", "90"], ["--stereo", "0.1"], ["--width", "90"]):
        with pytest.raises(SystemExit):
            render_args(["model.ply", *flags])
    assert "give --lens, too" in capsys.readouterr().err


@pytest.mark.usefixtures("in_process")
def test_stills_and_a_film(demo_run, tmp_path):
    flags = [
        "--lens",
        "equirectangular",
        "--height",
        "40",
        "--path",
        "ellipse",
        "--frames",
        "3",
        "--show",
        "color,depth",
    ]
    args = render_args([str(demo_run.folder), *flags, "--device", "cpu", "--out", str(tmp_path)])
    pictures = ModelPictures(args)
    pictures.render_stills()
    pictures.render_path("ellipse")
    folder = tmp_path / "iteration_60"
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = [view.name for view in pictures.scene.test]
    stills = [f"{kind}/{name}" for kind in ("equirectangular", "equirectangular_depth") for name in names]
    films = ["ellipse_equirectangular.mp4", "ellipse_equirectangular_depth.mp4"]
    assert [file for file in files if file.endswith("mp4")] == films
    assert {file for file in files if file.endswith("png")} == set(stills)
    still = imageio.imread(next(folder.glob("equirectangular/*.png")))
    assert still.shape == (40, 80, 3) and still.std() > 10
    assert (np.abs(still[:, 0].astype(int) - still[:, -1]).mean()) < 0.2 * still.std()  # one edge is the other
