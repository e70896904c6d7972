"""scripts/convert.py from the command line, and what each format does to a trained model's pictures."""

import json

import numpy as np
import pycolmap
import pytest
import torch
from demo_runs import run_program
from foreign_models import wave

from distwar_datasets import load_scene
from distwar_gs.evaluation.metrics import psnr
from distwar_gs.formats.export import find_ply, load_model, load_ply, save_model, save_ply
from distwar_gs.rendering.renderer import RenderSettings, render
from distwar_gs.rendering.views import camera_of

NAMES = ("a.ply", "a.compressed.ply", "a.splat", "a.spz")


@pytest.fixture(scope="module")
def converted(demo_run, tmp_path_factory):
    """A folder with the demo run's model in every format, and what the script said."""
    folder = tmp_path_factory.mktemp("converted")
    result = run_program("scripts/convert.py", demo_run.folder, *(folder / name for name in NAMES))
    assert result.returncode == 0, result.stderr
    return folder, result


def test_every_format_is_told_in_one_line(converted, demo_run):
    folder, result = converted
    first, *lines = result.stdout.splitlines()
    assert first.endswith("point_cloud.ply: 3,008 Gaussians, harmonics of degree 2") and result.stderr == ""
    assert [line.partition(": ")[0] for line in lines] == [str(folder / name) for name in NAMES]
    assert lines[0].endswith(" MB") and lines[1].endswith(" times smaller than a PLY")
    assert lines[2].endswith(" times smaller than a PLY, without harmonics")
    assert lines[3].endswith(" times smaller than a PLY, turned to x right, y up, z back")
    for line, name in zip(lines, NAMES, strict=True):
        assert f": {(folder / name).stat().st_size / 1e6:.2f} MB" in line
    assert (folder / "a.ply").read_bytes() == find_ply(demo_run.folder).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_points_are_where_the_scene_has_them(converted, demo_run, name):
    """In COLMAP's frame: the Gaussians began at its points, and 60 steps move them little."""
    model = pycolmap.Reconstruction(demo_run.scene / "sparse/0")
    points = torch.tensor(np.array([point.xyz for point in model.points3D.values()]), dtype=torch.float32)
    means = load_model(converted[0] / name)["means"]
    distances = torch.cdist(points, means).amin(dim=1)
    turned = torch.cdist(points * torch.tensor([1.0, -1.0, -1.0]), means).amin(dim=1)
    assert distances.median() < 0.02 * points.std() and turned.median() > 5 * distances.median()


@pytest.mark.parametrize("name", ["a.compressed.ply", "a.splat", "a.spz"])
def test_every_format_is_rendered_and_measured(converted, demo_run, tmp_path, name):
    out = tmp_path / "out"
    result = run_program("render.py", converted[0] / name, "-s", demo_run.scene, "--out", out, "--device", "cpu")
    assert result.returncode == 0, result.stderr
    measured, trained = (
        json.loads(path.read_text())[-1]
        for path in (out / "iteration_0/metrics.json", demo_run.folder / "metrics.json")
    )
    assert measured["protocol"] == trained["protocol"]
    assert measured["psnr"] == pytest.approx(trained["psnr"], abs=0.2)


# The least PSNR in dB between pictures of the model before and after, without and with small harmonics (which a .splat
# loses).
FIDELITY = {".compressed.ply": (43.0, 50.0), ".spz": (50.0, 42.0), ".splat": (46.0, 36.0)}


@pytest.mark.parametrize("ending", FIDELITY)
@pytest.mark.parametrize("harmonics", [False, True])
def test_pictures_before_and_after(demo_run, tmp_path, ending, harmonics):
    params = load_ply(find_ply(demo_run.folder))
    if harmonics:  # 60 steps train none
        params["shN"] = torch.from_numpy(0.1 * wave(len(params["means"]), 8, 3, seed=1)).float()
    save_model(tmp_path / f"a{ending}", params)
    before, after = (pictures(demo_run.scene, model) for model in (params, load_model(tmp_path / f"a{ending}")))
    found = min(psnr(*pair).item() for pair in zip(before, after, strict=True))
    print(f"{ending}, {'with' if harmonics else 'without'} harmonics: {found:.1f} dB")
    assert found > FIDELITY[ending][harmonics]


def pictures(scene, params) -> list[torch.Tensor]:
    """The scene's test views, in the frame of the input."""
    degree = int(params["shN"].shape[1] == 8) * 2
    settings, shown = RenderSettings(near_plane=0.01, far_plane=1e10), []
    for view in load_scene(scene, normalise=False).test:
        camera = camera_of(view, torch.device("cpu"))
        with torch.no_grad():
            shown.append(render(params, camera, settings, sh_degree=degree).colors[0].clamp(0, 1))
    return shown


@pytest.mark.slow
def test_there_and_back_through_every_name_of_an_spz_frame(converted, tmp_path):
    folder = converted[0]
    for frame in ("rub", "input"):
        for source, target in ((folder / "a.ply", tmp_path / "b.spz"), (tmp_path / "b.spz", tmp_path / f"{frame}.ply")):
            result = run_program("scripts/convert.py", source, target, "--spz_frame", frame)
            assert result.returncode == 0, result.stderr
    ours, theirs = (load_ply(tmp_path / f"{frame}.ply") for frame in ("rub", "input"))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6)


def test_antialiased_models_stay_so(demo_run, tmp_path):
    save_ply(tmp_path / "a.ply", load_ply(find_ply(demo_run.folder)), antialiased=True)
    result = run_program("scripts/convert.py", tmp_path / "a.ply", tmp_path / "b.spz")
    assert ", antialiased\n" in result.stdout
    again = run_program("scripts/convert.py", tmp_path / "b.spz", tmp_path / "c.compressed.ply")
    assert ", antialiased\n" in again.stdout and b"SplatRenderMode: mip" in (tmp_path / "c.compressed.ply").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere", "a.spz"), "nowhere: no point_cloud/iteration_N/point_cloud.ply"),
        (("none.spz", "a.ply"), "none.spz: no such file; give a run folder"),
        (("RUN", "a.obj"), "a.obj: no format to write; let the name end in .ply"),
    ],
)
def test_mistakes_end_in_one_line(demo_run, tmp_path, arguments, message):
    given = [demo_run.folder if argument == "RUN" else argument for argument in arguments]
    result = run_program("scripts/convert.py", *given, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {message}") and result.stderr.count("\n") == 1
